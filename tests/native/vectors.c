/**
 * Tests of fs_combine and fs_packed_…: called by driver.c, which lends its elements and its count of checks.
 */
#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

enum { N, X, Y, Z, OUT, FLAGS, A, C, WORDS };
static const uint32_t threads[] = {1, 2, 3, 8};

static void check(const lent *with, int ok, const char *what, uint32_t dtype, uint64_t n) {
  ++*(ok ? with->passed : with->failed);
  if (!ok) printf("FAILED: %s, dtype %u, n %llu\n", what, dtype, (unsigned long long)n);
}

static void *filled(const lent *with, uint32_t dtype, size_t n) {
  const uint32_t size = fs_element_size[dtype];
  char *p = malloc(n * size + 1);
  for (size_t i = 0; i < n; i++) with->set(dtype, p + i * size, with->value(dtype));
  return p;
}

static uint64_t word(const void *p) { return (uint64_t)(uintptr_t)p; }

static void put(uint64_t *words, uint32_t at, double x) { memcpy(words + at, &x, 8); }

/* Every combination of what a pass may have, on every instruction set and some numbers of threads: the baseline's bits. */
static void combines(const lent *with, uint32_t dtype, size_t n) {
  const uint32_t size = fs_element_size[dtype], best = fs_set_isa(UINT32_MAX) & 255u;
  void *x = filled(with, dtype, n), *y = filled(with, dtype, n), *z = filled(with, dtype, n);
  char *wanted = malloc(n * size + 1), *out = malloc(n * size + 1);
  const uint32_t room = 2 * (uint32_t)((n + FS_REDUCE_CHUNK - 1) / FS_REDUCE_CHUNK);
  double *partials = malloc(room * sizeof *partials + 8), sums[3], first[2];
  int ok = 1;
  fs_set_grain(64);
  for (uint32_t variant = 0; variant < 16; variant++) {
    uint64_t words[WORDS] = {n, word(x), variant & 1 ? word(y) : 0, variant & 2 ? word(z) : 0, word(wanted), variant >> 2};
    put(words, A, -1.7), put(words, C, 0.3);
    fs_set_isa(0);
    ok &= fs_combine(dtype, words, partials, room, first, 1) == FS_OK;
    words[OUT] = word(out);
    for (uint32_t isa = 0; isa <= best; isa++) {
      for (uint32_t t = 0; t < 4; t++) {
        fs_set_isa(isa);
        memset(out, 0x5a, n * size + 1);
        partials[room] = 7, sums[2] = 7;
        ok &= fs_combine(dtype, words, partials, room, sums, threads[t]) == FS_OK;
        ok &= with->same(dtype, out, wanted, n * size) && with->same(FS_F64, sums, first, 16);
        ok &= out[n * size] == 0x5a && partials[room] == 7 && sums[2] == 7;
      }
    }
  }
  check(with, ok, "fs_combine: the same everywhere", dtype, n);
  free(x), free(y), free(z), free(wanted), free(out), free(partials);
}

static void combine_refuses(const lent *with, uint32_t dtype) {
  double x[8] = {1, 2, 3}, out[8], partials[2], sums[2];
  memset(out, 0x5a, sizeof out);
  const uint64_t good[WORDS] = {3, word(x), 0, word(x), word(out), 3};
  uint64_t w[WORDS];
#define REFUSED(what, status) (memcpy(w, good, sizeof w), what, fs_combine(dtype, w, partials, 2, sums, 2) == (status))
  int ok = REFUSED(w[X] = 0, FS_ERR_NULL) && REFUSED(w[OUT] = 0, FS_ERR_NULL) && REFUSED(w[FLAGS] = 4, FS_ERR_FLAGS) &&
           REFUSED(w[X] += 1, FS_ERR_ALIGN) && REFUSED(w[Y] = word(x) + 2, FS_ERR_ALIGN) &&
           REFUSED(w[Z] += 1, FS_ERR_ALIGN) && REFUSED(w[OUT] += 2, FS_ERR_ALIGN) &&
           REFUSED(w[N] = UINT64_MAX, FS_ERR_LENGTH) && REFUSED(w[N] = (uint64_t)1 << 61, FS_ERR_LENGTH) &&
           REFUSED(w[N] = FS_REDUCE_CHUNK + 1, FS_ERR_SCRATCH);
  ok &= fs_combine(FS_BF16, good, partials, 2, sums, 2) == FS_ERR_DTYPE &&
        fs_combine(FS_DTYPES, good, partials, 2, sums, 2) == FS_ERR_DTYPE &&
        fs_combine(dtype, NULL, partials, 2, sums, 2) == FS_ERR_NULL &&
        fs_combine(dtype, good, NULL, 2, sums, 2) == FS_ERR_NULL &&
        fs_combine(dtype, good, partials, 2, NULL, 2) == FS_ERR_NULL &&
        fs_combine(dtype, good, partials, 1, sums, 2) == FS_ERR_SCRATCH &&
        fs_combine(dtype, (const void *)((const char *)good + 4), partials, 2, sums, 2) == FS_ERR_ALIGN;
  for (size_t i = 0; i < sizeof out; i++) ok &= ((const char *)out)[i] == 0x5a;
  memcpy(w, good, sizeof w), w[N] = 0, w[X] = w[OUT] = 0;
  ok &= fs_combine(dtype, w, NULL, 0, sums, 2) == FS_OK && sums[0] == 0 && sums[1] == 0;
  check(with, ok, "fs_combine: what is wrong is refused, and nothing written", dtype, 3);
}

