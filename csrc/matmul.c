/**
 * Products of matrices: blocked for the caches, split among threads. The result does not depend on either: the terms of an
 * element are added in the order of k whatever the blocks are.
 */
#include "tensor.h"

#include <stdatomic.h>

/* Rows and columns of the result that one task computes, at most; terms that are packed at a time. */
#define FS_MOST_BLOCK 384u
#define FS_MOST_DEPTH 256u
/* Operations that are worth as much time as moving a byte. */
#define FS_OPERATIONS 4u
#define FS_MOST_PIECE 1024u /* bytes of the largest piece of a result: FS_DOWN vectors and as many again */

typedef struct multiplication {
  const fs_product *p;
  const fs_matmul_kernels *kernels;
  uint64_t block, down, across; /* tasks are blocks: down * across of them */
  size_t size;                  /* of an element */
  unsigned char *room;
  atomic_uint next;
} multiplication;

size_t fs_multiply_room(uint32_t dtype) { return (size_t)2 * FS_MOST_BLOCK * FS_MOST_DEPTH * fs_element_size[dtype]; }

/* The pieces of a block, for the terms that have been packed. */
static void pieces(const multiplication *r, const unsigned char *a, const unsigned char *b, uint64_t i0, uint64_t j0,
                   uint64_t height, uint64_t width, size_t depth, int first) {
  const fs_product *p = r->p;
  const uint32_t rows = r->kernels->rows, columns = r->kernels->columns;
  const size_t size = r->size, stride = (size_t)p->n;
  unsigned char *out = (unsigned char *)p->out + (i0 * p->n + j0) * size;
  for (uint64_t j = 0; j < width; j += columns) {
    for (uint64_t i = 0; i < height; i += rows) {
      if (p->symmetric && i0 + i >= j0 + j + columns) break; /* below the diagonal */
      const unsigned char *left = a + i * depth * size, *right = b + j * depth * size;
      unsigned char *c = out + (i * p->n + j) * size;
      if (i + rows <= height && j + columns <= width) {
        r->kernels->multiply(depth, left, right, c, stride, first);
      } else { /* at the edge: in a whole piece, of which a part counts */
        _Alignas(64) unsigned char piece[FS_MOST_PIECE];
        const size_t bytes = (size_t)(width - j < columns ? width - j : columns) * size;
        const uint64_t here = height - i < rows ? height - i : rows;
        memset(piece, 0, sizeof piece);
        for (uint64_t k = 0; k < here && !first; k++) memcpy(piece + k * columns * size, c + k * p->n * size, bytes);
        r->kernels->multiply(depth, left, right, piece, columns, first);
        for (uint64_t k = 0; k < here; k++) memcpy(c + k * p->n * size, piece + k * columns * size, bytes);
      }
    }
  }
}

static void block(const multiplication *r, unsigned char *room, uint64_t i0, uint64_t j0) {
  const fs_product *p = r->p;
  const size_t size = r->size;
  const uint64_t height = p->m - i0 < r->block ? p->m - i0 : r->block, width = p->n - j0 < r->block ? p->n - j0 : r->block;
  unsigned char *a = room, *b = room + (size_t)FS_MOST_BLOCK * FS_MOST_DEPTH * size;
  for (uint64_t k = 0; k < p->k; k += FS_MOST_DEPTH) {
    const size_t depth = (size_t)(p->k - k < FS_MOST_DEPTH ? p->k - k : FS_MOST_DEPTH);
    const char *left = (const char *)p->a + (i0 * p->a_row + k * p->a_column) * size;
    const char *right = (const char *)p->b + (j0 * p->b_column + k * p->b_row) * size;
    r->kernels->pack(left, p->a_row, p->a_column, (size_t)height, depth, r->kernels->rows, a);
    r->kernels->pack(right, p->b_column, p->b_row, (size_t)width, depth, r->kernels->columns, b);
    pieces(r, a, b, i0, j0, height, width, depth, k == 0);
  }
  for (uint64_t i = i0; i < i0 + height; i++) {
    const uint64_t from = p->symmetric && i > j0 ? i : j0, n = j0 + width - from;
    unsigned char *row = (unsigned char *)p->out + (i * p->n + from) * size;
    if (p->k == 0) memset(row, 0, (size_t)n * size);
    r->kernels->finish(row, p->add ? (const char *)p->add + (i * p->n + from) * size : NULL, (size_t)n, p->alpha, p->beta);
    if (!p->symmetric) continue;
    unsigned char *mirror = (unsigned char *)p->out + (from * p->n + i) * size;
    for (uint64_t j = 0; j < n; j++) memcpy(mirror + j * p->n * size, row + j * size, size);
  }
}

