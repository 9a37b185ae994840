/**
 * Tests of the native core from C, for builds with sanitizers: driver ROUNDS [LENGTH [SEED [CALLS]]]. LENGTH: of the long
 * rows; below 100000 fewer checks without threads are made. 0 rounds: only the start of the thread pool, and random calls. A `world` is a list
 * of jobs whose buffers lie in one block, each between guard bytes and at an odd offset. It is run once on the baseline
 * instruction set and one thread, and then in other ways: the block must be the same.
 */
#define _GNU_SOURCE
#include "internal.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "rows.h"

#define MAX_JOBS 5u
#define LENGTH_OF(a) (sizeof(a) / sizeof *(a))
#define check(ok, ...) ((ok) ? (void)passed++ : (void)(failed++, printf("FAILED: " __VA_ARGS__), printf("\n")))

__attribute__((weak)) void __asan_poison_memory_region(const void *, size_t); /* null in other builds */
__attribute__((weak)) void __asan_unpoison_memory_region(const void *, size_t);

static const uint32_t thread_counts[] = {1, 2, 3, 8};
static const char *const dtype_names[] = {"f32", "f64", "bf16", "f16"};
static uint32_t isas, ways, passed, failed; /* instruction sets [0, isas) are there; with thread_counts: ways to run */
static char title[64]; /* of a group of checks */
static _Thread_local uint64_t state;

static uint64_t random_word(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state ^ state >> 31;
}
static uint32_t below(uint32_t n) { return (uint32_t)(random_word() % n); }
static double uniform(void) { return (double)(random_word() >> 11) * 0x1p-52 - 1; }
static uint64_t address(const void *p) { return (uint64_t)(uintptr_t)p; }
static void *take(size_t bytes) { return calloc(bytes + (bytes == 0), 1); }

/* Elements, slowly and by arithmetic: mantissa bits, the exponents of the least and the largest normal number. */
typedef struct format { int m, least, most; } format;
static const format formats[FS_DTYPES] = {{23, -126, 127}, {52, -1022, 1023}, {7, -126, 127}, {10, -14, 15}};
static uint16_t narrow(double x, format f) {
  const uint32_t sign = signbit(x) ? 0x8000u : 0, infinite = (uint32_t)(f.most - f.least + 2) << f.m;
  const double a = fabs(x);
  if (!isfinite(x)) return (uint16_t)(sign | infinite | isnan(x));
  const int power = a > 0 ? ilogb(a) : f.least, e = power < f.least ? f.least : power;
  if (e > f.most) return (uint16_t)(sign | infinite);
  const double q = ldexp(a, f.m - e), down = floor(q), rest = q - down; /* all exact */
  const uint32_t r = (uint32_t)down + (rest > 0.5 || (rest == 0.5 && fmod(down, 2) == 1));
  return (uint16_t)(sign | (((uint32_t)(e - f.least) << f.m) + r)); /* r has the leading one, or carries */
}
static double widen(uint16_t h, format f) {
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
  union { float f; uint16_t h; } u = {(float)v};
  if (dtype >= FS_BF16) u.h = narrow(v, formats[dtype]);
  memcpy(p, dtype == FS_F64 ? (void *)&v : &u, fs_element_size[dtype]);
}
static double random_value(uint32_t dtype) {
  static const double special[] = {NAN, INFINITY, -INFINITY, 0.0, -0.0, 1, -1, 65504, 1e30, 1e-30};
  const uint32_t kind = below(32);
  if (kind == 0) return special[below(LENGTH_OF(special))];
  if (kind == 1) return ldexp(uniform(), formats[dtype].least - (int)below((uint32_t)formats[dtype].m)); /* denormal */
  return kind < 6 ? ldexp(uniform(), (int)below(30) - 15) : uniform();
}
static int same(uint32_t dtype, const void *a, const void *b, size_t bytes) { /* all NaNs are */
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
  size_t count, span_count, bytes;
  unsigned char *memory, *before, *expected;
} world;
#define ROW_OF(job, r) ((uint64_t *)(uintptr_t)(job)->table + (r) * (2 + fs_rules[(job)->rule].buffers))

