/**
 * What the CUDA kernels of ptx.c take: one parameter each, one of the structures below, by value. All addresses are those
 * of the device.
 *
 * Grids and blocks are 1-dimensional, of any size (256 threads always fit the registers): blocks or threads take turns
 * until everything is done, without barriers or shared memory, and no size changes a bit. Tables are those of flatstep.h.
 */
#ifndef FS_CUDA_H
#define FS_CUDA_H

#include "flatstep.h"

/** Hyperparameters that a rule may have; the rules' kernels all take so many. */
#define FS_CUDA_HYPERS 13u

/**
 * RULE_DTYPE (adam_f32 …): a step of the rows that are named by chunks, which have one row of hyperparameters. A block a
 * chunk.
 */
typedef struct fs_cuda_step {
  uint64_t table;  /* rows of `words` words; which row of hyperparameters they name is not looked at */
  uint64_t chunks; /* `count` times { u64 row, u64 first element } */
  uint64_t count;
  uint32_t words;  /* 2 + the rule's buffers */
  uint32_t length; /* elements of a chunk, or what is left of the row */
  double unscale;  /* what a buffer named `grad` is multiplied by first, */
  double clip;     /* and then: rounded to its dtype each time. 1 changes no bit */
  double hypers[FS_CUDA_HYPERS];
} fs_cuda_step;

/** lanes_DTYPE: the 16 sums of each chunk that reduce.h has; a thread a lane. Chunks have FS_REDUCE_CHUNK elements. */
typedef struct fs_cuda_lanes {
  uint64_t table;  /* rows of `words` words, of which the first is the length */
  uint64_t chunks; /* `count` times { u64 row, u64 first element } */
  uint64_t count;
  uint64_t out;    /* 16 * count doubles */
  uint32_t words;
  uint32_t x, y;   /* which word of a row has the address of x, and (FS_DOT) of y */
  uint32_t op;     /* enum fs_reduce_op, or FS_REDUCE_OPS: the squares of x * factor, rounded to the dtype */
  double factor;
  uint64_t reserved;
} fs_cuda_lanes;

/** fold: the 16 lanes of each chunk added as reduce.h does. A thread a chunk. */
typedef struct fs_cuda_fold {
  uint64_t lanes; /* 16 * count doubles */
  uint64_t out;   /* count doubles */
  uint64_t count;
  uint32_t op;    /* enum fs_reduce_op */
  uint32_t reserved;
} fs_cuda_fold;

/**
 * adafactor_PHASE_DTYPE, muon_PHASE_DTYPE: a phase of a step of whole tensors (adafactor.c, muon.c). Which items of a
 * tensor there are, a thread each, is said where the kernels are (ptx_tensors.h); a block takes `length` of them.
 */
typedef struct fs_cuda_tensors {
  uint64_t table;  /* rows of FS_CUDA_TENSOR_WORDS words: enum fs_cuda_tensor_word */
  uint64_t chunks; /* `count` times { u64 row, u64 first item } */
  uint64_t count;
  uint32_t length; /* items of a chunk, or what is left of them */
  uint32_t reserved;
} fs_cuda_tensors;

/** A tensor's row; addresses from C_PARAM on. `real`: in the arithmetic type. */
enum fs_cuda_tensor_word {
  C_SIZE = 0,        /* elements */
  C_MATRICES = 1,    /* 0: a vector */
  C_ROWS = 2,
  C_COLUMNS = 3,     /* a vector's elements */
  C_PARAM = 4,
  C_GRAD = 5,
  C_FIRST = 6,       /* rowVar; a vector's variance; Muon's momentumBuffer */
  C_SECOND = 7,      /* colVar */
  C_HYPERS = 8,      /* a row of hyperparameters, doubles (flatstep.h) */
  C_CHUNK_SUMS = 9,  /* a double for each FS_REDUCE_CHUNK elements: squares of the parameter, or of Muon's matrix */
  C_RESULT = 10,     /* a double: Adafactor's step size, Muon's norm */
  C_X = 11,          /* Muon: the matrix, real */
  C_LAST = 12,       /* Muon: where the iteration leaves it */
  C_ROW_LANES = 13,  /* 16 doubles for each strip of each row */
  C_ROW_SUMS = 14,   /* a double for each strip of each row */
  C_COLUMN_SUMS = 15, /* a double for each column of each block of rows */
  C_ROW_FACTORS = 16, /* a double for each row */
  C_MEANS = 17,      /* a double for each matrix */
  C_FACTORS = 18,    /* real, for each column of each matrix */
  C_UNIT_LANES = 19, /* 16 doubles for each tile of a matrix, or chunk of a vector */
  C_UNIT_SUMS = 20,  /* a double for each */
  FS_CUDA_TENSOR_WORDS = 21
};

/**
 * product_f32, product_f64: out [m, n] = beta * add + alpha * a b, where a[i][k] is a[i * a_row + k * a_column], b[k][j] is
 * b[k * b_row + j]. A warp a piece of the result.
 */
typedef struct fs_cuda_product {
  uint64_t m, n, k;
  uint64_t a, b, add, out; /* add may be 0 */
  uint64_t a_row, a_column, b_row;
  double alpha, beta;
  uint64_t symmetric;      /* 1: the result and `add` are; half of it is computed */
} fs_cuda_product;

/** transpose_f32, transpose_f64: to [columns, rows] of from [rows, columns]. A thread an element. */
typedef struct fs_cuda_transpose {
  uint64_t rows, columns, from, to;
} fs_cuda_transpose;

/** Rows of a thread's piece of a product; its columns, which are a warp apart. */
#define FS_CUDA_DOWN 8u
#define FS_CUDA_ACROSS 4u
#define FS_CUDA_WARP 32u

_Static_assert(sizeof(fs_cuda_tensors) == 32 && sizeof(fs_cuda_product) == 104, "no padding");
_Static_assert(sizeof(fs_cuda_step) == 152 && sizeof(fs_cuda_lanes) == 64 && sizeof(fs_cuda_fold) == 32, "no padding");

#ifdef FS_CUDA_HOST
/** Where a thread is; set before a kernel is invoked. */
struct fs_cuda_thread {
  uint32_t tid, ntid, ctaid, nctaid;
};
extern _Thread_local struct fs_cuda_thread fs_cuda_thread;

enum fs_cuda_kind {
  FS_CUDA_STEP = 0,
  FS_CUDA_LANES_OF = 1,
  FS_CUDA_FOLD = 2,
  FS_CUDA_TENSORS = 3,
  FS_CUDA_PRODUCT = 4,
  FS_CUDA_TRANSPOSE = 5
};

/** A kernel as a function of the host: what the driver would know of it, and what its table has to be. */
typedef struct fs_cuda_kernel {
  const char *name;
  uint32_t parameters;     /* 1 */
  const uint32_t *sizes;   /* their sizes in bytes */
  void (*invoke)(void **parameters); /* runs one thread */
  uint32_t kind, dtype;    /* enum fs_cuda_kind, enum fs_dtype */
  uint32_t buffers, hypers, flags; /* how many a rule has */
  const uint32_t *needs;   /* for each buffer the flags that make it used; 0: always */
  const char *access;      /* for each buffer 'r', or 'w' if it is written as well */
} fs_cuda_kernel;

extern const fs_cuda_kernel fs_cuda_kernels[];
extern const uint32_t fs_cuda_kernel_count;
#endif

#endif
