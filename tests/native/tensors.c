/**
 * Tests of fs_run_tensors and fs_matmul: called by driver.c, which lends its elements and its count of checks. Every buffer
 * is an allocation of its own, so that the address sanitizer sees what goes beyond it.
 */
#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

enum { TENSORS = 12, BUFFERS = 4, WAYS = 6 };
static uint32_t seed = 1;
static void note(const lent *with, int ok, const char *what) {
  if (ok) (*with->passed)++;
  else (*with->failed)++, printf("FAILED: %s\n", what);
}
static uint32_t below(uint32_t n) { return (seed = seed * 1664525u + 1013904223u, (seed >> 8) % n); }

typedef struct step {
  uint32_t rule, dtype, count;
  uint64_t table[TENSORS * FS_TENSOR_WORDS];
  double hypers[TENSORS * 16];
  unsigned char *memory[TENSORS][BUFFERS], *before[TENSORS][BUFFERS], *wanted[TENSORS][BUFFERS];
  size_t bytes[TENSORS][BUFFERS];
} step;

static const double adafactor_hypers[] = {-1, 0.7, 1e-6, 1e6, 1e-3, 0.02, 1, 0.99};
static const double muon_hypers[] = {1, 0.9, 1 - 0.9, 1, 3.4445, -4.775, 2.0315, 3, 1e-7, 0.99, 0.02};

static void add_tensor(const lent *with, step *s, uint64_t batches, uint64_t rows, uint64_t columns, int special) {
  const uint32_t t = s->count++;
  uint64_t *row = s->table + t * FS_TENSOR_WORDS;
  const size_t size = fs_element_size[s->dtype];
  row[T_BATCHES] = batches, row[T_ROWS] = rows, row[T_COLUMNS] = columns;
  const uint64_t n = fs_tensor_size(row), lengths[BUFFERS] = {
    n, n, s->rule == FS_MUON || batches == 0 ? n : batches * rows, s->rule == FS_MUON || batches == 0 ? 0 : batches * columns};
  for (uint32_t b = 0; b < BUFFERS; b++) {
    const size_t bytes = s->bytes[t][b] = (size_t)lengths[b] * size;
    s->memory[t][b] = malloc(bytes + (bytes == 0)), s->before[t][b] = malloc(bytes + 1), s->wanted[t][b] = malloc(bytes + 1);
    for (size_t at = 0; at < bytes; at += size) {
      double v = special ? with->value(s->dtype) : (int)below(2001) * 1e-3 - 1;
      if (b >= 2 && s->rule == FS_ADAFACTOR) v = v < 0 ? -v : v; /* variances */
      with->set(s->dtype, s->before[t][b] + at, v);
    }
    row[T_PARAM + b] = n == 0 ? below(1000) : (uint64_t)(uintptr_t)s->memory[t][b];
  }
  if (s->rule == FS_MUON) memcpy(s->hypers + t * FS_MUON_HYPERS, muon_hypers, sizeof muon_hypers);
  else memcpy(s->hypers + t * FS_ADAFACTOR_HYPERS, adafactor_hypers, sizeof adafactor_hypers);
}

static void restore(step *s) {
  for (uint32_t t = 0; t < s->count; t++) {
    for (uint32_t b = 0; b < BUFFERS; b++) memcpy(s->memory[t][b], s->before[t][b], s->bytes[t][b]);
  }
}

static int unchanged(const step *s) {
  int ok = 1;
  for (uint32_t t = 0; t < s->count; t++) {
    for (uint32_t b = 0; b < BUFFERS; b++) ok &= memcmp(s->memory[t][b], s->before[t][b], s->bytes[t][b]) == 0;
  }
  return ok;
}

/* A step in scratch of exactly the length that it needs, full of garbage. */
static int32_t run_step(step *s, uint32_t threads, int short_of) {
  double length = 0;
  restore(s);
  int32_t status = fs_tensor_scratch(s->rule, s->dtype, s->table, s->count, threads, &length);
  if (status != FS_OK) return status;
  const uint32_t room = (uint32_t)length - (uint32_t)short_of;
  double *scratch = malloc((size_t)room * 8 + 8);
  memset(scratch, 0xff, (size_t)room * 8 + 8);
  status = fs_run_tensors(s->rule, s->dtype, s->table, s->count, s->hypers, scratch, room, threads);
  if (memcmp(scratch + room, "\xff\xff\xff\xff\xff\xff\xff\xff", 8) != 0) status = 1;
  free(scratch);
  return status;
}

