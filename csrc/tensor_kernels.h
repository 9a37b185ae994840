/**
 * The loops of the rules that look at a whole tensor (tensor.h), stamped like the rules. `h` is a tensor's row of
 * hyperparameters. Sums are in float64 and in a fixed order: column j of a row goes to lane j mod 16 (as in reduce.h), the
 * lanes are added as a tree; sums over rows are added from the first row to the last.
 */
#include "tensor_math.h"

#define FS_STAMPED(name) FS_CAT(FS_CAT(name, FS_DTYPE), FS_ISA_NAME)
#define LOAD(x) FS_CAT(fs_load, FS_DTYPE)(x)
#define STORE(x) FS_CAT(fs_store, FS_DTYPE)(x)
#define FS_TENSOR_LANES 16
/* lane[j mod 16] += (double)value * (double)value over a row; `value` says what it is at column c. */
#define FS_ADD_SQUARES(n, value)                                            \
  {                                                                         \
    size_t j = 0;                                                           \
    for (; j + FS_TENSOR_LANES <= (n); j += FS_TENSOR_LANES) {              \
      for (size_t l = 0; l < FS_TENSOR_LANES; l++) {                        \
        const size_t c = j + l;                                             \
        const double v = (double)(value);                                   \
        lane[l] = lane[l] + v * v;                                          \
      }                                                                     \
    }                                                                       \
    for (size_t l = 0; j + l < (n); l++) {                                  \
      const size_t c = j + l;                                               \
      const double v = (double)(value);                                     \
      lane[l] = lane[l] + v * v;                                            \
    }                                                                       \
  }

FS_INLINE FS_TARGET double FS_STAMPED(fs_tree)(double *lane) {
  for (size_t half = FS_TENSOR_LANES / 2; half > 0; half /= 2) {
    for (size_t l = 0; l < half; l++) lane[l] = lane[l] + lane[l + half];
  }
  return lane[0];
}

/* Adafactor: the sums of squares of a tile's rows, and those of its columns. */
FS_TARGET static void FS_STAMPED(fs_squares)(const void *x, const size_t stride, const size_t rows,
                                             const size_t columns, double *row_sums, const size_t row_stride,
                                             double *restrict column_sums) {
  for (size_t j = 0; j < columns; j++) column_sums[j] = 0;
  for (size_t i = 0; i < rows; i++) {
    const elem *restrict row = (const elem *)x + i * stride;
    double lane[FS_TENSOR_LANES] = {0};
    size_t j = 0;
    for (; j + FS_TENSOR_LANES <= columns; j += FS_TENSOR_LANES) {
      for (size_t l = 0; l < FS_TENSOR_LANES; l++) {
        const double v = (double)LOAD(row[j + l]), square = v * v;
        lane[l] = lane[l] + square;
        column_sums[j + l] = column_sums[j + l] + square;
      }
    }
    for (size_t l = 0; j + l < columns; l++) {
      const double v = (double)LOAD(row[j + l]), square = v * v;
      lane[l] = lane[l] + square;
      column_sums[j + l] = column_sums[j + l] + square;
    }
    row_sums[i * row_stride] = FS_STAMPED(fs_tree)(lane);
  }
}

/*
 * Adafactor, one matrix, when the sums of all its tiles are there: averages them into rowVar and colVar, and leaves in
 * `rows` and `factors` what a gradient is multiplied by: a[i] b[j] = sqrt(mean(rowVar) / (rowVar[i] colVar[j])).
 */
FS_TARGET static void FS_STAMPED(fs_settle)(void *row_var, void *column_var, double *restrict rows,
                                            const size_t row_count, const size_t strips, double *restrict columns,
                                            const size_t column_count, const size_t blocks, void *factors,
                                            const double *h) {
  elem *restrict r = row_var, *restrict c = column_var;
  real *restrict b = factors;
  const double weight = h[A_WEIGHT], width = (double)column_count, height = (double)row_count;
  if (strips > 1) {
    for (size_t i = 0; i < row_count; i++) {
      double sum = rows[i * strips];
      for (size_t s = 1; s < strips; s++) sum = sum + rows[i * strips + s];
      rows[i] = sum;
    }
  }
  for (size_t i = 0; i < row_count; i++) {
    const double mean = rows[i] / width, before = (double)LOAD(r[i]);
    const real now = (real)FS_LERP(before, mean, weight);
    r[i] = STORE(now);
    rows[i] = (double)now;
  }
  double sum = 0;
  for (size_t i = 0; i < row_count; i++) sum = sum + rows[i];
  const double mean = FS_AT_LEAST(sum / height, h[A_EPS1]);
  for (size_t i = 0; i < row_count; i++) rows[i] = rows[i] == 0 ? 1e300 : __builtin_sqrt(mean / rows[i]);

  for (size_t k = 1; k < blocks; k++) {
    const double *restrict more = columns + k * column_count;
    for (size_t j = 0; j < column_count; j++) columns[j] = columns[j] + more[j];
  }
  for (size_t j = 0; j < column_count; j++) {
    const double average = columns[j] / height, before = (double)LOAD(c[j]);
    const real now = (real)FS_LERP(before, average, weight);
    c[j] = STORE(now);
    b[j] = now == 0 ? (real)FS_MOST : (real)(1 / __builtin_sqrt((double)now));
  }
}

