/**
 * Tests of fs_make_spans and fs_bind_arrays against a map of bytes: called by driver.c, which lends its count of checks. The addresses
 * are those of an arena into which nothing is written.
 */
#include "internal.h"

#include <stdio.h>
#include <string.h>

#include "rows.h"

enum { ARENA = 512, PIECES = 40, ROWS = 19, STRIDE = 5, WORD = 3 };
static uint64_t arena[ARENA / 8];
static unsigned char covered[ARENA + 1]; /* bytes of the arena that are written; none behind it */
static uint32_t seed = 7;
static uint32_t below(uint32_t n) { return (seed = seed * 1664525u + 1013904223u, (seed >> 8) % n); }
static uint64_t address(size_t at) { return (uint64_t)(uintptr_t)arena + at; }

static void check(const lent *with, int ok, const char *what) {
  ++*(ok ? with->passed : with->failed);
  if (!ok) printf("FAILED: %s\n", what);
}

/* Random pieces of the arena: in rising order, falling, or any; some without bytes, some side by side, some across others. */
static uint32_t make_pieces(uint64_t *words, uint32_t count, uint32_t order) {
  memset(covered, 0, sizeof covered);
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t place = order == 0 ? i : order == 1 ? count - 1 - i : below(PIECES), base = below(4) * 64;
    const uint32_t from = ARENA / PIECES * place, to = from + below(8) * below(3);
    words[3 * i] = from < base ? address(0) : address(base), words[3 * i + 1] = from < base ? from : from - base;
    words[3 * i + 2] = words[3 * i + 1] + (to - from);
    if (from == to && below(2)) words[3 * i] = 0;
    memset(covered + from, 1, to - from);
  }
  return count;
}

/* Whether spans are the runs of covered bytes, in order. */
static int are_runs(const uint64_t *spans, int32_t count) {
  int32_t k = 0;
  for (size_t at = 0; at < ARENA; at++) {
    if (!covered[at] || (at > 0 && covered[at - 1])) continue;
    size_t end = at;
    while (covered[end]) end++;
    if (k >= count || spans[2 * k] != address(at) || spans[2 * k + 1] != address(end)) return 0;
    k++;
  }
  return k == count;
}

static void make_spans(const lent *with) {
  static uint64_t words[3 * PIECES + 1], same[3 * PIECES + 1];
  int ok = fs_make_spans(NULL, 0) == 0 && fs_make_spans(NULL, 1) == FS_ERR_NULL;
  for (uint32_t round = 0; round < 600; round++) {
    const uint32_t count = make_pieces(words, round % (PIECES + 1), round % 3);
    words[3 * count] = 0x5a5a;
    ok &= are_runs(words, fs_make_spans(words, count)) && words[3 * count] == 0x5a5a;
  }
  check(with, ok, "fs_make_spans: sorted, merged, and nothing written behind them");
  const uint64_t wrong[][3] = {{0, 0, 1}, {64, 2, 1}, {64, 0, UINT64_MAX / 2 + 1}, {UINT64_MAX - 3, 0, 4}, {64, UINT64_MAX, UINT64_MAX}};
  const int32_t status[] = {FS_ERR_NULL, FS_ERR_LENGTH, FS_ERR_LENGTH, FS_ERR_LENGTH, FS_ERR_LENGTH};
  ok = 1;
  for (uint32_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
    const uint32_t count = 1 + make_pieces(words, PIECES - 1, k % 3), at = 3 * below(count);
    memcpy(words + 3 * (count - 1), words, 24), memcpy(words + at, wrong[k], 24), memcpy(same, words, sizeof words);
    ok &= fs_make_spans(words, count) == status[k] && memcmp(words, same, sizeof words) == 0;
  }
  ok &= fs_make_spans((uint64_t *)(void *)((char *)words + 4), 1) == FS_ERR_ALIGN && memcmp(words, same, sizeof words) == 0;
  check(with, ok, "fs_make_spans: what is wrong is refused, and nothing written");
}