static void finish(step *s) {
  for (uint32_t t = 0; t < s->count; t++) {
    for (uint32_t b = 0; b < BUFFERS; b++) free(s->memory[t][b]), free(s->before[t][b]), free(s->wanted[t][b]);
  }
  free(s);
}

static step *make(uint32_t rule, uint32_t dtype) {
  step *s = calloc(1, sizeof *s);
  s->rule = rule, s->dtype = dtype;
  return s;
}

/* The same bits on every instruction set and number of threads; gradients are not written. */
static void everywhere(const lent *with, uint32_t rule, uint32_t dtype, int special) {
  step *s = make(rule, dtype);
  const uint64_t most = rule == FS_MUON ? 1 : 3;
  add_tensor(with, s, 1, 0, 5, 0), add_tensor(with, s, 1, 1, 1, special), add_tensor(with, s, 1, 130, 70, special);
  add_tensor(with, s, 1, 1, 2100, special), add_tensor(with, s, 1, 200, 3, special);
  for (int i = 0; i < 4; i++) add_tensor(with, s, 1 + below((uint32_t)most), 1 + below(90), 1 + below(90), special);
  if (rule == FS_ADAFACTOR) add_tensor(with, s, 0, 1, 9000, special), add_tensor(with, s, 0, 0, 3, special), add_tensor(with, s, 700, 3, 3, special);
  const uint32_t isas = (fs_set_isa(UINT32_MAX) & 255u) + 1;
  fs_set_isa(0);
  fs_set_grain(5u << 19);
  int ok = run_step(s, 1, 0) == FS_OK && !unchanged(s);
  for (uint32_t t = 0; t < s->count; t++) {
    for (uint32_t b = 0; b < BUFFERS; b++) memcpy(s->wanted[t][b], s->memory[t][b], s->bytes[t][b]);
    ok &= memcmp(s->memory[t][1], s->before[t][1], s->bytes[t][1]) == 0;
  }
  fs_set_grain(64);
  for (uint32_t way = 0; way < WAYS; way++) {
    fs_set_isa(way % isas);
    ok &= run_step(s, 1 + below(6), 0) == FS_OK;
    for (uint32_t t = 0; t < s->count; t++) {
      for (uint32_t b = 0; b < BUFFERS; b++) ok &= with->same(dtype, s->memory[t][b], s->wanted[t][b], s->bytes[t][b]);
    }
  }
  fs_set_grain(5u << 19);
  note(with, ok, "fs_run_tensors: the same everywhere");
  finish(s);
}

static int refuses(step *s, uint64_t *word, uint64_t value, int32_t status) {
  const uint64_t saved = *word;
  *word = value;
  int ok = run_step(s, 2, 0) == status && unchanged(s);
  *word = saved;
  return ok;
}

