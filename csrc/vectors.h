/** Vectors and packed symmetric matrices: what vectors.c and the stamped loops of vector_kernels.h share. */
#ifndef FS_VECTORS_H
#define FS_VECTORS_H

#include "internal.h"

/** One pass over vectors, as fs_combine's words have it. y, z: null where there is none. */
typedef struct fs_pass {
  const void *x, *y, *z;
  void *out;
  uint32_t negate, scale;
  double a, c;
} fs_pass;

/** The loops of one dtype on one instruction set; what they do is said where they are. */
typedef struct fs_vector_kernels {
  void (*combine)(const fs_pass *pass, size_t at, size_t n, double *results);
  void (*packed_product)(const void *matrix, const double *restrict v, double *restrict sum, size_t from, size_t to);
  void (*packed_update)(void *matrix, const double *restrict u, const double *restrict s, size_t from, size_t to);
} fs_vector_kernels;
const fs_vector_kernels *fs_vector_kernels_of(uint32_t dtype);

#endif
