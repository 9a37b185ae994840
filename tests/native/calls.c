/**
 * Random calls through every function of the ABI: called by driver.c. Each argument, and each word of a table, is right or is
 * wrong in a way that the C core can see (null, misaligned, a huge count, an unknown rule, a scratch too short, …). A call of
 * which something is wrong must give an error and leave every byte as it was; any other one must succeed and write to nothing but
 * what it is said to write. Buffers may overlap, which is the caller's affair: results are anything then, but stay in their place.
 *
 * Everything lies in one arena, each piece of it between bytes that may not change, and that the address sanitizer knows as out of
 * bounds. The core cannot see a pointer to memory that is not there, so no call has one.
 */
#include "tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rows.h"

__attribute__((weak)) void __asan_poison_memory_region(const void *, size_t); /* null in other builds */
__attribute__((weak)) void __asan_unpoison_memory_region(const void *, size_t);

enum { ROOM = 1 << 20, SCRATCH = 16 << 20, MOST_PIECES = 512, MOST_WRONGS = 1024, CANARY = 64, ARGUMENTS = 11 };
typedef struct piece { size_t at, bytes; int written; } piece;
typedef struct wrong { void *place; uint64_t value; uint32_t width; } wrong;

static unsigned char *arena, *before, *scratch;
static size_t used, scratch_used;
static piece pieces[MOST_PIECES];
static wrong wrongs[MOST_WRONGS];
static uint32_t piece_count, wrong_count;
static uint64_t args[ARGUMENTS];   /* of the call that is being made */
static size_t pool, pool_bytes;    /* where buffers lie that may overlap; pool_bytes 0: they do not */
static uint64_t state;

static uint64_t random_word(void) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return state ^ state >> 31;
}
static uint32_t below(uint32_t n) { return (uint32_t)((random_word() >> 20) % n); }
static uint64_t word(const void *p) { return (uint64_t)(uintptr_t)p; }
#define POINTER(w) ((void *)(uintptr_t)(w))
#define SMALL(w) ((uint32_t)(w))

/* So many bytes of the arena, of random contents. */
static void *place(size_t bytes, uint32_t align, int written) {
  const size_t at = (used + CANARY) / CANARY * CANARY + below(4) * align;
  used = at + bytes;
  if (used + 2 * CANARY > ROOM || piece_count == MOST_PIECES) abort();
  for (size_t i = at; i < used; i++) arena[i] = (unsigned char)(random_word() >> 40);
  pieces[piece_count++] = (piece){at, bytes, written};
  return arena + at;
}
/* A tensor's buffer: of its own, or in the pool, across others. */
static void *buffer(size_t bytes, uint32_t align, int written) {
  if (pool_bytes == 0 || bytes > pool_bytes) return place(bytes, align, written);
  return arena + pool + below((uint32_t)((pool_bytes - bytes) / align) + 1) * align;
}
static void may(void *at, uint64_t value, uint32_t width) {
  if (wrong_count == MOST_WRONGS) abort();
  wrongs[wrong_count++] = (wrong){at, value, width};
}
static void may_be(uint64_t *at, uint64_t value) { may(at, value, 8); }
static void may_be_odd(uint64_t *at, uint32_t align) { may_be(at, *at + 1 + below(align - 1)); }
static void may_be_bad(uint64_t *at, uint32_t align) { may_be(at, 0), may_be_odd(at, align); }

/* One more thread only now and then: overlapping buffers, which two threads may not write, never have it. */
static uint32_t some_threads(void) { return pool_bytes == 0 && below(8) == 0 ? 2 + below(3) : below(2); }
static uint64_t huge(uint32_t size) {
  const uint64_t most = (uint64_t)PTRDIFF_MAX / size, values[] = {most + 1 + below(1000), UINT64_MAX - below(99), (uint64_t)1 << 63};
  return values[below(3)];
}
static double number(void) { return (double)(int)below(4001) * 1e-3 - 2; }
static void set_number(void *at, double v) { memcpy(at, &v, 8); }