static void hostile_step(const lent *with, uint32_t rule, uint32_t dtype) {
  step *s = make(rule, dtype);
  add_tensor(with, s, 1, 4, 5, 0), add_tensor(with, s, 1, 7, 3, 0);
  uint64_t *row = s->table + FS_TENSOR_WORDS;
  const uint64_t huge[] = {UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 61, (uint64_t)INT64_MAX / 64 + 1};
  int ok = 1;
  for (uint32_t i = 0; i < 4; i++) {
    ok &= refuses(s, row + T_ROWS, huge[i], FS_ERR_LENGTH) && refuses(s, row + T_COLUMNS, huge[i], FS_ERR_LENGTH);
    ok &= refuses(s, row + T_BATCHES, huge[i], FS_ERR_LENGTH);
  }
  ok &= refuses(s, row + T_ROWS, (uint64_t)1 << 40, FS_ERR_LENGTH); /* its scratch is too long */
  for (uint32_t b = T_PARAM; b < (rule == FS_MUON ? T_SECOND : FS_TENSOR_WORDS); b++) {
    ok &= refuses(s, row + b, 0, FS_ERR_NULL) && refuses(s, row + b, row[b] + 1, FS_ERR_ALIGN);
  }
  if (rule == FS_MUON) {
    ok &= refuses(s, row + T_BATCHES, 2, FS_ERR_SHAPE) && refuses(s, row + T_BATCHES, 0, FS_ERR_SHAPE);
    const double wrong[] = {-1, 100, 1e300, __builtin_nan("")};
    for (uint32_t i = 0; i < 4; i++) {
      uint64_t bits;
      memcpy(&bits, wrong + i, 8);
      ok &= refuses(s, (uint64_t *)(void *)(s->hypers + FS_MUON_HYPERS + M_STEPS), bits, FS_ERR_HYPER);
    }
  }
  note(with, ok, "fs_run_tensors: a hostile row");
  double length = 7, scratch[8];
  const uint64_t *t = s->table, *odd = (const uint64_t *)(const void *)((const char *)t + 4);
  const double *h = s->hypers;
  ok = run_step(s, 2, 1) == FS_ERR_SCRATCH && unchanged(s);
  ok &= fs_run_tensors(FS_TENSOR_RULES, dtype, t, 2, h, scratch, 8, 1) == FS_ERR_RULE;
  ok &= fs_run_tensors(rule, FS_DTYPES, t, 2, h, scratch, 8, 1) == FS_ERR_DTYPE;
  ok &= fs_run_tensors(rule, dtype, NULL, 2, h, scratch, 8, 1) == FS_ERR_NULL;
  ok &= fs_run_tensors(rule, dtype, t, 2, NULL, scratch, 8, 1) == FS_ERR_NULL;
  ok &= fs_run_tensors(rule, dtype, t, 2, h, NULL, UINT32_MAX, 1) == FS_ERR_NULL;
  ok &= fs_run_tensors(rule, dtype, odd, 2, h, scratch, 8, 1) == FS_ERR_ALIGN;
  ok &= fs_run_tensors(rule, dtype, t, 2, (const double *)(const void *)((const char *)h + 4), scratch, 8, 1) == FS_ERR_ALIGN;
  ok &= fs_run_tensors(rule, dtype, t, 2, h, (double *)(void *)((char *)scratch + 4), UINT32_MAX, 1) == FS_ERR_ALIGN;
  ok &= fs_tensor_scratch(rule, dtype, t, 2, 1, NULL) == FS_ERR_NULL && fs_tensor_scratch(9, 0, t, 2, 1, &length) == FS_ERR_RULE;
  ok &= length == 7 && unchanged(s) && fs_run_tensors(rule, dtype, NULL, 0, NULL, NULL, 0, 1) == FS_OK;
  note(with, ok, "fs_run_tensors: hostile arguments");
  finish(s);
}

static double at(const lent *with, uint32_t dtype, const unsigned char *x, uint64_t i) {
  return with->element(dtype, x + i * fs_element_size[dtype]);
}
static double rounded(uint32_t dtype, double x) { return dtype == FS_F64 ? x : (double)(float)x; }

static void products(const lent *with, uint32_t dtype) {
  static const uint32_t sizes[][3] = {{1, 1, 1}, {3, 2, 0}, {5, 33, 7}, {33, 5, 70}, {40, 40, 40}, {97, 99, 20}, {30, 35, 257}};
  const size_t size = fs_element_size[dtype];
  const uint32_t isas = (fs_set_isa(UINT32_MAX) & 255u) + 1;
  fs_set_grain(64);
  for (uint32_t k = 0; k < sizeof sizes / sizeof *sizes * 5; k++) {
    const uint32_t kind = k % 5, symmetric = kind == 4;
    const uint64_t m = sizes[k / 5][0], n = symmetric ? m : sizes[k / 5][1], depth = sizes[k / 5][2];
    const uint64_t lengths[] = {m * depth, n * depth, m * n, m * n};
    unsigned char *x[4], *wanted = malloc(m * n * size);
    for (int i = 0; i < 4; i++) {
      x[i] = malloc(lengths[i] * size + (lengths[i] == 0));
      for (uint64_t j = 0; j < lengths[i]; j++) with->set(dtype, x[i] + j * size, (int)below(2001) * 1e-3 - 1);
    }
    if (symmetric) free(x[1]), x[1] = x[0];
    const uint64_t flags = symmetric ? FS_SYMMETRIC | FS_B_TRANSPOSED : kind;
    union { uint64_t w[10]; double d[10]; } u = {{m, n, depth, flags}};
    for (int i = 0; i < 4; i++) u.w[4 + i] = (uint64_t)(uintptr_t)x[i];
    if (symmetric || kind == 3) u.w[6] = 0;
    u.d[8] = 2.5, u.d[9] = -0.75;
    for (uint64_t i = 0; i < m; i++) {
      for (uint64_t j = 0; j < n; j++) {
        double sum = 0;
        for (uint64_t t = 0; t < depth; t++) {
          const double a = at(with, dtype, x[0], flags & FS_A_TRANSPOSED ? t * m + i : i * depth + t);
          const double b = at(with, dtype, x[1], flags & FS_B_TRANSPOSED ? j * depth + t : t * n + j);
          sum = rounded(dtype, sum + rounded(dtype, a * b));
        }
        sum = rounded(dtype, 2.5 * sum);
        if (u.w[6]) sum = rounded(dtype, rounded(dtype, -0.75 * at(with, dtype, x[2], i * n + j)) + sum);
        with->set(dtype, wanted + (i * n + j) * size, sum);
      }
    }
    int ok = 1;
    for (uint32_t way = 0; way < WAYS; way++) {
      const uint32_t threads = 1 + below(5), length = fs_matmul_scratch(dtype, threads);
      double *scratch = malloc((size_t)length * 8);
      memset(x[3], 0xff, m * n * size);
      fs_set_isa(way % isas);
      ok &= fs_matmul(dtype, u.w, scratch, length, threads) == FS_OK && memcmp(x[3], wanted, m * n * size) == 0;
      ok &= fs_matmul(dtype, u.w, scratch, length - 1, threads) == FS_ERR_SCRATCH;
      free(scratch);
    }
    note(with, ok, "fs_matmul: three plain loops");
    free(wanted), free(x[0]), free(x[2]), free(x[3]);
    if (!symmetric) free(x[1]);
  }
  fs_set_grain(5u << 19);
}

