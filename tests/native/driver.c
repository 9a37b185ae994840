/**
 * Tests of the native core from C, for builds with sanitizers: driver ROUNDS [SEED]. 0 rounds: only the pool's start.
 *
 * A `world` is a list of jobs whose buffers lie in one block of memory, each between guard bytes and at an odd offset. It
 * is run once on the baseline instruction set and one thread, then in every other way: the whole block must be the same.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define __asan_poison_memory_region(at, bytes) (void)0
#define __asan_unpoison_memory_region(at, bytes) (void)0
#endif
#define MAX_JOBS 5u
#define LENGTH_OF(a) (sizeof(a) / sizeof *(a))
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOW = 1 };
#else
enum { SLOW = 0 };
#endif

static const uint32_t thread_counts[] = {1, 2, 3, 8};
static const char *const dtype_names[] = {"f32", "f64", "bf16", "f16"};
static uint32_t isas; /* instruction sets that this processor has: [0, isas) */
static unsigned passed, failed;

#define check(ok, ...) ((ok) ? (void)passed++ : (void)(failed++, printf("FAILED: " __VA_ARGS__), printf("\n")))

static _Thread_local uint64_t state;
static uint64_t random_word(void) { /* splitmix64 */
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}
static uint32_t below(uint32_t n) { return (uint32_t)(random_word() % n); }
static double uniform(void) { return (double)(random_word() >> 11) * 0x1p-52 - 1; }

static void *take(size_t bytes) {
  void *memory = malloc(bytes + (bytes == 0));
  return memory ? memory : (abort(), memory);
}
static uint64_t address(const void *p) { return (uint64_t)(uintptr_t)p; }

/* Elements, slowly and by arithmetic: mantissa bits, the exponents of the least and the largest normal number. */
static const struct format { int m, least, most; } formats[FS_DTYPES] = {
    {23, -126, 127}, {52, -1022, 1023}, {7, -126, 127}, {10, -14, 15}};

static uint16_t narrow(double x, struct format f) {
  const uint32_t sign = signbit(x) ? 0x8000u : 0, infinite = (uint32_t)(f.most - f.least + 2) << f.m;
  const double a = fabs(x);
  if (!isfinite(x)) return (uint16_t)(sign | infinite | isnan(x));
  int e = a > 0 ? ilogb(a) : f.least;
  if (e < f.least) e = f.least;
  if (e > f.most) return (uint16_t)(sign | infinite);
  const double q = ldexp(a, f.m - e), down = floor(q), rest = q - down; /* all exact */
  const uint32_t r = (uint32_t)down + (rest > 0.5 || (rest == 0.5 && fmod(down, 2) == 1));
  return (uint16_t)(sign | (((uint32_t)(e - f.least) << f.m) + r)); /* r has the leading one, or carries */
}

static double widen(uint16_t h, struct format f) {
  const uint32_t one = 1u << f.m, mantissa = h & (one - 1), exponent = (h & 0x7fffu) >> f.m;
  double a = mantissa ? NAN : INFINITY;
  if (exponent == 0) a = ldexp(mantissa, f.least - f.m);
  else if (exponent < (uint32_t)(f.most - f.least + 2)) a = ldexp(mantissa + one, f.least - f.m + (int)exponent - 1);
  return h & 0x8000u ? -a : a;
}

static double element(uint32_t dtype, const void *p) {
  union { double d; float f; uint16_t h; } u;
  memcpy(&u, p, fs_element_size[dtype]);
  return dtype == FS_F64 ? u.d : dtype == FS_F32 ? (double)u.f : widen(u.h, formats[dtype]);
}

static void set_element(uint32_t dtype, void *p, double v) {
  union { double d; float f; uint16_t h; } u;
  if (dtype == FS_F64) u.d = v;
  else if (dtype == FS_F32) u.f = (float)v;
  else u.h = narrow(v, formats[dtype]);
  memcpy(p, &u, fs_element_size[dtype]);
}

static double random_value(uint32_t dtype) {
  static const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1, -1, 65504, 1e30, 1e-30};
  const uint32_t kind = below(32);
  if (kind == 0) return special[below(LENGTH_OF(special))];
  if (kind == 1) return ldexp(uniform(), formats[dtype].least - (int)below((uint32_t)formats[dtype].m)); /* denormal */
  return kind < 6 ? ldexp(uniform(), (int)below(30) - 15) : uniform();
}