/* The scratch of tensors and products is large: only its ends are looked at. */
static uint64_t scratch_of(uint32_t doubles) {
  if ((size_t)doubles * 8 + CANARY > SCRATCH) abort();
  scratch_used = (size_t)doubles * 8;
  memset(scratch, 0xa5, scratch_used < CANARY ? scratch_used : CANARY);
  memset(scratch + scratch_used, 0xa5, CANARY);
  return word(scratch);
}
static int canary(const unsigned char *p, size_t bytes) {
  int ok = 1;
  for (size_t i = 0; i < bytes; i++) ok &= p[i] == 0xa5;
  return ok;
}

static void begin(void) {
  used = wrong_count = piece_count = 0, scratch_used = 0, pool_bytes = 0;
  if (below(8) == 0) pool = (size_t)((unsigned char *)place(4096, 8, 1) - arena), pool_bytes = 4096;
}

/* fs_run and fs_step: args are jobs, count, phases, step, partials, partials_length, threads. */
static int suits_step(const fs_rule *rule) { return rule->buffers >= 2 && rule->needs[1] == 0; }
static uint64_t job_list(int step) {
  const uint32_t count = below(4);
  uint64_t *jobs = place(count * 32, 8, 0), chunks = 0;
  args[0] = word(jobs), args[1] = count;
  if (count > 0) may_be_bad(&args[0], 8);
  else if (below(2)) args[0] = 0;
  for (uint32_t j = 0; j < count; j++) {
    uint64_t *job = jobs + 4 * j;
    uint32_t r = below(fs_rule_count), rows = below(7);
    while (step && !suits_step(&fs_rules[r])) r = below(fs_rule_count);
    const fs_rule *rule = &fs_rules[r];
    const uint32_t dtype = below(FS_DTYPES), size = fs_element_size[dtype], hyper_rows = 1 + below(3), words = 2 + rule->buffers;
    uint64_t *table = place(rows * words * 8, 8, 0);
    job[0] = r | (uint64_t)dtype << 32, job[1] = rows | (uint64_t)hyper_rows << 32, job[2] = word(table);
    job[3] = word(place(hyper_rows * rule->hypers * 8, 8, 0));
    for (uint32_t h = 0; h < hyper_rows * rule->hypers && below(4) > 0; h++) set_number((char *)POINTER(job[3]) + h * 8, number());
    may(job, fs_rule_count + below(9), 4), may(job, UINT32_MAX - below(9), 4);
    may((char *)job + 4, FS_DTYPES + below(9), 4), may((char *)job + 4, UINT32_MAX - below(9), 4);
    for (uint32_t other = 0; step && other < fs_rule_count; other++) { /* none that reads more of the table than there is */
      if (!suits_step(&fs_rules[other]) && fs_rules[other].buffers <= rule->buffers) may(job, other, 4);
    }
    if (rows > 0) may_be_bad(&job[2], 8), may_be_bad(&job[3], 8);
    else if (below(2)) job[2] = job[3] = random_word();
    for (uint64_t *row = table; row < table + rows * words; row += words) {
      const uint32_t flags = below(1u << rule->flags);
      const uint64_t n = row[0] = below(below(16) ? 70 : 900) * (uint64_t)(below(8) > 0);
      if (n == 0) continue; /* garbage throughout */
      chunks += (n + FS_REDUCE_CHUNK - 1) / FS_REDUCE_CHUNK;
      row[1] = below(hyper_rows) | (uint64_t)flags << 32;
      may_be(row, huge(size));
      may(row + 1, hyper_rows + below(9), 4), may(row + 1, UINT32_MAX, 4);
      may((char *)row + 12, flags | 1u << (rule->flags + below(32 - rule->flags)), 4);
      const char *access = rule->description;
      for (uint32_t b = 0; b < rule->buffers; b++) {
        const int needed = rule->needs[b] == 0 || (rule->needs[b] & flags) != 0;
        access = strchr(access, ':') + 1;
        row[2 + b] = needed || below(2) ? word(buffer(n * size, size, needed && access[*access == 'r'] == 'w')) : 0;
        if (needed) may_be(row + 2 + b, 0);
        may_be_odd(row + 2 + b, size);
      }
    }
  }
  args[6] = some_threads();
  return chunks;
}
static int32_t call_run(void) { return fs_run(POINTER(args[0]), SMALL(args[1]), SMALL(args[6])); }
static int32_t call_step(void) {
  return fs_step(POINTER(args[0]), SMALL(args[1]), SMALL(args[2]), POINTER(args[3]), POINTER(args[4]), SMALL(args[5]), SMALL(args[6]));
}
static void make_run(void) { job_list(0); }
static void make_step(void) {
  const uint32_t chunks = (uint32_t)job_list(1), phases = below(4), extra = below(2);
  double *numbers = place(FS_STEP_WORDS * 8, 8, 1);
  for (uint32_t i = 0; i < FS_STEP_WORDS && below(4) > 0; i++) numbers[i] = number();
  args[2] = phases | (below(8) ? 0 : (uint64_t)below(1 << 20) << 2);
  args[3] = word(numbers), args[4] = word(place((chunks + extra) * 8, 8, 1)), args[5] = chunks + extra;
  may_be_bad(&args[3], 8), may_be_odd(&args[4], 8);
  if ((phases & FS_STEP_MEASURE) && chunks > 0) may_be(&args[4], 0), may_be(&args[5], below(chunks));
}

