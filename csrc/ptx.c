/**
 * The rules as CUDA kernels: RULE_DTYPE, for `zig cc -target nvptx64-cuda`. The bodies are the CPU's; without contraction
 * and without flushing to zero all arithmetic is .rn, and the bits are the CPU's.
 *
 * A launch does one job: block b takes chunk b of `chunks`, { row, first element } each, FS_PTX_CHUNK elements or what is
 * left of the row; its threads take turns. Table and hyperparameters are as in flatstep.h, in device memory.
 */
#include "element.h"

/** Elements that a block takes. */
#define FS_PTX_CHUNK 16384u

#define FS_ISA_NAME ptx
#define FS_TARGET
#define FS_NO_REDUCE
#include "stamp_dtypes.h"

#define FS_KERNEL(name, dtype)                                                                        \
  __attribute__((nvptx_kernel)) void name##_##dtype(const uint64_t *table, uint32_t words,            \
                                                    const uint64_t *chunks, const double *hypers,     \
                                                    uint32_t width) {                                 \
    const uint64_t *chunk = chunks + 2 * (uint64_t)__nvvm_read_ptx_sreg_ctaid_x();                    \
    const uint64_t *row = table + chunk[0] * words;                                                   \
    const uint64_t from = chunk[1], left = row[0] - from;                                             \
    const uint64_t to = from + (left < FS_PTX_CHUNK ? left : FS_PTX_CHUNK);                           \
    name##_##dtype##_ptx((uint32_t)(row[1] >> 32), hypers + (uint64_t)(uint32_t)row[1] * width,       \
                         row + 2, from, to);                                                          \
  }
#define RULE(name) FS_KERNEL(name, f32) FS_KERNEL(name, f64) FS_KERNEL(name, bf16) FS_KERNEL(name, f16)
#include "rules.def"