/* All NaNs are equal. */
static int same(uint32_t dtype, const void *a, const void *b, size_t bytes) {
  if (memcmp(a, b, bytes) == 0) return 1;
  const uint32_t size = fs_element_size[dtype];
  for (const char *p = a, *q = b, *end = p + bytes; p < end; p += size, q += size) {
    if (memcmp(p, q, size) != 0 && !(isnan(element(dtype, p)) && isnan(element(dtype, q)))) return 0;
  }
  return 1;
}

typedef struct span { size_t at, bytes; uint64_t *row; uint32_t index, dtype; int readonly; } span;
typedef struct world {
  fs_job jobs[MAX_JOBS];
  span spans[4096];
  size_t span_count, bytes;
  unsigned char *memory, *before, *expected;
  uint32_t count;
} world;

static uint64_t *row_of(const fs_job *job, uint32_t row) {
  return (uint64_t *)(uintptr_t)job->table + row * (2 + fs_rules[job->rule].buffers);
}

static void add_job(world *w, uint32_t rule, uint32_t dtype, uint32_t rows, uint32_t hyper_rows) {
  static const double usual[] = {1, -1, 0, 0.5, 0.9, 0.999, 0.1, 0.001, 0.01, 1e-8, 1e-3, -0.3};
  const uint32_t hypers = hyper_rows * fs_rules[rule].hypers, buffers = fs_rules[rule].buffers;
  double *h = take(hypers * 8);
  for (uint32_t i = 0; i < hypers; i++) h[i] = below(4) ? usual[below(LENGTH_OF(usual))] : random_value(FS_F64);
  w->jobs[w->count++] = (fs_job){rule, dtype, rows, hyper_rows, take(rows * (2 + buffers) * 8), h};
}

/* A row of the last job. One of no elements gets garbage throughout; an unused buffer is null or is real memory. */
static void set_row(world *w, uint32_t number, uint64_t n, uint32_t flags) {
  const fs_job *job = &w->jobs[w->count - 1];
  const fs_rule *rule = &fs_rules[job->rule];
  const uint32_t size = fs_element_size[job->dtype];
  uint64_t *row = row_of(job, number);
  const char *access = rule->description; /* "name|param:rw,grad:r|…" */
  row[0] = n;
  row[1] = n == 0 ? random_word() : (uint64_t)flags << 32 | below(job->hyper_rows);
  for (uint32_t b = 0; b < rule->buffers; b++) {
    const int used = rule->needs[b] == 0 || (rule->needs[b] & flags) != 0;
    access = strchr(access, ':') + 1;
    row[2 + b] = n == 0 ? random_word() : 0;
    if (n == 0 || (!used && below(2))) continue;
    const size_t at = (w->bytes + 127) / 64 * 64 + below(4) * size;
    w->spans[w->span_count++] = (span){at, n * size, row, 2 + b, job->dtype, !used || access[*access == 'r'] != 'w'};
    w->bytes = at + n * size;
  }
}

static void finish(world *w) {
  w->bytes = (w->bytes + 127) / 64 * 64;
  w->memory = (unsigned char *)aligned_alloc(64, w->bytes);
  w->before = take(w->bytes);
  w->expected = take(w->bytes);
  memset(w->before, 0xa5, w->bytes);
  for (span *s = w->spans; s < w->spans + w->span_count; s++) {
    const size_t size = fs_element_size[s->dtype], own = s->bytes < 4099 * size ? s->bytes : 4099 * size;
    unsigned char *to = w->before + s->at;
    for (size_t i = 0; i < own; i += size) set_element(s->dtype, to + i, random_value(s->dtype));
    for (size_t i = own; i < s->bytes; i += own) memcpy(to + i, to, s->bytes - i < own ? s->bytes - i : own);
    fs_bind(s->row, s->index, w->memory + s->at);
  }
}

static void destroy(world *w) {
  for (fs_job *j = w->jobs; j < w->jobs + w->count; j++) free(row_of(j, 0)), free((void *)(uintptr_t)j->hypers);
  free(w->memory), free(w->before), free(w->expected);
}

/* Runs fresh memory. The address sanitizer also sees who only reads a guard. */
static int32_t run(world *w, const fs_job *jobs, uint32_t isa, uint32_t threads) {
  fs_set_isa(isa);
  memcpy(w->memory, w->before, w->bytes);
  __asan_poison_memory_region(w->memory, w->bytes);
  for (span *s = w->spans; s < w->spans + w->span_count; s++) __asan_unpoison_memory_region(w->memory + s->at, s->bytes);
  const int32_t status = fs_run(jobs, w->count, threads);
  __asan_unpoison_memory_region(w->memory, w->bytes);
  return status;
}