static int32_t call_reduce(void) {
  return fs_reduce(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), SMALL(args[3]), POINTER(args[4]), SMALL(args[5]), POINTER(args[6]),
                   SMALL(args[7]));
}
static void make_reduce(void) {
  const uint32_t op = below(FS_REDUCE_OPS), dtype = below(FS_DTYPES), rows = below(7), words = op == FS_DOT ? 3 : 2;
  const uint32_t size = fs_element_size[dtype];
  uint64_t *table = place(rows * words * 8, 8, 0), chunks = 0;
  args[0] = op, args[1] = dtype, args[2] = word(table), args[3] = rows;
  may_be(&args[0], FS_REDUCE_OPS + below(1u << 30)), may_be(&args[1], FS_DTYPES + below(1u << 30));
  for (uint64_t *row = table; row < table + rows * words; row += words) {
    row[0] = below(4) == 0 ? 0 : below(below(16) ? 100 : 9000);
    if (row[0] == 0) continue;
    chunks += (row[0] + FS_REDUCE_CHUNK - 1) / FS_REDUCE_CHUNK;
    may_be(row, huge(size));
    for (uint32_t b = 1; b < words; b++) row[b] = word(buffer(row[0] * size, size, 0)), may_be_bad(row + b, size);
  }
  args[4] = word(place(chunks * 8, 8, 1)), args[5] = chunks, args[6] = word(place(rows * 8, 8, 1)), args[7] = some_threads();
  if (rows == 0) return;
  may_be_bad(&args[2], 8), may_be_bad(&args[6], 8), may_be_odd(&args[4], 8);
  if (chunks > 0) may_be(&args[4], 0), may_be(&args[5], below((uint32_t)chunks));
}

static int32_t call_bind_rows(void) {
  return fs_bind_rows(POINTER(args[0]), SMALL(args[1]), SMALL(args[2]), SMALL(args[3]), POINTER(args[4]), SMALL(args[5]), SMALL(args[6]),
                      POINTER(args[7]), SMALL(args[8]), POINTER(args[9]));
}
static void make_bind_rows(void) {
  const uint32_t count = below(12), stride = below(5), index = below(4), limit = 1 + below(1000);
  uint32_t *rows = below(2) ? place(count * 4, 4, 0) : NULL, *positions = below(2) ? place(count * 4, 4, 0) : NULL, last = 0;
  args[5] = below(FS_DTYPES), args[6] = below(1 << 20), args[7] = 1 + below(1u << 31), args[8] = limit;
  may_be(&args[5], FS_DTYPES + below(99));
  for (uint32_t r = 0; r < count; r++) {
    if (rows) rows[r] = below(20);
    if ((rows ? rows[r] : r) > last) last = rows ? rows[r] : r;
    if (!positions) continue;
    positions[r] = below(limit);
    may(positions + r, limit + below(9), 4), may(positions + r, UINT32_MAX, 4);
  }
  args[0] = word(place(count == 0 ? 0 : (index + (size_t)last * stride + 1) * 8, 8, 1)), args[1] = index, args[2] = stride;
  args[3] = count, args[4] = word(rows), args[9] = word(positions);
  if (count == 0) return;
  may_be_bad(&args[0], 8), may_be(&args[7], 0), may_be(&args[8], 0);
  if (rows) may_be_odd(&args[4], 4);
  if (positions) may_be_odd(&args[9], 4);
}

