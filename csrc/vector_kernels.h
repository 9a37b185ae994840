/**
 * Loops over vectors and packed symmetric matrices, stamped for float32 and float64 like the rules: what quasi-Newton
 * methods are made of. Sums are in float64: element j goes to lane j mod 16, the lanes are added as a tree (reduce.h).
 */
#define FS_LANES 16
#define FS_STAMPED(name) FS_CAT(FS_CAT(name, FS_DTYPE), FS_ISA_NAME)

/* count <= 16 elements of a pass. Everything is read before anything is written: out may be x, y or z. */
FS_INLINE FS_TARGET void FS_STAMPED(fs_combine_lanes)(const elem *x, const elem *y, const elem *z, elem *out,
                                                      const real sign, const real a, const real c, double *lane,
                                                      double *largest, const size_t count, const int add,
                                                      const int scale, const int dot) {
  real v[FS_LANES], w[FS_LANES];
  for (size_t j = 0; j < count; j++) {
    real t = sign * x[j];
    if (add) {
      const real s = a * y[j];
      t = t + s;
    }
    if (scale) t = t * c;
    v[j] = t;
    if (dot) w[j] = z[j];
  }
  for (size_t j = 0; j < count; j++) out[j] = v[j];
  if (!dot) return;
  for (size_t j = 0; j < count; j++) {
    const double d = (double)v[j], e = __builtin_fabs(d), p = d * (double)w[j];
    lane[j] = lane[j] + p;
    largest[j] = largest[j] >= e || largest[j] != largest[j] ? largest[j] : e;
  }
}

/* Passes fetch this many bytes ahead of themselves: sums keep the loads waiting. */
#define FS_PASS_AHEAD 2048
#define FS_COMBINE(add, scale, dot)                                                                                     \
  {                                                                                                                     \
    size_t i = 0;                                                                                                       \
    for (; i + FS_LANES <= n; i += FS_LANES) {                                                                          \
      __builtin_prefetch((const char *)(x + i) + FS_PASS_AHEAD);                                                        \
      if (add) __builtin_prefetch((const char *)(y + i) + FS_PASS_AHEAD);                                               \
      if (dot) __builtin_prefetch((const char *)(z + i) + FS_PASS_AHEAD);                                               \
      FS_STAMPED(fs_combine_lanes)                                                                                      \
      (x + i, y + i, z + i, out + i, sign, a, c, lane, largest, FS_LANES, add, scale, dot);                             \
    }                                                                                                                   \
    FS_STAMPED(fs_combine_lanes)(x + i, y + i, z + i, out + i, sign, a, c, lane, largest, n - i, add, scale, dot);      \
  }                                                                                                                     \
  break;

/* One chunk: n <= FS_REDUCE_CHUNK elements from `at` on; results[0] = the dot product, results[1] = the largest magnitude. */
FS_TARGET static void FS_STAMPED(fs_combine_chunk)(const fs_pass *p, const size_t at, const size_t n, double *results) {
  const elem *const x = (const elem *)p->x + at, *const y = p->y ? (const elem *)p->y + at : x;
  const elem *const z = p->z ? (const elem *)p->z + at : x;
  elem *const out = (elem *)p->out + at;
  const real sign = p->negate ? (real)-1 : (real)1, a = (real)p->a, c = (real)p->c;
  double lane[FS_LANES] = {0}, largest[FS_LANES] = {0};
  switch ((p->y ? 1 : 0) | (p->scale ? 2 : 0) | (p->z ? 4 : 0)) {
    case 0: FS_COMBINE(0, 0, 0)
    case 1: FS_COMBINE(1, 0, 0)
    case 2: FS_COMBINE(0, 1, 0)
    case 3: FS_COMBINE(1, 1, 0)
    case 4: FS_COMBINE(0, 0, 1)
    case 5: FS_COMBINE(1, 0, 1)
    case 6: FS_COMBINE(0, 1, 1)
    default: FS_COMBINE(1, 1, 1)
  }
  if (!p->z) return;
  for (size_t half = FS_LANES / 2; half > 0; half /= 2) {
    for (size_t j = 0; j < half; j++) {
      const double e = largest[j], f = largest[j + half];
      largest[j] = e >= f || e != e ? e : f;
    }
  }
  results[0] = FS_STAMPED(fs_tree)(lane);
  results[1] = largest[0];
}

/*
 * Rows [from, to) of a packed symmetric matrix times v: sum += what they give, as rows and, above the diagonal, as columns.
 * sum has `to` elements.
 */
FS_TARGET static void FS_STAMPED(fs_packed_product)(const void *matrix, const double *restrict v, double *restrict sum,
                                                    const size_t from, const size_t to) {
  for (size_t i = from; i < to; i++) {
    const elem *const row = (const elem *)matrix + i * (i + 1) / 2;
    const double vi = v[i];
    double lane[FS_LANES] = {0};
    size_t j = 0;
    for (; j + FS_LANES <= i; j += FS_LANES) {
      FS_VECTOR_LOOP
      for (size_t k = 0; k < FS_LANES; k++) {
        const double h = (double)row[j + k], p = h * v[j + k], q = h * vi;
        lane[k] = lane[k] + p;
        sum[j + k] = sum[j + k] + q;
      }
    }
    for (size_t k = 0; j + k < i; k++) {
      const double h = (double)row[j + k], p = h * v[j + k], q = h * vi;
      lane[k] = lane[k] + p;
      sum[j + k] = sum[j + k] + q;
    }
    const double diagonal = (double)row[i] * vi;
    lane[i % FS_LANES] = lane[i % FS_LANES] + diagonal;
    sum[i] = sum[i] + FS_STAMPED(fs_tree)(lane);
  }
}

/* Rows [from, to) of a packed symmetric matrix: h -= u sT + s uT, in float64, rounded once. */
FS_TARGET static void FS_STAMPED(fs_packed_update)(void *matrix, const double *restrict u, const double *restrict s,
                                                   const size_t from, const size_t to) {
  for (size_t i = from; i < to; i++) {
    elem *restrict const row = (elem *)matrix + i * (i + 1) / 2;
    const double ui = u[i], si = s[i];
    FS_LOOP(j, 0, i + 1) {
      const double p = ui * s[j], q = si * u[j], r = p + q;
      row[j] = (elem)((double)row[j] - r);
    }
  }
}

static const fs_vector_kernels FS_STAMPED(fs_vector_kernels) = {
    FS_STAMPED(fs_combine_chunk), FS_STAMPED(fs_packed_product), FS_STAMPED(fs_packed_update)};

#undef FS_LANES
#undef FS_STAMPED
#undef FS_COMBINE
#undef FS_PASS_AHEAD
