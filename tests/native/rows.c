/**
 * Tests of fs_bind_rows and fs_sum_rows: called by driver.c, which lends its elements and its count of checks.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "rows.h"

enum { ROWS = 9, TABLE = 7, STRIDE = 3 };
static uint32_t seed = 1;
static uint32_t below(uint32_t n) { return (seed = seed * 1664525u + 1013904223u, (seed >> 8) % n); }

static void check(const lent *with, int ok, const char *what) {
  ++*(ok ? with->passed : with->failed);
  if (!ok) printf("FAILED: %s\n", what);
}

/* A table of TABLE rows is filled at word 1; `gives` holds that nothing else has been written, and nothing after an error. */
static int gives(int32_t status, const uint32_t *rows, uint32_t dtype, uint32_t length, const void *base, uint32_t limit,
                 const uint32_t *positions, uint32_t count) {
  uint64_t words[TABLE * STRIDE], wanted[TABLE * STRIDE];
  memset(words, 0xa5, sizeof words), memset(wanted, 0xa5, sizeof wanted);
  for (uint32_t r = 0; r < count && status == FS_OK; r++) {
    const uint64_t at = (uint64_t)(positions ? positions[r] : 0) * length * fs_element_size[dtype];
    wanted[1 + (rows ? rows[r] : r) * STRIDE] = (uint64_t)(uintptr_t)base + at;
  }
  return fs_bind_rows(words, 1, STRIDE, count, rows, dtype, length, base, limit, positions) == status &&
         memcmp(words, wanted, sizeof words) == 0;
}

static void bind_rows(const lent *with, uint32_t dtype) {
  static const double memory[ROWS * 5] = {0};
  const uint32_t positions[] = {0, 8, 3, 3, 1}, wrong[] = {0, 8, 9}, rows[] = {6, 0, 3, 2, 5}, length = 5;
  int ok = gives(FS_OK, NULL, dtype, length, memory, ROWS, positions, 5) &&
           gives(FS_OK, rows, dtype, length, memory, ROWS, positions, 5) &&
           gives(FS_OK, rows, dtype, length, memory, ROWS, NULL, 5) && gives(FS_OK, NULL, dtype, 1, memory, 1, NULL, 7) &&
           gives(FS_OK, NULL, dtype, length, NULL, 0, NULL, 0);
  check(with, ok, "fs_bind_rows: rows, positions, both, none");
  ok = gives(FS_ERR_ROW, NULL, dtype, length, memory, ROWS, wrong, 3) &&
       gives(FS_ERR_NULL, NULL, dtype, length, NULL, ROWS, positions, 5) &&
       gives(FS_ERR_LENGTH, NULL, dtype, length, memory, 0, NULL, 1) &&
       gives(FS_ERR_LENGTH, NULL, dtype, UINT32_MAX, memory, UINT32_MAX, positions, 5) &&
       gives(FS_ERR_DTYPE, NULL, FS_DTYPES, length, memory, ROWS, positions, 5) &&
       gives(FS_ERR_ALIGN, NULL, dtype, length, memory, ROWS, (const void *)((const char *)positions + 2), 2) &&
       gives(FS_ERR_ALIGN, (const void *)((const char *)rows + 1), dtype, length, memory, ROWS, positions, 2);
  ok &= fs_bind_rows(NULL, 1, STRIDE, 1, NULL, dtype, length, memory, ROWS, positions) == FS_ERR_NULL;
  check(with, ok, "fs_bind_rows: what is wrong is refused, and nothing written");
}

/* The sum of some rows, as it is documented: in order, in float32 for 16-bit elements. */
static double sum_of(const lent *with, uint32_t dtype, const unsigned char *values, const uint32_t *source, uint32_t count,
                     uint32_t length, uint32_t i) {
  double sum = 0;
  for (uint32_t s = 0; s < count; s++) {
    const double x = with->element(dtype, values + ((size_t)source[s] * length + i) * fs_element_size[dtype]);
    sum = s == 0 ? x : dtype == FS_F64 ? sum + x : (double)((float)sum + (float)x);
  }
  return sum;
}