/* args: binding, first, count, the arrays. */
static int32_t call_bind_arrays(void) {
  return fs_bind_arrays(POINTER(args[0]), SMALL(args[1]), SMALL(args[2]), POINTER(args[3]), POINTER(args[4]), POINTER(args[5]),
                        POINTER(args[6]), POINTER(args[7]), POINTER(args[8]), POINTER(args[9]), POINTER(args[10]));
}
static void make_bind_arrays(void) {
  const uint32_t count = below(FS_BOUND + 1), first = below(4), rows = first + count + below(3), stride = 2 + below(5), found = below(6);
  const uint32_t dtype = below(FS_DTYPES), size = fs_element_size[dtype], bytes = 64;
  fs_binding *b = place(sizeof *b, 8, 1);
  uint64_t *table = place((size_t)rows * stride * 8, 8, 1), *spans = place(found * 16, 8, 0);
  const uint64_t taken = word(place((size_t)found * bytes, 64, 0)); /* in which no array lies */
  for (uint32_t k = 0; k < found; k++) spans[2 * k] = taken + k * bytes + below(8), spans[2 * k + 1] = taken + k * bytes + 16 + below(8);
  *b = (fs_binding){dtype, rows, stride, 1 + below(stride - 1), found, below(8), {table}, {found > 0 || below(2) ? spans : NULL}};
  if (below(8) == 0) b->near = SMALL(random_word());
  args[0] = word(b), args[1] = first, args[2] = count;
  if (count > 0) {
    may_be_bad(&args[0], 8), may_be(&args[1], rows + below(9) + 1), may_be(&args[2], rows - first + 1 + below(9)), may_be(&args[2], FS_BOUND + 1);
    may(&b->dtype, FS_DTYPES + below(99), 4), may(&b->rows, first + below(count), 4), may(&b->word, 0, 4), may(&b->word, stride + below(9), 4);
    may_be_bad(&b->table_word, 8), may_be_odd(&b->spans_word, 8);
    if (found > 0) may_be(&b->spans_word, 0);
  }
  for (uint32_t k = 0; k < FS_BOUND; k++) {
    args[3 + k] = random_word();
    if (k >= count) continue;
    uint64_t *n = table + (size_t)(first + k) * stride;
    *n = below(5) == 0 ? 0 : 1 + below(40);
    if (*n == 0) continue;
    args[3 + k] = word(buffer(*n * size, size, 0));
    may_be(n, huge(size)), may_be_bad(&args[3 + k], size);
    if (found > 0) may_be(&args[3 + k], taken + below(found) * bytes + 8);
  }
}

static int32_t call_make_spans(void) {
  const uint32_t count = SMALL(args[1]);
  const int32_t left = fs_make_spans(POINTER(args[0]), count);
  return left < 0 ? left : (uint32_t)left <= count ? FS_OK : 1;
}
static void make_make_spans(void) {
  const uint32_t count = below(30);
  uint64_t *words = place(count * 24, 8, 1);
  args[0] = word(words), args[1] = count;
  if (count > 0) may_be_bad(&args[0], 8);
  for (uint64_t *piece = words; piece < words + 3 * count; piece += 3) {
    piece[0] = 1 + (random_word() >> (1 + below(40))), piece[1] = below(300), piece[2] = piece[1] + below(60);
    may_be(piece + 1, piece[2] + 1 + below(99)), may_be(piece + 2, huge(1));
    if (piece[1] < piece[2]) may_be(piece, 0);
    if (piece[2] > 0) may_be(piece, UINT64_MAX - below((uint32_t)piece[2]));
  }
}

