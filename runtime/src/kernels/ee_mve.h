/* The MVE intrinsics that the kernels use; on other machines, the same in plain C, so that what is
 * built on them is tested there bit for bit. Names and meaning: Arm C Language Extensions. */
#ifndef EE_MVE_H
#define EE_MVE_H

#include <stdint.h>

#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#else

typedef struct {
    int8_t lane[16];
} int8x16_t;
typedef struct {
    uint8_t lane[16];
} uint8x16_t;
typedef struct {
    int32_t lane[4];
} int32x4_t;
typedef struct {
    uint32_t lane[4];
} uint32x4_t;
/* One bit for each byte of a vector. */
typedef uint16_t mve_pred16_t;

static inline int ee_is_active(mve_pred16_t active, unsigned byte) {
    return ((unsigned)active >> byte & 1u) != 0u;
}

static inline mve_pred16_t vctp8q(uint32_t count) {
    return (mve_pred16_t)(count >= 16u ? 0xFFFFu : (1u << count) - 1u);
}

static inline mve_pred16_t vctp32q(uint32_t count) {
    return vctp8q(count >= 4u ? 16u : count * 4u);
}

static inline int8x16_t vldrbq_s8(const int8_t *from) {
    int8x16_t to;
    for (unsigned i = 0; i < 16u; i++) {
        to.lane[i] = from[i];
    }
    return to;
}

static inline int8x16_t vldrbq_z_s8(const int8_t *from, mve_pred16_t active) {
    int8x16_t to;
    for (unsigned i = 0; i < 16u; i++) {
        to.lane[i] = (int8_t)(ee_is_active(active, i) ? from[i] : 0);
    }
    return to;
}

static inline void vstrbq_s8(int8_t *to, int8x16_t value) {
    for (unsigned i = 0; i < 16u; i++) {
        to[i] = value.lane[i];
    }
}

static inline void vstrbq_p_s8(int8_t *to, int8x16_t value, mve_pred16_t active) {
    for (unsigned i = 0; i < 16u; i++) {
        if (ee_is_active(active, i)) {
            to[i] = value.lane[i];
        }
    }
}

static inline int32x4_t vldrbq_z_s32(const int8_t *from, mve_pred16_t active) {
    int32x4_t to;
    for (unsigned i = 0; i < 4u; i++) {
        to.lane[i] = ee_is_active(active, 4u * i) ? from[i] : 0;
    }
    return to;
}

static inline int32x4_t vldrbq_s32(const int8_t *from) { return vldrbq_z_s32(from, 0xFFFFu); }

static inline void vstrbq_p_s32(int8_t *to, int32x4_t value, mve_pred16_t active) {
    for (unsigned i = 0; i < 4u; i++) {
        if (ee_is_active(active, 4u * i)) {
            to[i] = (int8_t)value.lane[i];
        }
    }
}

static inline void vstrbq_s32(int8_t *to, int32x4_t value) { vstrbq_p_s32(to, value, 0xFFFFu); }

static inline void vstrbq_scatter_offset_s32(int8_t *base, uint32x4_t offsets, int32x4_t value) {
    for (unsigned i = 0; i < 4u; i++) {
        base[offsets.lane[i]] = (int8_t)value.lane[i];
    }
}

static inline uint32x4_t vldrwq_u32(const uint32_t *from) {
    return (uint32x4_t){{from[0], from[1], from[2], from[3]}};
}

static inline int32x4_t vldrwq_s32(const int32_t *from) {
    return (int32x4_t){{from[0], from[1], from[2], from[3]}};
}

static inline void vstrwq_s32(int32_t *to, int32x4_t value) {
    for (unsigned i = 0; i < 4u; i++) {
        to[i] = value.lane[i];
    }
}

static inline uint8x16_t vreinterpretq_u8_s8(int8x16_t a) {
    uint8x16_t to;
    for (unsigned i = 0; i < 16u; i++) {
        to.lane[i] = (uint8_t)a.lane[i];
    }
    return to;
}

static inline uint8x16_t vaddq_n_u8(uint8x16_t a, uint8_t b) {
    for (unsigned i = 0; i < 16u; i++) {
        a.lane[i] = (uint8_t)(a.lane[i] + b);
    }
    return a;
}