static void sum_rows(const lent *with, uint32_t dtype, uint32_t length) {
  const size_t size = fs_element_size[dtype], bytes = TABLE * length * size;
  unsigned char *values = malloc(ROWS * length * size), *out = malloc(bytes + 16), *wanted = malloc(bytes + 16);
  uint32_t sources[40], starts[TABLE + 1] = {0};
  for (size_t i = 0; i < ROWS * length; i++) with->set(dtype, values + i * size, with->value(dtype));
  for (uint32_t k = 0; k < TABLE; k++) starts[k + 1] = starts[k] + (k < 3 ? k : below(6));
  for (uint32_t s = 0; s < starts[TABLE]; s++) sources[s] = below(ROWS);
  memset(out, 0xa5, bytes + 16), memset(wanted, 0xa5, bytes + 16);
  for (uint32_t k = 0; k < TABLE; k++) {
    for (uint32_t i = 0; i < length; i++) {
      const double sum = sum_of(with, dtype, values, sources + starts[k], starts[k + 1] - starts[k], length, i);
      with->set(dtype, wanted + (k * length + i) * size, sum);
    }
  }
  int ok = fs_sum_rows(dtype, out, TABLE, length, values, ROWS, sources, starts) == FS_OK;
  ok &= with->same(dtype, out, wanted, bytes) && memcmp(out + bytes, wanted + bytes, 16) == 0;
  check(with, ok, "fs_sum_rows: in the documented order");

  memset(out, 0xa5, bytes), memset(wanted, 0xa5, bytes);
  const uint32_t wrong[] = {0, ROWS}, falling[] = {0, 2, 1}, one[] = {0, 1, 2};
  ok = fs_sum_rows(dtype, out, 2, length, values, ROWS, wrong, one) == FS_ERR_ROW;
  ok &= fs_sum_rows(dtype, out, 2, length, values, ROWS, sources, falling) == FS_ERR_ROW;
  ok &= fs_sum_rows(FS_DTYPES, out, 2, length, values, ROWS, sources, one) == FS_ERR_DTYPE;
  ok &= fs_sum_rows(dtype, NULL, 2, length, values, ROWS, sources, one) == FS_ERR_NULL;
  ok &= fs_sum_rows(dtype, out, 2, length, NULL, ROWS, sources, one) == FS_ERR_NULL;
  ok &= fs_sum_rows(dtype, out, 2, length, values, ROWS, NULL, one) == FS_ERR_NULL;
  ok &= fs_sum_rows(dtype, out, 2, length, values, ROWS, sources, NULL) == FS_ERR_NULL;
  ok &= fs_sum_rows(dtype, out + 1, 2, length, values, ROWS, sources, one) == FS_ERR_ALIGN;
  ok &= fs_sum_rows(dtype, out, 2, length, values + 1, ROWS, sources, one) == FS_ERR_ALIGN;
  ok &= fs_sum_rows(dtype, out, 2, UINT32_MAX, values, UINT32_MAX, sources, one) == FS_ERR_LENGTH;
  ok &= fs_sum_rows(dtype, NULL, 0, length, NULL, 0, NULL, NULL) == FS_OK;
  ok &= fs_sum_rows(dtype, NULL, 2, 0, NULL, 0, NULL, NULL) == FS_OK;
  ok &= memcmp(out, wanted, bytes) == 0;
  memset(wanted, 0, 2 * length * size);
  ok &= fs_sum_rows(dtype, out, 2, length, NULL, 0, NULL, (const uint32_t[]){4, 4, 4}) == FS_OK;
  ok &= memcmp(out, wanted, bytes) == 0;
  check(with, ok, "fs_sum_rows: what is wrong is refused, and nothing written; no rows are zeros");
  free(values), free(out), free(wanted);
}

/* Rows that begin behind 2^32 elements: gigabytes of addresses, of which a few pages are touched. */
static void far_rows(const lent *with, uint32_t dtype) {
  const uint32_t length = 1u << 16, limit = length + 2, sources[] = {length, length, length + 1}, starts[] = {0, 1, 3};
  const size_t size = fs_element_size[dtype], row = length * size;
  unsigned char *values = mmap(NULL, limit * row, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (values == MAP_FAILED) {
    printf("skipped: the system has no %zu MiB of addresses\n", limit * row >> 20);
    return;
  }
  unsigned char *out = malloc(2 * row), *wanted = malloc(2 * row);
  for (uint32_t r = 0; r < limit; r = r == 0 ? length : r + 1) {
    for (uint32_t i = 0; i < length; i++) with->set(dtype, values + r * row + i * size, with->value(dtype));
  }
  for (uint32_t k = 0; k < 2; k++) {
    for (uint32_t i = 0; i < length; i++) {
      const double sum = sum_of(with, dtype, values, sources + starts[k], starts[k + 1] - starts[k], length, i);
      with->set(dtype, wanted + k * row + i * size, sum);
    }
  }
  int ok = fs_sum_rows(dtype, out, 2, length, values, limit, sources, starts) == FS_OK;
  ok &= with->same(dtype, out, wanted, 2 * row);
  check(with, ok, "fs_sum_rows: rows behind 2^32 elements");
  munmap(values, limit * row), free(out), free(wanted);
}

void test_rows(const lent *with, uint32_t dtype) {
  static const uint32_t lengths[] = {1, 2, 15, 64, 1023, 1024, 1025, 3000};
  bind_rows(with, dtype);
  far_rows(with, dtype);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) sum_rows(with, dtype, lengths[i]);
}
