/**
 * flatstep: the C ABI.
 *
 * One call does the work: fs_run() takes jobs, a job is one update rule in one dtype over a table of tensors.
 * Nothing here allocates memory of the caller's, keeps a pointer after the call has returned, or trusts a length it
 * has not checked: a call that returns anything but FS_OK has changed nothing.
 *
 * All structures are little-endian arrays of 64-bit words, so that they can be written from JavaScript:
 *
 *   fs_job   4 words   { u32 rule, u32 dtype | u32 rows, u32 hyper_rows | const uint64_t *table | const double *hypers }
 *   a row    2 + B     { u64 n | u32 hyper, u32 flags | B pointers }        B: the rule's number of buffers
 *   hypers   H doubles a row, rounded to the dtype's arithmetic type when they are read; H: the rule's number of them
 *
 * A row with n = 0 is skipped and its pointers are not looked at. A pointer of a buffer that the row's flags do not
 * use may be null. Buffers of one job may overlap only where both are read.
 *
 * Results do not depend on the instruction set or on the number of threads: rules use + - * / sqrt, comparisons and
 * sign only, are compiled without contraction, and reductions add in a fixed order.
 */
#ifndef FLATSTEP_H
#define FLATSTEP_H

#include <stddef.h>
#include <stdint.h>

/** Changes whenever a signature, a structure or the meaning of a value below does. */
#define FS_ABI_VERSION 3u

#if defined(_WIN32)
#define FS_API __declspec(dllexport)
#else
#define FS_API __attribute__((visibility("default")))
#endif

/** The element type of all buffers of a job. bf16 and f16 are computed in float32 and rounded once, at the store. */
enum fs_dtype { FS_F32 = 0, FS_F64 = 1, FS_BF16 = 2, FS_F16 = 3, FS_DTYPES = 4 };

/** Instruction sets, in rising order for one architecture. */
enum fs_isa { FS_ISA_BASE = 0, FS_ISA_AVX2 = 1, FS_ISA_AVX512 = 2, FS_ISAS = 3 };

enum fs_status {
  FS_OK = 0,
  FS_ERR_NULL = -1,     /* a null pointer where memory is needed */
  FS_ERR_RULE = -2,     /* no such rule */
  FS_ERR_DTYPE = -3,    /* no such dtype */
  FS_ERR_FLAGS = -4,    /* a flag that the rule does not have */
  FS_ERR_HYPER = -5,    /* a row names a row of hyperparameters that is not there */
  FS_ERR_LENGTH = -6,   /* a length that no memory can have */
  FS_ERR_ALIGN = -7,    /* a pointer that is not a multiple of its element's size */
  FS_ERR_OP = -8,       /* no such reduction */
  FS_ERR_SCRATCH = -9,  /* the scratch array is too short */
  FS_ERR_ROW = -10,     /* a row that is not there */
  FS_ERR_SHAPE = -11,   /* a shape that the rule does not take */
  FS_ERR_OVERLAP = -12  /* an array that shares memory with what is written */
};

/** One update rule in one dtype over a table of tensors. */
typedef struct fs_job {
  uint32_t rule;          /* from fs_rule_find() */
  uint32_t dtype;         /* enum fs_dtype */
  uint32_t rows;          /* tensors in the table */
  uint32_t hyper_rows;    /* rows of hyperparameters */
  union {
    const uint64_t *table; /* rows * (2 + B) words */
    uint64_t table_word;   /* 64 bits also where pointers are shorter */
  };
  union {
    const double *hypers;  /* hyper_rows * H doubles */
    uint64_t hypers_word;
  };
} fs_job;

/** FS_ABI_VERSION of the library that was built. */
FS_API uint32_t fs_abi_version(void);

/** Processors this process may run on; at least 1. */
FS_API uint32_t fs_cpu_count(void);

/** The instruction set in use (enum fs_isa); 256 + it on arm64, where the baseline is NEON. */
FS_API uint32_t fs_isa(void);