static int32_t call_sum_rows(void) {
  return fs_sum_rows(SMALL(args[0]), POINTER(args[1]), SMALL(args[2]), SMALL(args[3]), POINTER(args[4]), SMALL(args[5]), POINTER(args[6]),
                     POINTER(args[7]));
}
static void make_sum_rows(void) {
  const uint32_t dtype = below(FS_DTYPES), size = fs_element_size[dtype], count = below(6), limit = 1 + below(9);
  const uint32_t length = below(below(16) ? 40 : 1500);
  uint32_t *starts = place((count + 1) * 4, 4, 0);
  starts[0] = below(3);
  for (uint32_t k = 0; k < count; k++) starts[k + 1] = starts[k] + below(4);
  uint32_t *sources = place(starts[count] * 4, 4, 0);
  for (uint32_t s = 0; s < starts[count]; s++) sources[s] = below(limit);
  args[0] = dtype, args[1] = word(place((size_t)count * length * size, size, 1)), args[2] = count, args[3] = length;
  args[4] = word(place((size_t)limit * length * size, size, 0)), args[5] = limit, args[6] = word(sources), args[7] = word(starts);
  may_be(&args[0], FS_DTYPES + below(99));
  if (count == 0 || length == 0) return;
  may_be_bad(&args[1], size), may_be_odd(&args[4], size), may_be_odd(&args[6], 4), may_be_bad(&args[7], 4);
  for (uint32_t k = 0; k < count; k++) may(starts + k, starts[k + 1] + 1 + below(99), 4);
  if (starts[count] == starts[0]) return;
  may_be(&args[4], 0), may_be(&args[6], 0), may_be(&args[5], 0);
  for (uint32_t s = starts[0]; s < starts[count]; s++) may(sources + s, limit + below(9), 4);
}

/* args: rule, dtype, table, count, hypers, scratch, scratch_length, threads, length. */
static int32_t call_tensor_scratch(void) {
  return fs_tensor_scratch(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), SMALL(args[3]), SMALL(args[7]), POINTER(args[8]));
}
static int32_t call_run_tensors(void) {
  return fs_run_tensors(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), SMALL(args[3]), POINTER(args[4]), POINTER(args[5]), SMALL(args[6]),
                        SMALL(args[7]));
}
static void tensor_list(int run) {
  const uint32_t rule = below(FS_TENSOR_RULES), dtype = below(FS_DTYPES), size = fs_element_size[dtype], count = below(4);
  const uint32_t width = rule == FS_MUON ? FS_MUON_HYPERS : FS_ADAFACTOR_HYPERS;
  uint64_t *table = place(count * FS_TENSOR_WORDS * 8, 8, 0);
  double *hypers = place(count * width * 8, 8, 0);
  args[0] = rule, args[1] = dtype, args[2] = word(table), args[3] = count, args[4] = word(hypers), args[7] = some_threads();
  may_be(&args[0], FS_TENSOR_RULES + below(99)), may_be(&args[1], FS_DTYPES + below(99));
  if (count > 0) may_be_bad(&args[2], 8);
  if (count > 0 && run) may_be_odd(&args[4], 8);
  for (uint32_t t = 0; t < count; t++) {
    uint64_t *row = table + t * FS_TENSOR_WORDS;
    const int vector = rule == FS_ADAFACTOR && below(3) == 0;
    for (uint32_t h = 0; h < width; h++) hypers[t * width + h] = number();
    row[T_BATCHES] = vector ? 0 : rule == FS_MUON ? 1 : 1 + below(3);
    row[T_ROWS] = below(10), row[T_COLUMNS] = below(below(8) ? 12 : 70);
    if (rule == FS_MUON) hypers[t * width + M_STEPS] = below(3);
    const uint64_t n = fs_tensor_size(row);
    if (n == 0) continue; /* garbage pointers */
    const uint64_t lengths[] = {n, n, rule == FS_MUON || vector ? n : row[T_BATCHES] * row[T_ROWS], row[T_BATCHES] * row[T_COLUMNS]};
    for (uint32_t b = 0; b < 4; b++) {
      row[T_PARAM + b] = word(place(lengths[b] * size, size, b != 1));
      if (b < 3 || (rule == FS_ADAFACTOR && !vector)) may_be_bad(row + T_PARAM + b, size);
    }
    may_be(row + T_COLUMNS, huge(8));
    if (!vector) may_be(row + T_ROWS, huge(8)), may_be(row + T_BATCHES, huge(8));
    if (rule != FS_MUON) continue;
    may_be(row + T_BATCHES, 2), may_be(row + T_ROWS, (uint64_t)1 << 40);
    const double bad[] = {-1, 100, 1e300, __builtin_nan("")};
    uint64_t bits;
    memcpy(&bits, bad + below(4), 8);
    if (run) may(hypers + t * width + M_STEPS, bits, 8);
  }
}
static void make_tensor_scratch(void) {
  tensor_list(0);
  args[8] = word(place(8, 8, 1));
  may_be_bad(&args[8], 8);
}
static void make_run_tensors(void) {
  tensor_list(1);
  double length = 0;
  if (fs_tensor_scratch(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), SMALL(args[3]), SMALL(args[7]), &length) != FS_OK) abort();
  args[6] = (uint64_t)length + below(2), args[5] = scratch_of(SMALL(args[6]));
  if (args[3] > 0) may_be(&args[4], 0);
  if (length > 0) may_be_bad(&args[5], 8), may_be(&args[6], below((uint32_t)length));
}

