/* Files through semihosting: a breakpoint that an emulator or a debugger answers.
 * Operations and their argument blocks: Arm, "Semihosting for AArch32 and AArch64", release 2.0.
 */
#include "profile_port.h"

#include <stddef.h>

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE = 0x05, SYS_READ = 0x06 };
enum { OPEN_READ_BINARY = 1, OPEN_WRITE_BINARY = 5 };

#define PAINT 0xeeeeeeeeu /* as in ee_stack_paint */

extern uint32_t ee_stack_limit[]; /* from the linker script: the lowest word of the stack */

static int32_t request(uint32_t operation, const void *block) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = block;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

static uint32_t length_of(const char *text) {
    uint32_t length = 0;
    while (text[length] != '\0')
        length++;
    return length;
}

int ee_file_open(const char *name, bool writing) {
    const uint32_t block[3] = {(uint32_t)(uintptr_t)name,
                               writing ? OPEN_WRITE_BINARY : OPEN_READ_BINARY, length_of(name)};
    return request(SYS_OPEN, block);
}

/* Reading and writing answer with the number of bytes that were left over. */
static bool transfer(uint32_t operation, int file, const void *buffer, uint32_t bytes) {
    const uint32_t block[3] = {(uint32_t)file, (uint32_t)(uintptr_t)buffer, bytes};
    return request(operation, block) == 0;
}

bool ee_file_read(int file, void *buffer, uint32_t bytes) {
    return transfer(SYS_READ, file, buffer, bytes);
}

bool ee_file_write(int file, const void *buffer, uint32_t bytes) {
    return transfer(SYS_WRITE, file, buffer, bytes);
}

bool ee_file_close(int file) {
    const uint32_t block[1] = {(uint32_t)file};
    return request(SYS_CLOSE, block) == 0;
}

/* From the limit up to the stack pointer, without a frame that it would paint over. */
__attribute__((naked)) void ee_stack_paint(void) {
    __asm__ volatile(".syntax unified\n"
                     "    ldr r0, =ee_stack_limit\n"
                     "    ldr r1, =0xeeeeeeee\n"
                     "    mov r2, sp\n"
                     "1:  cmp r0, r2\n"
                     "    bhs 2f\n"
                     "    stmia r0!, {r1}\n"
                     "    b 1b\n"
                     "2:  bx lr\n"
                     "    .ltorg\n");
}

uint32_t ee_stack_depth(uint32_t from) {
    const volatile uint32_t *word = ee_stack_limit;
    const volatile uint32_t *end = (const volatile uint32_t *)(uintptr_t)from;
    while (word < end && *word == PAINT)
        word++;
    return from - (uint32_t)(uintptr_t)word;
}

uint32_t ee_stack_available(uint32_t from) { return from - (uint32_t)(uintptr_t)ee_stack_limit; }
