/**
 * The kernels: every rule stamped for every dtype and instruction set, and the choice among them.
 *
 * On x86-64: the baseline (SSE2), AVX2 and AVX-512, by CPUID and by what the system saves on a context switch (XGETBV).
 * On arm64 the baseline is NEON and there is nothing to choose.
 */
#include "tensor.h"
#include "vectors.h"

#include <stdatomic.h>

#include "element.h"

#if defined(__x86_64__)
#define FS_X86 1
#include <cpuid.h>
#else
#define FS_X86 0
#endif

#define FS_FOR_DTYPES "stamp_dtypes.h"

/* FS_HALVES: the loops of an instruction set that converts float16, for clang takes short vectors of its own accord. */
#if defined(__clang__)
#define FS_HALVES_OF_16 _Pragma("clang loop vectorize_width(16)")
#else
#define FS_HALVES_OF_16
#endif

#if defined(__aarch64__)
#define FS_HALVES FS_HALVES_OF_16
#endif
#define FS_ISA_NAME base
#define FS_TARGET
#define FS_VECTOR 16
#define FS_DOWN 4
#include FS_FOR_DTYPES
#undef FS_ISA_NAME
#undef FS_TARGET
#undef FS_VECTOR
#undef FS_DOWN

#if FS_X86
#define FS_HALVES FS_HALVES_OF_16
#define FS_ISA_NAME avx2
#define FS_TARGET __attribute__((target("avx2,f16c")))
#define FS_VECTOR 32
#define FS_DOWN 4
#include FS_FOR_DTYPES
#undef FS_ISA_NAME
#undef FS_TARGET
#undef FS_VECTOR
#undef FS_DOWN

#define FS_ISA_NAME avx512
#if defined(__clang__) /* without evex512 it keeps to 256 bits */
#define FS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,evex512")))
#else
#define FS_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#endif
#define FS_VECTOR 64
#define FS_DOWN 8
#include FS_FOR_DTYPES
#undef FS_ISA_NAME
#undef FS_TARGET
#undef FS_VECTOR
#undef FS_DOWN
#endif