static int32_t call_matmul(void) { return fs_matmul(SMALL(args[0]), POINTER(args[1]), POINTER(args[2]), SMALL(args[3]), SMALL(args[4])); }
static void make_matmul(void) {
  const uint32_t dtype = below(2), size = fs_element_size[dtype], flags = below(8), threads = some_threads();
  const uint64_t m = below(20), n = flags & FS_SYMMETRIC ? m : below(20), k = below(20);
  uint64_t *w = place(80, 8, 0);
  w[0] = m, w[1] = n, w[2] = k, w[3] = flags;
  const uint64_t lengths[] = {m * k, n * k, m * n, m * n};
  for (uint32_t i = 0; i < 4; i++) w[4 + i] = i == 2 && below(2) ? 0 : word(buffer(lengths[i] * size, size, i == 3));
  set_number(w + 8, number()), set_number(w + 9, number());
  const uint32_t length = fs_matmul_scratch(dtype, threads);
  args[0] = dtype, args[1] = word(w), args[2] = scratch_of(length), args[3] = length, args[4] = threads;
  may_be(&args[0], FS_BF16 + below(99)), may_be_bad(&args[1], 8), may_be_bad(&args[2], 8);
  may_be(w + 3, 8 + random_word() % ((uint64_t)1 << 60));
  if (m == 0 || n == 0) return;
  may_be(w, huge(64)), may_be(w + 1, huge(64)), may_be(w + 2, huge(64)), may_be(&args[3], below(length));
  for (uint32_t i = 4; i < 8; i++) {
    may_be_odd(w + i, size);
    if (i == 7 || (i != 6 && k > 0)) may_be(w + i, 0);
  }
}

static int32_t call_combine(void) {
  return fs_combine(SMALL(args[0]), POINTER(args[1]), POINTER(args[2]), SMALL(args[3]), POINTER(args[4]), SMALL(args[5]));
}
static void make_combine(void) {
  const uint32_t dtype = below(2), size = fs_element_size[dtype], n = below(below(16) ? 100 : 9000);
  const uint32_t room = 2 * ((n + FS_REDUCE_CHUNK - 1) / FS_REDUCE_CHUNK);
  uint64_t *w = place(64, 8, 0);
  w[0] = n, w[5] = below(4);
  for (uint32_t i = 1; i < 5; i++) w[i] = (i == 2 || i == 3) && below(2) ? 0 : word(buffer(n * size, size, i == 4));
  set_number(w + 6, number()), set_number(w + 7, number());
  args[0] = dtype, args[1] = word(w), args[2] = word(place(room * 8, 8, 1)), args[3] = room, args[4] = word(place(16, 8, 1));
  args[5] = some_threads();
  may_be(&args[0], FS_BF16 + below(99)), may_be_bad(&args[1], 8), may_be_odd(&args[2], 8), may_be_bad(&args[4], 8);
  may_be(w + 5, 4 + random_word() % ((uint64_t)1 << 60));
  if (n == 0) return;
  may_be(w, huge(size)), may_be(w + 1, 0), may_be(w + 4, 0);
  for (uint32_t i = 1; i < 5; i++) may_be(w + i, w[i] + 1 + below(size - 1));
  if (w[3] != 0) may_be(&args[2], 0), may_be(&args[3], below(room));
}

