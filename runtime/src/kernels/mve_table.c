/* Any function of one int8: sixteen look-ups at once. */
#include "ee_kernels_mve.h"
#include "ee_mve.h"

void ee_table_mve(const ee_table *op, const int8_t *input, int8_t *output, void *scratch) {
    (void)scratch;
    const int8_t *table = op->table;
    uint32_t rest = op->num_bytes;
    for (; rest >= 16u; rest -= 16u, input += 16, output += 16) {
        const uint8x16_t at = vaddq_n_u8(vreinterpretq_u8_s8(vldrbq_s8(input)), 128u);
        vstrbq_s8(output, vldrbq_gather_offset_s8(table, at));
    }
    if (rest != 0u) {
        const mve_pred16_t active = vctp8q(rest);
        const uint8x16_t at = vaddq_n_u8(vreinterpretq_u8_s8(vldrbq_z_s8(input, active)), 128u);
        vstrbq_p_s8(output, vldrbq_gather_offset_z_s8(table, at, active), active);
    }
}
