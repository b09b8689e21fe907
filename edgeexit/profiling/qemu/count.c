/* A plugin of QEMU that counts instructions, and notes the count whenever one of a list of
 * addresses is about to be executed.
 *
 *     -plugin ./count.so,marks=FILE,out=FILE[,blocks=FILE][,each=on]
 *
 *   marks   one hexadecimal address a line
 *   out     binary, native byte order: uint64 pairs (number of the line, 0-based; instructions
 *           executed before), and at the end (2^64 - 1; all instructions)
 *   blocks  text: for every translated block "ADDRESS INSTRUCTIONS TIMES", for a profile by address
 *   each    counts at every instruction instead of once for a block: slower, the same numbers
 *
 * QEMU executes translated blocks. A block that is entered is executed to its end, unless one of
 * its instructions faults, so adding its length when it is entered is exact at its end, and what it
 * has not yet executed is known at every mark inside it. An instruction whose condition does not
 * hold is counted: it takes part in a program's way through the pipeline like any other.
 *
 * Only functions that all versions of the plugin interface share are used; Debian ships no header
 * for it, so they are declared here. EE_PLUGIN_VERSION is 1 before QEMU 9.0 and 2 from then on.
 * One CPU is assumed.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t id,
                                                              struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*executed)(unsigned vcpu, void *data),
                                          enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
                                            void (*executed)(unsigned vcpu, void *data),
                                            enum qemu_plugin_cb_flags flags, void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                    void (*leaving)(qemu_plugin_id_t id, void *data), void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *insn);

EXPORT int qemu_plugin_version = EE_PLUGIN_VERSION;

typedef struct block {
    struct block *next;
    uint64_t address, instructions, times;
} block;

/* A mark as it lies in one translated block. */
typedef struct {
    uint64_t mark;
    uint64_t ahead; /* instructions that are counted already and not executed yet */
} passage;

static uint64_t executed;
static block *blocks;
static uint64_t *marks;
static size_t num_marks;
static FILE *out, *block_file;
static bool at_each;

static void fail(const char *problem, const char *what) {
    fprintf(stderr, "count: %s: %s\n", problem, what);
    exit(80);
}

static void *reserve(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (memory == NULL)
        fail("out of memory", "calloc");
    return memory;
}

static FILE *open_file(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (file == NULL)
        fail("cannot open", path);
    return file;
}

static void note(uint64_t mark, uint64_t count) {
    const uint64_t pair[2] = {mark, count};
    if (fwrite(pair, sizeof pair, 1, out) != 1)
        fail("cannot write", "out");
}

static void on_block(unsigned vcpu, void *data) {
    block *entered = data;
    (void)vcpu;
    entered->times++;
    if (!at_each)
        executed += entered->instructions;
}

static void on_instruction(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    executed++;
}

static void on_mark(unsigned vcpu, void *data) {
    const passage *passed = data;
    (void)vcpu;
    note(passed->mark, executed - passed->ahead);
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    const size_t length = qemu_plugin_tb_n_insns(tb);
    block *made = reserve(sizeof *made);
    made->instructions = length;
    made->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    made->next = blocks;
    blocks = made;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, QEMU_PLUGIN_CB_NO_REGS, made);
    for (size_t i = 0; i < length; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        for (size_t k = 0; k < num_marks; k++) {
            if (marks[k] != qemu_plugin_insn_vaddr(insn))
                continue;
            passage *passed = reserve(sizeof *passed);
            passed->mark = k;
            passed->ahead = at_each ? 0 : length - i;
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, QEMU_PLUGIN_CB_NO_REGS, passed);
        }
        if (at_each)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_instruction, QEMU_PLUGIN_CB_NO_REGS,
                                                   NULL);
    }
}

static void on_exit_of_qemu(qemu_plugin_id_t id, void *data) {
    (void)id;
    (void)data;
    note(UINT64_MAX, executed);
    if (fclose(out) != 0)
        fail("cannot write", "out");
    if (block_file == NULL)
        return;
    for (const block *b = blocks; b != NULL; b = b->next)
        if (b->times != 0)
            fprintf(block_file, "%" PRIx64 " %" PRIu64 " %" PRIu64 "\n", b->address,
                    b->instructions, b->times);
    if (fclose(block_file) != 0)
        fail("cannot write", "blocks");
}

static void read_marks(const char *path) {
    FILE *file = open_file(path, "r");
    uint64_t address;
    while (fscanf(file, "%" SCNx64, &address) == 1) {
        marks = realloc(marks, (num_marks + 1) * sizeof *marks);
        if (marks == NULL)
            fail("out of memory", path);
        marks[num_marks++] = address;
    }
    fclose(file);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                               char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value == NULL)
            fail("an argument has no value", argv[i]);
        *value++ = '\0';
        if (strcmp(argv[i], "marks") == 0)
            read_marks(value);
        else if (strcmp(argv[i], "out") == 0)
            out = open_file(value, "wb");
        else if (strcmp(argv[i], "blocks") == 0)
            block_file = open_file(value, "w");
        else if (strcmp(argv[i], "each") == 0)
            at_each = strcmp(value, "on") == 0;
        else
            fail("unknown argument", argv[i]);
    }
    if (out == NULL)
        fail("missing argument", "out");
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, NULL);
    return 0;
}