static void packed_matrices(const lent *with, uint32_t dtype, uint32_t n) {
  const uint32_t size = fs_element_size[dtype], best = fs_set_isa(UINT32_MAX) & 255u, room = fs_packed_scratch(n);
  const size_t elements = (size_t)n * (n + 1) / 2;
  void *h = filled(with, dtype, elements), *v = filled(with, dtype, n), *u = filled(with, dtype, n);
  char *matrix = malloc(elements * size + 1), *wanted = malloc(elements * size + 1);
  char *out = malloc((size_t)n * size + 1), *product = malloc((size_t)n * size + 1);
  double *scratch = malloc(((size_t)room + 1) * sizeof *scratch);
  int ok = 1;
  fs_set_grain(64);
  for (uint32_t isa = 0; isa <= best; isa++) {
    for (uint32_t t = 0; t < 4; t++) {
      fs_set_isa(isa);
      memcpy(matrix, h, elements * size), matrix[elements * size] = out[(size_t)n * size] = 0x5a, scratch[room] = 7;
      ok &= fs_packed_product(dtype, n, matrix, v, out, scratch, room, threads[t]) == FS_OK;
      ok &= fs_packed_update(dtype, n, matrix, u, v, scratch, room, threads[t]) == FS_OK;
      if (isa == 0 && t == 0) memcpy(wanted, matrix, elements * size), memcpy(product, out, (size_t)n * size);
      ok &= with->same(dtype, matrix, wanted, elements * size) && with->same(dtype, out, product, (size_t)n * size);
      ok &= matrix[elements * size] == 0x5a && out[(size_t)n * size] == 0x5a && scratch[room] == 7;
    }
  }
  check(with, ok, "packed matrices: the same everywhere", dtype, n);
  memset(out, 0x5a, (size_t)n * size);
  ok = fs_packed_product(dtype, n, matrix, v, out, scratch, room - 1, 2) == FS_ERR_SCRATCH &&
       fs_packed_product(dtype, n, NULL, v, out, scratch, room, 2) == FS_ERR_NULL &&
       fs_packed_product(dtype, n, matrix, NULL, out, scratch, room, 2) == FS_ERR_NULL &&
       fs_packed_product(dtype, n, matrix, v, NULL, scratch, room, 2) == FS_ERR_NULL &&
       fs_packed_product(dtype, n, matrix, v, out, NULL, room, 2) == FS_ERR_NULL &&
       fs_packed_product(FS_F16, n, matrix, v, out, scratch, room, 2) == FS_ERR_DTYPE &&
       fs_packed_product(dtype, UINT32_MAX, matrix, v, out, scratch, UINT32_MAX, 2) == FS_ERR_SCRATCH &&
       fs_packed_product(dtype, n, matrix + 1, v, out, scratch, room, 2) == FS_ERR_ALIGN &&
       fs_packed_update(dtype, n, matrix, u, v, scratch, 2 * n - 1, 2) == FS_ERR_SCRATCH &&
       fs_packed_update(dtype, n, matrix, u, NULL, scratch, room, 2) == FS_ERR_NULL &&
       fs_packed_update(FS_DTYPES, n, matrix, u, v, scratch, room, 2) == FS_ERR_DTYPE &&
       fs_packed_update(dtype, n, matrix, u, v, (double *)(void *)((char *)scratch + 4), room, 2) == FS_ERR_ALIGN &&
       fs_packed_update(dtype, 0, NULL, NULL, NULL, NULL, 0, 2) == FS_OK;
  for (size_t i = 0; i < (size_t)n * size; i++) ok &= out[i] == 0x5a;
  ok &= with->same(dtype, matrix, wanted, elements * size);
  check(with, ok, "packed matrices: what is wrong is refused, and nothing written", dtype, n);
  free(h), free(v), free(u), free(matrix), free(wanted), free(out), free(product), free(scratch);
}

void test_vectors(const lent *with, uint32_t dtype) {
  if (dtype != FS_F32 && dtype != FS_F64) return;
  static const size_t lengths[] = {0, 1, 15, 16, 17, 31, 33, 4095, 4096, 4097, 12293};
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) combines(with, dtype, lengths[i]);
  combine_refuses(with, dtype);
  static const uint32_t rows[] = {1, 2, 16, 17, 63, 64, 65, 130, 333};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) packed_matrices(with, dtype, rows[i]);
  fs_set_grain(5u << 19);
  fs_set_isa(UINT32_MAX);
}
