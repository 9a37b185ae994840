/**
 * The formulas of rules that look at a whole tensor, for the loops of tensor_kernels.h and the CUDA kernels of
 * ptx_tensors.h. `real` is the arithmetic type of the dtype that is being stamped.
 */
#ifndef FS_TENSOR_MATH_H
#define FS_TENSOR_MATH_H

#include <stdint.h>

/** A unit of work on a matrix: a tile of so many rows and columns. The order of additions follows from it. */
#define FS_TILE_ROWS 64u
#define FS_TILE_COLUMNS 2048u
/** How many pieces of a length there are in n. */
static inline uint64_t fs_pieces(uint64_t n, uint64_t length) { return n / length + (n % length != 0); }

/** Columns of the hyperparameters. `limit` is 1 / eps1. */
enum { A_SIGN, A_WEIGHT, A_EPS1, A_LIMIT, A_EPS2, A_RHO, A_CLIP, A_DECAY, FS_ADAFACTOR_HYPERS };
enum { M_SIGN, M_MOMENTUM, M_ONE_MINUS, M_NESTEROV, M_A, M_B, M_C, M_STEPS, M_EPS, M_DECAY, M_STEP, FS_MUON_HYPERS };

#define FS_MOST (sizeof(real) == 4 ? 3.4028234663852886e38 : 1.7976931348623157e308)
/* The larger one, or a NaN if there is one; the smaller one, or a if it is a NaN. */
#define FS_AT_LEAST(a, b) ((a) >= (b) || (a) != (a) ? (a) : (b))
#define FS_AT_MOST(a, b) ((a) > (b) ? (b) : (a))
#define FS_LERP(a, b, weight) ((weight) < 0.5 ? (a) + (weight) * ((b) - (a)) : (b) - (1 - (weight)) * ((b) - (a)))

/* Adafactor, vectors: the variance of an element, and the divisor of its update. */
#define FS_VARIANCE(g, before) \
  (weight < (real)0.5 ? (before) + weight * ((g) * (g) - (before)) : (g) * (g) - rest * ((g) * (g) - (before)))
#define FS_DIVISOR(variance) FS_AT_LEAST(FS_ROOT(variance), eps1)
#define FS_VECTOR_HYPERS \
  const real weight = (real)h[A_WEIGHT], rest = (real)(1 - h[A_WEIGHT]), eps1 = (real)h[A_EPS1];

/* Muon: the average of an element's gradients, and what goes into the matrix. */
#define FS_MUON_READ                                                                               \
  const real sign = (real)h[M_SIGN], momentum = (real)h[M_MOMENTUM], rest = (real)h[M_ONE_MINUS];  \
  const int near = rest < (real)0.5, far = momentum < (real)0.5, nesterov = h[M_NESTEROV] != 0;
#define FS_MUON_AVERAGE(gradient, buffer)                                                          \
  const real x = sign * (gradient), before = (buffer), up = x - before;                            \
  const real average = near ? before + rest * up : x - momentum * up, down = average - x;
#define FS_MUON_UPDATE (!nesterov ? average : far ? x + momentum * down : average - rest * down)

#endif