static void add_job(world *w, uint32_t rule, uint32_t dtype, uint32_t rows, uint32_t hyper_rows) {
  const uint32_t hypers = hyper_rows * fs_rules[rule].hypers, words = rows * (2 + fs_rules[rule].buffers);
  double *h = take(hypers * 8);
  for (uint32_t i = 0; i < hypers; i++) h[i] = below(4) ? uniform() : random_value(FS_F64);
  w->jobs[w->count++] = (fs_job){rule, dtype, rows, hyper_rows, .table = take(words * 8), .hypers = h};
}
/* A row of the last job. One of no elements gets garbage throughout; an unused buffer is null or is real memory. */
static void set_row(world *w, uint32_t number, uint64_t n, uint32_t flags) {
  const fs_job *job = &w->jobs[w->count - 1];
  const fs_rule *rule = &fs_rules[job->rule];
  const uint32_t size = fs_element_size[job->dtype];
  uint64_t *row = ROW_OF(job, number);
  const char *access = rule->description; /* "name|param:rw,grad:r|…" */
  row[0] = n;
  row[1] = n == 0 ? random_word() : (uint64_t)flags << 32 | below(job->hyper_rows);
  for (uint32_t b = 0; b < rule->buffers; b++) {
    const int used = rule->needs[b] == 0 || (rule->needs[b] & flags) != 0;
    access = strchr(access, ':') + 1;
    row[2 + b] = n == 0 ? random_word() : 0;
    if (n == 0 || (!used && below(2))) continue;
    const size_t at = (w->bytes + 127) / 64 * 64 + below(4) * size;
    if (w->span_count == LENGTH_OF(w->spans) - 1) abort(); /* the last one ends the list */
    w->spans[w->span_count++] = (span){at, n * size, row, 2 + b, job->dtype, !used || access[*access == 'r'] != 'w'};
    w->bytes = at + n * size;
  }
}
static void finish(world *w) {
  w->bytes = (w->bytes + 127) / 64 * 64;
  w->memory = take(w->bytes), w->before = take(w->bytes), w->expected = take(w->bytes);
  memset(w->before, 0xa5, w->bytes);
  for (const span *s = w->spans; s->row; s++) {
    const size_t size = fs_element_size[s->dtype], own = s->bytes < 4099 * size ? s->bytes : 4099 * size;
    unsigned char *to = w->before + s->at;
    for (size_t i = 0; i < own; i += size) set_element(s->dtype, to + i, random_value(s->dtype));
    for (size_t i = own; i < s->bytes; i += own) memcpy(to + i, to, s->bytes - i < own ? s->bytes - i : own);
    fs_bind(s->row, s->index, w->memory + s->at);
  }
}
static void destroy(world *w) {
  for (fs_job *j = w->jobs; j < w->jobs + w->count; j++) free(ROW_OF(j, 0)), free((void *)(uintptr_t)j->hypers);
  free(w->memory), free(w->before), free(w->expected), free(w);
}
static int32_t run(world *w, const fs_job *jobs, uint32_t isa, uint32_t threads) {
  fs_set_isa(isa), fs_set_grain(1u << below(20)); /* parts of half a megabyte, or of nothing */
  memcpy(w->memory, w->before, w->bytes);
  const span *s = w->spans;
  if (__asan_poison_memory_region) __asan_poison_memory_region(w->memory, w->bytes); /* sees reads of guards */
  for (; __asan_unpoison_memory_region && s->row; s++) __asan_unpoison_memory_region(w->memory + s->at, s->bytes);
  const int32_t status = fs_run(jobs, (uint32_t)w->count, threads);
  if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(w->memory, w->bytes);
  return status;
}
static int unchanged(const world *w) { return memcmp(w->memory, w->before, w->bytes) == 0; }
/* Whether guards, and what may only be read, are as before, and everything else is as expected. */
static int matches(const world *w) {
  size_t at = 0;
  int ok = 1;
  for (const span *s = w->spans; s->row; at = s->at + s->bytes, s++) {
    ok &= memcmp(w->memory + at, w->before + at, (s->readonly ? s->at + s->bytes : s->at) - at) == 0;
    ok &= s->readonly || same(s->dtype, w->memory + s->at, w->expected + s->at, s->bytes);
  }
  return ok && memcmp(w->memory + at, w->before + at, w->bytes - at) == 0;
}
static int repeats(world *w, uint32_t isa, uint32_t threads) { /* also in other floating-point modes, on x86 */
  static const uint32_t modes[] = {0x1f80, 0x9fc0, 0x3f80, 0x5f80, 0x7f80}; /* usual; flushing denormals; roundings */
  const uint32_t mode = modes[(isa * 4 + threads) % LENGTH_OF(modes)];
  fs_leave_float(mode); /* sets it */
  const int32_t status = run(w, w->jobs, isa, threads);
  const uint32_t after = fs_enter_float(); /* gets it, and sets the usual one */
  return status == FS_OK && (after == 0 || (after & ~0x3fu) == mode) && matches(w);
}
static int baseline(world *w) { /* on one thread, so it starts no pool */
  const int32_t status = run(w, w->jobs, 0, 1);
  memcpy(w->expected, w->memory, w->bytes);
  return status == FS_OK && matches(w);
}

