/**
 * Rules and reductions as CUDA kernels, for `zig cc -target nvptx64-cuda`: the ABI is cuda.h. The bodies are the CPU's;
 * without contraction and without flushing to zero all arithmetic is .rn, and the bits are the CPU's. Nothing is shared
 * by kernels, so that each may be loaded by itself.
 *
 * With FS_CUDA_HOST they are functions of the host, each call of which is a thread: what tests run.
 */
#include "cuda.h"
#include "element.h"
#include "tensor_math.h"

#if defined(__clang__)
#define FS_UNROLL _Pragma("unroll")
#define FS_UNROLL_SOME _Pragma("unroll 8")
#define FS_NO_UNROLL _Pragma("nounroll")
#else
#define FS_UNROLL
#define FS_UNROLL_SOME
#define FS_NO_UNROLL
#endif
#define FS_LARGER(a, b) ((a) >= (b) || (a) != (a) ? (a) : (b))

#ifdef FS_CUDA_HOST
_Thread_local struct fs_cuda_thread fs_cuda_thread;
FS_INLINE uint32_t fs_thread(void) { return fs_cuda_thread.tid; }
FS_INLINE uint32_t fs_threads(void) { return fs_cuda_thread.ntid; }
FS_INLINE uint32_t fs_block(void) { return fs_cuda_thread.ctaid; }
FS_INLINE uint32_t fs_blocks(void) { return fs_cuda_thread.nctaid; }
#define FS_KERNEL static void
#define FS_GLOBAL(type, address) ((type *)(uintptr_t)(address))
#else
FS_INLINE uint32_t fs_thread(void) { return __nvvm_read_ptx_sreg_tid_x(); }
FS_INLINE uint32_t fs_threads(void) { return __nvvm_read_ptx_sreg_ntid_x(); }
FS_INLINE uint32_t fs_block(void) { return __nvvm_read_ptx_sreg_ctaid_x(); }
FS_INLINE uint32_t fs_blocks(void) { return __nvvm_read_ptx_sreg_nctaid_x(); }
#define FS_KERNEL __attribute__((nvptx_kernel)) void
#define FS_GLOBAL(type, address) ((type *)(__attribute__((address_space(1))) type *)(address))
#endif

#define FS_CUDA_LANES 16u
#define FS_CUDA
#define FS_ISA_NAME cuda
#define FS_TARGET
#include "stamp_dtypes.h"

#define FS_PLUS(a, b) ((a) + (b))
#define FS_TREE(join)                                                                      \
  FS_UNROLL for (uint32_t half = FS_CUDA_LANES / 2; half > 0; half /= 2) {                 \
    FS_UNROLL for (uint32_t j = 0; j < half; j++) lane[j] = join(lane[j], lane[j + half]); \
  }
FS_KERNEL fold(const fs_cuda_fold s) {
  const double *const lanes = FS_GLOBAL(const double, s.lanes);
  double *const out = FS_GLOBAL(double, s.out);
  const uint64_t threads = (uint64_t)fs_blocks() * fs_threads();
  for (uint64_t t = (uint64_t)fs_block() * fs_threads() + fs_thread(); t < s.count; t += threads) {
    double lane[FS_CUDA_LANES];
    FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_LANES; j++) lane[j] = lanes[t * FS_CUDA_LANES + j];
    if (s.op == FS_MAX_ABS) {
      FS_TREE(FS_LARGER)
    } else {
      FS_TREE(FS_PLUS)
    }
    out[t] = lane[0];
  }
}

#ifdef FS_CUDA_HOST
/* The table of kernels. */
#define FS_NEEDS(name, access, needs) needs,
#define FS_ACCESS(name, access, needs) (#access[1] == 'w' ? 'w' : 'r'),
#define FS_COUNT(...) +1
#define FS_SIZE_OF(type) ((const uint32_t[]){sizeof(type)})
#define FS_INVOKE(name, type) \
  static void invoke_##name(void **parameters) { name(*(const type *)parameters[0]); }