static int unchanged(const world *w) { return memcmp(w->memory, w->before, w->bytes) == 0; }

/* Whether guards, and what may only be read, are as before, and everything else is as expected. */
static int matches(const world *w) {
  size_t at = 0;
  int ok = 1;
  for (const span *s = w->spans; s < w->spans + w->span_count; at = s->at + s->bytes, s++) {
    const size_t kept = (s->readonly ? s->at + s->bytes : s->at) - at;
    ok &= memcmp(w->memory + at, w->before + at, kept) == 0;
    ok &= s->readonly || same(s->dtype, w->memory + s->at, w->expected + s->at, s->bytes);
  }
  return ok && memcmp(w->memory + at, w->before + at, w->bytes - at) == 0;
}
static int repeats(world *w, uint32_t isa, uint32_t threads) {
  return run(w, w->jobs, isa, threads) == FS_OK && matches(w);
}
static int baseline(world *w) { /* one thread: starts no pool */
  const int32_t status = run(w, w->jobs, 0, 1);
  memcpy(w->expected, w->memory, w->bytes);
  return status == FS_OK && matches(w);
}

/* 1. Hostile tables. Puts each of some values in a place for as long as `attempt` is made, which must hold. */
#define EACH(place, attempt, ...)                                      \
  do {                                                                 \
    __typeof__(place) saved = place, values[] = {__VA_ARGS__};         \
    for (size_t k = 0; k < LENGTH_OF(values); k++) {                   \
      place = values[k];                                               \
      const int ok = attempt;                                          \
      place = saved;                                                   \
      check(ok, "%s: %s = (%s)[%zu]", title, #place, #__VA_ARGS__, k); \
    }                                                                  \
  } while (0)
#define WITH(place, status, ...) EACH(place, gives(&w, w.jobs, status), __VA_ARGS__)
#define SHIFTED(p, by) (__typeof__(p))((uintptr_t)(p) + by)

static int gives(world *w, const fs_job *jobs, int32_t status) {
  return run(w, jobs, 0, 0) == status && run(w, jobs, isas - 1, 8) == status && (status == FS_OK || unchanged(w));
}

static void hostile(uint32_t number, uint32_t dtype) {
  world w = {0};
  char title[64];
  const fs_rule *rule = &fs_rules[number];
  const uint32_t size = fs_element_size[dtype];
  const uint64_t most = (uint64_t)INT64_MAX / size, high = (uint64_t)1 << 63;
  snprintf(title, sizeof title, "hostile %s %s", rule->name, dtype_names[dtype]);
  add_job(&w, (uint32_t)fs_rule_find("sgd"), FS_F32, 2, 1), set_row(&w, 0, 5, 0), set_row(&w, 1, 70000, 2);
  add_job(&w, (uint32_t)fs_rule_find("adam"), FS_F64, 1, 1), set_row(&w, 0, 300, 0);
  add_job(&w, number, dtype, 3, 2), set_row(&w, 0, 0, 0), set_row(&w, 1, 33, (1u << rule->flags) - 1), set_row(&w, 2, 7, 0);
  finish(&w);
  fs_job *job = &w.jobs[2], *shifted = take(sizeof w.jobs + 8);
  uint64_t *first = row_of(w.jobs, 0), *row = row_of(job, 1), *plain = row_of(job, 2);
  check(baseline(&w) && !unchanged(&w), "%s: valid, with a row of no elements and of garbage", title);
  memcpy((char *)shifted + 4, w.jobs, sizeof w.jobs);
  check(gives(&w, NULL, FS_ERR_NULL) && gives(&w, SHIFTED(shifted, 4), FS_ERR_ALIGN), "%s: jobs", title);
  free(shifted);
  WITH(job->rule, FS_ERR_RULE, fs_rule_count, UINT32_MAX);
  WITH(job->dtype, FS_ERR_DTYPE, FS_DTYPES, UINT32_MAX);
  WITH(job->table, FS_ERR_NULL, NULL);
  WITH(job->hypers, FS_ERR_NULL, NULL);
  WITH(job->table, FS_ERR_ALIGN, SHIFTED(job->table, 4), SHIFTED(job->table, 1));
  WITH(job->hypers, FS_ERR_ALIGN, SHIFTED(job->hypers, 4), SHIFTED(job->hypers, 1));
  WITH(job->hyper_rows, FS_ERR_HYPER, 0);
  WITH(row[1], FS_ERR_HYPER, row[1] | 2, row[1] | UINT32_MAX);
  WITH(row[1], FS_ERR_FLAGS, row[1] | (uint64_t)1 << (32 + rule->flags), row[1] | high);
  WITH(row[0], FS_ERR_LENGTH, high >> 1, high, UINT64_MAX, most + 1, most); /* one buffer may have the last, not all */
  WITH(plain[0], FS_ERR_LENGTH, most - 8, UINT64_MAX - 32);                 /* too much, or 0, with the row before */
  *first = (uint64_t)INT64_MAX / 12 - 70000 - 4096; /* not refused by itself: nothing may be begun */
  WITH(row[0], FS_ERR_LENGTH, (uint64_t)INT64_MAX / (size * rule->buffers) - 64, 100000);
  WITH(row[1], FS_ERR_FLAGS, high);
  *first = 5;
  for (uint32_t b = 0; b < rule->buffers; b++) {
    WITH(row[2 + b], FS_ERR_NULL, 0);
    WITH(plain[2 + b], rule->needs[b] == 0 ? FS_ERR_NULL : FS_OK, 0);
    WITH(row[2 + b], FS_ERR_ALIGN, row[2 + b] + 1, row[2 + b] + size / 2);
  }
  job->rows = 0;
  WITH(job->rule, FS_ERR_RULE, fs_rule_count);
  WITH(job->table, FS_OK, NULL);
  WITH(job->hypers, FS_OK, NULL);
  destroy(&w);
}

static void hostile_reduce(uint32_t op, uint32_t dtype) {
  const uint32_t size = fs_element_size[dtype], words = op == FS_DOT ? 3 : 2;
  const uint64_t most = (uint64_t)INT64_MAX / size;
  double data[4100] = {0}, partials[3] = {7, 7, 7}, results[3] = {7, 7, 7}, *p = partials, *r = results;
  uint64_t *table = take(words * 3 * 8), *t = table, *last = table + 2 * words;
  char title[64];
  snprintf(title, sizeof title, "hostile reduction %u %s", op, dtype_names[dtype]);
  for (uint32_t i = 0; i < words * 3; i++) table[i] = address(data);
  table[0] = 4097, table[words] = 0, table[words + 1] = 1, last[0] = 16;
  uint32_t o = op, d = dtype, room = 3;
#define UNTOUCHED(a) (a[0] == 7 && a[1] == 7 && a[2] == 7)
#define REFUSED(status) (fs_reduce(o, d, t, 3, p, room, r, 8) == status && UNTOUCHED(partials) && UNTOUCHED(results))
  EACH(o, REFUSED(FS_ERR_OP), FS_REDUCE_OPS, UINT32_MAX);
  EACH(d, REFUSED(FS_ERR_DTYPE), FS_DTYPES, UINT32_MAX);
  EACH(t, REFUSED(FS_ERR_NULL), NULL); EACH(p, REFUSED(FS_ERR_NULL), NULL); EACH(r, REFUSED(FS_ERR_NULL), NULL);
  EACH(t, REFUSED(FS_ERR_ALIGN), SHIFTED(t, 4), SHIFTED(t, 1));
  EACH(p, REFUSED(FS_ERR_ALIGN), SHIFTED(p, 4), SHIFTED(p, 1));
  EACH(r, REFUSED(FS_ERR_ALIGN), SHIFTED(r, 4), SHIFTED(r, 1));
  EACH(room, REFUSED(FS_ERR_SCRATCH), 2, 0);
  EACH(last[0], REFUSED(FS_ERR_SCRATCH), 4097, most);
  EACH(last[0], REFUSED(FS_ERR_LENGTH), most + 1, (uint64_t)1 << 63, UINT64_MAX);
  for (uint32_t b = 1; b < words; b++) {
    EACH(last[b], REFUSED(FS_ERR_NULL), 0);
    EACH(last[b], REFUSED(FS_ERR_ALIGN), last[b] + 1, last[b] + size / 2);
  }
  check(fs_reduce(op, dtype, NULL, 0, NULL, 0, NULL, 8) == FS_OK, "%s: no rows", title);
  check(fs_reduce(op, dtype, table + words, 1, NULL, 0, r, 1) == FS_OK && *r == 0, "%s: no elements, no scratch", title);
  check(fs_reduce(op, dtype, table, 3, p, 3, r, 8) == FS_OK && r[0] == 0 && r[2] == 0, "%s: valid", title);
  free(table);
}

static void names(void) {
  const char *const unknown[] = {NULL, "", "ada", "adam ", "ADAM", "adam|", "sgd,"};
  char text[1024], wanted[1024];
  check(fs_run(NULL, 0, 8) == FS_OK && fs_abi_version() == FS_ABI_VERSION && fs_cpu_count() >= 1, "no jobs; version");
  for (size_t i = 0; i < LENGTH_OF(unknown); i++) check(fs_rule_find(unknown[i]) == -1, "unknown rule %zu", i);
  check(fs_rule_describe(fs_rule_count, text, 9) == -1 && fs_rule_describe(UINT32_MAX, text, 9) == -1, "no such rule");
  for (uint32_t r = 0; r < fs_rule_count; r++) {
    const char *all = fs_rules[r].description;
    const uint32_t length = (uint32_t)strlen(all), rooms[] = {0, 1, 2, 7, length, length + 1, length + 2, 1024};
    check(fs_rule_find(fs_rules[r].name) == (int32_t)r && fs_rule_describe(r, NULL, 100) == -1, "rule %u's name", r);
    for (size_t i = 0; i < LENGTH_OF(rooms); i++) {
      const uint32_t copied = rooms[i] > length ? length : rooms[i] - (rooms[i] > 0);
      memset(text, 'x', sizeof text), memset(wanted, 'x', sizeof wanted);
      if (rooms[i] > 0) memcpy(wanted, all, copied), wanted[copied] = 0;
      const int ok = fs_rule_describe(r, text, rooms[i]) == (rooms[i] > 0 ? (int32_t)length : -1);
      check(ok && memcmp(text, wanted, sizeof text) == 0, "%s described in %u bytes", all, rooms[i]);
    }
  }
}

/* 2. Every rule, dtype, combination of flags, instruction set and number of threads; other floating-point modes. */
static void matrix(uint32_t rule, uint32_t dtype, uint32_t flags) {
  world w = {0};
  const int many = !SLOW || flags == 0 || flags + 1 == 1u << fs_rules[rule].flags;
  add_job(&w, rule, dtype, 131, 3);
  for (uint32_t i = 0; i < 131; i++) set_row(&w, i, i < 65 ? i : i > 65 ? i - 1 : many ? 300001 : 30001, flags);
  finish(&w);
  int ok = baseline(&w) && !unchanged(&w);
  for (uint32_t k = 0; k < isas * LENGTH_OF(thread_counts); k++) ok &= repeats(&w, k % isas, thread_counts[k / isas]);
  check(ok, "%s %s, flags %u: the same everywhere", fs_rules[rule].name, dtype_names[dtype], flags);
#if defined(__x86_64__)
  const uint32_t usual = __builtin_ia32_stmxcsr(), modes[] = {0x9fc0u, 0x3f80u, 0x5f80u, 0x7f80u}; /* flushing; roundings */
  ok = 1;
  for (uint32_t m = 0; m < LENGTH_OF(modes); m++) {
    __builtin_ia32_ldmxcsr(modes[m]);
    const int32_t status = run(&w, w.jobs, isas - 1, m % 2 ? 1 : 3);
    const uint32_t after = __builtin_ia32_stmxcsr() & ~0x3fu;
    __builtin_ia32_ldmxcsr(usual);
    ok &= status == FS_OK && after == modes[m] && matches(&w);
  }
  check(ok, "%s %s, flags %u: in any floating-point mode", fs_rules[rule].name, dtype_names[dtype], flags);
#endif
  destroy(&w);
}

/* 3. Reductions in the documented order: 16 lanes, added as a tree, then the chunks' results in the same way. */
#define COMBINE(a, b) (!largest ? (a) + (b) : isnan(a) || isnan(b) ? NAN : (a) > (b) ? (a) : (b))
static double in_order(double *v, size_t n, int largest) {
  const size_t chunks = (n + 4095) / 4096;
  for (size_t c = 0; c < chunks; c++) {
    double lane[16] = {0};
    for (size_t i = c * 4096; i < n && i < (c + 1) * 4096; i++) lane[i % 16] = COMBINE(lane[i % 16], v[i]);
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t j = 0; j < half; j++) lane[j] = COMBINE(lane[j], lane[j + half]);
    }
    v[c] = lane[0];
  }
  return n == 0 ? 0 : chunks == 1 ? v[0] : in_order(v, chunks, largest);
}