/** Uses at most this instruction set from now on, never more than the processor and system have; returns fs_isa(). */
FS_API uint32_t fs_set_isa(uint32_t isa);

/** One more thread for each so many bytes of buffers (unless set: 2.5 MiB, 128 KiB where the threads are awake); for tests and for measuring. */
FS_API void fs_set_grain(uint32_t bytes);

/** Whether threads may stay awake between works that come within 50 milliseconds of each other (on Linux; unless set: they may). */
FS_API void fs_set_awake(uint32_t on);

/** The number of a rule by its name (zero-terminated), or -1. */
FS_API int32_t fs_rule_find(const char *name);

/**
 * What a rule is, as text: "name|buffers|hyperparameters|flags", each a comma-separated list, buffers with their access
 * ("param:rw"). Writes at most `capacity` bytes including the final zero; returns the text's length, or -1.
 */
FS_API int32_t fs_rule_describe(uint32_t rule, char *text, uint32_t capacity);

/** words[index] = the address of `target`. Lets JavaScript make tables without handling addresses as numbers. */
FS_API void fs_bind(uint64_t *words, uint32_t index, const void *target);

/** Arrays that one fs_bind_arrays takes. */
#define FS_BOUND 8u

/** Where fs_bind_arrays writes addresses, and what the arrays must not overlap with. */
typedef struct fs_binding {
  uint32_t dtype;         /* enum fs_dtype */
  uint32_t rows;          /* of the table */
  uint32_t stride;        /* words of a row; its first one is n */
  uint32_t word;          /* the word of a row that is written; not 0 */
  uint32_t span_count;
  uint32_t near;          /* the span that was found last, where the next search begins; written */
  union {
    uint64_t *table;
    uint64_t table_word;
  };
  union {
    const uint64_t *spans; /* from fs_make_spans */
    uint64_t spans_word;
  };
} fs_binding;

/**
 * Binds `count` rows, at most FS_BOUND, from row `first` on to an array each; further arrays are not looked at. A row with n = 0 is
 * skipped. FS_ERR_OVERLAP where an array shares memory with a span.
 */
FS_API int32_t fs_bind_arrays(fs_binding *binding, uint32_t first, uint32_t count, const void *a0, const void *a1,
                              const void *a2, const void *a3, const void *a4, const void *a5, const void *a6,
                              const void *a7);

/**
 * Makes spans for fs_bind_arrays of `count` pieces of memory, rows of { base | from | to } in bytes: pairs { from | to } of
 * addresses in rising order, with gaps between, at the beginning of the same words. Returns how many there are.
 */
FS_API int32_t fs_make_spans(uint64_t *words, uint32_t count);

/**
 * words[index + rows[r] * stride] = the address of row positions[r] of `base`, for r in [0, count): rows of `length` elements,
 * of which there are `limit`. Without `rows` they are 0, 1, 2, …; without `positions` all are row 0. A job's table is filled
 * by it where a step goes to some rows of a tensor only.
 */
FS_API int32_t fs_bind_rows(uint64_t *words, uint32_t index, uint32_t stride, uint32_t count, const uint32_t *rows,
                            uint32_t dtype, uint32_t length, const void *base, uint32_t limit,
                            const uint32_t *positions);

/**
 * Row k of `out` = the sum, in this order, of the rows sources[starts[k]] … sources[starts[k + 1] - 1] of `values`, for k in
 * [0, count); zeros where there are none. Rows of `length` elements; `values` has `limit`, `starts` count + 1 that never fall.
 * 16-bit elements are added in float32 and rounded once. `out` overlaps with nothing.
 */
FS_API int32_t fs_sum_rows(uint32_t dtype, void *out, uint32_t count, uint32_t length, const void *values, uint32_t limit,
                           const uint32_t *sources, const uint32_t *starts);