static void multiply_part(void *context, uint32_t part) {
  multiplication *r = context;
  unsigned char *room = r->room + part * (size_t)2 * FS_MOST_BLOCK * FS_MOST_DEPTH * r->size;
  const uint32_t saved = fs_enter_float();
  for (;;) {
    const uint64_t task = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
    if (task >= r->down * r->across) break;
    const uint64_t i = task / r->across, j = task % r->across;
    if (!r->p->symmetric || j >= i) block(r, room, i * r->block, j * r->block);
  }
  fs_leave_float(saved);
}

void fs_multiply(const fs_product *product, uint32_t dtype, void *room, uint32_t threads) {
  if (product->m == 0 || product->n == 0) return;
  const double operations = 2.0 * (double)product->m * (double)product->n * (double)product->k;
  const double bytes = operations / FS_OPERATIONS / (product->symmetric ? 2 : 1);
  const uint32_t parts = fs_parts_for(bytes < 1e18 ? (uint64_t)bytes : (uint64_t)1e18, threads);
  multiplication r = {product, fs_matmul_kernels_of(dtype), FS_MOST_BLOCK, 0, 0, fs_element_size[dtype], room, 0};
  for (;; r.block /= 2) {
    r.down = fs_pieces(product->m, r.block);
    r.across = fs_pieces(product->n, r.block);
    if (r.block == FS_LEAST_BLOCK || parts == 1 || r.down * r.across >= parts * 8) break;
  }
  fs_parallel(multiply_part, &r, parts);
}

uint32_t fs_matmul_scratch(uint32_t dtype, uint32_t threads) {
  const uint32_t parts = threads < 1 ? 1 : threads > FS_MAX_THREADS ? FS_MAX_THREADS : threads;
  return dtype < FS_DTYPES ? (uint32_t)(fs_multiply_room(dtype) / 8 * parts + 8) : 0;
}

enum { P_M, P_N, P_K, P_FLAGS, P_A, P_B, P_ADD, P_OUT, P_ALPHA, P_BETA };

int32_t fs_matmul(uint32_t dtype, const uint64_t *words, double *scratch, uint32_t scratch_length, uint32_t threads) {
  if (dtype != FS_F32 && dtype != FS_F64) return FS_ERR_DTYPE;
  if (words == NULL || scratch == NULL) return FS_ERR_NULL;
  if (((uintptr_t)words | (uintptr_t)scratch) % 8 != 0) return FS_ERR_ALIGN;
  const uint64_t m = words[P_M], n = words[P_N], k = words[P_K], flags = words[P_FLAGS], most = (uint64_t)PTRDIFF_MAX / 64;
  if (flags > (FS_A_TRANSPOSED | FS_B_TRANSPOSED | FS_SYMMETRIC)) return FS_ERR_FLAGS;
  if ((flags & FS_SYMMETRIC) != 0 && m != n) return FS_ERR_SHAPE;
  if (m == 0 || n == 0) return FS_OK;
  if (m > most || k > most || n > most / m || (k > 0 && (m > most / k || n > most / k))) return FS_ERR_LENGTH;
  for (uint32_t i = P_A; i <= P_OUT; i++) {
    if (words[i] % fs_element_size[dtype] != 0) return FS_ERR_ALIGN;
    if (words[i] == 0 && i != P_ADD && (k > 0 || i == P_OUT)) return FS_ERR_NULL;
  }
  if (scratch_length < fs_matmul_scratch(dtype, threads)) return FS_ERR_SCRATCH;
  const int a = (flags & FS_A_TRANSPOSED) != 0, b = (flags & FS_B_TRANSPOSED) != 0;
  fs_product p = {.m = m, .n = n, .k = k, .symmetric = (flags & FS_SYMMETRIC) != 0};
  p.a = (const void *)(uintptr_t)words[P_A];
  p.b = (const void *)(uintptr_t)words[P_B];
  p.add = (const void *)(uintptr_t)words[P_ADD];
  p.out = (void *)(uintptr_t)words[P_OUT];
  p.a_row = a ? 1 : (size_t)k, p.a_column = a ? (size_t)m : 1;
  p.b_row = b ? 1 : (size_t)n, p.b_column = b ? (size_t)k : 1;
  memcpy(&p.alpha, &words[P_ALPHA], 8);
  memcpy(&p.beta, &words[P_BETA], 8);
  fs_multiply(&p, dtype, (void *)(((uintptr_t)scratch + 63) / 64 * 64), threads);
  return FS_OK;
}
