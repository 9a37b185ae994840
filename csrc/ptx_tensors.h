/**
 * Rules that look at a whole tensor, for one dtype: adafactor.c and muon.c in phases, a kernel each. The sums are those of
 * tensor_kernels.h, in its order: a thread for each lane, column or tensor whose terms are added one after the other.
 */
#define FS_LOADED(x) FS_CAT(fs_load, FS_DTYPE)(x)
#define FS_ROUNDED(x) FS_CAT(fs_store, FS_DTYPE)(x)
#define FS_OF(type, word) FS_GLOBAL(type, row[word])
/* A kernel over a tensor's `items`, of which `t` is one. */
#define FS_PHASE(name, items, ...)                                                                   \
  FS_KERNEL FS_CAT(name, FS_DTYPE)(const fs_cuda_tensors s) {                                        \
    const uint64_t *const chunks = FS_GLOBAL(const uint64_t, s.chunks);                              \
    for (uint64_t c = fs_block(); c < s.count; c += fs_blocks()) {                                   \
      const uint64_t *const row = FS_GLOBAL(const uint64_t, s.table) + chunks[2 * c] * FS_CUDA_TENSOR_WORDS; \
      const double *const h = FS_OF(const double, C_HYPERS);                                         \
      const uint64_t rows = row[C_ROWS], columns = row[C_COLUMNS], matrices = row[C_MATRICES];       \
      const uint64_t strips = fs_pieces(columns, FS_TILE_COLUMNS), blocks = fs_pieces(rows, FS_TILE_ROWS); \
      const uint64_t all = (items), last = chunks[2 * c + 1] + s.length, to = last < all ? last : all; \
      (void)h, (void)rows, (void)matrices, (void)strips, (void)blocks;                               \
      FS_NO_UNROLL for (uint64_t t = chunks[2 * c + 1] + fs_thread(); t < to; t += fs_threads()) { __VA_ARGS__ } \
    }                                                                                                \
  }

/* Items: lanes of strips of rows. */
FS_PHASE(adafactor_rows, matrices * rows * strips * FS_CUDA_LANES, {
  const uint64_t l = t % FS_CUDA_LANES, strip = t / FS_CUDA_LANES % strips, at = strip * FS_TILE_COLUMNS + l;
  const elem *const g = FS_OF(const elem, C_GRAD) + t / FS_CUDA_LANES / strips * columns + at;
  const uint64_t left = at < columns ? columns - at : 0, most = FS_TILE_COLUMNS - l;
  const uint32_t n = (uint32_t)(left < most ? left : most);
  double lane = 0;
  FS_UNROLL_SOME for (uint32_t j = 0; j < n; j += FS_CUDA_LANES) {
    const double v = (double)FS_LOADED(g[j]);
    lane = lane + v * v;
  }
  FS_OF(double, C_ROW_LANES)[t] = lane;
})

/* Items: columns of blocks of rows. */
FS_PHASE(adafactor_columns, matrices * blocks * columns, {
  const uint64_t block = t / columns % blocks, matrix = t / columns / blocks, first = block * FS_TILE_ROWS;
  const uint32_t n = (uint32_t)(rows - first < FS_TILE_ROWS ? rows - first : FS_TILE_ROWS);
  const elem *const g = FS_OF(const elem, C_GRAD) + (matrix * rows + first) * columns + t % columns;
  double sum = 0;
  FS_UNROLL_SOME for (uint32_t i = 0; i < n; i++) {
    const double v = (double)FS_LOADED(g[i * columns]);
    sum = sum + v * v;
  }
  FS_OF(double, C_COLUMN_SUMS)[t] = sum;
})

/* Items: rows. Averages their squares into rowVar. */
FS_PHASE(adafactor_row_averages, matrices * rows, {
  const double *const sums = FS_OF(const double, C_ROW_SUMS) + t * strips;
  elem *const r = FS_OF(elem, C_FIRST);
  double sum = sums[0];
  for (uint64_t k = 1; k < strips; k++) sum = sum + sums[k];
  const double mean = sum / (double)columns, before = (double)FS_LOADED(r[t]);
  const real now = (real)FS_LERP(before, mean, h[A_WEIGHT]);
  r[t] = FS_ROUNDED(now);
  FS_OF(double, C_ROW_FACTORS)[t] = (double)now;
})

