/** What the parts of the library share: kernels by rule and dtype (cpu.c), the thread pool (threads.c), and its time (profile.c). */
#ifndef FS_INTERNAL_H
#define FS_INTERNAL_H

#include "flatstep.h"

#if defined(__wasm__) /* there is no libc: wasm.c has these */
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int value, size_t n);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
#else
#include <string.h>
#endif

/** One rule in one dtype on one instruction set, over the elements [from, to) of one tensor. */
typedef void (*fs_kernel)(uint32_t flags, const double *hyper, const uint64_t *pointers, size_t from, size_t to);

/** A flag for every kernel: memory is fetched ahead of the arithmetic. */
#define FS_AHEAD (1u << 31)

/** One chunk of a reduction; of FS_SUM_SQ_SCALED, `y` is the factor, a double. */
#define FS_SUM_SQ_SCALED FS_REDUCE_OPS
typedef double (*fs_chunk)(uint32_t op, const void *x, const void *y, size_t n);

/** out = x times two factors, rounded each time. */
typedef void (*fs_scaler)(void *out, const void *x, size_t n, const double *factors);

/** What fs_run has to know of a rule to check a table. */
typedef struct fs_rule {
  const char *name;
  const char *description;  /* fs_rule_describe's text */
  uint32_t buffers, hypers, flags;
  const uint32_t *needs;    /* for each buffer the flags that make it used; 0: always */
} fs_rule;

#define FS_MAX_BUFFERS 16u

extern const fs_rule fs_rules[];
extern const uint32_t fs_rule_count;
extern const uint32_t fs_element_size[FS_DTYPES];

fs_kernel fs_kernel_of(uint32_t rule, uint32_t dtype);
fs_chunk fs_chunk_of(uint32_t dtype);
fs_scaler fs_scaler_of(uint32_t dtype);

#define FS_MAX_THREADS 64u

/** task(context, part) for every part in [0, parts), on up to `parts` threads; returns when all are done. */
void fs_parallel(void (*task)(void *context, uint32_t part), void *context, uint32_t parts);

/** fs_parallel, without its time being counted (profile.c). */
void fs_on_threads(void (*task)(void *context, uint32_t part), void *context, uint32_t parts);

/** All processors of the machine if this process may use them all, without a quota; else 0, and where that is not known (cpus.c). */
uint32_t fs_own_processors(void);

/** Processors' worth of time in a control group's limit ("150000 100000", or "150000" and "100000"): rounded up; 0: no limit. */
uint32_t fs_quota(const char *limit, const char *period);

/** The path of the group that a line of /proc/self/cgroup gives for a controller ("": the unified one), or null. */
const char *fs_group(const char *text, const char *controller, size_t *length);

/** How many of the pool's threads, from the first one on, wait for work without sleeping; 0 where they never do so for long. */
uint32_t fs_awake(void);

/** How many threads so many bytes of buffers are worth: at least 1, at most `threads`. More if they are awake. */
uint32_t fs_parts_for(uint64_t bytes, uint32_t threads);

/** The floating-point environment rules are defined in: round to nearest, denormals kept. */
uint32_t fs_enter_float(void);
void fs_leave_float(uint32_t saved);

/** Partial results of so many elements. */
static inline uint64_t fs_chunks_of(uint64_t n) { return n / FS_REDUCE_CHUNK + (n % FS_REDUCE_CHUNK != 0); }

/** The first of `count` things that part `part` of `parts` does; of part `parts`: `count`. */
static inline uint64_t fs_first_of(uint64_t count, uint32_t part, uint32_t parts) {
  return count / parts * part + (part < count % parts ? part : count % parts);
}

/** Partial results are reduced like elements, until one is left: it is returned, and `partials` is scratch. 0 of none. */
double fs_fold(uint32_t op, double *partials, uint64_t count);

#endif
