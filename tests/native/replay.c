/**
 * Replays one set of inputs through everything the library computes, and prints a line with a hash of the inputs and one of
 * the outputs for each case: replay ISA. What it prints is the same on every processor. Inputs are made bit by bit, from
 * integers, so that nothing but the library is put to the test. Every NaN counts as one value. Only csrc/flatstep.h is
 * used: it is linked with a library that is to be shipped, or with the sources.
 */
#include "flatstep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_OF(a) (sizeof(a) / sizeof *(a))
static const char *const dtype_names[] = {"f32", "f64", "bf16", "f16"};
static const uint32_t sizes[] = {4, 8, 2, 2}, mantissas[] = {23, 52, 7, 10}, biases[] = {127, 1023, 127, 15};
static const uint32_t thread_counts[] = {1, 3};
static uint64_t state;
static int failed;

static uint32_t below(uint32_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((state >> 33) % n);
}
static void seed(uint32_t a, uint32_t b, uint32_t c) { state = ((uint64_t)a << 40 ^ (uint64_t)b << 20 ^ c) * 2654435761u + 1; }
static void *take(size_t bytes) {
  void *p = calloc(bytes + 8, 1);
  return p ? p : (abort(), p);
}
static uint64_t address(const void *p) { return (uint64_t)(uintptr_t)p; }

/* Numbers from 2^-least up, to 2^most; now and then a zero, a denormal, an infinity, a NaN, a huge one. */
enum { SIGNED = 1, SPECIAL = 2 };
static uint64_t number(uint32_t dtype, int kind, uint32_t least, uint32_t most) {
  const uint32_t m = mantissas[dtype], top = 2 * biases[dtype] + 1;
  const uint64_t fraction = ((uint64_t)below(1u << 31) << 31 | below(1u << 31)) & (((uint64_t)1 << m) - 1);
  const uint64_t sign = kind & SIGNED && below(2) ? (uint64_t)1 << (sizes[dtype] * 8 - 1) : 0;
  const uint32_t rare = kind & SPECIAL ? below(64) : 64;
  uint64_t exponent = biases[dtype] - least + below(least + most + 1);
  if (rare == 0) exponent = top;             /* a NaN, nearly always */
  if (rare == 1) return sign | (uint64_t)top << m;
  if (rare == 2) return sign;
  if (rare == 3) exponent = 0;
  if (rare == 4) exponent = top - 1 - below(2);
  return sign | exponent << m | fraction;
}
static void fill(uint32_t dtype, void *to, size_t n, int kind, uint32_t least, uint32_t most) {
  for (size_t i = 0; i < n; i++) {
    const uint64_t bits = number(dtype, kind, least, most); /* little-endian */
    memcpy((char *)to + i * sizes[dtype], &bits, sizes[dtype]);
  }
}
static void *filled(uint32_t dtype, size_t n, int kind, uint32_t least, uint32_t most) {
  void *p = take(n * sizes[dtype]);
  fill(dtype, p, n, kind, least, most);
  return p;
}
static uint64_t mix(uint64_t hash, uint32_t dtype, const void *from, size_t n) { /* FNV-1a over elements */
  const uint64_t infinity = (uint64_t)(2 * biases[dtype] + 1) << mantissas[dtype];
  const uint64_t magnitude = ((uint64_t)1 << (sizes[dtype] * 8 - 1)) - 1;
  for (size_t i = 0; i < n; i++) {
    uint64_t bits = 0;
    memcpy(&bits, (const char *)from + i * sizes[dtype], sizes[dtype]);
    if ((bits & magnitude) > infinity) bits = infinity + 1;
    hash = (hash ^ bits) * 1099511628211u, hash ^= hash >> 29;
  }
  return hash;
}
#define START 14695981039346656037u

/* Buffers that a call reads and writes, as they were before it. */
typedef struct memory { uint32_t dtype; size_t n; char *now, *before; } memory;
static memory buffers[4096];
static uint32_t buffer_count;
static void *keep(uint32_t dtype, size_t n, int kind, uint32_t least, uint32_t most) {
  char *p = filled(dtype, n, kind, least, most);
  if (buffer_count == LENGTH_OF(buffers)) abort();
  buffers[buffer_count++] = (memory){dtype, n, p, memcpy(take(n * sizes[dtype]), p, n * sizes[dtype])};
  return p;
}
static uint64_t hash_all(int before) {
  uint64_t hash = START;
  for (memory *b = buffers; b < buffers + buffer_count; b++) hash = mix(hash, b->dtype, before ? b->before : b->now, b->n);
  return hash;
}
static void drop(void) {
  for (memory *b = buffers; b < buffers + buffer_count; b++) free(b->now), free(b->before);
  buffer_count = 0;
}
/* Runs a call on one thread and on three, from the same inputs, and prints what became of them. */
typedef int32_t (*call)(void *context, uint32_t threads);
static void report(const char *title, uint32_t dtype, uint32_t variant, call run, void *context) {
  uint64_t first = 0;
  for (uint32_t k = 0; k < LENGTH_OF(thread_counts); k++) {
    for (memory *b = buffers; b < buffers + buffer_count; b++) memcpy(b->now, b->before, b->n * sizes[b->dtype]);
    const int32_t status = run(context, thread_counts[k]);
    const uint64_t hash = hash_all(0);
    if (k == 0) {
      first = hash;
      printf("%s %s %u: %d, %016llx -> %016llx\n", title, dtype_names[dtype], variant, status,
             (unsigned long long)hash_all(1), (unsigned long long)hash);
    }
    if (status != FS_OK || hash != first) failed = 1, printf("FAILED: status %d, %u threads\n", status, thread_counts[k]);
  }
  drop();
}

