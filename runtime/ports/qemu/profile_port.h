/* What the profiling program needs of the machine it runs on: files, and how deep its stack went.
 *
 * port_semihosting.c is for bare Arm cores under an emulator or a debugger, port_stdio.c for a
 * machine with an operating system. File names are relative to the folder of the emulator.
 */
#ifndef EE_PROFILE_PORT_H
#define EE_PROFILE_PORT_H

#include <stdbool.h>
#include <stdint.h>

/* A handle of at least 0, or -1. An existing file is emptied if it is opened for writing. */
int ee_file_open(const char *name, bool writing);

/* All of `bytes`, or false. */
bool ee_file_read(int file, void *buffer, uint32_t bytes);
bool ee_file_write(int file, const void *buffer, uint32_t bytes);

/* False if what was written may not have arrived. */
bool ee_file_close(int file);

/* The stack pointer of the function that uses it; 0 where the stack is not measured. */
#if defined(__arm__)
static inline __attribute__((always_inline)) uint32_t ee_stack_pointer(void) {
    uint32_t pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}
#else
static inline uint32_t ee_stack_pointer(void) { return 0; }
#endif

/* Fills the unused stack with a pattern. */
void ee_stack_paint(void);

/* Bytes below `from` that have been written to since the paint, at most all of them; 0 where the
 * stack is not measured. */
uint32_t ee_stack_depth(uint32_t from);

/* Bytes below `from` that there are; 0 where the stack is not measured. */
uint32_t ee_stack_available(uint32_t from);

#endif
