/**
 * Vectors and packed symmetric matrices: what LBFGS and BFGS are made of. Deterministic: the order of additions follows from
 * the lengths alone.
 */
#include "vectors.h"

#include "element.h"

/** Words of a pass (flatstep.h). */
enum { P_N, P_X, P_Y, P_Z, P_OUT, P_FLAGS, P_A, P_C, FS_PASS_WORDS };

static double as_double(uint64_t word) {
  double x;
  memcpy(&x, &word, 8);
  return x;
}

typedef struct combination {
  fs_pass pass;
  const fs_vector_kernels *kernels;
  double *partials;
  uint64_t n, chunks;
  uint32_t parts;
} combination;

static void combine_part(void *context, uint32_t part) {
  const combination *c = context;
  const uint32_t saved = fs_enter_float();
  const uint64_t to = fs_first_of(c->chunks, part + 1, c->parts);
  for (uint64_t k = fs_first_of(c->chunks, part, c->parts); k < to; k++) {
    const uint64_t at = k * FS_REDUCE_CHUNK, left = c->n - at;
    double results[2] = {0, 0};
    c->kernels->combine(&c->pass, (size_t)at, (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK), results);
    if (c->pass.z == NULL) continue;
    c->partials[k] = results[0];
    c->partials[c->chunks + k] = results[1];
  }
  fs_leave_float(saved);
}

int32_t fs_combine(uint32_t dtype, const uint64_t *words, double *partials, uint32_t partials_length, double *results,
                   uint32_t threads) {
  if (dtype != FS_F32 && dtype != FS_F64) return FS_ERR_DTYPE;
  if (words == NULL || results == NULL) return FS_ERR_NULL;
  if (((uintptr_t)words | (uintptr_t)partials | (uintptr_t)results) % 8 != 0) return FS_ERR_ALIGN;
  const uint64_t n = words[P_N];
  const uint32_t size = fs_element_size[dtype];
  if (words[P_FLAGS] > 3) return FS_ERR_FLAGS;
  if (n == 0) {
    results[0] = results[1] = 0;
    return FS_OK;
  }
  if (n > (uint64_t)PTRDIFF_MAX / size) return FS_ERR_LENGTH;
  if (words[P_X] == 0 || words[P_OUT] == 0) return FS_ERR_NULL;
  uint64_t bytes = 0;
  for (uint32_t k = P_X; k <= P_OUT; k++) {
    if (words[k] % size != 0) return FS_ERR_ALIGN;
    if (words[k] != 0) bytes += n * size;
  }
  combination c = {
      {(const void *)(uintptr_t)words[P_X], (const void *)(uintptr_t)words[P_Y], (const void *)(uintptr_t)words[P_Z],
       (void *)(uintptr_t)words[P_OUT], (uint32_t)words[P_FLAGS] & 1u, (uint32_t)words[P_FLAGS] & 2u,
       as_double(words[P_A]), as_double(words[P_C])},
      fs_vector_kernels_of(dtype), partials, n, fs_chunks_of(n), fs_parts_for(bytes, threads)};
  if (c.pass.z != NULL) {
    if (c.chunks > partials_length / 2) return FS_ERR_SCRATCH;
    if (partials == NULL) return FS_ERR_NULL;
  }
  fs_parallel(combine_part, &c, c.parts);
  results[0] = results[1] = 0;
  if (c.pass.z != NULL) {
    const uint32_t saved = fs_enter_float();
    results[0] = fs_fold(FS_SUM, partials, c.chunks);
    results[1] = fs_fold(FS_MAX_ABS, partials + c.chunks, c.chunks);
    fs_leave_float(saved);
  }
  return FS_OK;
}

/* A packed matrix is cut into blocks of rows with about as many elements each; how many follows from n alone. */
#define FS_BLOCK_ROWS 64u
#define FS_MAX_BLOCKS 64u

static uint32_t blocks_of(uint32_t n) {
  const uint32_t blocks = n / FS_BLOCK_ROWS + (n % FS_BLOCK_ROWS != 0);
  return blocks < FS_MAX_BLOCKS ? blocks : FS_MAX_BLOCKS;
}

/* The first row of a block: the triangle above it is block / blocks of the whole. */
static uint32_t block_row(uint32_t n, uint32_t block, uint32_t blocks) {
  return block == blocks ? n : (uint32_t)((double)n * __builtin_sqrt((double)block / (double)blocks));
}

typedef struct packed {
  const fs_vector_kernels *kernels;
  const double *u, *s;
  void *matrix, *out;
  double *scratch;
  uint32_t n, blocks, dtype, parts;
} packed;

static void product_part(void *context, uint32_t part) {
  const packed *p = context;
  const uint32_t saved = fs_enter_float();
  const uint32_t to = (uint32_t)fs_first_of(p->blocks, part + 1, p->parts);
  for (uint32_t b = (uint32_t)fs_first_of(p->blocks, part, p->parts); b < to; b++) {
    const uint32_t first = block_row(p->n, b, p->blocks), end = block_row(p->n, b + 1, p->blocks);
    double *sum = p->scratch + (size_t)b * p->n;
    memset(sum, 0, (size_t)end * sizeof *sum);
    p->kernels->packed_product(p->matrix, p->u, sum, first, end);
  }
  fs_leave_float(saved);
}