/* 1. Every rule of csrc/rules/ in every dtype with every combination of flags. */
typedef struct jobs { fs_job job; uint64_t *table; double *hypers; } jobs;
static int32_t run_jobs(void *context, uint32_t threads) { return fs_run(&((jobs *)context)->job, 1, threads); }
static uint32_t items(const char *text, uint32_t section) { /* of "name|,a,b|,c|,d": a comma each */
  uint32_t count = 0;
  for (; section > 0; section--) text = strchr(text, '|') + 1;
  for (; *text != '|' && *text != 0; text++) count += *text == ',';
  return count;
}
static void make(jobs *j, uint32_t rule, uint32_t dtype, uint32_t flags, uint32_t rows) {
  char text[1024];
  if (fs_rule_describe(rule, text, sizeof text) < 0) abort();
  const uint32_t count = items(text, 1), hypers = items(text, 2), words = 2 + count;
  j->table = take(rows * words * 8), j->hypers = filled(FS_F64, 3 * hypers, 0, 9, 0);
  for (uint32_t r = 0; r < rows; r++) {
    uint64_t *row = j->table + r * words;
    row[0] = r == 40 ? 4099 : r;
    row[1] = (uint64_t)flags << 32 | r % 3;
    for (uint32_t b = 0; b < count; b++) { /* state is rarely negative: roots are taken of it */
      row[2 + b] = address(keep(dtype, row[0], SPECIAL | (b < 2 || below(8) == 0), b < 2 ? 6 : 10, 2));
    }
  }
  j->job = (fs_job){rule, dtype, rows, 3, {j->table}, {j->hypers}};
}
static void rules(void) {
  char text[1024];
  for (uint32_t rule = 0; fs_rule_describe(rule, text, sizeof text) >= 0; rule++) {
    for (uint32_t variant = 0; variant < (uint32_t)FS_DTYPES << items(text, 3); variant++) {
      const uint32_t dtype = variant % FS_DTYPES, flags = variant / FS_DTYPES;
      jobs j;
      seed(rule, dtype, flags);
      make(&j, rule, dtype, flags, 70);
      *strchr(text, '|') = 0;
      report(text, dtype, flags, run_jobs, &j);
      text[strlen(text)] = '|';
      free(j.table), free(j.hypers);
    }
  }
}

/* 2. A step with unscaling and clipping. */
typedef struct step { jobs jobs; double *numbers, partials[64]; } step;
static int32_t run_step(void *context, uint32_t threads) {
  step *s = context;
  return fs_step(&s->jobs.job, 1, FS_STEP_MEASURE | FS_STEP_UPDATE, s->numbers, s->partials, 64, threads);
}
static void steps(uint32_t dtype) {
  step s;
  seed(1, dtype, 2);
  const uint32_t adam = (uint32_t)fs_rule_find("adam");
  s.jobs.table = take(6 * 8 * 8), s.jobs.hypers = filled(FS_F64, 40, 0, 9, 0);
  uint64_t *row = s.jobs.table;
  for (uint32_t r = 0; r < 6; r++, row += 7) {
    row[0] = r == 3 ? 9001 : r * r * 7;
    for (uint32_t b = 0; b < 5; b++) row[2 + b] = address(keep(dtype, row[0], b < 3, 6, 0));
  }
  s.jobs.job = (fs_job){adam, dtype, 6, 1, {s.jobs.table}, {s.jobs.hypers}};
  s.numbers = keep(FS_F64, FS_STEP_WORDS, 0, 1, 0);
  const double start[FS_STEP_WORDS] = {0x1.5555555555555p-2, 0.75};
  memcpy(buffers[buffer_count - 1].before, start, sizeof start);
  report("fs_step", dtype, 0, run_step, &s);
  free(s.jobs.table), free(s.jobs.hypers);
}

