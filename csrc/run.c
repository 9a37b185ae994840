/**
 * fs_run, fs_step and fs_reduce: check everything, split the elements evenly, run.
 */
#include "internal.h"

#include <stdatomic.h>

/*
 * A thread for each so many bytes of buffers. Between the steps of a training run the pool has gone to sleep, and waking it
 * takes as long as moving some megabytes.
 */
static atomic_uint grain = 5u << 19;
/* The same where they are awake: below 160 KiB in all a second one does not pay. */
static atomic_uint awake_grain = 1u << 17;
/* Splits fall on multiples of this many elements, so that no two threads write to one cache line. */
#define FS_SPLIT 64u

/* A place in the jobs: element `at` of row `row` of job `job`. */
typedef struct cursor {
  uint32_t job, row;
  uint64_t at;
} cursor;

typedef struct run {
  const fs_job *jobs;
  const double *factors; /* what gradients are multiplied by, one after the other; null: they are taken as they are */
  cursor part[FS_MAX_THREADS + 1];
} run;

/* Tables of so many rows are checked on several threads, if the last run needed those too: they are awake then. */
#define FS_MANY_ROWS 4096u
/* And in so many blocks, whose elements are noted, so that nobody has to walk all rows again to find where a part begins. */
#define FS_BLOCKS 128u

/* What there is to do. */
typedef struct totals {
  uint64_t elements, bytes, chunks, grad_bytes;
  uint32_t noted;               /* the job whose blocks are noted: the first long one; or none, UINT32_MAX */
  uint64_t in_block[FS_BLOCKS]; /* elements of its rows [fs_first_of(rows, b, FS_BLOCKS), fs_first_of(rows, b + 1, FS_BLOCKS)) */
} totals;

static uint32_t row_words(const fs_job *job) { return 2 + fs_rules[job->rule].buffers; }
static uint32_t row_hyper(const uint64_t *row) { return (uint32_t)row[1]; }
static uint32_t row_flags(const uint64_t *row) { return (uint32_t)(row[1] >> 32); }

/* What there is in some rows of a table; or what is wrong with them. */
typedef struct found {
  uint64_t elements, chunks;
  int32_t status;
} found;

static found check_rows(const fs_job *job, uint32_t from, uint32_t to) {
  const fs_rule *rule = &fs_rules[job->rule];
  const uint32_t size = fs_element_size[job->dtype], words = row_words(job), odd = size - 1; /* sizes are powers of 2 */
  const uint64_t most = (uint64_t)PTRDIFF_MAX / size;
  const uint64_t *row = job->table + (size_t)from * words;
  found f = {0, 0, FS_OK};
  for (uint32_t r = from; r < to; r++, row += words) {
    const uint64_t n = row[0];
    if (n == 0) continue;
    if (n > most - f.elements) return (found){0, 0, FS_ERR_LENGTH};
    if (row_hyper(row) >= job->hyper_rows) return (found){0, 0, FS_ERR_HYPER};
    const uint32_t flags = row_flags(row);
    if (flags >> rule->flags != 0) return (found){0, 0, FS_ERR_FLAGS};
    for (uint32_t b = 0; b < rule->buffers; b++) {
      if (row[2 + b] == 0) {
        if (rule->needs[b] == 0 || (rule->needs[b] & flags) != 0) return (found){0, 0, FS_ERR_NULL};
      } else if ((row[2 + b] & odd) != 0) { /* a remainder by a variable would take longer than a short row's step */
        return (found){0, 0, FS_ERR_ALIGN};
      }
    }
    f.elements += n;
    f.chunks += fs_chunks_of(n);
  }
  return f;
}

static atomic_uint parts_before = 1;

typedef struct checking {
  const fs_job *job;
  uint32_t blocks, parts;
  found part[FS_MAX_THREADS];
  uint64_t in_block[FS_BLOCKS];
} checking;

