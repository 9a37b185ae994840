/** The lanes of reductions for one dtype: the sums of reduce.h, a thread a lane. */
#define FS_LOADED(x) FS_CAT(fs_load, FS_DTYPE)(x)
#define FS_ROUNDED(x) FS_CAT(fs_store, FS_DTYPE)(x)
#define FS_LANE_LOOP(value, combine)                                                       \
  FS_UNROLL_SOME for (uint32_t i = 0; i < n; i += FS_CUDA_LANES) {                         \
    const double v = value;                                                                \
    lane = combine;                                                                        \
  }

FS_KERNEL FS_CAT(lanes, FS_DTYPE)(const fs_cuda_lanes s) {
  const uint64_t *const chunks = FS_GLOBAL(const uint64_t, s.chunks);
  double *const out = FS_GLOBAL(double, s.out);
  const real factor = (real)s.factor;
  const uint64_t all = s.count * FS_CUDA_LANES, threads = (uint64_t)fs_blocks() * fs_threads();
  for (uint64_t t = (uint64_t)fs_block() * fs_threads() + fs_thread(); t < all; t += threads) {
    const uint64_t *const chunk = chunks + t / FS_CUDA_LANES * 2, j = t % FS_CUDA_LANES;
    const uint64_t *const row = FS_GLOBAL(const uint64_t, s.table) + chunk[0] * s.words;
    const uint64_t from = chunk[1] + j, left = row[0] > from ? row[0] - from : 0;
    const uint32_t most = FS_REDUCE_CHUNK - (uint32_t)j, n = left < most ? (uint32_t)left : most;
    const elem *const x = FS_GLOBAL(const elem, row[s.x]) + from;
    double lane = 0;
    switch (s.op) {
      case FS_SUM: FS_LANE_LOOP((double)FS_LOADED(x[i]), lane + v) break;
      case FS_SUM_ABS: FS_LANE_LOOP((double)FS_LOADED(x[i]), lane + __builtin_fabs(v)) break;
      case FS_SUM_SQ: FS_LANE_LOOP((double)FS_LOADED(x[i]), lane + v * v) break;
      case FS_REDUCE_OPS: FS_LANE_LOOP((double)FS_LOADED(FS_ROUNDED(FS_LOADED(x[i]) * factor)), lane + v * v) break;
      case FS_DOT: {
        const elem *const y = FS_GLOBAL(const elem, row[s.y]) + from;
        FS_LANE_LOOP((double)FS_LOADED(x[i]) * (double)FS_LOADED(y[i]), lane + v)
        break;
      }
      default: FS_LANE_LOOP(__builtin_fabs((double)FS_LOADED(x[i])), FS_LARGER(lane, v)) break;
    }
    out[t] = lane;
  }
}

#undef FS_LOADED
#undef FS_ROUNDED
#undef FS_LANE_LOOP