/* The table of rules. */
#define FS_COUNT(...) +1
#define FS_NAME(name, ...) "," #name
#define FS_NAME_ACCESS(name, access, needs) "," #name ":" #access
#define FS_NEEDS(name, access, needs) needs,
#define RULE(name) \
  enum { name##_buffers = 0 name##_BUFFERS(FS_COUNT), name##_hypers = 0 name##_HYPERS(FS_COUNT) }; \
  _Static_assert((int)name##_buffers <= (int)FS_MAX_BUFFERS, "a rule with too many buffers"); \
  static const uint32_t name##_needs[] = {name##_BUFFERS(FS_NEEDS)};
#include "rules.def"
#undef RULE

#define RULE(name) \
  {#name, #name "|" name##_BUFFERS(FS_NAME_ACCESS) "|" name##_HYPERS(FS_NAME) "|" name##_FLAGS(FS_NAME), \
   name##_buffers, name##_hypers, 0 name##_FLAGS(FS_COUNT), name##_needs},
const fs_rule fs_rules[] = {
#include "rules.def"
};
#undef RULE
const uint32_t fs_rule_count = sizeof fs_rules / sizeof fs_rules[0];
const uint32_t fs_element_size[FS_DTYPES] = {4, 8, 2, 2};

/* The table of kernels. */
#define FS_ROW(name, isa) {name##_f32_##isa, name##_f64_##isa, name##_bf16_##isa, name##_f16_##isa}
#define FS_CHUNKS(isa) {fs_chunk_f32_##isa, fs_chunk_f64_##isa, fs_chunk_bf16_##isa, fs_chunk_f16_##isa}
static const fs_kernel kernels[][FS_ISAS][FS_DTYPES] = {
#if FS_X86
#define RULE(name) {FS_ROW(name, base), FS_ROW(name, avx2), FS_ROW(name, avx512)},
#else
#define RULE(name) {FS_ROW(name, base)},
#endif
#include "rules.def"
#undef RULE
};
#define FS_TENSORS(isa) \
  {&fs_tensor_kernels_f32_##isa, &fs_tensor_kernels_f64_##isa, &fs_tensor_kernels_bf16_##isa, &fs_tensor_kernels_f16_##isa}
#define FS_MATMULS(isa) {&fs_matmul_kernels_f32_##isa, &fs_matmul_kernels_f64_##isa}
#define FS_VECTORS(isa) {&fs_vector_kernels_f32_##isa, &fs_vector_kernels_f64_##isa}
#if FS_X86
#define FS_EACH_ISA(of) of(base), of(avx2), of(avx512)
#else
#define FS_EACH_ISA(of) of(base)
#endif
#define FS_SCALERS(isa) {fs_scaler_f32_##isa, fs_scaler_f64_##isa, fs_scaler_bf16_##isa, fs_scaler_f16_##isa}
static const fs_chunk chunks[FS_ISAS][FS_DTYPES] = {FS_EACH_ISA(FS_CHUNKS)};
static const fs_scaler scalers[FS_ISAS][FS_DTYPES] = {FS_EACH_ISA(FS_SCALERS)};
static const fs_tensor_kernels *const tensor_kernels[FS_ISAS][FS_DTYPES] = {FS_EACH_ISA(FS_TENSORS)};
static const fs_matmul_kernels *const matmul_kernels[FS_ISAS][2] = {FS_EACH_ISA(FS_MATMULS)};
static const fs_vector_kernels *const vector_kernels[FS_ISAS][2] = {FS_EACH_ISA(FS_VECTORS)};

/* 1 + the instruction set in use; 0: not yet looked. */
static atomic_uint chosen;

static uint32_t best_isa(void) {
#if FS_X86
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return FS_ISA_BASE;
  if (!(c & (1u << 27))) return FS_ISA_BASE; /* OSXSAVE: the system uses XSAVE, and XGETBV may be asked */
  if (!(c & (1u << 29))) return FS_ISA_BASE; /* F16C, which every processor with AVX2 has */
  uint32_t state, high;
  __asm__ volatile("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return FS_ISA_BASE;
  const uint32_t ymm = 0x6u, zmm = 0xe6u; /* SSE and AVX state; with opmask and both halves of ZMM */
  if (!(b & (1u << 5)) || (state & ymm) != ymm) return FS_ISA_BASE;
  const uint32_t wanted = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
  return (b & wanted) == wanted && (state & zmm) == zmm ? FS_ISA_AVX512 : FS_ISA_AVX2;
#else
  return FS_ISA_BASE;
#endif
}

static uint32_t current_isa(void) {
  uint32_t isa = atomic_load_explicit(&chosen, memory_order_relaxed);
  if (isa == 0) {
    isa = 1 + best_isa();
    atomic_store_explicit(&chosen, isa, memory_order_relaxed);
  }
  return isa - 1;
}

fs_kernel fs_kernel_of(uint32_t rule, uint32_t dtype) { return kernels[rule][current_isa()][dtype]; }
fs_chunk fs_chunk_of(uint32_t dtype) { return chunks[current_isa()][dtype]; }
fs_scaler fs_scaler_of(uint32_t dtype) { return scalers[current_isa()][dtype]; }
const fs_tensor_kernels *fs_tensor_kernels_of(uint32_t dtype) { return tensor_kernels[current_isa()][dtype]; }
const fs_matmul_kernels *fs_matmul_kernels_of(uint32_t dtype) { return matmul_kernels[current_isa()][dtype == FS_F64]; }
const fs_vector_kernels *fs_vector_kernels_of(uint32_t dtype) { return vector_kernels[current_isa()][dtype == FS_F64]; }

uint32_t fs_isa(void) {
#if defined(__aarch64__)
  return 256u + current_isa();
#else
  return current_isa();
#endif
}

uint32_t fs_set_isa(uint32_t isa) {
  const uint32_t best = best_isa();
  atomic_store_explicit(&chosen, 1 + (isa < best ? isa : best), memory_order_relaxed);
  return fs_isa();
}

uint32_t fs_abi_version(void) { return FS_ABI_VERSION; }

int32_t fs_rule_find(const char *name) {
  if (name == NULL) return -1;
  for (uint32_t i = 0; i < fs_rule_count; i++) {
    if (strcmp(fs_rules[i].name, name) == 0) return (int32_t)i;
  }
  return -1;
}

int32_t fs_rule_describe(uint32_t rule, char *text, uint32_t capacity) {
  if (rule >= fs_rule_count || text == NULL || capacity == 0) return -1;
  const size_t length = strlen(fs_rules[rule].description);
  const size_t copied = length < capacity ? length : capacity - 1;
  memcpy(text, fs_rules[rule].description, copied);
  text[copied] = 0;
  return (int32_t)length;
}

void fs_bind(uint64_t *words, uint32_t index, const void *target) { words[index] = (uint64_t)(uintptr_t)target; }

uint32_t fs_enter_float(void) {
#if FS_X86
  const uint32_t saved = __builtin_ia32_stmxcsr();
  if (saved & 0xe040u) __builtin_ia32_ldmxcsr(0x1f80u); /* a rounding mode, flush to zero, denormals are zero */
  return saved;
#elif defined(__aarch64__)
  uint64_t saved;
  __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
  if (saved & 0x5c80000u) __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)0));
  return (uint32_t)saved;
#else
  return 0;
#endif
}

void fs_leave_float(uint32_t saved) {
#if FS_X86
  if (saved & 0xe040u) __builtin_ia32_ldmxcsr(saved);
#elif defined(__aarch64__)
  if (saved & 0x5c80000u) __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)saved));
#else
  (void)saved;
#endif
}
