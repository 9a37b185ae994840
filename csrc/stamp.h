/**
 * Stamps every rule for one dtype and one instruction set; included once for each pair.
 *
 * Before: FS_DTYPE (f32 …), FS_ISA_NAME (base …), `real` and `elem` (arithmetic and storage type), FS_TARGET (the
 * function attribute that selects the instruction set), FS_ROOT and FS_ABSOLUTE; FS_PAIRS for 16 bits that are converted by integer
 * code, FS_HALF for float16 that has instructions. Makes functions NAME_DTYPE_ISA of type fs_kernel; with FS_CUDA, kernels
 * (ptx_rules.h).
 */
#define FS_STAMPED(name) FS_CAT(FS_CAT(name, FS_DTYPE), FS_ISA_NAME)
#define HALF ((real)0.5)
#define ONE ((real)1)
#define ABSOLUTE(x) FS_ABSOLUTE(x)
/* SIGN: -1, 0 or 1; 0 for a NaN, as torch's. MAXIMUM: the larger one, or a NaN if there is one. */
#ifdef FS_HALF
#define SIGN(x) fs_sign_half(x)
#define MAXIMUM(a, b) fs_maximum_half(a, b)
#else
#define SIGN(x) ((x) > 0 ? ONE : (x) < 0 ? -ONE : 0)
#define MAXIMUM(a, b) ((a) >= (b) || (a) != (a) ? (a) : (b))
#endif
#define LOAD(b) FS_CAT(fs_load, FS_DTYPE)(b[i])
#define STORE(b, x) (b[i] = FS_CAT(fs_store, FS_DTYPE)(x))
#define ROOT(x) FS_ROOT(x)