static int32_t bind(fs_binding *b, uint32_t first, uint32_t count, const void *const *a) {
  return fs_bind_arrays(b, first, count, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

static void bind_arrays(const lent *with, uint32_t dtype) {
  static uint64_t spans[3 * PIECES], table[ROWS * STRIDE + 1], wanted[ROWS * STRIDE + 1];
  const uint32_t size = fs_element_size[dtype];
  uint32_t bound = 0, refused = 0;
  int ok = 1;
  for (uint32_t round = 0; round < 4000; round++) {
    const int32_t found = fs_make_spans(spans, make_pieces(spans, below(4) ? below(PIECES / 4) : below(PIECES), round % 3));
    fs_binding b = {.dtype = dtype, .rows = ROWS, .stride = STRIDE, .word = WORD, .span_count = (uint32_t)found};
    b.table = table, b.spans = found == 0 && below(2) ? NULL : spans;
    b.near = below(4) ? below(PIECES) : UINT32_MAX - below(9); /* whatever it is, the answer is the same */
    for (uint32_t i = 0; i <= ROWS * STRIDE; i++) table[i] = 0xa5a5a5a5a5a5a5a5u;
    const uint32_t first = below(ROWS), most = ROWS - first < FS_BOUND ? ROWS - first : FS_BOUND, count = below(most + 1);
    const uint32_t order = below(3), start = below(ARENA / 2) / 8 * 8;
    const void *arrays[FS_BOUND];
    int overlap = 0;
    for (uint32_t k = 0; k < FS_BOUND; k++) {
      const uint32_t n = below(5) == 0 ? 0 : 1 + below(24 / size);
      const uint32_t at = order == 0 ? start + 16 * k : order == 1 ? start + 16 * (FS_BOUND - k) : below(ARENA / 8 - 3) * 8;
      arrays[k] = (const char *)arena + at;
      if (k >= count) {
        arrays[k] = (const void *)(uintptr_t)1; /* is not looked at */
        continue;
      }
      table[(first + k) * STRIDE] = n;
      for (uint32_t i = at; i < at + n * size; i++) overlap |= covered[i];
      if (n == 0) arrays[k] = NULL;
    }
    memcpy(wanted, table, sizeof table);
    for (uint32_t k = 0; k < count && !overlap; k++) {
      if (table[(first + k) * STRIDE] != 0) wanted[(first + k) * STRIDE + WORD] = (uint64_t)(uintptr_t)arrays[k];
    }
    ok &= bind(&b, first, count, arrays) == (overlap ? FS_ERR_OVERLAP : FS_OK) && memcmp(table, wanted, sizeof table) == 0;
    ++*(overlap ? &refused : &bound);
  }
  check(with, ok && bound > 100 && refused > 100, "fs_bind_arrays: as a map of bytes has it");

  const void *a[FS_BOUND];
  for (uint32_t k = 0; k < FS_BOUND; k++) a[k] = arena;
  for (uint32_t i = 0; i < ROWS; i++) table[i * STRIDE] = 1;
  memcpy(wanted, table, sizeof table);
  const fs_binding good = {dtype, ROWS, STRIDE, WORD, 0, 0, {table}, {NULL}};
  fs_binding bad[10];
  for (uint32_t k = 0; k < 10; k++) bad[k] = good;
  bad[0].dtype = FS_DTYPES, bad[1].word = 0, bad[2].word = STRIDE, bad[3].table = NULL, bad[4].span_count = 1;
  bad[5].table_word += 4, bad[6].spans_word = 4, bad[7].rows = 7, bad[8].rows = 0;
  const int32_t status[] = {FS_ERR_DTYPE, FS_ERR_ROW, FS_ERR_ROW, FS_ERR_NULL, FS_ERR_NULL, FS_ERR_ALIGN, FS_ERR_ALIGN, FS_ERR_ROW, FS_ERR_ROW};
  ok = fs_bind_arrays(NULL, 0, 1, a[0], a[0], a[0], a[0], a[0], a[0], a[0], a[0]) == FS_ERR_NULL && bind(NULL, 0, 0, a) == FS_OK;
  for (uint32_t k = 0; k < sizeof status / sizeof *status; k++) ok &= bind(&bad[k], 0, 8, a) == status[k];
  bad[9].rows = UINT32_MAX; /* the last row is not the first behind the end */
  ok &= bind(&bad[9], UINT32_MAX, 1, a) == FS_ERR_ROW && bind(&bad[9], UINT32_MAX - 1, 8, a) == FS_ERR_ROW && bind(&bad[9], 0, 9, a) == FS_ERR_ROW;
  a[7] = NULL, ok &= bind(&bad[9], 0, 8, a) == FS_ERR_NULL && bind(&bad[9], 0, 7, a) == FS_OK;
  memcpy(table, wanted, sizeof table);
  a[7] = (const char *)arena + 1, ok &= bind(&bad[9], 0, 8, a) == FS_ERR_ALIGN;
  a[7] = arena, table[7 * STRIDE] = wanted[7 * STRIDE] = (uint64_t)PTRDIFF_MAX / size + 1, ok &= bind(&bad[9], 0, 8, a) == FS_ERR_LENGTH;
  a[7] = (const void *)(UINTPTR_MAX - 15), table[7 * STRIDE] = wanted[7 * STRIDE] = 3 * 8, ok &= bind(&bad[9], 0, 8, a) == FS_ERR_LENGTH;
  check(with, ok && memcmp(table, wanted, sizeof table) == 0, "fs_bind_arrays: what is wrong is refused, and nothing written");
}

void test_bind(const lent *with, uint32_t dtype) {
  if (dtype == 0) make_spans(with);
  bind_arrays(with, dtype);
}
