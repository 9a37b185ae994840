/**
 * Rules that look at a whole tensor (norms, rows and columns, products of matrices): what their parts share. The entry
 * and the checks are in tensors.c, the phases of a step in adafactor.c and muon.c, the loops in tensor_kernels.h.
 */
#ifndef FS_TENSOR_H
#define FS_TENSOR_H

#include "internal.h"
#include "tensor_math.h"

/** Words of a row of the table (flatstep.h). */
enum { T_BATCHES, T_ROWS, T_COLUMNS, T_PARAM, T_GRAD, T_FIRST, T_SECOND, FS_TENSOR_WORDS };

/** The loops of one dtype on one instruction set; what they do is said where they are. */
typedef struct fs_tensor_kernels {
  void (*squares)(const void *x, size_t stride, size_t rows, size_t columns, double *row_sums, size_t row_stride,
                  double *column_sums);
  void (*settle)(void *row_var, void *column_var, double *rows, size_t row_count, size_t strips, double *columns,
                 size_t column_count, size_t blocks, void *factors, const double *h);
  double (*matrix_norm)(const void *grad, size_t stride, size_t rows, size_t columns, const double *row_factors,
                        const void *factors, const double *h);
  void (*matrix_update)(void *param, const void *grad, size_t stride, size_t rows, size_t columns,
                        const double *row_factors, const void *factors, double step, const double *h);
  double (*vector_norm)(const void *grad, const void *variance, size_t n, const double *h);
  void (*vector_update)(void *param, const void *grad, void *variance, size_t n, double step, const double *h);
  void (*muon_begin)(const void *grad, void *buffer, void *update, size_t n, const double *h);
  void (*muon_scale)(void *x, size_t n, double norm);
  void (*muon_end)(void *param, const void *x, size_t n, const double *h);
} fs_tensor_kernels;
const fs_tensor_kernels *fs_tensor_kernels_of(uint32_t dtype);

/** The inside of a product, for float32 and float64: matmul_kernels.h. */
typedef struct fs_matmul_kernels {
  uint32_t rows, columns; /* of the piece of the result that is held in registers */
  void (*pack)(const void *from, size_t across, size_t along, size_t count, size_t depth, size_t width, void *to);
  void (*multiply)(size_t depth, const void *a, const void *b, void *c, size_t stride, int first);
  void (*finish)(void *c, const void *d, size_t n, double alpha, double beta);
} fs_matmul_kernels;
const fs_matmul_kernels *fs_matmul_kernels_of(uint32_t dtype);

/** out[m][n] = beta * add + alpha * a b, where a[i][k] is a[i * a_row + k * a_column], and so on. */
typedef struct fs_product {
  uint64_t m, n, k;
  const void *a, *b, *add; /* add may be null: then beta is not looked at */
  size_t a_row, a_column, b_row, b_column;
  void *out;               /* m rows of n; overlaps with none of them */
  double alpha, beta;
  int symmetric;           /* the result and `add` are: half of it is computed */
} fs_product;

/** Rows and columns of the smallest block that a thread is started for. */
#define FS_LEAST_BLOCK 96u
/** Bytes that fs_multiply needs for each thread. */
size_t fs_multiply_room(uint32_t dtype);
/** Computes a product. The terms of each element are added in the order of k, each product and each sum rounded. */
void fs_multiply(const fs_product *product, uint32_t dtype, void *room, uint32_t threads);

/** Elements [from, to) of `n` that belong to a part. */
static inline uint64_t fs_part_begin(uint64_t n, uint32_t parts, uint32_t part) {
  return n / parts * part + (part < n % parts ? part : n % parts);
}

/** Elements of a tensor that has been checked. */
static inline uint64_t fs_tensor_size(const uint64_t *row) {
  return row[T_BATCHES] == 0 ? row[T_COLUMNS] : row[T_BATCHES] * row[T_ROWS] * row[T_COLUMNS];
}

/** How many of the tensors go through a step together, at least one, and the doubles of scratch that they need. */
uint32_t fs_adafactor_together(const uint64_t *table, uint32_t count, uint64_t *room);
/** Doubles of scratch for a tensor. */
uint64_t fs_muon_room(uint32_t dtype, const uint64_t *row, uint32_t threads);

/** A step of tensors that have been checked. */
void fs_adafactor(uint32_t dtype, const uint64_t *table, uint32_t count, const double *hypers, double *scratch,
                  uint32_t threads);
void fs_muon(uint32_t dtype, const uint64_t *row, const double *hypers, double *scratch, uint32_t threads);

#endif