static void reductions(uint32_t dtype, const uint32_t *lengths, uint32_t rows, int special) {
  uint64_t *table = take(rows * 3 * 8), longest = 0, chunks = 0;
  for (uint32_t i = 0; i < rows; i++) chunks += (lengths[i] + 4095) / 4096, longest = fmax(longest, lengths[i]);
  const size_t size = fs_element_size[dtype], bytes = (longest + 8) * size;
  unsigned char *memory = take(bytes);
  double *v = take(longest * 8), *partials = take((chunks + 1) * 8);
  double *results = take((rows + 1) * 8), *wanted = take(rows * 8);
  for (size_t i = 0; i < bytes; i += size) {
    const double x = special ? random_value(dtype) : ldexp(uniform(), (int)below(12) - 6);
    set_element(dtype, memory + i, special == 1 && !isfinite(x) ? 0 : x);
  }
  for (uint32_t op = 0; op < FS_REDUCE_OPS; op++) {
    for (uint32_t i = 0; i < rows; i++) {
      const unsigned char *x = memory + below(8) * size, *y = memory + below(8) * size;
      uint64_t *row = table + i * (op == FS_DOT ? 3 : 2);
      row[0] = lengths[i], row[1] = lengths[i] ? address(x) : 1;
      if (op == FS_DOT) row[2] = address(y);
      for (size_t k = 0; k < lengths[i]; k++) {
        const double a = element(dtype, x + k * size), b = op == FS_DOT ? element(dtype, y + k * size) : a;
        v[k] = op == FS_SUM ? a : op == FS_SUM_SQ || op == FS_DOT ? a * b : fabs(a);
      }
      wanted[i] = in_order(v, lengths[i], op == FS_MAX_ABS);
    }
    int ok = 1;
    for (uint32_t k = 0; k < isas * LENGTH_OF(thread_counts); k++) {
      fs_set_isa(k % isas);
      partials[chunks] = results[rows] = 7;
      ok &= fs_reduce(op, dtype, table, rows, partials, (uint32_t)chunks, results, thread_counts[k / isas]) == FS_OK;
      ok &= same(FS_F64, results, wanted, rows * 8) && partials[chunks] == 7 && results[rows] == 7;
    }
    check(ok, "reduction %u, %s, %u rows, values %d", op, dtype_names[dtype], rows, special);
  }
  free(memory), free(table), free(v), free(partials), free(results), free(wanted);
}