/**
 * Asks the system for huge pages under an array of `kib` KiB: without `now` for what is touched for the first time, with `now` for
 * what is there already (it is copied, and stays the same). 1 if the system agreed; 0 where it does not have them or did not
 * agree, and nothing has changed.
 */
FS_API int32_t fs_huge_pages(const void *base, uint32_t kib, uint32_t now);

/**
 * Wakes the threads of the pool, if the last call used them: they then wait for work without sleeping, for some hundreds of
 * microseconds. To be called when an fs_run is near.
 */
FS_API void fs_wake(void);

/**
 * *nanoseconds = how long kernels have run in this thread's calls (other threads' help and waking them included) since the last
 * fs_profile; 0 unless that was with `on`. It is counted while `on` was given last, and costs nothing otherwise. Up to 64 threads
 * may count at once; further ones read 0.
 */
FS_API int32_t fs_profile(uint32_t on, double *nanoseconds);

/**
 * Runs `count` jobs on at most `threads` threads (the caller's own included). Everything is checked first. Elements are
 * split evenly; little work stays on the calling thread. Concurrent calls are allowed.
 */
FS_API int32_t fs_run(const fs_job *jobs, uint32_t count, uint32_t threads);

/** The numbers that fs_step reads (unscale, max_norm) and writes. */
enum fs_step_word {
  FS_STEP_UNSCALE = 0,     /* each gradient is multiplied by it first; 1: it is not */
  FS_STEP_MAX_NORM = 1,    /* what the norm is clipped to; infinity: it is not */
  FS_STEP_NORM = 2,        /* the norm of all gradients */
  FS_STEP_COEFFICIENT = 3, /* max_norm / (norm + 1e-6), at most 1; 0 where the norm is not finite */
  FS_STEP_SUMS = 4,        /* a sum of squares for each dtype; the norm is the root of their sum, in the order of dtypes */
  FS_STEP_WORDS = 8
};

/** MEASURE adds the squares of all gradients to the sums, row by row; UPDATE runs the jobs. */
enum fs_step_phase { FS_STEP_MEASURE = 1, FS_STEP_UPDATE = 2 };

/**
 * fs_run over gradients (buffer 1, which is not changed) that are multiplied by `unscale` and then by the coefficient, rounded
 * to their dtype each time. With both phases norm and coefficient are found first, and nothing is updated where the norm is
 * not finite; UPDATE alone takes the coefficient as it is. `partials` is scratch for MEASURE, sum(ceil(n / FS_REDUCE_CHUNK))
 * doubles.
 */
FS_API int32_t fs_step(const fs_job *jobs, uint32_t count, uint32_t phases, double *step, double *partials,
                       uint32_t partials_length, uint32_t threads);

/** Elements that one partial result of a reduction covers. */
#define FS_REDUCE_CHUNK 4096u

/** sum x; sum |x|; sum x*x; sum x*y; max |x| (NaN if there is one). All in float64. */
enum fs_reduce_op { FS_SUM = 0, FS_SUM_ABS = 1, FS_SUM_SQ = 2, FS_DOT = 3, FS_MAX_ABS = 4, FS_REDUCE_OPS = 5 };

/**
 * results[i] = op over row i of the table (rows of { u64 n | x | y }, y for FS_DOT only). `partials` is scratch for
 * at least sum(ceil(n / FS_REDUCE_CHUNK)) doubles. Added in a fixed order: 16 lanes over each chunk, then over the chunks.
 */
FS_API int32_t fs_reduce(uint32_t op, uint32_t dtype, const uint64_t *table, uint32_t rows, double *partials,
                         uint32_t partials_length, double *results, uint32_t threads);

