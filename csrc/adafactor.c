/**
 * Adafactor (Shazeer & Stern 2018, arXiv:1804.04235; torch/optim/_adafactor.py).
 *
 *   alpha = max(eps2, RMS(p)) * rho
 *   matrices: r = lerp(r, mean of g² over columns, weight), c = lerp(c, mean of g² over rows, weight)
 *             u = g * min(sqrt(max(mean(r), eps1) / (r c)), 1 / eps1)
 *   vectors:  v = lerp(v, g², weight), u = g / max(sqrt(v), eps1)
 *   p = decay * p - sign * alpha / max(1, RMS(u) / clip) * u
 *
 * u is a product of a number for the row and one for the column, so it is nowhere stored: the gradient is read three times
 * (squares, norm, update), and nothing else of its size is touched but the parameter. Four phases, each split among
 * threads; tensors go through them together, as many as keep the threads busy, so that small ones stay in the cache.
 */
#include "tensor.h"

/* Tensors go together until they have so many elements. */
#define FS_TOGETHER ((uint64_t)1 << 20)

enum { SQUARES, SETTLE, NORM, UPDATE };

/* A tensor's geometry, and where its parts of the scratch are. A vector is chunks of FS_REDUCE_CHUNK. */
typedef struct tensor {
  uint64_t n, matrices, rows, columns, blocks, strips, units, chunks;
  uint64_t row_sums, column_sums, factors, unit_sums, chunk_sums, end; /* from the start of the scratch, in doubles */
} tensor;

typedef struct adafactor {
  const fs_tensor_kernels *kernels;
  fs_chunk chunk;
  const uint64_t *table;
  const double *hypers;
  double *scratch;
  uint64_t elements;
  size_t size;
  uint32_t count, phase, parts;
} adafactor;

static tensor adafactor_layout(const uint64_t *row, uint64_t at) {
  tensor t = {.n = fs_tensor_size(row), .matrices = row[T_BATCHES], .rows = row[T_ROWS], .columns = row[T_COLUMNS]};
  if (t.n == 0) t.matrices = 0;
  t.chunks = fs_pieces(t.n, FS_REDUCE_CHUNK);
  t.blocks = fs_pieces(t.rows, FS_TILE_ROWS);
  t.strips = fs_pieces(t.columns, FS_TILE_COLUMNS);
  t.units = t.matrices == 0 ? t.chunks : t.matrices * t.blocks * t.strips;
  t.row_sums = at;
  t.column_sums = t.row_sums + t.matrices * t.rows * t.strips;
  t.factors = t.column_sums + t.matrices * t.blocks * t.columns;
  t.unit_sums = t.factors + t.matrices * t.columns;
  t.chunk_sums = t.unit_sums + t.units;
  t.end = t.chunk_sums + t.chunks;
  return t;
}

/* The first of a tensor's `items` that begins at its element `at` or later. */
static uint64_t item_at(uint64_t at, uint64_t n, uint64_t items) {
  if (at >= n) return items;
  const uint64_t length = fs_pieces(n, items), item = fs_pieces(at, length);
  return item < items ? item : items;
}

typedef struct tile { uint64_t matrix, block, strip, row, column, offset; size_t rows, columns; } tile;
static tile tile_at(const tensor *t, uint64_t unit) {
  tile p;
  p.strip = unit % t->strips;
  p.block = unit / t->strips % t->blocks;
  p.matrix = unit / t->strips / t->blocks;
  p.row = p.block * FS_TILE_ROWS;
  p.column = p.strip * FS_TILE_COLUMNS;
  p.rows = (size_t)(t->rows - p.row < FS_TILE_ROWS ? t->rows - p.row : FS_TILE_ROWS);
  p.columns = (size_t)(t->columns - p.column < FS_TILE_COLUMNS ? t->columns - p.column : FS_TILE_COLUMNS);
  p.offset = (p.matrix * t->rows + p.row) * t->columns + p.column;
  return p;
}

/* A unit of a matrix in one of the phases. */
static void matrix_unit(const adafactor *r, const tensor *t, const uint64_t *row, const double *h, uint64_t unit) {
  const tile p = tile_at(t, unit);
  char *param = (char *)(uintptr_t)row[T_PARAM] + p.offset * r->size;
  const char *grad = (const char *)(uintptr_t)row[T_GRAD] + p.offset * r->size;
  double *row_sums = r->scratch + t->row_sums + p.matrix * t->rows * t->strips;
  double *columns = r->scratch + t->column_sums + (p.matrix * t->blocks + p.block) * t->columns + p.column;
  const size_t real = r->size == 8 ? 8 : 4;
  const char *factors = (const char *)(r->scratch + t->factors + p.matrix * t->columns) + p.column * real;
  double *sums = r->scratch + t->unit_sums;
  if (r->phase == SQUARES) {
    r->kernels->squares(grad, t->columns, p.rows, p.columns, row_sums + p.row * t->strips + p.strip, t->strips, columns);
  } else if (r->phase == NORM) {
    sums[unit] = r->kernels->matrix_norm(grad, t->columns, p.rows, p.columns, row_sums + p.row, factors, h);
  } else {
    r->kernels->matrix_update(param, grad, t->columns, p.rows, p.columns, row_sums + p.row, factors, sums[0], h);
  }
}

static void settle(const adafactor *r, const tensor *t, const uint64_t *row, const double *h, uint64_t matrix) {
  char *row_var = (char *)(uintptr_t)row[T_FIRST], *column_var = (char *)(uintptr_t)row[T_SECOND];
  r->kernels->settle(row_var + matrix * t->rows * r->size, column_var + matrix * t->columns * r->size,
                     r->scratch + t->row_sums + matrix * t->rows * t->strips, t->rows, t->strips,
                     r->scratch + t->column_sums + matrix * t->blocks * t->columns, t->columns, t->blocks,
                     r->scratch + t->factors + matrix * t->columns, h);
}