/* 3. Reductions, and sums of rows. */
typedef struct reduction { uint32_t op, dtype; uint64_t table[30]; double *results, partials[64]; } reduction;
static int32_t run_reduction(void *context, uint32_t threads) {
  reduction *r = context;
  return fs_reduce(r->op, r->dtype, r->table, 10, r->partials, 64, r->results, threads);
}
static void reductions(uint32_t dtype) {
  static const uint32_t lengths[] = {0, 1, 15, 16, 17, 333, 4095, 4096, 4097, 30011};
  for (uint32_t variant = 0; variant < 2 * FS_REDUCE_OPS; variant++) {
    reduction r = {variant / 2, dtype, {0}, NULL, {0}};
    const uint32_t words = r.op == FS_DOT ? 3 : 2;
    seed(2, dtype, variant);
    for (uint32_t i = 0; i < 10; i++) {
      r.table[i * words] = lengths[i];
      for (uint32_t k = 1; k < words; k++) {
        r.table[i * words + k] = address(keep(dtype, lengths[i], variant % 2 ? SIGNED | SPECIAL : SIGNED, 8, 3));
      }
    }
    r.results = keep(FS_F64, 10, 0, 1, 0);
    report("fs_reduce", dtype, variant, run_reduction, &r);
  }
}
typedef struct rows { uint32_t dtype; void *out, *values; } rows;
static int32_t run_rows(void *context, uint32_t threads) {
  static const uint32_t sources[] = {8, 0, 0, 3, 5, 8, 1}, starts[] = {0, 1, 1, 4, 7};
  const rows *r = context;
  (void)threads;
  return fs_sum_rows(r->dtype, r->out, 4, 77, r->values, 9, sources, starts);
}
static void row_sums(uint32_t dtype) {
  seed(3, dtype, 0);
  rows r = {dtype, keep(dtype, 4 * 77, 0, 1, 0), keep(dtype, 9 * 77, SIGNED | SPECIAL, 6, 3)};
  report("fs_sum_rows", dtype, 0, run_rows, &r);
}

/* 4. Rules that look at a whole tensor, and products of matrices. */
typedef struct tensors { uint32_t rule, dtype, count; uint64_t table[8 * 7]; double hypers[8 * 16]; } tensors;
static int32_t run_tensors(void *context, uint32_t threads) {
  const tensors *t = context;
  double length = 0;
  int32_t status = fs_tensor_scratch(t->rule, t->dtype, t->table, t->count, threads, &length);
  if (status != FS_OK) return status;
  double *scratch = take((size_t)length * 8);
  status = fs_run_tensors(t->rule, t->dtype, t->table, t->count, t->hypers, scratch, (uint32_t)length, threads);
  free(scratch);
  return status;
}
static void whole_tensors(uint32_t dtype) {
  static const double adafactor[] = {-1, 0.7, 1e-6, 1e6, 1e-3, 0.02, 1, 0.99};
  static const double muon[] = {1, 0.9, 1 - 0.9, 1, 3.4445, -4.775, 2.0315, 3, 1e-7, 0.99, 0.02};
  static const uint32_t shapes[][3] = {{1, 1, 1}, {1, 130, 70}, {1, 1, 2100}, {1, 200, 3}, {1, 33, 90}, {3, 20, 17}, {0, 1, 9000}};
  for (uint32_t variant = 0; variant < 2 * FS_TENSOR_RULES; variant++) {
    tensors t = {variant / 2, dtype, 0, {0}, {0}};
    const int kind = variant % 2 ? SPECIAL : 0, is_muon = t.rule == FS_MUON;
    seed(4, dtype, variant);
    for (uint32_t i = 0; i < (is_muon ? 5 : LENGTH_OF(shapes)); i++) {
      const uint32_t *s = shapes[i], n = (s[0] ? s[0] : 1) * s[1] * s[2], vector = s[0] == 0;
      uint64_t *row = t.table + 7 * t.count;
      row[0] = s[0], row[1] = s[1], row[2] = s[2];
      row[3] = address(keep(dtype, n, SIGNED | kind, 6, 0)), row[4] = address(keep(dtype, n, SIGNED | kind, 6, 0));
      row[5] = address(keep(dtype, is_muon || vector ? n : s[0] * s[1], is_muon, 6, 0));
      row[6] = address(keep(dtype, is_muon || vector ? 0 : s[0] * s[2], 0, 6, 0));
      memcpy(t.hypers + t.count * (is_muon ? 11 : 8), is_muon ? muon : adafactor, is_muon ? sizeof muon : sizeof adafactor);
      t.count++;
    }
    report(is_muon ? "muon" : "adafactor", dtype, variant % 2, run_tensors, &t);
  }
}
typedef struct product { uint32_t dtype; union { uint64_t w[10]; double d[10]; } u; } product;
static int32_t run_product(void *context, uint32_t threads) {
  const product *p = context;
  const uint32_t length = fs_matmul_scratch(p->dtype, threads);
  double *scratch = take((size_t)length * 8);
  const int32_t status = fs_matmul(p->dtype, p->u.w, scratch, length, threads);
  free(scratch);
  return status;
}
static void products(uint32_t dtype) {
  static const uint32_t shapes[][3] = {{1, 1, 1}, {5, 33, 7}, {33, 5, 70}, {40, 40, 40}, {97, 99, 20}, {30, 35, 257}};
  for (uint32_t k = 0; k < LENGTH_OF(shapes) * 5; k++) {
    const uint32_t kind = k % 5, symmetric = kind == 4, *s = shapes[k / 5], n = symmetric ? s[0] : s[1];
    product p = {dtype, {{s[0], n, s[2], symmetric ? FS_SYMMETRIC | FS_B_TRANSPOSED : kind}}};
    seed(5, dtype, k);
    p.u.w[4] = address(keep(dtype, s[0] * s[2], SIGNED, 6, 0));
    p.u.w[5] = symmetric ? p.u.w[4] : address(keep(dtype, n * s[2], SIGNED, 6, 0));
    p.u.w[6] = symmetric || kind == 3 ? 0 : address(keep(dtype, s[0] * n, SIGNED, 6, 0));
    p.u.w[7] = address(keep(dtype, s[0] * n, 0, 1, 0));
    p.u.d[8] = 2.5, p.u.d[9] = -0.75;
    report("fs_matmul", dtype, k, run_product, &p);
  }
}

