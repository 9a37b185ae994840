/**
 * The inside of a product of matrices, stamped for float32 and float64 and for every instruction set. A piece of the
 * result is held in registers while the terms of its elements are added in the order of k, each product and each sum
 * rounded by itself: the bits are those of three plain loops.
 *
 * Before, beside what stamp.h needs: FS_VECTOR, the bytes of a vector, and FS_DOWN, the rows of the piece.
 */
#define FS_STAMPED(name) FS_CAT(FS_CAT(name, FS_DTYPE), FS_ISA_NAME)
#define FS_LANES (FS_VECTOR / sizeof(real))
#define FS_ACROSS (2 * FS_LANES)
#if defined(__clang__)
#define FS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FS_UNROLL _Pragma("GCC unroll 8")
#endif

typedef real FS_STAMPED(fs_vector) __attribute__((vector_size(FS_VECTOR), aligned(sizeof(real)), may_alias));

/*
 * to[p][k][i] = from[(p * width + i) * across + k * along] for the `count` rows (or columns) of a block and k < depth:
 * panels of `width`, the last one filled up with zeros.
 */
FS_TARGET static void FS_STAMPED(fs_pack)(const void *from, const size_t across, const size_t along, const size_t count,
                                          const size_t depth, const size_t width, void *to) {
  const real *source = from;
  real *restrict out = to;
  for (size_t p = 0; p < count; p += width, out += width * depth) {
    const real *x = source + p * across;
    const size_t here = count - p < width ? count - p : width;
    if (here < width) {
      for (size_t i = 0; i < width * depth; i++) out[i] = 0;
    }
    if (across == 1) {
      for (size_t k = 0; k < depth; k++) {
        for (size_t i = 0; i < here; i++) out[k * width + i] = x[k * along + i];
      }
    } else {
      for (size_t i = 0; i < here; i++) {
        for (size_t k = 0; k < depth; k++) out[k * width + i] = x[i * across + k * along];
      }
    }
  }
}

/* c[FS_DOWN][FS_ACROSS] (+)= a b, of panels of `depth`. */
FS_TARGET static void FS_STAMPED(fs_multiply)(const size_t depth, const void *a, const void *b, void *c,
                                              const size_t stride, const int first) {
  typedef FS_STAMPED(fs_vector) vector;
  const real *x = a;
  const real *y = b;
  real *out = c;
  vector sum[FS_DOWN][2];
  FS_UNROLL
  for (size_t i = 0; i < FS_DOWN; i++) {
    if (first) sum[i][0] = sum[i][1] = (vector){0};
    else sum[i][0] = *(const vector *)(out + i * stride), sum[i][1] = *(const vector *)(out + i * stride + FS_LANES);
  }
  for (size_t k = 0; k < depth; k++, x += FS_DOWN, y += FS_ACROSS) {
    const vector left = *(const vector *)y, right = *(const vector *)(y + FS_LANES);
  FS_UNROLL
    for (size_t i = 0; i < FS_DOWN; i++) {
      sum[i][0] = sum[i][0] + x[i] * left;
      sum[i][1] = sum[i][1] + x[i] * right;
    }
  }
  FS_UNROLL
  for (size_t i = 0; i < FS_DOWN; i++) {
    *(vector *)(out + i * stride) = sum[i][0];
    *(vector *)(out + i * stride + FS_LANES) = sum[i][1];
  }
}

/* c[i] = beta * d[i] + alpha * c[i]; without d: alpha * c[i]. */
FS_TARGET static void FS_STAMPED(fs_finish)(void *c, const void *d, const size_t n, const double alpha,
                                            const double beta) {
  real *restrict out = c;
  const real *restrict more = d, by = (real)alpha, of = (real)beta;
  if (d == NULL) {
    FS_LOOP(i, 0, n) { out[i] = by * out[i]; }
  } else {
    FS_LOOP(i, 0, n) { out[i] = of * more[i] + by * out[i]; }
  }
}

static const fs_matmul_kernels FS_STAMPED(fs_matmul_kernels) = {
    FS_DOWN, FS_ACROSS, FS_STAMPED(fs_pack), FS_STAMPED(fs_multiply), FS_STAMPED(fs_finish),
};

#undef FS_STAMPED
#undef FS_LANES
#undef FS_ACROSS
#undef FS_UNROLL