#define RULE(name)                                                                         \
  static const uint32_t name##_needs[] = {name##_BUFFERS(FS_NEEDS)};                       \
  static const char name##_access[] = {name##_BUFFERS(FS_ACCESS) 0};                       \
  FS_INVOKE(name##_f32, fs_cuda_step) FS_INVOKE(name##_f64, fs_cuda_step)                  \
  FS_INVOKE(name##_bf16, fs_cuda_step) FS_INVOKE(name##_f16, fs_cuda_step)
#include "rules.def"
#undef RULE
/* Those that are no rule's: OF(name, structure, kind, dtype). */
#define FS_EACH_DTYPE(of, name, type, kind) \
  of(name##_f32, type, kind, FS_F32) of(name##_f64, type, kind, FS_F64)                    \
  of(name##_bf16, type, kind, FS_BF16) of(name##_f16, type, kind, FS_F16)
#define FS_PHASE(of, name) FS_EACH_DTYPE(of, name, fs_cuda_tensors, FS_CUDA_TENSORS)
#define FS_OTHERS(of)                                                                      \
  FS_EACH_DTYPE(of, lanes, fs_cuda_lanes, FS_CUDA_LANES_OF)                                \
  FS_PHASE(of, adafactor_rows) FS_PHASE(of, adafactor_columns) FS_PHASE(of, adafactor_row_averages) \
  FS_PHASE(of, adafactor_means) FS_PHASE(of, adafactor_row_factors) FS_PHASE(of, adafactor_column_averages) \
  FS_PHASE(of, adafactor_norm) FS_PHASE(of, adafactor_vector_norm) FS_PHASE(of, adafactor_step) \
  FS_PHASE(of, adafactor_update) FS_PHASE(of, adafactor_vector_update)                     \
  FS_PHASE(of, muon_begin) FS_PHASE(of, muon_norm) FS_PHASE(of, muon_scale) FS_PHASE(of, muon_end) \
  of(product_f32, fs_cuda_product, FS_CUDA_PRODUCT, FS_F32) of(product_f64, fs_cuda_product, FS_CUDA_PRODUCT, FS_F64) \
  of(transpose_f32, fs_cuda_transpose, FS_CUDA_TRANSPOSE, FS_F32)                          \
  of(transpose_f64, fs_cuda_transpose, FS_CUDA_TRANSPOSE, FS_F64)                          \
  of(fold, fs_cuda_fold, FS_CUDA_FOLD, FS_F64)
#define FS_INVOKE_OTHER(name, type, kind, dtype) FS_INVOKE(name, type)
FS_OTHERS(FS_INVOKE_OTHER)

#define FS_STEP_ROW(name, suffix, dtype)                                                   \
  {#name "_" #suffix, 1, FS_SIZE_OF(fs_cuda_step), invoke_##name##_##suffix, FS_CUDA_STEP, dtype,         \
   0 name##_BUFFERS(FS_COUNT), 0 name##_HYPERS(FS_COUNT), 0 name##_FLAGS(FS_COUNT), name##_needs, name##_access},
#define FS_ROW(name, type, kind, dtype) {#name, 1, FS_SIZE_OF(type), invoke_##name, kind, dtype, 0, 0, 0, NULL, NULL},
#define RULE(name) \
  FS_STEP_ROW(name, f32, FS_F32) FS_STEP_ROW(name, f64, FS_F64)                            \
  FS_STEP_ROW(name, bf16, FS_BF16) FS_STEP_ROW(name, f16, FS_F16)
const fs_cuda_kernel fs_cuda_kernels[] = {
#include "rules.def"
    FS_OTHERS(FS_ROW)
};
#undef RULE
const uint32_t fs_cuda_kernel_count = sizeof fs_cuda_kernels / sizeof fs_cuda_kernels[0];
#endif