/* 5. Passes over vectors, and packed matrices. */
typedef struct pass { uint32_t dtype; union { uint64_t w[8]; double d[8]; } u; double *results, partials[64]; } pass;
static int32_t run_pass(void *context, uint32_t threads) {
  pass *p = context;
  return fs_combine(p->dtype, p->u.w, p->partials, 64, p->results, threads);
}
static void passes(uint32_t dtype) {
  static const uint32_t lengths[] = {0, 1, 17, 4095, 4097, 12293};
  for (uint32_t k = 0; k < 16 * LENGTH_OF(lengths); k++) {
    const uint32_t n = lengths[k / 16], kind = SIGNED | (k & 1 ? SPECIAL : 0);
    pass p = {dtype, {{n}}, NULL, {0}};
    seed(6, dtype, k);
    p.u.w[1] = address(keep(dtype, n, (int)kind, 6, 2));
    p.u.w[2] = k & 1 ? address(keep(dtype, n, (int)kind, 6, 2)) : 0;
    p.u.w[3] = k & 2 ? address(keep(dtype, n, (int)kind, 6, 2)) : 0;
    p.u.w[4] = address(keep(dtype, n, 0, 1, 0)), p.u.w[5] = k >> 2 & 3;
    p.u.d[6] = -1.7, p.u.d[7] = 0.3;
    p.results = keep(FS_F64, 2, 0, 1, 0);
    report("fs_combine", dtype, k, run_pass, &p);
  }
}
typedef struct packed { uint32_t dtype, n; void *matrix, *u, *v, *out; } packed;
static int32_t run_packed(void *context, uint32_t threads) {
  const packed *p = context;
  const uint32_t room = fs_packed_scratch(p->n) + 2 * p->n;
  double *scratch = take((size_t)room * 8);
  int32_t status = fs_packed_product(p->dtype, p->n, p->matrix, p->v, p->out, scratch, room, threads);
  if (status == FS_OK) status = fs_packed_update(p->dtype, p->n, p->matrix, p->u, p->v, scratch, room, threads);
  free(scratch);
  return status;
}
static void packed_matrices(uint32_t dtype) {
  static const uint32_t counts[] = {1, 2, 17, 64, 130, 333};
  for (uint32_t k = 0; k < LENGTH_OF(counts); k++) {
    const uint32_t n = counts[k];
    seed(7, dtype, k);
    packed p = {dtype, n, keep(dtype, n * (n + 1) / 2, SIGNED, 6, 2), keep(dtype, n, SIGNED, 6, 2),
                keep(dtype, n, SIGNED, 6, 2), keep(dtype, n, 0, 1, 0)};
    report("fs_packed", dtype, n, run_packed, &p);
  }
}

int main(int count, char **arguments) {
  if (count != 2) return 2;
  const uint32_t isa = (uint32_t)atoi(arguments[1]), got = fs_set_isa(isa);
  if ((got & 255u) != isa) return fprintf(stderr, "this processor does not have instruction set %u\n", isa), 3;
  fs_set_grain(64); /* as many threads as are asked for, for anything */
  rules();
  for (uint32_t dtype = 0; dtype < FS_DTYPES; dtype++) {
    steps(dtype), reductions(dtype), row_sums(dtype), whole_tensors(dtype);
    if (dtype <= FS_F64) products(dtype), passes(dtype), packed_matrices(dtype);
  }
  return failed;
}
