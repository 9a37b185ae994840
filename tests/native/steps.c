/**
 * Tests of fs_step: called by driver.c, which lends its elements and its count of checks.
 */
#include "internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

enum { BUFFERS = 4, WORDS = 2 + BUFFERS, TENSORS = 6 }; /* adam without amsgrad, whose fifth buffer is null */
static const uint32_t threads[] = {1, 2, 3, 8};
static const double hypers[] = {1, 0.1, 0.9, 0.1, 0.9, 0.99, 0.01, 0.3, 1e-8};

static void check(const lent *with, int ok, const char *what, uint32_t dtype) {
  ++*(ok ? with->passed : with->failed);
  if (!ok) printf("FAILED: %s, dtype %u\n", what, dtype);
}

static uint64_t word(const void *p) { return (uint64_t)(uintptr_t)p; }

/* Tensors of adam in one allocation each, so that a sanitizer sees what is beyond them. */
typedef struct tensors {
  uint64_t table[TENSORS][WORDS + 1];
  size_t n[TENSORS];
  char *memory[TENSORS][BUFFERS], *before[TENSORS][BUFFERS];
} tensors;

static void make(const lent *with, tensors *t, uint32_t dtype, size_t longest) {
  const size_t n[TENSORS] = {longest, 0, 1, 4097, 17, longest / 3}, size = fs_element_size[dtype];
  for (uint32_t i = 0; i < TENSORS; i++) {
    t->n[i] = n[i];
    t->table[i][0] = n[i];
    t->table[i][1] = (uint64_t)1 << 32; /* with weight decay */
    t->table[i][WORDS] = 0;
    for (uint32_t b = 0; b < BUFFERS; b++) {
      char *p = t->memory[i][b] = malloc(n[i] * size + (n[i] == 0));
      for (size_t k = 0; k < n[i]; k++) {
        double v = with->value(dtype);
        if (!(v - v == 0)) v = 0.5;
        v = fmod(v, 8);
        with->set(dtype, p + k * size, b == 3 ? fabs(v) : v);
      }
      t->before[i][b] = memcpy(malloc(n[i] * size + 1), p, n[i] * size);
      t->table[i][2 + b] = word(p);
    }
  }
}

static void restore(tensors *t, uint32_t dtype) {
  for (uint32_t i = 0; i < TENSORS; i++) {
    for (uint32_t b = 0; b < BUFFERS; b++) memcpy(t->memory[i][b], t->before[i][b], t->n[i] * fs_element_size[dtype]);
  }
}

static int same(const lent *with, const tensors *t, char *const (*wanted)[BUFFERS], uint32_t dtype) {
  int ok = 1;
  for (uint32_t i = 0; i < TENSORS; i++) {
    for (uint32_t b = 0; b < BUFFERS; b++) ok &= with->same(dtype, t->memory[i][b], wanted[i][b], t->n[i] * fs_element_size[dtype]);
  }
  return ok;
}

/* gradients = gradients * by */
static int multiply(tensors *t, uint32_t dtype, double by) {
  int ok = 1;
  for (uint32_t i = 0; i < TENSORS; i++) {
    uint64_t row[4] = {t->n[i], 0, t->table[i][3], 0};
    const fs_job job = {(uint32_t)fs_rule_find("mul"), dtype, 1, 1, {row}, {&by}};
    ok &= fs_run(&job, 1, 1) == FS_OK;
  }
  return ok;
}