/* 4. Conversions. Row r is sgd, start[r] - lr * 1 with lr = -add[r]: a sum in float32, rounded by the store. */
static int rounds_well(uint32_t dtype, const uint16_t *start, const float *add, uint32_t rows) {
  static uint16_t param[4096 * 37], ones[37];
  static uint64_t table[4096 * 5];
  static double hypers[4096 * 5];
  const fs_job job = {(uint32_t)fs_rule_find("sgd"), dtype, rows, rows, table, hypers};
  int ok = 1;
  for (uint32_t k = 0; k < rows * isas; k++) {
    const uint32_t r = k % rows;
    const uint16_t wanted = narrow((double)((float)widen(start[r], formats[dtype]) + add[r]), formats[dtype]);
    if (r == 0) { /* all rows, on the next instruction set */
      for (uint32_t i = 0; i < rows * 37; i++) param[i] = start[i / 37], ones[i % 37] = narrow(1, formats[dtype]);
      for (uint32_t i = 0; i < rows; i++) {
        memcpy(hypers + i * 5, (double[]){1, 0, 0, 1, -(double)add[i]}, 40);
        memcpy(table + i * 5, (uint64_t[]){1 + i % 37, i, address(param + i * 37), address(ones), 0}, 40);
      }
      fs_set_isa(k / rows);
      ok &= fs_run(&job, 1, 1) == FS_OK;
    }
    for (uint32_t i = 0; i <= r % 37; i++) ok &= same(dtype, param + r * 37 + i, &wanted, 2);
  }
  return ok;
}

