/**
 * The rules and reductions as CUDA kernels, for `zig cc -target nvptx64-cuda`: the ABI is cuda.h. The bodies are the CPU's;
 * without contraction and without flushing to zero all arithmetic is .rn, and the bits are the CPU's. Nothing is shared by
 * kernels, so that each may be loaded by itself.
 *
 * With FS_CUDA_HOST they are functions of the host, each call of which is a thread: what tests run.
 */
#include "cuda.h"
#include "element.h"

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
static const uint32_t step_size[] = {sizeof(fs_cuda_step)}, lanes_size[] = {sizeof(fs_cuda_lanes)}, fold_size[] = {sizeof(fs_cuda_fold)};
#define FS_INVOKE(name, type) \
  static void invoke_##name(void **parameters) { name(*(const type *)parameters[0]); }
#define RULE(name)                                                                         \
  static const uint32_t name##_needs[] = {name##_BUFFERS(FS_NEEDS)};                       \
  static const char name##_access[] = {name##_BUFFERS(FS_ACCESS) 0};                       \
  FS_INVOKE(name##_f32, fs_cuda_step) FS_INVOKE(name##_f64, fs_cuda_step)                  \
  FS_INVOKE(name##_bf16, fs_cuda_step) FS_INVOKE(name##_f16, fs_cuda_step)
#include "rules.def"
#undef RULE
FS_INVOKE(lanes_f32, fs_cuda_lanes)
FS_INVOKE(lanes_f64, fs_cuda_lanes)
FS_INVOKE(lanes_bf16, fs_cuda_lanes)
FS_INVOKE(lanes_f16, fs_cuda_lanes)
FS_INVOKE(fold, fs_cuda_fold)

#define FS_STEP_ROW(name, suffix, dtype)                                                   \
  {#name "_" #suffix, 1, step_size, invoke_##name##_##suffix, FS_CUDA_STEP, dtype,         \
   0 name##_BUFFERS(FS_COUNT), 0 name##_HYPERS(FS_COUNT), 0 name##_FLAGS(FS_COUNT), name##_needs, name##_access},
#define FS_ROW(name, size, kind, dtype) {#name, 1, size, invoke_##name, kind, dtype, 0, 0, 0, NULL, NULL},
#define RULE(name) \
  FS_STEP_ROW(name, f32, FS_F32) FS_STEP_ROW(name, f64, FS_F64) FS_STEP_ROW(name, bf16, FS_BF16) FS_STEP_ROW(name, f16, FS_F16)
const fs_cuda_kernel fs_cuda_kernels[] = {
#include "rules.def"
    FS_ROW(lanes_f32, lanes_size, FS_CUDA_LANES_OF, FS_F32) FS_ROW(lanes_f64, lanes_size, FS_CUDA_LANES_OF, FS_F64)
    FS_ROW(lanes_bf16, lanes_size, FS_CUDA_LANES_OF, FS_BF16) FS_ROW(lanes_f16, lanes_size, FS_CUDA_LANES_OF, FS_F16)
    FS_ROW(fold, fold_size, FS_CUDA_FOLD, FS_F64)
};
#undef RULE
const uint32_t fs_cuda_kernel_count = sizeof fs_cuda_kernels / sizeof fs_cuda_kernels[0];
#endif