/* A step in one call, and in two, against gradients that are multiplied before fs_run: the baseline's bits everywhere. */
static void steps(const lent *with, uint32_t dtype, size_t longest) {
  tensors t;
  make(with, &t, dtype, longest);
  const fs_job job = {(uint32_t)fs_rule_find("adam"), dtype, TENSORS, 1, {&t.table[0][0]}, {hypers}};
  const uint32_t best = fs_set_isa(UINT32_MAX) & 255u;
  uint32_t room = 0;
  for (uint32_t i = 0; i < TENSORS; i++) room += (uint32_t)((t.n[i] + FS_REDUCE_CHUNK - 1) / FS_REDUCE_CHUNK);
  double *partials = malloc((room + 1) * sizeof *partials), sums[TENSORS];
  int ok = 1;
  fs_set_grain(64);
  for (uint32_t variant = 0; variant < 3; variant++) {
    const double unscale = variant == 0 ? 1 : 1.0 / 3, most = variant == 1 ? INFINITY : 0.7;
    fs_set_isa(0);
    if (unscale != 1) ok &= multiply(&t, dtype, unscale);
    uint64_t table[TENSORS][2];
    for (uint32_t i = 0; i < TENSORS; i++) table[i][0] = t.n[i], table[i][1] = t.table[i][3];
    ok &= fs_reduce(FS_SUM_SQ, dtype, &table[0][0], TENSORS, partials, room, sums, 1) == FS_OK;
    double sum = 0;
    for (uint32_t i = 0; i < TENSORS; i++) sum = sum + sums[i];
    const double norm = sqrt(sum), wanted = most / (norm + 1e-6), coefficient = wanted < 1 ? wanted : 1;
    ok &= multiply(&t, dtype, coefficient) && fs_run(&job, 1, 1) == FS_OK;
    char *expected[TENSORS][BUFFERS];
    for (uint32_t i = 0; i < TENSORS; i++) {
      for (uint32_t b = 0; b < BUFFERS; b++) { /* the gradient stays */
        expected[i][b] = memcpy(malloc(t.n[i] * fs_element_size[dtype] + 1), b == 1 ? t.before[i][b] : t.memory[i][b],
                                t.n[i] * fs_element_size[dtype]);
      }
    }
    restore(&t, dtype);
    for (uint32_t isa = 0; isa <= best; isa++) {
      for (uint32_t k = 0; k < 4; k++) {
        double numbers[FS_STEP_WORDS + 1] = {unscale, most, 0, 0, 0, 0, 0, 0, 7};
        fs_set_isa(isa);
        partials[room] = 7;
        ok &= fs_step(&job, 1, FS_STEP_MEASURE | FS_STEP_UPDATE, numbers, partials, room, threads[k]) == FS_OK;
        ok &= same(with, &t, expected, dtype) && numbers[FS_STEP_SUMS + dtype] == sum;
        ok &= numbers[FS_STEP_NORM] == norm && numbers[FS_STEP_COEFFICIENT] == coefficient;
        ok &= partials[room] == 7 && numbers[FS_STEP_WORDS] == 7;
        restore(&t, dtype);
        double again[FS_STEP_WORDS] = {unscale, 0, 0, coefficient};
        again[FS_STEP_SUMS + dtype] = 1;
        ok &= fs_step(&job, 1, FS_STEP_UPDATE, again, NULL, 0, threads[k]) == FS_OK && same(with, &t, expected, dtype);
        restore(&t, dtype);
        ok &= fs_step(&job, 1, FS_STEP_MEASURE, again, partials, room, threads[k]) == FS_OK;
        ok &= same(with, &t, t.before, dtype) && (t.n[0] > 0 || again[FS_STEP_SUMS + dtype] == 1 + sum);
      }
    }
    for (uint32_t i = 0; i < TENSORS; i++) {
      for (uint32_t b = 0; b < BUFFERS; b++) free(expected[i][b]);
    }
  }
  check(with, ok, "fs_step: the bits of the separate calls", dtype);

  /* what is not finite */
  const double bad[] = {NAN, INFINITY, -INFINITY};
  ok = 1;
  for (uint32_t k = 0; k < 3; k++) {
    double numbers[FS_STEP_WORDS] = {1, 1};
    with->set(dtype, t.memory[3][1] + 4096 * fs_element_size[dtype], bad[k]);
    memcpy(t.before[3][1], t.memory[3][1], 4097 * fs_element_size[dtype]);
    ok &= fs_step(&job, 1, FS_STEP_MEASURE | FS_STEP_UPDATE, numbers, partials, room, 2) == FS_OK;
    ok &= same(with, &t, t.before, dtype) && numbers[FS_STEP_COEFFICIENT] == 0;
    ok &= k == 0 ? isnan(numbers[FS_STEP_NORM]) : isinf(numbers[FS_STEP_NORM]);
  }
  check(with, ok, "fs_step: gradients that are not finite", dtype);

  /* what is refused */
  double numbers[FS_STEP_WORDS] = {1, 1};
  const uint32_t both = FS_STEP_MEASURE | FS_STEP_UPDATE;
  fs_job wrong[2] = {job, job};
  ok = fs_step(NULL, 0, both, numbers, NULL, 0, 1) == FS_OK && numbers[FS_STEP_COEFFICIENT] == 1;
  ok &= fs_step(NULL, 1, both, numbers, partials, room, 2) == FS_ERR_NULL && fs_step(&job, 1, both, NULL, partials, room, 2) == FS_ERR_NULL;
  ok &= fs_step(&job, 1, both, numbers, NULL, room, 2) == FS_ERR_NULL && fs_step(&job, 1, both, numbers, partials, room - 1, 2) == FS_ERR_SCRATCH;
  ok &= fs_step(&job, 1, both, (double *)((char *)numbers + 4), partials, room, 2) == FS_ERR_ALIGN;
  ok &= fs_step(&job, 1, both, numbers, (double *)((char *)partials + 4), room, 2) == FS_ERR_ALIGN;
  ok &= fs_step((const fs_job *)((const char *)&job + 4), 1, both, numbers, partials, room, 2) == FS_ERR_ALIGN;
  wrong[1].dtype = FS_DTYPES;
  ok &= fs_step(wrong, 2, both, numbers, partials, room, 2) == FS_ERR_DTYPE;
  wrong[1] = job, wrong[1].hyper_rows = 0;
  ok &= fs_step(wrong, 2, both, numbers, partials, room, 2) == FS_ERR_HYPER;
  double one = 1;
  uint64_t row[4] = {1, 0, t.table[2][2], 0}; /* rules whose second buffer is not always there, or that have none */
  wrong[1] = (fs_job){(uint32_t)fs_rule_find("mul"), dtype, 1, 1, {row}, {&one}};
  ok &= fs_step(wrong, 2, both, numbers, partials, room, 2) == FS_ERR_RULE;
  wrong[1].rule = (uint32_t)fs_rule_find("clamp");
  ok &= fs_step(wrong, 2, both, numbers, partials, room, 2) == FS_ERR_RULE;
  check(with, ok && same(with, &t, t.before, dtype), "fs_step refuses", dtype);
  for (uint32_t i = 0; i < TENSORS; i++) {
    for (uint32_t b = 0; b < BUFFERS; b++) free(t.memory[i][b]), free(t.before[i][b]);
  }
  free(partials);
}

void test_steps(const lent *with, uint32_t dtype) {
  steps(with, dtype, 40001);
  steps(with, dtype, 500);
}