static void conversions(uint32_t dtype) {
  static float add[3][4096];
  static uint16_t all[65536], zero[4096];
  const struct format f = formats[dtype];
  int loads = 1, stores = 1, sums = 1;
  for (uint32_t h = 0; h < 65536; h++) all[h] = (uint16_t)h;
  for (uint32_t h = 0; h < 65536; h += 4096) {
    for (uint32_t i = 0; i < 4096; i++) { /* the tie between this one and the next, and its neighbours */
      const double low = fabs(widen(all[h + i], f)), high = fabs(widen((uint16_t)(h + i + 1), f));
      const double tie = (low + (isfinite(high) ? high : ldexp(1, f.most + 1))) / 2;
      add[0][i] = (float)(h & 0x8000u ? -tie : tie);
      add[1][i] = nextafterf(add[0][i], -INFINITY), add[2][i] = nextafterf(add[0][i], INFINITY);
    }
    for (int k = 0; k < 3; k++) stores &= rounds_well(dtype, zero, add[k], 4096);
    for (uint32_t i = 0; i < 4096; i++) {
      const uint32_t bits = (uint32_t)random_word();
      memcpy(&add[0][i], &bits, 4);
      add[1][i] = (float)ldexp(uniform(), (int)below(44) - 26), add[2][i] = -0.0f;
    }
    loads &= rounds_well(dtype, all + h, add[2], 4096);
    sums &= rounds_well(dtype, zero, add[0], 4096) & rounds_well(dtype, all + h, add[1], 4096);
  }
  check(loads, "%s: every bit pattern survives a load and a store", dtype_names[dtype]);
  check(stores, "%s: rounds to nearest, ties to even, around every tie", dtype_names[dtype]);
  check(sums, "%s: rounds random floats", dtype_names[dtype]);
}

