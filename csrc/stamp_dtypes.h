/** stamp.h, reduce.h and the loops of tensor.h for each dtype; included once for each instruction set, and by ptx.c. */
#define FS_DTYPE f32
#define real float
#define elem float
#define FS_ROOT fs_root_f32
#define FS_ABSOLUTE __builtin_fabsf
#include "stamp.h"
#ifdef FS_CUDA
#include "ptx_reduce.h"
#include "ptx_tensors.h"
#include "ptx_matmul.h"
#else
#include "reduce.h"
#include "tensor_kernels.h"
#include "matmul_kernels.h"
#include "vector_kernels.h"
#endif
#undef FS_DTYPE
#undef elem

#define FS_DTYPE bf16
#define FS_PAIRS
#define elem uint16_t
#ifdef FS_CUDA
#include "stamp.h"
#include "ptx_reduce.h"
#include "ptx_tensors.h"
#else
#define fs_store_bf16 fs_round_bf16
#include "stamp.h"
#undef fs_store_bf16
#include "reduce.h"
#include "tensor_kernels.h"
#endif
#undef FS_PAIRS
#undef FS_DTYPE

#define FS_DTYPE f16
#ifdef FS_HALVES
#define FS_HALF
#define fs_load_f16 fs_load_half
#define fs_store_f16 fs_store_half
#undef FS_WIDTH
#define FS_WIDTH FS_HALVES
#else
#define FS_PAIRS
#endif
#include "stamp.h"
#ifdef FS_CUDA
#include "ptx_reduce.h"
#include "ptx_tensors.h"
#else
#include "reduce.h"
#include "tensor_kernels.h"
#endif
#ifdef FS_HALVES
#undef FS_HALF
#undef fs_load_f16
#undef fs_store_f16
#undef FS_WIDTH
#define FS_WIDTH
#else
#undef FS_PAIRS
#endif
#undef FS_DTYPE
#undef elem
#undef real
#undef FS_ROOT
#undef FS_ABSOLUTE

#define FS_DTYPE f64
#define real double
#define elem double
#define FS_ROOT fs_root_f64
#define FS_ABSOLUTE __builtin_fabs
#include "stamp.h"
#ifdef FS_CUDA
#include "ptx_reduce.h"
#include "ptx_tensors.h"
#include "ptx_matmul.h"
#else
#include "reduce.h"
#include "tensor_kernels.h"
#include "matmul_kernels.h"
#include "vector_kernels.h"
#endif
#undef FS_DTYPE
#undef elem
#undef real
#undef FS_ROOT
#undef FS_ABSOLUTE