/* args: dtype, n, matrix, two vectors, scratch, scratch_length, threads. */
static int32_t call_packed_product(void) {
  return fs_packed_product(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), POINTER(args[3]), POINTER(args[4]), POINTER(args[5]),
                           SMALL(args[6]), SMALL(args[7]));
}
static int32_t call_packed_update(void) {
  return fs_packed_update(SMALL(args[0]), SMALL(args[1]), POINTER(args[2]), POINTER(args[3]), POINTER(args[4]), POINTER(args[5]),
                          SMALL(args[6]), SMALL(args[7]));
}
static void packed(int update) {
  const uint32_t dtype = below(2), size = fs_element_size[dtype], n = below(below(8) ? 20 : 150);
  const uint32_t room = update ? 2 * n : fs_packed_scratch(n);
  args[0] = dtype, args[1] = n, args[2] = word(place((size_t)n * (n + 1) / 2 * size, size, update));
  args[3] = word(buffer(n * size, size, 0)), args[4] = word(place(n * size, size, !update));
  args[5] = word(place((size_t)room * 8, 8, 1)), args[6] = room, args[7] = some_threads();
  may_be(&args[0], FS_BF16 + below(99));
  if (n == 0) return;
  for (uint32_t i = 2; i < 5; i++) may_be_bad(&args[i], size);
  may_be_bad(&args[5], 8), may_be(&args[6], below(room)), may_be(&args[1], UINT32_MAX - below(99));
}
static void make_packed_product(void) { packed(0); }
static void make_packed_update(void) { packed(1); }

/* Functions that take anything: they give an answer, and what they write to is known. */
static int32_t call_others(void) {
  const uint32_t any = below(3) ? below(30) : SMALL(random_word()), room = below(100);
  char name[12], text[100];
  uint64_t words[5] = {7, 7, 7, 7, 7};
  uint32_t isas = fs_set_isa(UINT32_MAX), length;
  int ok = fs_abi_version() == FS_ABI_VERSION && fs_cpu_count() >= 1 && fs_set_isa(any) <= isas && fs_isa() <= isas;
  fs_set_isa(below(4));
  fs_set_grain(below(4) ? 1u << below(24) : SMALL(random_word()));
  fs_set_awake(below(3));
  fs_wake();
  ok &= fs_huge_pages(NULL, any, any & 1) == 0;
  double nanoseconds[2] = {-1, -1}; /* on for some of the calls that follow, off for others */
  ok &= fs_profile(below(2), nanoseconds) == FS_OK && nanoseconds[0] >= 0 && nanoseconds[1] == -1;
  ok &= fs_profile(any, NULL) == FS_ERR_NULL && fs_profile(any, POINTER(word(nanoseconds) + 1 + any % 7)) == FS_ERR_ALIGN;
  for (uint32_t i = 0; i < sizeof name; i++) name[i] = (char)(below(4) ? 'a' + below(26) : below(256));
  name[sizeof name - 1] = 0;
  const int32_t found = fs_rule_find(below(4) ? name : below(2) ? fs_rules[below(fs_rule_count)].name : NULL);
  ok &= found >= -1 && found < (int32_t)fs_rule_count;
  memset(text, 0x5a, sizeof text);
  const int32_t described = fs_rule_describe(any, below(4) ? text : NULL, room);
  ok &= described == -1 || (described > 0 && any < fs_rule_count && memchr(text, 0, room) != NULL);
  for (uint32_t i = room; i < sizeof text; i++) ok &= text[i] == 0x5a;
  fs_bind(words, 1 + any % 3, &ok);
  ok &= words[1 + any % 3] == word(&ok) && words[0] == 7 && words[4] == 7;
  length = fs_packed_scratch(any);
  ok &= (length == 0) == (any == 0);
  ok &= (fs_matmul_scratch(below(9), any) > 0) || fs_matmul_scratch(FS_DTYPES, any) == 0;
  return ok ? FS_OK : 1;
}
static void make_others(void) {}

