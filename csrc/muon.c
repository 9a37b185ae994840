/**
 * Muon (Jordan et al. 2024; Liu et al. 2025, arXiv:2502.16982; torch/optim/_muon.py).
 *
 *   g = sign * grad          buffer = lerp(buffer, g, 1 - momentum)          x = buffer, or lerp(g, buffer, momentum)
 *   x = x / max(|x|, eps)    steps times: s = x xᵀ, x = a x + (b s + c s s) x
 *   p = decay * p - step * x
 *
 * A matrix with more rows than columns is not transposed: s = xᵀ x and x = a x + x (b s + c s s) are the same products.
 * The iteration is in the arithmetic type.
 */
#include "tensor.h"

/* What a part does with its elements, a chunk after the other. */
enum { BEGIN, SCALE, END };
typedef struct muon {
  const uint64_t *row;
  const double *h;
  const fs_tensor_kernels *kernels;
  fs_chunk chunk;
  uint64_t n;
  size_t size, real;     /* bytes of an element, and of one in the arithmetic type */
  unsigned char *x;
  double *partials, norm;
  uint32_t what, parts;
} muon;

/* Where things are in the scratch, in bytes. */
typedef struct muon_layout { uint64_t matrix, square, partials, room, rooms, total; } muon_layout;

static uint64_t rounded(uint64_t bytes) { return (bytes + 63) / 64 * 64; }
static uint32_t arithmetic(uint32_t dtype) { return dtype == FS_F64 ? FS_F64 : FS_F32; }
static uint64_t shorter(const uint64_t *row) { return row[T_ROWS] < row[T_COLUMNS] ? row[T_ROWS] : row[T_COLUMNS]; }

/* The table has been checked: n elements of 8 bytes are a possible length, and the square is not longer. */
static muon_layout muon_lay_out(uint32_t dtype, const uint64_t *row, uint32_t threads) {
  const uint64_t real = dtype == FS_F64 ? 8 : 4, n = fs_tensor_size(row), m = shorter(row);
  const uint64_t tasks = fs_pieces(row[T_ROWS], FS_LEAST_BLOCK) * fs_pieces(row[T_COLUMNS], FS_LEAST_BLOCK);
  muon_layout l;
  l.matrix = rounded(n * real);
  l.square = rounded(m * m * real);
  l.partials = rounded(fs_pieces(n, FS_REDUCE_CHUNK) * 8);
  l.room = fs_multiply_room(arithmetic(dtype));
  l.rooms = threads < 1 ? 1 : threads > FS_MAX_THREADS ? FS_MAX_THREADS : threads;
  if (l.rooms > tasks) l.rooms = tasks;
  l.total = 64 + 2 * l.matrix + 2 * l.square + l.partials + l.rooms * l.room;
  return l;
}

uint64_t fs_muon_room(uint32_t dtype, const uint64_t *row, uint32_t threads) {
  return muon_lay_out(dtype, row, threads).total / 8;
}

static void muon_part(void *context, uint32_t part) {
  muon *r = context;
  const uint64_t chunks = fs_pieces(r->n, FS_REDUCE_CHUNK), to = fs_part_begin(chunks, r->parts, part + 1);
  const uint32_t saved = fs_enter_float();
  for (uint64_t c = fs_part_begin(chunks, r->parts, part); c < to; c++) {
    const uint64_t at = c * FS_REDUCE_CHUNK, left = r->n - at;
    const size_t n = (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK);
    unsigned char *x = r->x + at * r->real;
    char *param = (char *)(uintptr_t)r->row[T_PARAM] + at * r->size, *buffer = (char *)(uintptr_t)r->row[T_FIRST] + at * r->size;
    if (r->what == BEGIN) {
      r->kernels->muon_begin((const char *)(uintptr_t)r->row[T_GRAD] + at * r->size, buffer, x, n, r->h);
      r->partials[c] = r->chunk(FS_SUM_SQ, x, NULL, n);
    } else if (r->what == SCALE) {
      r->kernels->muon_scale(x, n, r->norm);
    } else {
      r->kernels->muon_end(param, x, n, r->h);
    }
  }
  fs_leave_float(saved);
}

static void muon_run(muon *r, uint32_t what, uint32_t threads) {
  r->what = what;
  r->parts = fs_parts_for(r->n * (2 * r->real + 2 * r->size), threads);
  fs_parallel(muon_part, r, r->parts);
}

void fs_muon(uint32_t dtype, const uint64_t *row, const double *h, double *scratch, uint32_t threads) {
  const muon_layout l = muon_lay_out(dtype, row, threads);
  const uint32_t type = arithmetic(dtype);
  unsigned char *at = (unsigned char *)(uintptr_t)rounded((uintptr_t)scratch);
  unsigned char *x = at, *next = x + l.matrix, *gram = next + l.matrix, *poly = gram + l.square;
  unsigned char *partials = poly + l.square, *room = partials + l.partials;
  muon r = {row, h, fs_tensor_kernels_of(dtype), fs_chunk_of(type), fs_tensor_size(row), fs_element_size[dtype],
            fs_element_size[type], x, (double *)(void *)partials, 0, BEGIN, 1};
  muon_run(&r, BEGIN, threads);
  const uint32_t saved = fs_enter_float();
  for (uint64_t c = 0; c < fs_pieces(r.n, FS_REDUCE_CHUNK); c++) r.norm = r.norm + r.partials[c];
  r.norm = __builtin_sqrt(r.norm);
  if (r.norm < h[M_EPS]) r.norm = h[M_EPS];
  fs_leave_float(saved);
  muon_run(&r, SCALE, threads);

  const uint64_t rows = row[T_ROWS], columns = row[T_COLUMNS], m = shorter(row);
  const int tall = rows > columns;
  for (int step = 0; step < (int)h[M_STEPS]; step++) {
    fs_product squares = {m, m, tall ? rows : columns, x, x, NULL, columns, 1, 1, columns, gram, 1, 0, 1};
    if (tall) squares.a_row = squares.b_column = 1, squares.a_column = squares.b_row = columns;
    fs_multiply(&squares, type, room, (uint32_t)l.rooms);
    const fs_product polynomial = {m, m, m, gram, gram, gram, m, 1, m, 1, poly, h[M_C], h[M_B], 1};
    fs_multiply(&polynomial, type, room, (uint32_t)l.rooms);
    fs_product moved = {rows, columns, m, poly, x, x, m, 1, columns, 1, next, 1, h[M_A], 0};
    if (tall) moved.a = x, moved.b = poly, moved.a_row = columns, moved.b_row = m;
    fs_multiply(&moved, type, room, (uint32_t)l.rooms);
    unsigned char *old = x;
    x = next;
    next = old;
  }
  r.x = x;
  muon_run(&r, END, threads);
}