/* 1. Hostile tables. Puts each of some values in a place for as long as `attempt` is made, which must hold. */
#define EACH(place, attempt, ...)                                                                                     \
  for (__typeof__(place) saved = place, values[] = {__VA_ARGS__}, *v = values; v < values + LENGTH_OF(values); v++) { \
    const int ok = (place = *v, attempt);                                                                             \
    place = saved;                                                                                                    \
    check(ok, "%s: %s = (%s)[%d]", title, #place, #__VA_ARGS__, (int)(v - values));                                   \
  }
#define WITH(place, status, ...) EACH(place, gives(w, w->jobs, status), __VA_ARGS__)
#define SHIFTED(p, by) (__typeof__(&*(p)))((uintptr_t)(p) + by)
static int gives(world *w, const fs_job *jobs, int32_t status) {
  return run(w, jobs, 0, 0) == status && run(w, jobs, isas - 1, 8) == status && (status == FS_OK || unchanged(w));
}
/* Makes one thing wrong; what fs_run has to say of it. Some of them do for jobs of no rows, and for rows of nothing. */
enum { EMPTY_JOB = 4, EMPTY_ROW = 11, WRONGS = 20 };
#define WRONG(number, change, status) case number: return snprintf(title, sizeof title, "%s", #change), change, status;
static int32_t spoil(fs_job *j, uint64_t *row, uint32_t wrong) {
  const uint64_t bit = 1, size = fs_element_size[j->dtype], flags = fs_rules[j->rule].flags, hyper = j->hyper_rows;
  const uint32_t any = below(1u << 31), by = 1 + below(7), b = below(fs_rules[j->rule].buffers);
  switch (wrong) {
    WRONG(0, j->rule = fs_rule_count, FS_ERR_RULE) WRONG(1, j->rule = UINT32_MAX - any, FS_ERR_RULE)
    WRONG(2, j->dtype = FS_DTYPES, FS_ERR_DTYPE) WRONG(3, j->dtype = UINT32_MAX - any, FS_ERR_DTYPE)
    WRONG(4, j->table = NULL, FS_ERR_NULL) WRONG(5, j->hypers = NULL, FS_ERR_NULL)
    WRONG(6, j->table = SHIFTED(j->table, by), FS_ERR_ALIGN) WRONG(7, j->hypers = SHIFTED(j->hypers, by), FS_ERR_ALIGN)
    WRONG(8, row[0] = bit << 62, FS_ERR_LENGTH) WRONG(9, row[0] = bit << 63, FS_ERR_LENGTH)
    WRONG(10, row[0] = UINT64_MAX - any % 5, FS_ERR_LENGTH) WRONG(11, row[0] = INT64_MAX / size + 1, FS_ERR_LENGTH)
    WRONG(12, row[1] |= bit << flags << 32, FS_ERR_FLAGS) WRONG(13, row[1] |= bit << (63 - any % 27), FS_ERR_FLAGS)
    WRONG(14, row[1] = (row[1] >> 32 << 32) + hyper, FS_ERR_HYPER) WRONG(15, row[1] |= UINT32_MAX, FS_ERR_HYPER)
    WRONG(16, j->hyper_rows = 0, FS_ERR_HYPER) WRONG(17, row[2] = 0, FS_ERR_NULL)
    WRONG(18, row[2 + b] |= 1, FS_ERR_ALIGN) WRONG(19, row[2 + b] += size / 2, FS_ERR_ALIGN)
    default: return FS_OK;
  }
}
static int refuses(world *w, uint32_t job, uint32_t number, uint32_t wrong) {
  const fs_job saved = w->jobs[job];
  uint64_t words[2 + FS_MAX_BUFFERS], *row = saved.rows > 0 ? ROW_OF(&saved, number) : words;
  const size_t bytes = (2 + fs_rules[saved.rule].buffers) * 8;
  memcpy(words, row, bytes);
  const int ok = gives(w, w->jobs, spoil(&w->jobs[job], row, wrong));
  w->jobs[job] = saved;
  return memcpy(row, words, bytes), ok;
}
static void hostile(uint32_t number, uint32_t dtype) {
  world *w = take(sizeof *w);
  const fs_rule *rule = &fs_rules[number];
  const uint64_t size = fs_element_size[dtype], most = INT64_MAX / size;
  add_job(w, (uint32_t)fs_rule_find("sgd"), FS_F32, 2, 1), set_row(w, 0, 5, 0), set_row(w, 1, 700, 2);
  add_job(w, (uint32_t)fs_rule_find("adam"), FS_F64, 1, 1), set_row(w, 0, 300, 0);
  add_job(w, number, dtype, 19, 2), set_row(w, 0, 0, 0), set_row(w, 1, 33, (1u << rule->flags) - 1);
  for (uint32_t r = 2; r < 19; r++) set_row(w, r, 7, 0);
  finish(w);
  fs_job *job = &w->jobs[2];
  uint64_t *first = ROW_OF(w->jobs, 0), *row = ROW_OF(job, 1), *plain = ROW_OF(job, 2);
  for (uint32_t k = 0; k < WRONGS; k++) check(refuses(w, 2, 1, k), "%s %s: %s", rule->name, dtype_names[dtype], title);
  snprintf(title, sizeof title, "hostile %s %s", rule->name, dtype_names[dtype]);
  check(baseline(w) && !unchanged(w), "%s: valid, with a row of no elements and of garbage", title);
  check(gives(w, NULL, FS_ERR_NULL) && gives(w, SHIFTED(w->jobs, 4), FS_ERR_ALIGN), "%s: jobs", title);
  WITH(plain[0], FS_ERR_LENGTH, most - 8, UINT64_MAX - 32) /* too much, or 0, with the row before */
  *first = INT64_MAX / 12 - 4096; /* not refused by itself: nothing may be begun */
  WITH(row[0], FS_ERR_LENGTH, INT64_MAX / (size * rule->buffers) - 512, 100000) *first = 5;
  for (uint32_t b = 0; b < rule->buffers; b++) {
    WITH(row[2 + b], FS_ERR_NULL, 0) WITH(plain[2 + b], rule->needs[b] == 0 ? FS_ERR_NULL : FS_OK, 0)
  }
  for (uint32_t r = 3; r < 3 + 2 * size; r++) *ROW_OF(job, r) = most;
  check(gives(w, w->jobs, FS_ERR_LENGTH), "%s: a sum that is small once it has wrapped", title);
  job->rows = 0;
  WITH(job->table, FS_OK, NULL)
  destroy(w);
}
static void hostile_reduce(uint32_t op, uint32_t dtype) {
  const uint32_t size = fs_element_size[dtype], words = op == FS_DOT ? 3 : 2;
  const uint64_t most = INT64_MAX / size;
  double data[4100] = {0}, partials[2] = {7, 7}, results[3] = {7, 7, 7}, *p = partials, *r = results;
  uint64_t *table = take(words * 3 * 8), *t = table, *last = table + 2 * words;
  uint32_t o = op, d = dtype, room = 2;
  snprintf(title, sizeof title, "hostile reduction %u %s", op, dtype_names[dtype]);
  for (uint32_t i = 0; i < words * 3; i++) table[i] = address(data);
  table[0] = 4096, table[words] = 0, table[words + 1] = 1, last[0] = 16;
#define UNTOUCHED (partials[0] == 7 && partials[1] == 7 && results[0] == 7 && results[1] == 7 && results[2] == 7)
#define REFUSE(place, status, ...) EACH(place, fs_reduce(o, d, t, 3, p, room, r, 8) == status && UNTOUCHED, __VA_ARGS__)
  REFUSE(o, FS_ERR_OP, FS_REDUCE_OPS, UINT32_MAX) REFUSE(d, FS_ERR_DTYPE, FS_DTYPES, UINT32_MAX)
  REFUSE(t, FS_ERR_NULL, NULL) REFUSE(t, FS_ERR_ALIGN, SHIFTED(t, 4), SHIFTED(t, 1))
  REFUSE(p, FS_ERR_NULL, NULL) REFUSE(p, FS_ERR_ALIGN, SHIFTED(p, 4), SHIFTED(p, 1))
  REFUSE(r, FS_ERR_NULL, NULL) REFUSE(r, FS_ERR_ALIGN, SHIFTED(r, 4), SHIFTED(r, 1))
  REFUSE(room, FS_ERR_SCRATCH, 1, 0) REFUSE(last[0], FS_ERR_SCRATCH, 4097, most)
  REFUSE(last[0], FS_ERR_LENGTH, most + 1, (uint64_t)1 << 63, UINT64_MAX)
  for (uint32_t b = 1; b < words; b++) {
    REFUSE(last[b], FS_ERR_NULL, 0) REFUSE(last[b], FS_ERR_ALIGN, last[b] + 1, last[b] + size / 2)
  }
  int ok = fs_reduce(o, d, NULL, 0, NULL, 0, NULL, 8) == FS_OK && fs_reduce(o, d, t + words, 1, NULL, 0, r, 1) == FS_OK;
  ok &= r[0] == 0 && fs_reduce(o, d, t, 3, p, 2, r, 8) == FS_OK && r[0] == 0 && r[1] == 0 && r[2] == 0;
  check(ok, "%s: valid, of no elements, of no rows", title);
  free(table);
}
static void names(void) {
  const char *const unknown[] = {NULL, "", "ada", "adam ", "ADAM", "adam|", "sgd,"};
  char text[1024], wanted[1024];
  int ok = fs_rule_describe(fs_rule_count, text, 9) == -1 && fs_rule_describe(UINT32_MAX, text, 9) == -1;
  for (size_t i = 0; i < LENGTH_OF(unknown); i++) ok &= fs_rule_find(unknown[i]) == -1;
  check(ok && fs_run(NULL, 0, 8) == FS_OK && fs_abi_version() == FS_ABI_VERSION, "unknown rules; no jobs; version");
  for (uint32_t r = 0; r < fs_rule_count; r++) {
    ok = fs_rule_find(fs_rules[r].name) == (int32_t)r && fs_rule_describe(r, NULL, 100) == -1;
    for (uint32_t room = 0; room <= sizeof text; room++) {
      memset(text, 'x', sizeof text), memset(wanted, 'x', sizeof wanted);
      const int length = snprintf(wanted, room, "%s", fs_rules[r].description);
      ok &= fs_rule_describe(r, text, room) == (room > 0 ? length : -1) && memcmp(text, wanted, sizeof text) == 0;
    }
    check(ok, "%s: found by its name, described in any number of bytes", fs_rules[r].name);
  }
}

/* 2. Every rule, dtype, combination of flags, instruction set and number of threads; other floating-point modes. */
static void matrix(uint32_t rule, uint32_t dtype, uint32_t flags, uint32_t length) {
  world *w = take(sizeof *w);
  add_job(w, rule, dtype, 131, 3);
  for (uint32_t i = 0; i < 131; i++) set_row(w, i, i < 65 ? i : i > 65 ? i - 1 : length, flags);
  finish(w);
  int ok = baseline(w) && !unchanged(w);
  for (uint32_t k = 0; k < ways; k++) ok &= repeats(w, k % isas, thread_counts[k / isas]);
  check(ok, "%s %s, flags %u: the same everywhere", fs_rules[rule].name, dtype_names[dtype], flags);
  destroy(w);
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
static void reductions(uint32_t dtype, const uint32_t *lengths, uint32_t rows, uint32_t longest, int special) {
  const size_t size = fs_element_size[dtype];
  unsigned char *memory = take((longest + 8) * size);
  double *v = take(longest * 8), partials[5000], results[20], wanted[20];
  uint64_t table[60];
  uint32_t chunks = 0;
  for (uint32_t i = 0; i < rows; i++) chunks += (lengths[i] + 4095) / 4096;
  for (size_t i = 0; i < longest + 8; i++) {
    const double x = special ? random_value(dtype) : ldexp(uniform(), (int)below(12) - 6);
    set_element(dtype, memory + i * size, special == 1 && !isfinite(x) ? 0 : x);
  }
  for (uint32_t op = 0; op < FS_REDUCE_OPS; op++) {
    for (uint32_t i = 0; i < rows; i++) {
      const unsigned char *x = memory + below(8) * size, *y = op == FS_DOT ? memory + below(8) * size : x;
      uint64_t *row = table + i * (op == FS_DOT ? 3 : 2);
      row[0] = lengths[i], row[1] = lengths[i] ? address(x) : 1;
      if (op == FS_DOT) row[2] = address(y);
      for (size_t k = 0; k < lengths[i]; k++) {
        const double a = element(dtype, x + k * size);
        v[k] = op == FS_SUM ? a : op == FS_SUM_SQ || op == FS_DOT ? a * element(dtype, y + k * size) : fabs(a);
      }
      wanted[i] = in_order(v, lengths[i], op == FS_MAX_ABS);
    }
    int ok = 1;
    for (uint32_t k = 0; k < ways; k++) {
      fs_set_isa(k % isas), fs_set_grain(1u << below(20));
      partials[chunks] = results[rows] = 7;
      ok &= fs_reduce(op, dtype, table, rows, partials, chunks, results, thread_counts[k / isas]) == FS_OK;
      ok &= same(FS_F64, results, wanted, rows * 8) && partials[chunks] == 7 && results[rows] == 7;
    }
    check(ok, "reduction %u, %s, %u rows, values %d", op, dtype_names[dtype], rows, special);
  }
  free(memory), free(v);
}

/* 4. Conversions. Each row is sgd, from - lr * 1 with lr = -add: a sum in float32, rounded by the store. */
static void conversions(uint32_t dtype) {
  static uint16_t param[4096][37], ones[37], from[4096];
  static uint64_t table[4096][5];
  static double hypers[4096][5];
  const format f = formats[dtype];
  const fs_job job = {(uint32_t)fs_rule_find("sgd"), dtype, 4096, 4096, .table = table[0], .hypers = hypers[0]};
  int ok[6] = {1, 1, 1, 1, 1, 1}; /* ties between neighbours, below, above; any float; every pattern; sums */
  for (uint32_t i = 0; i < 37; i++) ones[i] = narrow(1, f);
  for (uint32_t k = 0; k < 6 * 65536; k++) {
    const uint32_t r = k % 4096, h = k / 6, kind = k % 6, bits = (uint32_t)random_word();
    const double low = fabs(widen((uint16_t)h, f)), high = fabs(widen((uint16_t)(h + 1), f));
    float add = (float)copysign((low + (isfinite(high) ? high : ldexp(1, f.most + 1))) / 2, h & 0x8000u ? -1 : 1);
    if (kind == 1 || kind == 2) add = nextafterf(add, kind == 1 ? -INFINITY : INFINITY);
    if (kind == 3) memcpy(&add, &bits, 4);
    if (kind > 3) add = kind == 4 ? -0.0f : (float)ldexp(uniform(), (int)below(44) - 26);
    from[r] = kind < 4 ? 0 : (uint16_t)h;
    memcpy(hypers[r], (double[]){1, 0, 0, 1, -(double)add}, sizeof *hypers);
    memcpy(table[r], (uint64_t[]){1 + r % 37, r, address(param[r]), address(ones), 0}, sizeof *table);
    for (uint32_t isa = 0; r == 4095 && isa < isas; isa++) { /* a batch is full */
      for (uint32_t i = 0; i < 4096 * 37; i++) param[i / 37][i % 37] = from[i / 37];
      fs_set_isa(isa);
      ok[0] &= fs_run(&job, 1, 1) == FS_OK;
      for (uint32_t i = 0; i < 4096; i++) {
        const uint16_t wanted = narrow((double)((float)widen(from[i], f) - (float)hypers[i][4]), f);
        for (uint32_t j = 0; j <= i % 37; j++) ok[(k - 4095 + i) % 6] &= same(dtype, &param[i][j], &wanted, 2);
      }
    }
  }
  for (int kind = 0; kind < 6; kind++) check(ok[kind], "conversions, %s, of kind %d", dtype_names[dtype], kind);
}

/* 5. Several callers at once; their first round starts the pool. */
static pthread_barrier_t barrier;
static uint32_t client_rounds;
static void *client_main(void *argument) {
  world *w = argument;
  const uint64_t row[] = {w->spans[0].bytes / 4, address(w->before + w->spans[0].at)};
  double partials[64], one, several;
  int ok = 1;
  memcpy(&state, w->before + w->spans[0].at, sizeof state); /* another seed for each */
  pthread_barrier_wait(&barrier);
  for (uint32_t round = 0; round < client_rounds; round++) {
    ok &= repeats(w, below(isas), round == 0 ? 8 : 1 + below(8));
    ok &= fs_reduce(FS_SUM, FS_F32, row, 1, partials, 64, &several, 1 + below(8)) == FS_OK;
    ok &= fs_reduce(FS_SUM, FS_F32, row, 1, partials, 64, &one, 1) == FS_OK && same(FS_F64, &one, &several, 8);
    if (below(3) == 0) nanosleep(&(struct timespec){0, below(500000)}, NULL); /* the workers fall asleep now and then */
  }
  destroy(w);
  return ok ? &barrier : NULL;
}
static void concurrency(uint32_t rounds) {
  pthread_t threads[4];
  void *ok;
  client_rounds = rounds, pthread_barrier_init(&barrier, NULL, 4);
  for (uint32_t i = 0; i < 4; i++) {
    world *w = take(sizeof *w);
    add_job(w, (uint32_t)fs_rule_find("sgd"), FS_F32, 2, 1), set_row(w, 0, 140001, 2), set_row(w, 1, 99, 0);
    add_job(w, (uint32_t)fs_rule_find("adam"), FS_F64, 1, 1), set_row(w, 0, 30001, 2);
    finish(w);
    check(baseline(w), "caller %u alone", i);
    if (pthread_create(&threads[i], NULL, client_main, w) != 0) abort();
  }
  for (int i = 0; i < 4; i++) check(pthread_join(threads[i], &ok) == 0 && ok, "caller %d of 4, %u rounds", i, rounds);
}

/* 6. Random jobs, and random words of them made wrong. */
static void fuzz(uint32_t round) {
  world *w = take(sizeof *w);
  for (uint32_t jobs = 1 + below(MAX_JOBS); w->count < jobs;) {
    const uint32_t rule = below(fs_rule_count), rows = below(1 + below(40));
    add_job(w, rule, below(FS_DTYPES), rows, 1 + below(4));
    for (uint32_t r = 0, kind = below(16); r < rows; r++, kind = below(16)) {
      set_row(w, r, below(kind < 9 ? 70 : kind < 15 ? 3000 : 60000), below(1u << fs_rules[rule].flags));
    }
  }
  finish(w);
  int ok = baseline(w);
  for (int i = 0; i < 4; i++) ok &= repeats(w, below(isas), below(10));
  check(ok, "fuzz, round %u: the same everywhere", round);
  for (int i = ok = 1; i < 16 && ok; i++) {
    const uint32_t j = below((uint32_t)w->count), rows = w->jobs[j].rows, r = rows > 0 ? below(rows) : 0;
    ok = refuses(w, j, r, below(rows == 0 ? EMPTY_JOB : *ROW_OF(&w->jobs[j], r) == 0 ? EMPTY_ROW : WRONGS));
  }
  check(ok, "fuzz, round %u: %s", round, title);
  destroy(w);
}

/* What control groups say: the files' texts, and where they are. */
static void limits(void) {
  static const struct { const char *limit, *period; uint32_t cpus; } quotas[] = {
    {"max 100000\n", NULL, 0}, {"200000 100000\n", NULL, 2}, {"150000 100000\n", NULL, 2}, {"1000 100000", NULL, 1},
    {"250001 50000\n", NULL, 6}, {"-1\n", "100000\n", 0}, {"400000\n", "100000\n", 4}, {"50000\n", "100000\n", 1},
    {"100000\n", "0\n", 0}, {"100000\n", "", 0}, {"100000", NULL, 0}, {"", NULL, 0}, {"0 100000", NULL, 0}, {"99x", "3", 33},
    {"99999999999999999999999 1", NULL, INT32_MAX},
  };
  static const struct { const char *text, *controller, *path; } groups[] = {
    {"0::/\n", "", "/"}, {"0::/a/b c\n", "", "/a/b c"}, {"0::/a", "", "/a"}, {"0::/a\n", "cpu", NULL},
    {"9:name=systemd:/x\n3:cpuset:/y\n2:cpuacct,cpu:/docker/1\n0::/z\n", "cpu", "/docker/1"},
    {"4:cpu,cpuacct:/v\n0::/z\n", "cpu", "/v"}, {"4:cpu,cpuacct:/v\n0::/z\n", "", "/z"}, {"4:cpu:/v\n", "", NULL},
    {"2:cpuacct:/v\n", "cpu", NULL}, {"", "", NULL}, {"::", "", NULL}, {"0:", "cpu", NULL}, {"\n\n1:cpu", "cpu", NULL},
  };
  for (size_t k = 0; k < LENGTH_OF(quotas); k++) {
    check(fs_quota(quotas[k].limit, quotas[k].period) == quotas[k].cpus, "quota %zu: \"%s\"", k, quotas[k].limit);
  }
  for (size_t k = 0; k < LENGTH_OF(groups); k++) {
    size_t length = 0;
    const char *path = fs_group(groups[k].text, groups[k].controller, &length), *wanted = groups[k].path;
    check(wanted == NULL ? path == NULL : path != NULL && strlen(wanted) == length && memcmp(path, wanted, length) == 0,
          "group %zu: \"%s\"", k, groups[k].text);
  }
  check(fs_cpu_count() >= 1 && (fs_own_processors() == 0 || fs_own_processors() == fs_cpu_count()), "processors");
}

/* Long tables, whose blocks tell where parts begin: mostly rows of nothing, or one row that is most of all; beside short tables. */
static void long_tables(void) {
  for (int k = 0; k < 6; k++) {
    world *w = take(sizeof *w);
    const uint32_t rule = (uint32_t)fs_rule_find("sgd"), rows = k == 0 ? 4096 : 4096 + below(4000);
    for (uint32_t j = 0; j < 3; j++) {
      add_job(w, rule, FS_F32, j == 1 || (k == 5 && j == 2) ? rows : 3, 1);
      for (uint32_t r = 0; r < w->jobs[j].rows; r++) {
        set_row(w, r, k == 1 && r == 4000 ? 90001 : j > 0 && (k == 1 || below(20)) ? 0 : below(k == 2 ? 3 : 90), 2);
      }
    }
    finish(w);
    int ok = baseline(w), wrapped = 0;
    for (uint32_t threads = 1; threads < 20; threads++) ok &= repeats(w, isas - 1, threads);
    check(ok, "long table %d", k);
    for (int i = ok = 1; i < 8 && ok; i++) ok = refuses(w, 1, below(rows), below(EMPTY_ROW));
    check(ok, "long table %d: %s", k, title);
    for (uint32_t r = 0; r < rows; r++) {
      uint64_t *row = ROW_OF(&w->jobs[1], r);
      if (row[0] != 0) row[0] = INT64_MAX / 4, wrapped++;
    }
    check(wrapped < 2 || gives(w, w->jobs, FS_ERR_LENGTH), "long table %d: rows of too much together", k);
    destroy(w);
  }
}

int main(int argc, char **argv) {
  static const lent lend = {&passed, &failed, element, set_element, random_value, same};
  static const uint32_t lengths[] = {0, 1, 15, 16, 17, 0, 33, 4095, 4096, 4097, 12293, 300001}, many[] = {20000000};
  const uint32_t rounds = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 10;
  const uint32_t length = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 300001, quick = length < 100000;
  state = argc > 3 ? strtoull(argv[3], NULL, 10) : 1;
  isas = (fs_set_isa(UINT32_MAX) & 255u) + 1, ways = isas * LENGTH_OF(thread_counts);
  concurrency(rounds == 0 ? 2 : 10 * rounds);
  for (uint32_t dtype = 0; dtype < FS_DTYPES && rounds > 0; dtype++) {
    for (uint32_t rule = 0; rule < fs_rule_count; rule++) {
      hostile(rule, dtype);
      for (uint32_t flags = 0; flags < 1u << fs_rules[rule].flags; flags++) matrix(rule, dtype, flags, length);
      matrix(rule, dtype, 0, 0); /* parts end in short rows */
    }
    for (uint32_t op = 0; op < FS_REDUCE_OPS; op++) hostile_reduce(op, dtype);
    test_bind(&lend, dtype);
    test_rows(&lend, dtype);
    test_steps(&lend, dtype);
    test_tensors(&lend, dtype);
    test_vectors(&lend, dtype);
    for (int k = 0; k < (quick ? 1 : 3); k++) reductions(dtype, lengths, LENGTH_OF(lengths) - quick, 300001, k);
    if (dtype >= FS_BF16 && !quick) conversions(dtype);
  }
  names();
  limits();
  if (rounds > 0) long_tables();
  if (rounds > 0 && length >= 300000 && !__asan_poison_memory_region) reductions(FS_F32, many, 1, many[0], 0);
  for (uint32_t round = 0; round < rounds; round++) fuzz(round);
  if (argc > 4) test_calls(&lend, (uint32_t)strtoul(argv[4], NULL, 10), state);
  printf("%u passed, %u failed\n", passed, failed);
  return failed != 0;
}