static inline int8x16_t vldrbq_gather_offset_z_s8(const int8_t *base, uint8x16_t offsets,
                                                  mve_pred16_t active) {
    int8x16_t to;
    for (unsigned i = 0; i < 16u; i++) {
        to.lane[i] = (int8_t)(ee_is_active(active, i) ? base[offsets.lane[i]] : 0);
    }
    return to;
}

static inline int8x16_t vldrbq_gather_offset_s8(const int8_t *base, uint8x16_t offsets) {
    return vldrbq_gather_offset_z_s8(base, offsets, 0xFFFFu);
}

static inline int8x16_t vdupq_n_s8(int8_t value) {
    int8x16_t to;
    for (unsigned i = 0; i < 16u; i++) {
        to.lane[i] = value;
    }
    return to;
}

static inline int8x16_t vmaxq_s8(int8x16_t a, int8x16_t b) {
    for (unsigned i = 0; i < 16u; i++) {
        a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    }
    return a;
}

static inline int8x16_t vminq_s8(int8x16_t a, int8x16_t b) {
    for (unsigned i = 0; i < 16u; i++) {
        a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    }
    return a;
}

static inline int32_t vmladavaq_s8(int32_t sum, int8x16_t a, int8x16_t b) {
    for (unsigned i = 0; i < 16u; i++) {
        sum = (int32_t)((uint32_t)sum + (uint32_t)(a.lane[i] * b.lane[i]));
    }
    return sum;
}

static inline int32x4_t vdupq_n_s32(int32_t value) {
    return (int32x4_t){{value, value, value, value}};
}

static inline int32x4_t vsetq_lane_s32(int32_t value, int32x4_t to, int lane) {
    to.lane[lane] = value;
    return to;
}

static inline int32_t vgetq_lane_s32(int32x4_t from, int lane) { return from.lane[lane]; }

static inline int32x4_t vaddq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i]);
    }
    return a;
}

static inline int32x4_t vaddq_n_s32(int32x4_t a, int32_t b) { return vaddq_s32(a, vdupq_n_s32(b)); }

static inline int32x4_t vmulq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = (int32_t)((uint32_t)a.lane[i] * (uint32_t)b.lane[i]);
    }
    return a;
}

static inline int32x4_t vandq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] &= b.lane[i];
    }
    return a;
}

static inline int32x4_t vmaxq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    }
    return a;
}

static inline int32x4_t vminq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
    }
    return a;
}

/* a + b * c */
static inline int32x4_t vmlaq_n_s32(int32x4_t a, int32x4_t b, int32_t c) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = (int32_t)((uint32_t)a.lane[i] + (uint32_t)b.lane[i] * (uint32_t)c);
    }
    return a;
}

static inline int32x4_t vshlq_n_s32(int32x4_t a, int count) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = (int32_t)((uint32_t)a.lane[i] << count);
    }
    return a;
}

static inline int32x4_t vshrq_n_s32(int32x4_t a, int count) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] >>= (count > 31 ? 31 : count);
    }
    return a;
}

/* Doubling high multiplication that rounds halves up. Not both may be INT32_MIN. */
static inline int32x4_t vqrdmulhq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] = (int32_t)(((int64_t)a.lane[i] * b.lane[i] + (1 << 30)) >> 31);
    }
    return a;
}

static inline int32x4_t vqrdmulhq_n_s32(int32x4_t a, int32_t b) {
    return vqrdmulhq_s32(a, vdupq_n_s32(b));
}

/* a / 2^-b for b <= 0, rounded down. */
static inline int32x4_t vshlq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        a.lane[i] >>= -b.lane[i];
    }
    return a;
}

/* a / 2^-b for b <= 0, halves rounded up. */
static inline int32x4_t vrshlq_s32(int32x4_t a, int32x4_t b) {
    for (unsigned i = 0; i < 4u; i++) {
        const int count = -b.lane[i];
        a.lane[i] = (int32_t)(((int64_t)a.lane[i] + (((int64_t)1 << count) >> 1)) >> count);
    }
    return a;
}

static inline int32x4_t vrshlq_n_s32(int32x4_t a, int32_t b) {
    return vrshlq_s32(a, vdupq_n_s32(b));
}

#endif
#endif