/**
 * Rules that look at a whole tensor: norms, rows and columns, products of matrices. Their table has rows of 7 words,
 *
 *   { u64 batches | u64 rows | u64 columns | param | grad | first | second }
 *
 * for `batches` matrices behind each other, or, with batches = 0, a vector of `columns` elements. A tensor without elements
 * is skipped and its pointers are not looked at. Each has a row of hyperparameters:
 *
 *   Adafactor  sign, weight (of what is new in the averages), eps1, 1 / eps1, eps2, rho, clip, decay
 *              first: rowVar [batches, rows], second: colVar [batches, columns]; of a vector, first: variance
 *   Muon       sign, momentum, 1 - momentum, nesterov (0 or 1), a, b, c, steps (0 … 99), eps, decay, step
 *              first: momentumBuffer; one matrix a row of the table
 */
enum fs_tensor_rule { FS_ADAFACTOR = 0, FS_MUON = 1, FS_TENSOR_RULES = 2 };

/** *length = the doubles of scratch that fs_run_tensors needs for this table. */
FS_API int32_t fs_tensor_scratch(uint32_t rule, uint32_t dtype, const uint64_t *table, uint32_t count, uint32_t threads,
                                 double *length);

/** Runs a step of `count` tensors, in the order of the table. Everything is checked first. */
FS_API int32_t fs_run_tensors(uint32_t rule, uint32_t dtype, const uint64_t *table, uint32_t count, const double *hypers,
                              double *scratch, uint32_t scratch_length, uint32_t threads);

/** Doubles of scratch that fs_matmul needs. */
FS_API uint32_t fs_matmul_scratch(uint32_t dtype, uint32_t threads);

/** How the matrices of a product lie, and that the result and `add` are symmetric: half of it is computed. */
enum fs_matmul_flags { FS_A_TRANSPOSED = 1, FS_B_TRANSPOSED = 2, FS_SYMMETRIC = 4 };

/**
 * out [m, n] = beta * add + alpha * a b, of words { m | n | k | flags | a [m, k] | b [k, n] | add [m, n] or null | out |
 * double alpha | double beta }, row-major; a transposed matrix lies as [k, m] or [n, k]. float32 and float64. The terms of
 * each element are added in the order of k, every product and every sum rounded: the bits of three plain loops.
 */
FS_API int32_t fs_matmul(uint32_t dtype, const uint64_t *words, double *scratch, uint32_t scratch_length,
                         uint32_t threads);

/** Flags of a pass: x is negated; the result is multiplied by c. */
enum fs_pass_flags { FS_NEGATE = 1, FS_SCALE = 2 };

/**
 * One pass over vectors, of words { n | x | y or null | z or null | out | flags | double a | double c }:
 *
 *   out = (±x + a y) c,   results = { sum out z, max |out| }     each product and each sum of elements rounded
 *
 * The sum is in float64 and in the order of fs_reduce; without z both results are 0. `partials` is scratch for at least
 * 2 ceil(n / FS_REDUCE_CHUNK) doubles. out may be x, y or z, and overlaps with them in no other way. float32 and float64.
 */
FS_API int32_t fs_combine(uint32_t dtype, const uint64_t *words, double *partials, uint32_t partials_length,
                          double *results, uint32_t threads);

/** Doubles of scratch that fs_packed_product needs for n rows. */
FS_API uint32_t fs_packed_scratch(uint32_t n);

/**
 * out = H v for a symmetric matrix of n rows, of which the lower triangle is stored, row behind row: row i from i (i + 1) / 2
 * on. Sums are in float64: over fixed blocks of rows, whose number follows from n alone. out does not overlap with H or v.
 * float32 and float64.
 */
FS_API int32_t fs_packed_product(uint32_t dtype, uint32_t n, const void *matrix, const void *v, void *out,
                                 double *scratch, uint32_t scratch_length, uint32_t threads);

/** H -= u sT + s uT, in float64 and rounded once. Scratch: 2 n doubles. */
FS_API int32_t fs_packed_update(uint32_t dtype, uint32_t n, void *matrix, const void *u, const void *s, double *scratch,
                                uint32_t scratch_length, uint32_t threads);

#endif
