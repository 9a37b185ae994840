/**
 * One chunk of a reduction, stamped like the rules: element i goes to lane i mod 16, the lanes are added as a tree. So the
 * order of additions depends neither on the vector width nor on the number of threads.
 */
#define FS_LANES 16
/* Bytes that are fetched ahead: the sums keep the loads waiting. */
#define FS_REDUCE_AHEAD 2048
#define FS_REDUCE_LOOP(combine)                                                            \
  {                                                                                        \
    size_t i = 0;                                                                          \
    for (; i + FS_LANES <= n; i += FS_LANES) {                                             \
      __builtin_prefetch((const char *)(x + i) + FS_REDUCE_AHEAD);                         \
      for (size_t j = 0; j < FS_LANES; j++) {                                              \
        const double v = (double)FS_CAT(fs_load, FS_DTYPE)(x[i + j]);                      \
        lane[j] = combine;                                                                 \
      }                                                                                    \
    }                                                                                      \
    for (size_t j = 0; i + j < n; j++) {                                                   \
      const double v = (double)FS_CAT(fs_load, FS_DTYPE)(x[i + j]);                        \
      lane[j] = combine;                                                                   \
    }                                                                                      \
  }
#define FS_LARGER(a, b) ((a) >= (b) || (a) != (a) ? (a) : (b))
/* What an element becomes where it is stored. */
#define FS_STORED(x) FS_CAT(fs_load, FS_DTYPE)(FS_CAT(fs_store, FS_DTYPE)(x))

/* out = x * factors[0] * factors[1], rounded to the dtype each time: a gradient on its way into a rule. */
FS_TARGET static void FS_CAT(FS_CAT(fs_scaler, FS_DTYPE), FS_ISA_NAME)(void *to, const void *from, const size_t n,
                                                                       const double *factors) {
  elem *restrict const out = to;
  const elem *restrict const x = from;
  const real unscale = (real)factors[0], clip = (real)factors[1];
  FS_LOOP(i, 0, n) {
    out[i] = FS_CAT(fs_store, FS_DTYPE)(FS_STORED(FS_CAT(fs_load, FS_DTYPE)(x[i]) * unscale) * clip);
  }
}

/* sum (x * factor)², the products rounded to the dtype. */
FS_INLINE FS_TARGET double FS_CAT(FS_CAT(fs_square, FS_DTYPE), FS_ISA_NAME)(const double v, const real factor) {
  const double scaled = (double)FS_STORED((real)v * factor);
  return scaled * scaled;
}

FS_TARGET static double FS_CAT(FS_CAT(fs_chunk, FS_DTYPE), FS_ISA_NAME)(const uint32_t op, const void *xs,
                                                                        const void *ys, const size_t n) {
  const elem *const x = xs, *const y = ys;
  double lane[FS_LANES] = {0};
  switch (op) {
    case FS_SUM: FS_REDUCE_LOOP(lane[j] + v) break;
    case FS_SUM_ABS: FS_REDUCE_LOOP(lane[j] + __builtin_fabs(v)) break;
    case FS_SUM_SQ: FS_REDUCE_LOOP(lane[j] + v * v) break;
    case FS_SUM_SQ_SCALED: {
      const real factor = (real) * (const double *)ys;
      FS_REDUCE_LOOP(lane[j] + FS_CAT(FS_CAT(fs_square, FS_DTYPE), FS_ISA_NAME)(v, factor))
      break;
    }
    case FS_DOT: FS_REDUCE_LOOP(lane[j] + v * (double)FS_CAT(fs_load, FS_DTYPE)(y[i + j])) break;
    default: FS_REDUCE_LOOP(FS_LARGER(lane[j], __builtin_fabs(v))) break;
  }
  for (size_t half = FS_LANES / 2; half > 0; half /= 2) {
    for (size_t j = 0; j < half; j++) {
      lane[j] = op == FS_MAX_ABS ? FS_LARGER(lane[j], lane[j + half]) : lane[j] + lane[j + half];
    }
  }
  return lane[0];
}

#undef FS_LANES
#undef FS_REDUCE_AHEAD
#undef FS_REDUCE_LOOP
#undef FS_LARGER
#undef FS_STORED
