/* Files through the C library, for the same program on a machine with an operating system. */
#include "profile_port.h"

#include <stdio.h>

/* The program has one file to read from and one to write to. */
static FILE *files[2];

int ee_file_open(const char *name, bool writing) {
    files[writing] = fopen(name, writing ? "wb" : "rb");
    return files[writing] == NULL ? -1 : writing;
}

bool ee_file_read(int file, void *buffer, uint32_t bytes) {
    return fread(buffer, 1, bytes, files[file]) == bytes;
}

bool ee_file_write(int file, const void *buffer, uint32_t bytes) {
    return fwrite(buffer, 1, bytes, files[file]) == bytes;
}

bool ee_file_close(int file) { return fclose(files[file]) == 0; }

void ee_stack_paint(void) {}

uint32_t ee_stack_depth(uint32_t from) {
    (void)from;
    return 0;
}

uint32_t ee_stack_available(uint32_t from) {
    (void)from;
    return 0;
}
