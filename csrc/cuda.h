/**
 * What the CUDA kernels of ptx.c take: one parameter each, one of the structures below, by value. All addresses are the device's.
 *
 * Grids and blocks are 1-dimensional and may have any size: blocks or threads take turns until everything is done, without
 * barriers or shared memory, and no size changes a bit. Tables are those of flatstep.h.
 */
#ifndef FS_CUDA_H
#define FS_CUDA_H

#include "flatstep.h"

/** Hyperparameters that a rule may have; the rules' kernels all take so many. */
#define FS_CUDA_HYPERS 13u

/** RULE_DTYPE (adam_f32 …): a step of the rows that are named by chunks, which have one row of hyperparameters. A block a chunk. */
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

_Static_assert(sizeof(fs_cuda_step) == 152 && sizeof(fs_cuda_lanes) == 64 && sizeof(fs_cuda_fold) == 32, "no padding");

#ifdef FS_CUDA_HOST
/** Where a thread is; set before a kernel is invoked. */
struct fs_cuda_thread {
  uint32_t tid, ntid, ctaid, nctaid;
};
extern _Thread_local struct fs_cuda_thread fs_cuda_thread;

enum fs_cuda_kind { FS_CUDA_STEP = 0, FS_CUDA_LANES_OF = 1, FS_CUDA_FOLD = 2 };

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