/* Adafactor: the sum of the squares of a tile's update. */
FS_TARGET static double FS_STAMPED(fs_matrix_norm)(const void *grad, const size_t stride, const size_t rows,
                                                   const size_t columns, const double *row_factors,
                                                   const void *factors, const double *h) {
  const real *restrict b = factors, limit = (real)h[A_LIMIT];
  double lane[FS_TENSOR_LANES] = {0};
  for (size_t i = 0; i < rows; i++) {
    const elem *restrict g = (const elem *)grad + i * stride;
    const real a = (real)row_factors[i];
    FS_ADD_SQUARES(columns, LOAD(g[c]) * FS_AT_MOST(a * b[c], limit))
  }
  return FS_STAMPED(fs_tree)(lane);
}

/* Adafactor: a tile's parameters move by `step` times the update. */
FS_TARGET static void FS_STAMPED(fs_matrix_update)(void *param, const void *grad, const size_t stride,
                                                   const size_t rows, const size_t columns,
                                                   const double *row_factors, const void *factors, const double step,
                                                   const double *h) {
  const real *restrict b = factors;
  const real sign = (real)h[A_SIGN], decay = (real)h[A_DECAY], limit = (real)FS_AT_MOST(h[A_LIMIT] * step, FS_MOST);
  for (size_t i = 0; i < rows; i++) {
    elem *restrict p = (elem *)param + i * stride;
    const elem *restrict g = (const elem *)grad + i * stride;
    const real a = (real)(row_factors[i] * step);
    FS_LOOP(j, 0, columns) {
      p[j] = STORE(decay * LOAD(p[j]) - (sign * LOAD(g[j])) * FS_AT_MOST(a * b[j], limit));
    }
  }
}

FS_TARGET static double FS_STAMPED(fs_vector_norm)(const void *grad, const void *variance, const size_t n,
                                                   const double *h) {
  const elem *restrict g = grad, *restrict v0 = variance;
  FS_VECTOR_HYPERS
  double lane[FS_TENSOR_LANES] = {0};
  FS_ADD_SQUARES(n, LOAD(g[c]) / FS_DIVISOR(FS_VARIANCE(LOAD(g[c]), LOAD(v0[c]))))
  return FS_STAMPED(fs_tree)(lane);
}

FS_TARGET static void FS_STAMPED(fs_vector_update)(void *param, const void *grad, void *variance, const size_t n,
                                                   const double step, const double *h) {
  elem *restrict p = param, *restrict v0 = variance;
  const elem *restrict g = grad;
  FS_VECTOR_HYPERS
  const real by = (real)(h[A_SIGN] * step), decay = (real)h[A_DECAY];
  FS_LOOP(i, 0, n) {
    const real gradient = LOAD(g[i]), before = LOAD(v0[i]), now = FS_VARIANCE(gradient, before);
    v0[i] = STORE(now);
    p[i] = STORE(decay * LOAD(p[i]) - by * (gradient / FS_DIVISOR(now)));
  }
}

/* Muon: averages the gradient; `update` is in the arithmetic type. */
FS_TARGET static void FS_STAMPED(fs_muon_begin)(const void *grad, void *buffer, void *update, const size_t n,
                                                const double *h) {
  const elem *restrict g = grad;
  elem *restrict buf = buffer;
  real *restrict out = update;
  FS_MUON_READ
  FS_LOOP(i, 0, n) {
    FS_MUON_AVERAGE(LOAD(g[i]), LOAD(buf[i]))
    buf[i] = STORE(average);
    out[i] = FS_MUON_UPDATE;
  }
}

/* Muon: x[i] / norm, in the arithmetic type. */
FS_TARGET static void FS_STAMPED(fs_muon_scale)(void *x, const size_t n, const double norm) {
  real *restrict y = x;
  const real by = (real)norm;
  FS_LOOP(i, 0, n) { y[i] = y[i] / by; }
}

FS_TARGET static void FS_STAMPED(fs_muon_end)(void *param, const void *x, const size_t n, const double *h) {
  elem *restrict p = param;
  const real *restrict y = x, decay = (real)h[M_DECAY], step = (real)h[M_STEP];
  FS_LOOP(i, 0, n) { p[i] = STORE(decay * LOAD(p[i]) - step * y[i]); }
}

static const fs_tensor_kernels FS_STAMPED(fs_tensor_kernels) = {
    FS_STAMPED(fs_squares),     FS_STAMPED(fs_settle),        FS_STAMPED(fs_matrix_norm),
    FS_STAMPED(fs_matrix_update), FS_STAMPED(fs_vector_norm), FS_STAMPED(fs_vector_update),
    FS_STAMPED(fs_muon_begin),  FS_STAMPED(fs_muon_scale),    FS_STAMPED(fs_muon_end),
};

#undef FS_STAMPED
#undef LOAD
#undef STORE
#undef FS_TENSOR_LANES
#undef FS_ADD_SQUARES