static void vector_unit(const adafactor *r, const tensor *t, const uint64_t *row, const double *h, uint64_t unit) {
  const uint64_t at = unit * FS_REDUCE_CHUNK, left = t->n - at;
  const size_t n = (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK);
  char *param = (char *)(uintptr_t)row[T_PARAM] + at * r->size, *variance = (char *)(uintptr_t)row[T_FIRST] + at * r->size;
  const char *grad = (const char *)(uintptr_t)row[T_GRAD] + at * r->size;
  double *sums = r->scratch + t->unit_sums;
  if (r->phase == NORM) sums[unit] = r->kernels->vector_norm(grad, variance, n, h);
  else if (r->phase == UPDATE) r->kernels->vector_update(param, grad, variance, n, sums[0], h);
}

static void param_squares(const adafactor *r, const tensor *t, const uint64_t *row, uint64_t chunk) {
  const uint64_t at = chunk * FS_REDUCE_CHUNK, left = t->n - at;
  const char *param = (const char *)(uintptr_t)row[T_PARAM] + at * r->size;
  const size_t n = (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK);
  r->scratch[t->chunk_sums + chunk] = r->chunk(FS_SUM_SQ, param, NULL, n);
}

static void adafactor_part(void *context, uint32_t part) {
  const adafactor *r = context;
  const uint64_t from = fs_part_begin(r->elements, r->parts, part), to = fs_part_begin(r->elements, r->parts, part + 1);
  const uint32_t saved = fs_enter_float();
  uint64_t before = 0, at = 0;
  for (uint32_t i = 0; i < r->count && before < to; i++) {
    const uint64_t *row = r->table + (size_t)i * FS_TENSOR_WORDS;
    const double *h = r->hypers + (size_t)i * FS_ADAFACTOR_HYPERS;
    const tensor t = adafactor_layout(row, at);
    at = t.end;
    if (t.n == 0) continue;
    const uint64_t first = from > before ? from - before : 0, last = to - before;
    before += t.n;
    if (first >= t.n) continue;
    if (r->phase == SQUARES) {
      for (uint64_t c = item_at(first, t.n, t.chunks); c < item_at(last, t.n, t.chunks); c++) param_squares(r, &t, row, c);
    }
    if (r->phase == SETTLE) {
      if (t.matrices == 0) continue;
      for (uint64_t m = item_at(first, t.n, t.matrices); m < item_at(last, t.n, t.matrices); m++) settle(r, &t, row, h, m);
    } else {
      for (uint64_t u = item_at(first, t.n, t.units), end = item_at(last, t.n, t.units); u < end; u++) {
        if (t.matrices == 0) vector_unit(r, &t, row, h, u);
        else matrix_unit(r, &t, row, h, u);
      }
    }
  }
  fs_leave_float(saved);
}

static void adafactor_run(adafactor *r, uint32_t phase, uint32_t threads) {
  r->phase = phase;
  r->parts = fs_parts_for(r->elements * r->size * 2, threads);
  fs_parallel(adafactor_part, r, r->parts);
}

static double add_up(const double *x, uint64_t n) {
  double total = 0;
  for (uint64_t i = 0; i < n; i++) total = total + x[i];
  return total;
}

/* Each tensor's step size, in the place of its first partial sum. */
static void find_steps(const adafactor *r) {
  const uint32_t saved = fs_enter_float();
  uint64_t at = 0;
  for (uint32_t i = 0; i < r->count; i++) {
    const double *h = r->hypers + (size_t)i * FS_ADAFACTOR_HYPERS;
    const tensor t = adafactor_layout(r->table + (size_t)i * FS_TENSOR_WORDS, at);
    at = t.end;
    if (t.n == 0) continue;
    double *sums = r->scratch + t.unit_sums;
    const double size = __builtin_sqrt(add_up(r->scratch + t.chunk_sums, t.chunks) / (double)t.n);
    const double change = __builtin_sqrt(add_up(sums, t.units) / (double)t.n) / h[A_CLIP];
    const double alpha = (size > h[A_EPS2] ? size : h[A_EPS2]) * h[A_RHO];
    sums[0] = alpha / (change > 1 ? change : 1);
  }
  fs_leave_float(saved);
}

uint32_t fs_adafactor_together(const uint64_t *table, uint32_t count, uint64_t *room) {
  uint64_t elements = 0;
  uint32_t i = 0;
  *room = 0;
  for (; i < count && elements < FS_TOGETHER; i++, table += FS_TENSOR_WORDS) {
    elements += fs_tensor_size(table);
    *room = adafactor_layout(table, *room).end;
  }
  return i;
}

void fs_adafactor(uint32_t dtype, const uint64_t *table, uint32_t count, const double *hypers, double *scratch,
                  uint32_t threads) {
  adafactor r = {fs_tensor_kernels_of(dtype), fs_chunk_of(dtype), table, hypers, scratch, 0, fs_element_size[dtype], count,
                 SQUARES, 1};
  for (uint32_t i = 0; i < count; i++) r.elements += fs_tensor_size(table + (size_t)i * FS_TENSOR_WORDS);
  adafactor_run(&r, SQUARES, threads);
  adafactor_run(&r, SETTLE, threads);
  adafactor_run(&r, NORM, threads);
  find_steps(&r);
  adafactor_run(&r, UPDATE, threads);
}