/* Items: matrices. The mean of rowVar. */
FS_PHASE(adafactor_means, matrices, {
  const double *const r = FS_OF(const double, C_ROW_FACTORS) + t * rows;
  double sum = 0;
  FS_UNROLL_SOME for (uint64_t i = 0; i < rows; i++) sum = sum + r[i];
  const double mean = sum / (double)rows;
  FS_OF(double, C_MEANS)[t] = FS_AT_LEAST(mean, h[A_EPS1]);
})

/* Items: rows. What their gradients are multiplied by. */
FS_PHASE(adafactor_row_factors, matrices * rows, {
  double *const r = FS_OF(double, C_ROW_FACTORS);
  r[t] = r[t] == 0 ? 1e300 : __builtin_sqrt(FS_OF(const double, C_MEANS)[t / rows] / r[t]);
})

/* Items: columns. Averages their squares into colVar; what their gradients are multiplied by. */
FS_PHASE(adafactor_column_averages, matrices * columns, {
  const double *const sums = FS_OF(const double, C_COLUMN_SUMS) + t / columns * blocks * columns + t % columns;
  elem *const v = FS_OF(elem, C_SECOND);
  double sum = sums[0];
  FS_UNROLL_SOME for (uint64_t k = 1; k < blocks; k++) sum = sum + sums[k * columns];
  const double mean = sum / (double)rows, before = (double)FS_LOADED(v[t]);
  const real now = (real)FS_LERP(before, mean, h[A_WEIGHT]);
  v[t] = FS_ROUNDED(now);
  FS_OF(real, C_FACTORS)[t] = now == 0 ? (real)FS_MOST : (real)(1 / __builtin_sqrt((double)now));
})

/* Items: lanes of tiles. The squares of their updates. */
FS_PHASE(adafactor_norm, matrices * blocks * strips * FS_CUDA_LANES, {
  const uint64_t l = t % FS_CUDA_LANES, unit = t / FS_CUDA_LANES, matrix = unit / strips / blocks;
  const uint64_t first = unit / strips % blocks * FS_TILE_ROWS, at = unit % strips * FS_TILE_COLUMNS + l;
  const uint64_t left = at < columns ? columns - at : 0, most = FS_TILE_COLUMNS - l, below = rows - first;
  const uint32_t n = (uint32_t)(left < most ? left : most);
  const uint32_t height = (uint32_t)(below < FS_TILE_ROWS ? below : FS_TILE_ROWS);
  const real *const b = FS_OF(const real, C_FACTORS) + matrix * columns + at, limit = (real)h[A_LIMIT];
  double lane = 0;
  for (uint32_t i = 0; i < height; i++) {
    const elem *const g = FS_OF(const elem, C_GRAD) + (matrix * rows + first + i) * columns + at;
    const real a = (real)FS_OF(const double, C_ROW_FACTORS)[matrix * rows + first + i];
    FS_UNROLL_SOME for (uint32_t j = 0; j < n; j += FS_CUDA_LANES) {
      const double v = (double)(FS_LOADED(g[j]) * FS_AT_MOST(a * b[j], limit));
      lane = lane + v * v;
    }
  }
  FS_OF(double, C_UNIT_LANES)[t] = lane;
})

/* Items: elements of matrices. */
FS_PHASE(adafactor_update, matrices * rows * columns, {
  const double step = *FS_OF(const double, C_RESULT);
  const real sign = (real)h[A_SIGN], decay = (real)h[A_DECAY], limit = (real)FS_AT_MOST(h[A_LIMIT] * step, FS_MOST);
  const uint64_t i = t / columns, j = t - i * columns;
  const real a = (real)(FS_OF(const double, C_ROW_FACTORS)[i] * step);
  const real b = FS_OF(const real, C_FACTORS)[i / rows * columns + j], g = FS_LOADED(FS_OF(const elem, C_GRAD)[t]);
  elem *const p = FS_OF(elem, C_PARAM) + t;
  *p = FS_ROUNDED(decay * FS_LOADED(*p) - (sign * g) * FS_AT_MOST(a * b, limit));
})