/* The bodies: a header's FS_RULE(name) { … } becomes a function of one element's index. */
#define FS_FIELD(name) real name;
#ifdef FS_CUDA
#define FS_RESTRICT restrict
#else
#define FS_RESTRICT /* clang would make alias checks after all */
#endif
#define FS_BUFFER_PARAMETER(name, access, needs) __attribute__((unused)) elem *FS_RESTRICT const name,
#define FS_FLAG_PARAMETER(name, bit) __attribute__((unused)) const uint32_t name,
#define FS_RULE(name)                                                                      \
  struct FS_STAMPED(name##_hypers) {                                                       \
    name##_HYPERS(FS_FIELD)                                                                \
  };                                                                                       \
  FS_INLINE FS_TARGET void FS_STAMPED(name##_body)(                                        \
      name##_BUFFERS(FS_BUFFER_PARAMETER) name##_FLAGS(FS_FLAG_PARAMETER)                  \
      const struct FS_STAMPED(name##_hypers) h, const size_t i)
#include "rules.def"
#undef FS_RULE

/* A loop for each combination of flags, chosen once a tensor; FS_RUN is the loop, which has `variant` for a constant. */
#define FS_COUNT(...) +1
#define FS_BUFFER_LOCAL(name, access, needs) name,
#define FS_FLAG_ARGUMENT(name, bit) (variant >> bit) & 1u,
#define FS_BODY_OF(name, buffer, index) \
  FS_STAMPED(name##_body)(name##_BUFFERS(buffer) name##_FLAGS(FS_FLAG_ARGUMENT) h, index)
#define FS_BODY(name, index) FS_BODY_OF(name, FS_BUFFER_LOCAL, index)
#define FS_CASE(name, number)                                                              \
  case number:                                                                             \
    if (number < (1u << (0 name##_FLAGS(FS_COUNT)))) {                                     \
      const uint32_t variant = number;                                                     \
      FS_RUN(name)                                                                         \
      (void)variant;                                                                       \
    }                                                                                      \
    break;
#define FS_VARIANTS(name)                                                                  \
  switch (flags) {                                                                         \
    FS_CASE(name, 0) FS_CASE(name, 1) FS_CASE(name, 2) FS_CASE(name, 3)                    \
    FS_CASE(name, 4) FS_CASE(name, 5) FS_CASE(name, 6) FS_CASE(name, 7)                    \
    FS_CASE(name, 8) FS_CASE(name, 9) FS_CASE(name, 10) FS_CASE(name, 11)                  \
    FS_CASE(name, 12) FS_CASE(name, 13) FS_CASE(name, 14) FS_CASE(name, 15)                \
    default: break;                                                                        \
  }

#ifdef FS_CUDA
#include "ptx_rules.h"
#else
#define FS_READ_HYPER(name) h.name = FS_HYPER(*hyper++);
#define FS_BUFFER_DECLARE(name, access, needs) elem *const name##_at = (elem *)(uintptr_t)*pointers++;
#define FS_BUFFER_AT(name, access, needs) name##_at,
#define FS_USED(needs) ((needs) == 0 || ((needs) & variant) != 0)
/*
 * A row goes line by line, and each line of a buffer is fetched FS_FAR bytes before it is needed (FS_AHEAD), else when it is. Little by
 * little, since a processor has few loads under way: when it is asked for more at once, the arithmetic waits.
 */
#define FS_LINE (64 / sizeof(elem))
#define FS_FAR 3072u
#define FS_FETCH(name, access, needs) \
  if (FS_USED(needs)) __builtin_prefetch((const char *)(name##_at + line) + ahead);
#ifdef FS_PAIRS
#define FS_HYPER(x) fs_plain((real)(x))
#define FS_WRITTEN(access) (sizeof #access == sizeof "rw")
#define FS_PAIR_READ(name, access, needs)                                                  \
  elem name[2] = {0, 0};                                                                   \
  if (FS_USED(needs)) fs_load_pair(name, name##_at + line + i);
#define FS_PAIR_WRITE(name, access, needs)                                                 \
  if (FS_USED(needs) && FS_WRITTEN(access)) fs_store_pair(name##_at + line + i, name);
#define FS_RUN_LINE(name)                                                                  \
  FS_VECTOR_LINE for (size_t i = 0; i < FS_LINE; i += 2) {                                 \
    name##_BUFFERS(FS_PAIR_READ)                                                           \
    FS_BODY(name, 0);                                                                      \
    FS_BODY(name, 1);                                                                      \
    name##_BUFFERS(FS_PAIR_WRITE)                                                          \
  }
#else
#define FS_HYPER(x) (real)(x)
#define FS_RUN_LINE(name)                                                                  \
  FS_VECTOR_LINE FS_WIDTH for (size_t i = 0; i < FS_LINE; i++) FS_BODY_OF(name, FS_BUFFER_AT, line + i);
#endif
#define FS_RUN(name)                                                                       \
  size_t line = from;                                                                      \
  for (; to - line >= FS_LINE; line += FS_LINE) {                                          \
    name##_BUFFERS(FS_FETCH)                                                               \
    FS_RUN_LINE(name)                                                                      \
  }                                                                                        \
  FS_VECTOR_REST for (size_t i = line; i < to; i++) FS_BODY_OF(name, FS_BUFFER_AT, i);
#define RULE(name)                                                                         \
  FS_TARGET static void FS_STAMPED(name)(const uint32_t wanted, const double *hyper,       \
                                         const uint64_t *pointers, const size_t from,      \
                                         const size_t to) {                                \
    struct FS_STAMPED(name##_hypers) h;                                                    \
    name##_HYPERS(FS_READ_HYPER)                                                           \
    (void)hyper; /* a rule may have none */                                                \
    name##_BUFFERS(FS_BUFFER_DECLARE)                                                      \
    const uint32_t flags = wanted & ~FS_AHEAD;                                             \
    const size_t ahead = flags == wanted ? 0 : FS_FAR;                                     \
    FS_VARIANTS(name)                                                                      \
  }
#include "rules.def"
#undef RULE
#undef FS_READ_HYPER
#undef FS_BUFFER_DECLARE
#undef FS_BUFFER_AT
#undef FS_USED
#undef FS_LINE
#undef FS_FAR
#undef FS_FETCH
#undef FS_HYPER
#undef FS_RUN_LINE
#undef FS_RUN
#ifdef FS_PAIRS
#undef FS_WRITTEN
#undef FS_PAIR_READ
#undef FS_PAIR_WRITE
#endif
#endif

#undef FS_STAMPED
#undef HALF
#undef ONE
#undef ABSOLUTE
#undef SIGN
#undef LOAD
#undef STORE
#undef ROOT
#undef MAXIMUM
#undef FS_FIELD
#undef FS_RESTRICT
#undef FS_BUFFER_PARAMETER
#undef FS_FLAG_PARAMETER
#undef FS_FLAG_ARGUMENT
#undef FS_CASE
#undef FS_COUNT
#undef FS_BUFFER_LOCAL
#undef FS_BODY_OF
#undef FS_BODY
#undef FS_VARIANTS