static void hostile_product(const lent *with, uint32_t dtype) {
  double x[9] = {0}, *scratch = malloc(8 * fs_matmul_scratch(dtype, 1));
  const uint64_t here = (uint64_t)(uintptr_t)x, good[10] = {3, 3, 3, 0, here, here, 0, here}, huge = (uint64_t)1 << 60;
  const struct { uint32_t word; uint64_t value; int32_t status; } wrong[] = {
    {0, huge, FS_ERR_LENGTH}, {1, huge, FS_ERR_LENGTH}, {2, huge, FS_ERR_LENGTH}, {0, UINT64_MAX, FS_ERR_LENGTH}, {3, 8, FS_ERR_FLAGS},
    {3, UINT64_MAX, FS_ERR_FLAGS}, {4, 0, FS_ERR_NULL}, {5, 0, FS_ERR_NULL}, {7, 0, FS_ERR_NULL}, {4, here + 1, FS_ERR_ALIGN},
    {5, here + 2, FS_ERR_ALIGN}, {6, here + 3, FS_ERR_ALIGN}, {7, here + 1, FS_ERR_ALIGN}};
  int ok = 1;
  for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    uint64_t words[10];
    memcpy(words, good, sizeof words);
    words[wrong[i].word] = wrong[i].value;
    ok &= fs_matmul(dtype, words, scratch, UINT32_MAX, 1) == wrong[i].status;
  }
  const uint64_t oblong[10] = {3, 2, 1, FS_SYMMETRIC, here, here, 0, here}, empty[10] = {0, 3, 3};
  ok &= fs_matmul(dtype, oblong, scratch, UINT32_MAX, 1) == FS_ERR_SHAPE && fs_matmul(dtype, empty, scratch, 0, 1) == FS_OK;
  ok &= fs_matmul(dtype, NULL, scratch, 9, 1) == FS_ERR_NULL && fs_matmul(dtype, good, NULL, 9, 1) == FS_ERR_NULL;
  ok &= fs_matmul(FS_BF16, good, scratch, 9, 1) == FS_ERR_DTYPE && fs_matmul_scratch(FS_DTYPES, 1) == 0;
  ok &= fs_matmul(dtype, (const uint64_t *)(const void *)((const char *)good + 4), scratch, 9, 1) == FS_ERR_ALIGN;
  note(with, ok, "fs_matmul: hostile words");
  free(scratch);
}

void test_tensors(const lent *with, uint32_t dtype) {
  for (uint32_t rule = 0; rule < FS_TENSOR_RULES; rule++) {
    hostile_step(with, rule, dtype);
    everywhere(with, rule, dtype, 0), everywhere(with, rule, dtype, 1);
  }
  if (dtype <= FS_F64) products(with, dtype), hostile_product(with, dtype);
}