/* Items: lanes of chunks of a vector. The squares of their updates. */
FS_PHASE(adafactor_vector_norm, fs_pieces(columns, FS_REDUCE_CHUNK) * FS_CUDA_LANES, {
  const uint64_t l = t % FS_CUDA_LANES, at = t / FS_CUDA_LANES * FS_REDUCE_CHUNK + l;
  const uint64_t left = at < columns ? columns - at : 0, most = FS_REDUCE_CHUNK - l;
  const uint32_t n = (uint32_t)(left < most ? left : most);
  const elem *const g = FS_OF(const elem, C_GRAD) + at, *const v0 = FS_OF(const elem, C_FIRST) + at;
  FS_VECTOR_HYPERS
  double lane = 0;
  FS_UNROLL_SOME for (uint32_t j = 0; j < n; j += FS_CUDA_LANES) {
    const real gradient = FS_LOADED(g[j]), before = FS_LOADED(v0[j]), now = FS_VARIANCE(gradient, before);
    const double v = (double)(gradient / FS_DIVISOR(now));
    lane = lane + v * v;
  }
  FS_OF(double, C_UNIT_LANES)[t] = lane;
})

/* Items: elements of a vector. */
FS_PHASE(adafactor_vector_update, columns, {
  const double step = *FS_OF(const double, C_RESULT);
  elem *const p = FS_OF(elem, C_PARAM) + t, *const v0 = FS_OF(elem, C_FIRST) + t;
  FS_VECTOR_HYPERS
  const real by = (real)(h[A_SIGN] * step), decay = (real)h[A_DECAY];
  const real gradient = FS_LOADED(FS_OF(const elem, C_GRAD)[t]), before = FS_LOADED(*v0);
  const real now = FS_VARIANCE(gradient, before);
  *v0 = FS_ROUNDED(now);
  *p = FS_ROUNDED(decay * FS_LOADED(*p) - by * (gradient / FS_DIVISOR(now)));
})

/* Items: one. The step size. */
FS_PHASE(adafactor_step, 1, {
  const uint64_t n = row[C_SIZE], chunk_count = fs_pieces(n, FS_REDUCE_CHUNK);
  const uint64_t units = matrices == 0 ? chunk_count : matrices * blocks * strips;
  const double *const squares = FS_OF(const double, C_CHUNK_SUMS), *const updates = FS_OF(const double, C_UNIT_SUMS);
  double of_param = 0, of_update = 0;
  FS_UNROLL_SOME for (uint64_t i = 0; i < chunk_count; i++) of_param = of_param + squares[i];
  FS_UNROLL_SOME for (uint64_t i = 0; i < units; i++) of_update = of_update + updates[i];
  const double size = __builtin_sqrt(of_param / (double)n), change = __builtin_sqrt(of_update / (double)n) / h[A_CLIP];
  const double alpha = (size > h[A_EPS2] ? size : h[A_EPS2]) * h[A_RHO];
  *FS_OF(double, C_RESULT) = alpha / (change > 1 ? change : 1);
})

/* Items: elements. */
FS_PHASE(muon_begin, row[C_SIZE], {
  elem *const buffer = FS_OF(elem, C_FIRST) + t;
  FS_MUON_READ
  FS_MUON_AVERAGE(FS_LOADED(FS_OF(const elem, C_GRAD)[t]), FS_LOADED(*buffer))
  *buffer = FS_ROUNDED(average);
  FS_OF(real, C_X)[t] = FS_MUON_UPDATE;
})

/* Items: one. The matrix' norm. */
FS_PHASE(muon_norm, 1, {
  const uint64_t chunk_count = fs_pieces(row[C_SIZE], FS_REDUCE_CHUNK);
  const double *const sums = FS_OF(const double, C_CHUNK_SUMS);
  double norm = 0;
  FS_UNROLL_SOME for (uint64_t i = 0; i < chunk_count; i++) norm = norm + sums[i];
  norm = __builtin_sqrt(norm);
  *FS_OF(double, C_RESULT) = norm < h[M_EPS] ? h[M_EPS] : norm;
})

/* Items: elements. */
FS_PHASE(muon_scale, row[C_SIZE], {
  real *const x = FS_OF(real, C_X) + t;
  *x = *x / (real)*FS_OF(const double, C_RESULT);
})

/* Items: elements. */
FS_PHASE(muon_end, row[C_SIZE], {
  elem *const p = FS_OF(elem, C_PARAM) + t;
  const real decay = (real)h[M_DECAY], step = (real)h[M_STEP];
  *p = FS_ROUNDED(decay * FS_LOADED(*p) - step * FS_OF(const real, C_LAST)[t]);
})

#undef FS_LOADED
#undef FS_ROUNDED
#undef FS_OF
#undef FS_PHASE
