/* From reset to main on a Cortex-M under an emulator, and from a fault to an exit code.
 *
 * No interrupt is ever enabled. What the emulator exits with is main's return value, or 64 plus the
 * number of the exception that ended the program.
 */
#include <stdint.h>

extern uint32_t ee_stack_top[], ee_stack_limit[]; /* all from the linker script */
extern uint32_t ee_data_load[], ee_data_start[], ee_data_end[];
extern uint32_t ee_bss_start[], ee_bss_end[];

int main(void);
void ee_reset(void);
void ee_fault(void);

#define EXIT_FAULT 64u
#define SYS_EXIT_EXTENDED 0x20u
#define APPLICATION_EXIT 0x20026u

#define CPACR (*(volatile uint32_t *)0xe000ed88u)
#define CCR (*(volatile uint32_t *)0xe000ed14u)
#define CPACR_CP10_CP11 (0xfu << 20) /* full access to the FPU, and to MVE */
#define CCR_LOB (1u << 19)           /* low-overhead loops keep their state across branches */

typedef void (*vector)(void);

__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    (vector)(uintptr_t)ee_stack_top,
    ee_reset,
    ee_fault, /* NMI */
    ee_fault, /* HardFault */
    ee_fault, /* MemManage */
    ee_fault, /* BusFault */
    ee_fault, /* UsageFault */
    ee_fault, /* SecureFault */
};

static void leave(uint32_t code) {
    const uint32_t block[2] = {APPLICATION_EXIT, code};
    register uint32_t r0 __asm__("r0") = SYS_EXIT_EXTENDED;
    register const uint32_t *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    for (;;) {
    }
}

void ee_fault(void) {
    uint32_t number;
    __asm__ volatile("mrs %0, ipsr" : "=r"(number));
    leave(EXIT_FAULT + (number & 0x1fu));
}

void ee_reset(void) {
#if defined(__ARM_ARCH_8M_MAIN__) || defined(__ARM_ARCH_8_1M_MAIN__)
    __asm__ volatile("msr msplim, %0" : : "r"(ee_stack_limit));
#endif
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
    CPACR |= CPACR_CP10_CP11;
#endif
#if defined(__ARM_FEATURE_MVE)
    CCR |= CCR_LOB;
#endif
    __asm__ volatile("dsb\n isb" ::: "memory");
    const uint32_t *from = ee_data_load;
    for (uint32_t *to = ee_data_start; to < ee_data_end;)
        *to++ = *from++;
    for (uint32_t *to = ee_bss_start; to < ee_bss_end;)
        *to++ = 0;
    leave((uint32_t)main());
}