/* 5. Several callers at once; the first round starts the pool. */
typedef struct client { pthread_t thread; world w; uint64_t seed; uint32_t rounds; int ok; } client;
static pthread_barrier_t barrier;

static void count_part(void *counts, uint32_t part) { ((uint32_t *)counts)[part]++; }

static void *client_main(void *argument) {
  client *c = argument;
  const uint64_t row[] = {c->w.spans[0].bytes / 4, address(c->w.before + c->w.spans[0].at)};
  double partials[64], first = 0, result = 0;
  state = c->seed;
  pthread_barrier_wait(&barrier);
  for (uint32_t round = 0; round < c->rounds; round++) {
    c->ok &= repeats(&c->w, below(isas), round == 0 ? 8 : 1 + below(8));
    c->ok &= fs_reduce(FS_SUM_ABS, FS_F32, row, 1, partials, 64, &result, round == 0 ? 1 : 1 + below(8)) == FS_OK;
    if (round == 0) first = result;
    uint32_t counts[80] = {0}, parts = below(16) ? below(9) : below(80);
    fs_parallel(count_part, counts, parts);
    for (uint32_t i = 0; i < 80; i++) c->ok &= counts[i] == (i < parts);
    c->ok &= same(FS_F64, &first, &result, 8);
    if (below(3) == 0) usleep(below(500)); /* the workers fall asleep now and then */
  }
  return NULL;
}

static void concurrency(uint32_t rounds) {
  client clients[4] = {0};
  pthread_barrier_init(&barrier, NULL, 4);
  for (client *c = clients; c < clients + 4; c++) {
    add_job(&c->w, (uint32_t)fs_rule_find("sgd"), FS_F32, 2, 1), set_row(&c->w, 0, 140001, 2), set_row(&c->w, 1, 99, 0);
    add_job(&c->w, (uint32_t)fs_rule_find("adam"), FS_F64, 1, 1), set_row(&c->w, 0, 30001, 2);
    finish(&c->w);
    c->ok = baseline(&c->w), c->rounds = rounds, c->seed = random_word();
  }
  for (client *c = clients; c < clients + 4; c++) {
    if (pthread_create(&c->thread, NULL, client_main, c) != 0) abort();
  }
  for (client *c = clients; c < clients + 4; c++) {
    pthread_join(c->thread, NULL);
    check(c->ok, "caller %d of 4 at once, %u rounds", (int)(c - clients), rounds);
    destroy(&c->w);
  }
}

