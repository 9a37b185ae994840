/**
 * Elements: how each dtype is loaded into its arithmetic type and rounded back. The only file with an #ifdef per target.
 *
 * float32 and float64 are computed in themselves, bfloat16 and float16 in float32. Conversions are branch-free integer
 * code, so that every compiler vectorises them on every target; a NaN stays a NaN (which one is not promised).
 */
#ifndef FS_ELEMENT_H
#define FS_ELEMENT_H

#include <stddef.h>
#include <stdint.h>

#define FS_INLINE static inline __attribute__((always_inline, unused))
#define FS_CAT_(a, b) a##_##b
#define FS_CAT(a, b) FS_CAT_(a, b)

/*
 * Rows never overlap where they are written (flatstep.h), so vector loops need no alias checks. FS_VECTOR_LINE is for loops over one line, which would be unrolled before anything
 * else, and then are no loops that vectors are made of; FS_VECTOR_REST for less than a line.
 */
#if defined(__clang__)
#define FS_VECTOR_LOOP _Pragma("clang loop vectorize(assume_safety)")
#define FS_VECTOR_LINE _Pragma("clang loop vectorize(assume_safety) unroll(disable)")
#define FS_VECTOR_REST _Pragma("clang loop vectorize(assume_safety) vectorize_width(4) interleave_count(1)")
#elif defined(__GNUC__)
#define FS_VECTOR_LOOP _Pragma("GCC ivdep")
#define FS_VECTOR_LINE FS_VECTOR_LOOP
#define FS_VECTOR_REST FS_VECTOR_LOOP
#endif
#define FS_WIDTH /* what a dtype has to say of its vectors */
#define FS_LOOP_BY(step, i, from, to) FS_VECTOR_LOOP FS_WIDTH for (size_t i = (from); i < (to); i += (step))
#define FS_LOOP(i, from, to) FS_LOOP_BY(1, i, from, to)

FS_INLINE uint32_t fs_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

FS_INLINE float fs_float(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

FS_INLINE float fs_load_f32(float x) { return x; }
FS_INLINE float fs_store_f32(float x) { return x; }
FS_INLINE double fs_load_f64(double x) { return x; }
FS_INLINE double fs_store_f64(double x) { return x; }

FS_INLINE float fs_load_bf16(uint16_t x) { return fs_float((uint32_t)x << 16); }

FS_INLINE uint16_t fs_store_bf16(float x) {
  const uint32_t u = fs_bits(x);
  const uint32_t rounded = u + 0x7fffu + ((u >> 16) & 1u); /* to nearest, ties to even */
  return (uint16_t)((x != x ? u | 0x400000u : rounded) >> 16);
}

/*
 * fs_store_bf16 without looking for NaNs, which takes half as long. The result of an operation on numbers out of fs_load_bf16 and
 * fs_plain is a quiet NaN whose lower half is zero, if it is one: theirs are, and the ones that processors make of numbers. Rounding leaves
 * those as they are. (CUDA's have all bits set.)
 */
FS_INLINE uint16_t fs_round_bf16(float x) {
  const uint32_t u = fs_bits(x);
  return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

FS_INLINE float fs_plain(float x) { return x != x ? fs_float(0x7fc00000u) : x; }

#if defined(__x86_64__) || defined(__aarch64__) || defined(__NVPTX__)
/* One instruction each, where the instruction set has them: to nearest, with subnormals. The integer code below takes longer than the memory. */
FS_INLINE float fs_load_half(uint16_t x) {
  _Float16 h;
  __builtin_memcpy(&h, &x, 2);
  return (float)h;
}

FS_INLINE uint16_t fs_store_half(float x) {
  const _Float16 h = (_Float16)x;
  uint16_t u;
  __builtin_memcpy(&u, &h, 2);
  return u;
}

/*
 * A sign and a maximum without comparing what was loaded by fs_load_half with a constant or with each other: clang would
 * compare in float16, and no vector instruction does.
 */
FS_INLINE float fs_sign_half(float x) {
  const uint32_t u = fs_bits(x);
  return (u & 0x7fffffffu) - 1u < 0x7f800000u ? fs_float((u & 0x80000000u) | 0x3f800000u) : 0;
}

FS_INLINE float fs_maximum_half(float a, float b) {
  return a - b >= 0 || (fs_bits(a) & 0x7fffffffu) > 0x7f800000u ? a : b;
}
#endif

#if defined(__NVPTX__)
FS_INLINE float fs_load_f16(uint16_t x) { return fs_load_half(x); }
FS_INLINE uint16_t fs_store_f16(float x) { return fs_store_half(x); }
#else
FS_INLINE float fs_load_f16(uint16_t x) {
  const uint32_t magnitude = ((uint32_t)x & 0x7fffu) << 13;
  const uint32_t exponent = magnitude & (0x7c00u << 13);
  const uint32_t normal = magnitude + ((127u - 15u) << 23);
  const uint32_t special = normal + ((128u - 16u) << 23);                              /* infinity, NaN */
  const uint32_t small = fs_bits(fs_float(normal + (1u << 23)) - fs_float(113u << 23)); /* zero, subnormal */
  const uint32_t u = exponent == (0x7c00u << 13) ? special : exponent == 0 ? small : normal;
  return fs_float(u | ((uint32_t)x & 0x8000u) << 16);
}

FS_INLINE uint16_t fs_store_f16(float x) {
  const uint32_t u = fs_bits(x) & 0x7fffffffu, sign = (fs_bits(x) >> 16) & 0x8000u;
  const uint32_t magic = (127u - 15u + 23u - 10u + 1u) << 23;
  const uint32_t special = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t small = fs_bits(fs_float(u) + fs_float(magic)) - magic; /* the addition rounds */
  const uint32_t normal = (u - ((127u - 15u) << 23) + 0xfffu + ((u >> 13) & 1u)) >> 13;
  const uint32_t h = u >= (143u << 23) ? special : u < (113u << 23) ? small : normal;
  return (uint16_t)(h | sign);
}
#endif

/* Two elements that are a word: vectors of words are split and joined by shifts and masks, without moving lanes. */
FS_INLINE void fs_load_pair(uint16_t *pair, const uint16_t *from) {
  uint32_t u;
  __builtin_memcpy(&u, from, 4);
  pair[0] = (uint16_t)u;
  pair[1] = (uint16_t)(u >> 16);
}

FS_INLINE void fs_store_pair(uint16_t *to, const uint16_t *pair) {
  const uint32_t u = pair[0] | (uint32_t)pair[1] << 16;
  __builtin_memcpy(to, &u, 4);
}

FS_INLINE float fs_root_f32(float x) { return __builtin_sqrtf(x); }
FS_INLINE double fs_root_f64(double x) { return __builtin_sqrt(x); }

#endif