static void check_part(void *context, uint32_t part) {
  checking *c = context;
  const uint32_t rows = c->job->rows, end = (uint32_t)fs_first_of(c->blocks, part + 1, c->parts);
  const uint64_t most = (uint64_t)PTRDIFF_MAX / fs_element_size[c->job->dtype];
  found sum = {0, 0, FS_OK};
  for (uint32_t b = (uint32_t)fs_first_of(c->blocks, part, c->parts); b < end && sum.status == FS_OK; b++) {
    const uint32_t from = (uint32_t)fs_first_of(rows, b, c->blocks), to = (uint32_t)fs_first_of(rows, b + 1, c->blocks);
    const found f = check_rows(c->job, from, to);
    c->in_block[b] = f.elements;
    sum.status = f.status == FS_OK && f.elements > most - sum.elements ? FS_ERR_LENGTH : f.status;
    sum.elements += f.elements;
    sum.chunks += f.chunks;
  }
  c->part[part] = sum;
}

/* Checks jobs[j], and adds what there is in it to *all. */
static int32_t check_job(const fs_job *jobs, uint32_t j, totals *all, uint32_t threads) {
  const fs_job *job = &jobs[j];
  if (job->rule >= fs_rule_count) return FS_ERR_RULE;
  if (job->dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (job->rows == 0) return FS_OK;
  if (job->table == NULL || job->hypers == NULL) return FS_ERR_NULL;
  if (((uintptr_t)job->table | (uintptr_t)job->hypers) % 8 != 0) return FS_ERR_ALIGN;
  const uint32_t before = atomic_load_explicit(&parts_before, memory_order_relaxed);
  checking c;
  c.job = job;
  c.blocks = c.parts = 1;
  if (job->rows >= FS_MANY_ROWS) {
    c.blocks = FS_BLOCKS;
    c.parts = before < threads ? before : threads > 0 ? threads : 1;
  }
  if (c.parts > 1) fs_on_threads(check_part, &c, c.parts);
  else check_part(&c, 0);
  const uint64_t size = fs_element_size[job->dtype], buffers = fs_rules[job->rule].buffers;
  uint64_t sum = 0;
  for (uint32_t p = 0; p < c.parts; p++) {
    if (c.part[p].status != FS_OK) return c.part[p].status;
    if (c.part[p].elements > (uint64_t)PTRDIFF_MAX / size - sum) return FS_ERR_LENGTH;
    sum += c.part[p].elements;
    all->chunks += c.part[p].chunks;
  }
  if (c.blocks == FS_BLOCKS && all->noted == UINT32_MAX) {
    all->noted = j;
    memcpy(all->in_block, c.in_block, sizeof c.in_block);
  }
  if (sum > UINT64_MAX / 2 - all->elements) return FS_ERR_LENGTH;
  all->elements += sum;
  if (sum > (UINT64_MAX / 2 - all->bytes) / (buffers * size)) return FS_ERR_LENGTH;
  all->bytes += sum * buffers * size;
  all->grad_bytes += sum * size;
  return FS_OK;
}

static int32_t check_jobs(const fs_job *jobs, uint32_t count, totals *all, uint32_t threads) {
  all->elements = all->bytes = all->chunks = all->grad_bytes = 0;
  all->noted = UINT32_MAX;
  if (count == 0) return FS_OK;
  if (jobs == NULL) return FS_ERR_NULL;
  if ((uintptr_t)jobs % 8 != 0) return FS_ERR_ALIGN;
  for (uint32_t j = 0; j < count; j++) {
    const int32_t status = check_job(jobs, j, all, threads);
    if (status != FS_OK) return status;
  }
  return FS_OK;
}

/* Fills in where each part begins: `parts` runs of elements of as equal a length as FS_SPLIT allows. */
static void split(run *r, uint32_t count, const totals *all, uint32_t parts) {
  uint32_t part = 1;
  uint64_t before = 0, goal = all->elements / parts;
  memset(&r->part[0], 0, sizeof(cursor));
  for (uint32_t j = 0; j < count && part < parts; j++) {
    const fs_job *job = &r->jobs[j];
    const uint32_t words = job->rows ? row_words(job) : 0, blocks = j == all->noted ? FS_BLOCKS : 1;
    for (uint32_t b = 0; b < blocks && part < parts; b++) {
      if (blocks > 1 && goal >= before + all->in_block[b]) {
        before += all->in_block[b];
        continue;
      }
      const uint32_t to = (uint32_t)fs_first_of(job->rows, b + 1, blocks);
      for (uint32_t i = (uint32_t)fs_first_of(job->rows, b, blocks); i < to && part < parts; i++) {
        const uint64_t n = job->table[(size_t)i * words];
        while (part < parts && goal < before + n) {
          const uint64_t at = (goal - before) / FS_SPLIT * FS_SPLIT;
          r->part[part] = (cursor){j, i, at};
          part++;
          goal = (uint64_t)((double)all->elements * part / parts);
          if (goal < before + at) goal = before + at;
        }
        before += n;
      }
    }
  }
  for (; part <= parts; part++) r->part[part] = (cursor){count, 0, 0};
}

static void prefetch(const uint64_t *row, uint32_t buffers, uint32_t size) {
  const uint64_t bytes = row[0] * size < 512 ? row[0] * size : 512;
  for (uint32_t b = 0; b < buffers; b++) {
    if (row[2 + b] == 0) continue;
    for (uint64_t k = 0; k < bytes; k += 64) __builtin_prefetch((const void *)(uintptr_t)(row[2 + b] + k));
  }
}

/* Of tensors longer than so many bytes memory is fetched ahead; shorter ones are over before that helps. */
#define FS_LONG 65536u

static void run_row(fs_kernel kernel, const fs_job *job, const uint64_t *row, uint64_t from, uint64_t to) {
  const double *hypers = job->hypers + (size_t)row_hyper(row) * fs_rules[job->rule].hypers;
  const uint32_t ahead = to - from > FS_LONG / fs_element_size[job->dtype] ? FS_AHEAD : 0;
  kernel(row_flags(row) | ahead, hypers, row + 2, (size_t)from, (size_t)to);
}

/* Bytes of a gradient that are multiplied at a time: they stay in the first-level cache. */
#define FS_SCALED 4096u
/* The same where memory is fetched ahead, and how far: the kernel sees no gradients to fetch. */
#define FS_SCALED_AHEAD 1024u
#define FS_GRADIENT_FAR 2048u

/* run_row, where gradients are multiplied: the kernel finds a block of products in the place of the gradient's. */
static void run_scaled_row(fs_kernel kernel, const fs_job *job, const uint64_t *row, uint64_t from, uint64_t to,
                           const double *factors) {
  _Alignas(64) unsigned char products[FS_SCALED];
  const fs_rule *rule = &fs_rules[job->rule];
  const fs_scaler scale = fs_scaler_of(job->dtype);
  const double *hypers = job->hypers + (size_t)row_hyper(row) * rule->hypers;
  const uint32_t size = fs_element_size[job->dtype], ahead = to - from > FS_LONG / size ? FS_AHEAD : 0;
  const uint64_t block = (ahead ? FS_SCALED_AHEAD : FS_SCALED) / size;
  uint64_t pointers[FS_MAX_BUFFERS];
  for (uint64_t n; from < to; from += n) {
    n = to - from < block ? to - from : block;
    for (uint32_t b = 0; b < rule->buffers; b++) pointers[b] = row[2 + b] == 0 ? 0 : row[2 + b] + from * size;
    for (uint32_t k = 0; ahead && k < FS_SCALED_AHEAD; k += 64) {
      __builtin_prefetch((const void *)(uintptr_t)(pointers[1] + FS_GRADIENT_FAR + k));
    }
    scale(products, (const void *)(uintptr_t)pointers[1], (size_t)n, factors);
    pointers[1] = (uint64_t)(uintptr_t)products;
    kernel(row_flags(row) | ahead, hypers, pointers, 0, (size_t)n);
  }
}

static void run_elements(const run *r, fs_kernel kernel, const fs_job *job, const uint64_t *row, uint64_t from,
                         uint64_t to) {
  if (from >= to) return;
  if (r->factors == NULL) run_row(kernel, job, row, from, to);
  else run_scaled_row(kernel, job, row, from, to, r->factors);
}

static void run_part(void *context, uint32_t part) {
  const run *r = context;
  const cursor end = r->part[part + 1];
  cursor c = r->part[part];
  const uint32_t saved = fs_enter_float();
  for (; c.job < end.job || (c.job == end.job && (c.row < end.row || (c.row == end.row && c.at < end.at)));
       c.job++, c.row = 0, c.at = 0) {
    const fs_job *job = &r->jobs[c.job];
    if (job->rows == 0) continue;
    const uint32_t words = row_words(job), buffers = fs_rules[job->rule].buffers;
    const uint32_t size = fs_element_size[job->dtype];
    const uint32_t last = c.job == end.job ? end.row : job->rows; /* rows that are run to their end */
    const fs_kernel kernel = fs_kernel_of(job->rule, job->dtype);
    const uint64_t *row = job->table + (size_t)c.row * words;
    for (; c.row < last; c.row++, c.at = 0, row += words) {
      if (c.row + 1 < last) prefetch(row + words, buffers, size);
      run_elements(r, kernel, job, row, c.at, row[0]);
    }
    if (c.job == end.job) {
      run_elements(r, kernel, job, row, c.at, end.at);
      break;
    }
  }
  fs_leave_float(saved);
}

uint32_t fs_parts_for(uint64_t bytes, uint32_t threads) {
  const uint32_t most = threads > FS_MAX_THREADS ? FS_MAX_THREADS : threads;
  uint64_t worth = bytes / atomic_load_explicit(&grain, memory_order_relaxed);
  if (most < 2) return 1;
  if (worth < most) {
    const uint64_t little = bytes / atomic_load_explicit(&awake_grain, memory_order_relaxed), awake = 1 + fs_awake();
    const uint64_t helped = little < awake ? little : awake;
    if (worth < helped) worth = helped;
  }
  return worth < 2 ? 1 : worth < most ? (uint32_t)worth : most;
}

void fs_set_grain(uint32_t bytes) {
  atomic_store_explicit(&grain, bytes > 0 ? bytes : 1, memory_order_relaxed);
  atomic_store_explicit(&awake_grain, bytes > 0 ? bytes : 1, memory_order_relaxed);
}

static void run_all(const fs_job *jobs, uint32_t count, const totals *all, const double *factors, uint32_t threads) {
  if (all->elements == 0) return;
  run r;
  r.jobs = jobs;
  r.factors = factors;
  const uint32_t parts = fs_parts_for(all->bytes, threads);
  atomic_store_explicit(&parts_before, parts, memory_order_relaxed);
  split(&r, count, all, parts);
  fs_parallel(run_part, &r, parts);
}

int32_t fs_run(const fs_job *jobs, uint32_t count, uint32_t threads) {
  totals all;
  const int32_t status = check_jobs(jobs, count, &all, threads);
  if (status == FS_OK) run_all(jobs, count, &all, NULL, threads);
  return status;
}

typedef struct reduction {
  const uint64_t *table;
  double *partials;
  fs_chunk chunk;
  uint64_t chunks;
  uint32_t op, rows, words, size, parts;
} reduction;

static void reduce_part(void *context, uint32_t part) {
  const reduction *r = context;
  const uint64_t from = fs_first_of(r->chunks, part, r->parts), to = fs_first_of(r->chunks, part + 1, r->parts);
  const uint32_t saved = fs_enter_float();
  uint64_t before = 0;
  const uint64_t *row = r->table;
  for (uint32_t i = 0; i < r->rows && before < to; i++, row += r->words) {
    const uint64_t n = row[0], here = fs_chunks_of(n);
    for (uint64_t c = from > before ? from - before : 0; c < here && before + c < to; c++) {
      const uint64_t at = c * FS_REDUCE_CHUNK, left = n - at;
      const size_t length = (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK);
      const char *x = (const char *)(uintptr_t)row[1] + at * r->size;
      const char *y = r->op == FS_DOT ? (const char *)(uintptr_t)row[2] + at * r->size : NULL;
      r->partials[before + c] = r->chunk(r->op, x, y, length);
    }
    before += here;
  }
  fs_leave_float(saved);
}

double fs_fold(uint32_t op, double *p, uint64_t left) {
  const fs_chunk again = fs_chunk_of(FS_F64);
  if (left == 0) return 0;
  while (left > 1) {
    const uint64_t next = fs_chunks_of(left);
    for (uint64_t c = 0; c < next; c++) {
      const uint64_t rest = left - c * FS_REDUCE_CHUNK;
      p[c] = again(op == FS_MAX_ABS ? FS_MAX_ABS : FS_SUM, p + c * FS_REDUCE_CHUNK, NULL,
                   (size_t)(rest < FS_REDUCE_CHUNK ? rest : FS_REDUCE_CHUNK));
    }
    left = next;
  }
  return p[0];
}

int32_t fs_reduce(uint32_t op, uint32_t dtype, const uint64_t *table, uint32_t rows, double *partials,
                  uint32_t partials_length, double *results, uint32_t threads) {
  if (op >= FS_REDUCE_OPS) return FS_ERR_OP;
  if (dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (rows == 0) return FS_OK;
  if (table == NULL || results == NULL) return FS_ERR_NULL;
  if (((uintptr_t)table | (uintptr_t)results | (uintptr_t)partials) % 8 != 0) return FS_ERR_ALIGN;
  const uint32_t size = fs_element_size[dtype], words = op == FS_DOT ? 3 : 2;
  const uint64_t *row = table;
  uint64_t chunks = 0;
  for (uint32_t i = 0; i < rows; i++, row += words) {
    if (row[0] == 0) continue;
    if (row[0] > (uint64_t)PTRDIFF_MAX / size) return FS_ERR_LENGTH;
    for (uint32_t b = 1; b < words; b++) {
      if (row[b] == 0) return FS_ERR_NULL;
      if (row[b] % size != 0) return FS_ERR_ALIGN;
    }
    chunks += fs_chunks_of(row[0]);
    if (chunks > partials_length) return FS_ERR_SCRATCH;
  }
  if (chunks > 0 && partials == NULL) return FS_ERR_NULL;
  const uint64_t bytes = chunks * FS_REDUCE_CHUNK * size * (words - 1);
  reduction r = {table, partials, fs_chunk_of(dtype), chunks, op, rows, words, size, fs_parts_for(bytes, threads)};
  fs_parallel(reduce_part, &r, r.parts);

  const uint32_t saved = fs_enter_float();
  row = table;
  for (uint32_t i = 0; i < rows; i++, row += words) {
    results[i] = fs_fold(op, partials, fs_chunks_of(row[0]));
    partials += fs_chunks_of(row[0]);
  }
  fs_leave_float(saved);
  return FS_OK;
}

typedef struct measurement {
  const fs_job *jobs;
  double *partials;
  double unscale;
  uint64_t chunks;
  uint32_t count, parts;
} measurement;

/* The squares of some chunks of gradients. */
static void measure_part(void *context, uint32_t part) {
  const measurement *m = context;
  const uint64_t from = fs_first_of(m->chunks, part, m->parts), to = fs_first_of(m->chunks, part + 1, m->parts);
  const uint32_t saved = fs_enter_float();
  uint64_t before = 0;
  for (uint32_t j = 0; j < m->count && before < to; j++) {
    const fs_job *job = &m->jobs[j];
    if (job->rows == 0) continue;
    const uint32_t words = row_words(job), size = fs_element_size[job->dtype];
    const fs_chunk squares = fs_chunk_of(job->dtype);
    const uint64_t *row = job->table;
    for (uint32_t i = 0; i < job->rows && before < to; i++, row += words) {
      const uint64_t here = fs_chunks_of(row[0]);
      if (i + 1 < job->rows) __builtin_prefetch((const void *)(uintptr_t)row[words + 3]);
      for (uint64_t c = from > before ? from - before : 0; c < here && before + c < to; c++) {
        const uint64_t at = c * FS_REDUCE_CHUNK, left = row[0] - at;
        const size_t n = (size_t)(left < FS_REDUCE_CHUNK ? left : FS_REDUCE_CHUNK);
        m->partials[before + c] = squares(m->unscale == 1 ? FS_SUM_SQ : FS_SUM_SQ_SCALED,
                                          (const void *)(uintptr_t)(row[3] + at * size), &m->unscale, n);
      }
      before += here;
    }
  }
  fs_leave_float(saved);
}

static void measure(const fs_job *jobs, uint32_t count, const totals *all, double *step, double *partials,
                    uint32_t parts) {
  measurement m = {jobs, partials, step[FS_STEP_UNSCALE], all->chunks, count, parts};
  fs_parallel(measure_part, &m, m.parts);
  const uint32_t saved = fs_enter_float();
  for (uint32_t j = 0; j < count; j++) {
    const uint32_t words = jobs[j].rows ? row_words(&jobs[j]) : 0;
    const uint64_t *row = jobs[j].table;
    double *sum = &step[FS_STEP_SUMS + jobs[j].dtype];
    for (uint32_t i = 0; i < jobs[j].rows; i++, row += words) {
      *sum = *sum + fs_fold(FS_SUM_SQ, partials, fs_chunks_of(row[0]));
      partials += fs_chunks_of(row[0]);
    }
  }
  fs_leave_float(saved);
}

/* The norm of all gradients, and the coefficient that clips it: torch.nn.utils.clip_grad_norm_. */
static void judge(double *step) {
  const uint32_t saved = fs_enter_float();
  double sum = step[FS_STEP_SUMS];
  for (uint32_t d = 1; d < FS_DTYPES; d++) sum = sum + step[FS_STEP_SUMS + d];
  const double norm = __builtin_sqrt(sum), wanted = step[FS_STEP_MAX_NORM] / (norm + 1e-6);
  step[FS_STEP_NORM] = norm;
  step[FS_STEP_COEFFICIENT] = !(norm - norm == 0) ? 0 : wanted < 1 ? wanted : 1;
  fs_leave_float(saved);
}

int32_t fs_step(const fs_job *jobs, uint32_t count, uint32_t phases, double *step, double *partials,
                uint32_t partials_length, uint32_t threads) {
  totals all;
  if (step == NULL) return FS_ERR_NULL;
  if (((uintptr_t)step | (uintptr_t)partials) % 8 != 0) return FS_ERR_ALIGN;
  const int32_t status = check_jobs(jobs, count, &all, threads);
  if (status != FS_OK) return status;
  for (uint32_t j = 0; j < count; j++) {
    const fs_rule *rule = &fs_rules[jobs[j].rule];
    if (rule->buffers < 2 || rule->needs[1] != 0) return FS_ERR_RULE;
  }
  if (phases & FS_STEP_MEASURE) {
    if (all.chunks > partials_length) return FS_ERR_SCRATCH;
    if (all.chunks > 0 && partials == NULL) return FS_ERR_NULL;
    /* an update that follows wants the threads awake, and may as well have their help here */
    const uint64_t bytes = phases & FS_STEP_UPDATE ? all.bytes : all.grad_bytes;
    measure(jobs, count, &all, step, partials, fs_parts_for(bytes, threads));
  }
  if ((phases & FS_STEP_UPDATE) == 0) return FS_OK;
  if (phases & FS_STEP_MEASURE) {
    judge(step);
    if (!(step[FS_STEP_NORM] - step[FS_STEP_NORM] == 0)) return FS_OK;
  }
  const double factors[2] = {step[FS_STEP_UNSCALE], step[FS_STEP_COEFFICIENT]};
  run_all(jobs, count, &all, factors[0] == 1 && factors[1] == 1 ? NULL : factors, threads);
  return FS_OK;
}