/* 6. Random jobs, and random words of them made wrong: what fs_run has to say of it. */
static int32_t spoil(fs_job *j, uint64_t *row) {
  const fs_rule *rule = &fs_rules[j->rule];
  const uint32_t what = below(row && row[0] ? 9 : row ? 5 : 2);
  if (what == 0) return j->rule = below(2) ? fs_rule_count : fs_rule_count + below(1u << 31), FS_ERR_RULE;
  if (what == 1) return j->dtype = below(2) ? FS_DTYPES : FS_DTYPES + below(1u << 31), FS_ERR_DTYPE;
  if (what == 2) return below(2) ? (j->hypers = NULL, FS_ERR_NULL) : (j->hypers = SHIFTED(j->hypers, 1 + below(7)), FS_ERR_ALIGN);
  if (what == 3) return below(2) ? (j->table = NULL, FS_ERR_NULL) : (j->table = SHIFTED(j->table, 1 + below(7)), FS_ERR_ALIGN);
  if (what == 4) return row[0] = (uint64_t)1 << (61 + below(3)) | random_word() >> below(64), FS_ERR_LENGTH;
  if (what == 5) return row[1] |= (uint64_t)1 << (32 + rule->flags + below(32 - rule->flags)), FS_ERR_FLAGS;
  if (what == 6) return row[1] = (row[1] >> 32 << 32) + j->hyper_rows + below(below(2) ? 1 : 1u << 31), FS_ERR_HYPER;
  if (what == 7) return row[2] = 0, FS_ERR_NULL;
  return row[2 + below(rule->buffers)] ^= 1, FS_ERR_ALIGN;
}

static void fuzz(uint32_t round) {
  world w = {0};
  for (uint32_t jobs = 1 + below(MAX_JOBS); w.count < jobs;) {
    const uint32_t rule = below(fs_rule_count), rows = below(40);
    add_job(&w, rule, below(FS_DTYPES), rows, 1 + below(4));
    for (uint32_t r = 0, kind = below(16); r < rows; r++, kind = below(16)) {
      set_row(&w, r, below(kind < 9 ? 70 : kind < 15 ? 3000 : 60000), below(1u << fs_rules[rule].flags));
    }
  }
  finish(&w);
  int ok = baseline(&w);
  for (int i = 0; i < 4; i++) ok &= repeats(&w, below(isas), below(10));
  check(ok, "fuzz, round %u: the same everywhere", round);
  ok = 1;
  for (int i = 0; i < 16; i++) {
    fs_job jobs[MAX_JOBS], *j = &jobs[below(w.count)];
    memcpy(jobs, w.jobs, sizeof jobs);
    uint64_t saved[2 + FS_MAX_BUFFERS] = {0}, *row = j->rows > 0 ? row_of(j, below(j->rows)) : NULL;
    const size_t bytes = row ? (2 + fs_rules[j->rule].buffers) * 8 : 0;
    if (row) memcpy(saved, row, bytes);
    const int32_t wanted = spoil(j, row);
    ok &= gives(&w, jobs, wanted);
    if (row) memcpy(row, saved, bytes);
  }
  check(ok, "fuzz, round %u: wrong words", round);
  destroy(&w);
}

int main(int argc, char **argv) {
  static const uint32_t many[] = {20000000}, lengths[] = {0, 1, 15, 16, 17, 0, 31, 33, 4095, 4096, 4097, 3 * 4096 + 5, 300001};
  const uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 10;
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  isas = (fs_set_isa(UINT32_MAX) & 255u) + 1;
  concurrency(rounds == 0 ? 2 : 10 * rounds);
  if (rounds > 0) {
    names();
    for (uint32_t k = 0; k < fs_rule_count * FS_DTYPES; k++) {
      hostile(k / FS_DTYPES, k % FS_DTYPES);
      for (uint32_t flags = 0; flags < 1u << fs_rules[k / FS_DTYPES].flags; flags++) matrix(k / FS_DTYPES, k % FS_DTYPES, flags);
    }
    for (uint32_t dtype = 0; dtype < FS_DTYPES; dtype++) {
      for (uint32_t op = 0; op < FS_REDUCE_OPS; op++) hostile_reduce(op, dtype);
      for (int special = 0; special < 3; special++) reductions(dtype, lengths, LENGTH_OF(lengths), special);
      if (!SLOW) reductions(dtype, many, 1, 0);
      if (dtype >= FS_BF16) conversions(dtype);
    }
    for (uint32_t round = 0; round < rounds; round++) fuzz(round);
  }
  printf("%u instruction sets: %u passed, %u failed\n", isas, passed, failed);
  return failed != 0;
}