/* The blocks' sums, in the blocks' order: each block takes up what the ones before it have. */
static void product_sum(const packed *p) {
  double *const total = p->scratch + (size_t)(p->blocks - 1) * p->n; /* the last block has all elements */
  for (uint32_t b = 1; b < p->blocks; b++) {
    const uint32_t before = block_row(p->n, b, p->blocks);
    const double *const sum = p->scratch + (size_t)(b - 1) * p->n;
    double *const next = p->scratch + (size_t)b * p->n;
    FS_LOOP(i, 0, before) next[i] = sum[i] + next[i];
  }
  if (p->dtype == FS_F32) {
    float *const out = p->out;
    for (uint32_t i = 0; i < p->n; i++) out[i] = (float)total[i];
  } else {
    memcpy(p->out, total, (size_t)p->n * sizeof *total);
  }
}

static int32_t check_packed(uint32_t dtype, uint32_t n, const void *matrix, const void *a, const void *b) {
  if (dtype != FS_F32 && dtype != FS_F64) return FS_ERR_DTYPE;
  if (n == 0) return FS_OK;
  if (matrix == NULL || a == NULL || b == NULL) return FS_ERR_NULL;
  if (((uintptr_t)matrix | (uintptr_t)a | (uintptr_t)b) % fs_element_size[dtype] != 0) return FS_ERR_ALIGN;
  return FS_OK;
}

uint32_t fs_packed_scratch(uint32_t n) {
  const uint64_t room = (uint64_t)(blocks_of(n) + 2) * n;
  return room > UINT32_MAX ? UINT32_MAX : (uint32_t)room;
}

/* A vector as float64. */
static void widen(uint32_t dtype, uint32_t n, const void *from, double *to) {
  if (dtype == FS_F64) {
    memcpy(to, from, (size_t)n * sizeof *to);
  } else {
    for (uint32_t i = 0; i < n; i++) to[i] = (double)((const float *)from)[i];
  }
}

int32_t fs_packed_product(uint32_t dtype, uint32_t n, const void *matrix, const void *v, void *out, double *scratch,
                          uint32_t scratch_length, uint32_t threads) {
  const int32_t status = check_packed(dtype, n, matrix, v, out);
  if (status != FS_OK || n == 0) return status;
  if (scratch == NULL) return FS_ERR_NULL;
  if ((uintptr_t)scratch % 8 != 0) return FS_ERR_ALIGN;
  const uint32_t blocks = blocks_of(n);
  if ((uint64_t)scratch_length < (uint64_t)(blocks + 2) * n) return FS_ERR_SCRATCH;
  double *const wide = scratch + (size_t)blocks * n;
  widen(dtype, n, v, wide);
  const uint64_t bytes = (uint64_t)n * (n + 1) / 2 * fs_element_size[dtype];
  packed p = {fs_vector_kernels_of(dtype), wide, NULL, (void *)(uintptr_t)matrix, out, scratch, n, blocks, dtype, 1};
  p.parts = fs_parts_for(bytes * 4, threads); /* work of four times its bytes: each element is used twice */
  if (p.parts > blocks) p.parts = blocks;
  fs_parallel(product_part, &p, p.parts);
  const uint32_t saved = fs_enter_float();
  product_sum(&p);
  fs_leave_float(saved);
  return FS_OK;
}

static void update_part(void *context, uint32_t part) {
  const packed *p = context;
  const uint32_t saved = fs_enter_float();
  p->kernels->packed_update(p->matrix, p->u, p->s, block_row(p->n, part, p->parts), block_row(p->n, part + 1, p->parts));
  fs_leave_float(saved);
}

int32_t fs_packed_update(uint32_t dtype, uint32_t n, void *matrix, const void *u, const void *s, double *scratch,
                         uint32_t scratch_length, uint32_t threads) {
  const int32_t status = check_packed(dtype, n, matrix, u, s);
  if (status != FS_OK || n == 0) return status;
  if (scratch == NULL) return FS_ERR_NULL;
  if ((uintptr_t)scratch % 8 != 0) return FS_ERR_ALIGN;
  if ((uint64_t)scratch_length < (uint64_t)2 * n) return FS_ERR_SCRATCH;
  widen(dtype, n, u, scratch);
  widen(dtype, n, s, scratch + n);
  const uint64_t bytes = (uint64_t)n * (n + 1) / 2 * fs_element_size[dtype];
  packed p = {fs_vector_kernels_of(dtype), scratch, scratch + n, matrix, NULL, NULL, n, 0, dtype, 1};
  p.parts = fs_parts_for(bytes * 2, threads); /* read and written */
  if (p.parts > n) p.parts = n;
  fs_parallel(update_part, &p, p.parts);
  return FS_OK;
}