static const struct { const char *name; void (*make)(void); int32_t (*call)(void); uint32_t share; } functions[] = {
  {"fs_run", make_run, call_run, 5}, {"fs_step", make_step, call_step, 4}, {"fs_reduce", make_reduce, call_reduce, 3},
  {"fs_bind_arrays", make_bind_arrays, call_bind_arrays, 3},
  {"fs_make_spans", make_make_spans, call_make_spans, 1}, {"fs_bind_rows", make_bind_rows, call_bind_rows, 2}, {"fs_sum_rows", make_sum_rows, call_sum_rows, 2},
  {"fs_tensor_scratch", make_tensor_scratch, call_tensor_scratch, 1}, {"fs_run_tensors", make_run_tensors, call_run_tensors, 1},
  {"fs_matmul", make_matmul, call_matmul, 1}, {"fs_combine", make_combine, call_combine, 2},
  {"fs_packed_product", make_packed_product, call_packed_product, 1}, {"fs_packed_update", make_packed_update, call_packed_update, 1},
  {"the others", make_others, call_others, 1}};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* Whether nothing has changed but, of a call that has succeeded, what it writes. */
static int in_place(int written) {
  size_t at = 0;
  int ok = 1;
  for (const piece *p = pieces; p < pieces + piece_count; at = p->at + p->bytes, p++) {
    const size_t to = written && p->written ? p->at : p->at + p->bytes;
    ok &= memcmp(arena + at, before + at, to - at) == 0;
  }
  return ok && memcmp(arena + at, before + at, used + CANARY - at) == 0;
}

static int one_call(uint32_t f, uint32_t *refused) {
  begin();
  functions[f].make();
  const uint32_t number = wrong_count > 0 && below(3) > 0 ? 1 + below(2) * below(3) : 0;
  for (uint32_t i = 0; i < number; i++) {
    const wrong *w = &wrongs[below(wrong_count)];
    memcpy(w->place, &w->value, w->width);
  }
  memcpy(before, arena, used + CANARY);
  if (__asan_poison_memory_region) {
    __asan_poison_memory_region(arena, ROOM);
    for (uint32_t i = 0; i < piece_count; i++) __asan_unpoison_memory_region(arena + pieces[i].at, pieces[i].bytes);
    __asan_poison_memory_region(scratch + scratch_used, CANARY);
  }
  const int32_t status = functions[f].call();
  if (__asan_poison_memory_region) {
    __asan_unpoison_memory_region(arena, ROOM);
    __asan_unpoison_memory_region(scratch + scratch_used, CANARY);
  }
  *refused += number > 0;
  int ok = number > 0 ? status <= FS_ERR_NULL && status >= FS_ERR_OVERLAP : status == FS_OK;
  ok &= in_place(number == 0);
  if (scratch_used > 0) {
    ok &= canary(scratch + scratch_used, CANARY);
    if (number > 0) ok &= canary(scratch, scratch_used < CANARY ? scratch_used : CANARY);
  }
  if (!ok) printf("%s: %s, and it gave %d\n", functions[f].name, number > 0 ? "something was wrong" : "nothing was wrong", status);
  return ok;
}

void test_calls(const lent *with, uint32_t calls, uint64_t seed) {
  uint32_t made[FUNCTIONS] = {0}, shares = 0, refused = 0;
  int ok[FUNCTIONS];
  state = seed * 2654435761u + 1;
  arena = calloc(ROOM, 1), before = calloc(ROOM, 1), scratch = calloc(SCRATCH, 1);
  if (!arena || !before || !scratch) abort();
  for (uint32_t f = 0; f < FUNCTIONS; f++) ok[f] = 1, shares += functions[f].share;
  for (uint32_t c = 0; c < calls; c++) {
    uint32_t f = 0;
    for (uint32_t at = below(shares); at >= functions[f].share; f++) at -= functions[f].share;
    fs_set_isa(below(4)), fs_set_grain(below(2) ? 64 : 5u << 19);
    made[f]++;
    if (!one_call(f, &refused)) ok[f] = 0, printf("random call %u of seed %llu\n", c, (unsigned long long)seed);
  }
  for (uint32_t f = 0; f < FUNCTIONS; f++) {
    ++*(ok[f] && made[f] > 0 ? with->passed : with->failed);
    if (!ok[f] || made[f] == 0) printf("FAILED: %u random calls of %s\n", made[f], functions[f].name);
  }
  printf("%u random calls, of which %u had something wrong\n", calls, refused);
  fs_set_grain(5u << 19), fs_set_isa(UINT32_MAX);
  free(arena), free(before), free(scratch);
}
