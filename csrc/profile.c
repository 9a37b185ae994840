/**
 * Where the time goes: how long the kernels of a thread's calls have run, counted only while that thread has asked for it.
 */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "internal.h"

#include <stdatomic.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
static uintptr_t this_thread(void) { return GetCurrentThreadId(); }
static double now(void) {
  LARGE_INTEGER ticks, per_second;
  QueryPerformanceCounter(&ticks);
  QueryPerformanceFrequency(&per_second);
  return (double)ticks.QuadPart * 1e9 / (double)per_second.QuadPart;
}
#else
#include <pthread.h>
#include <time.h>
static uintptr_t this_thread(void) { return (uintptr_t)pthread_self(); }
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
#endif

/*
 * A thread that counts has a place here; where all are taken nothing is counted. (Thread-local variables would need a library
 * of the system's that we do without.)
 */
#define PLACES 64u
static atomic_uintptr_t owner[PLACES];
static double spent[PLACES]; /* nanoseconds; touched by the owner alone */
static atomic_uint counting; /* places that are taken */

/* This thread's place, or PLACES. */
static uint32_t place_of(uintptr_t thread) {
  uint32_t k = 0;
  while (k < PLACES && atomic_load_explicit(&owner[k], memory_order_relaxed) != thread) k++;
  return k;
}

int32_t fs_profile(uint32_t on, double *nanoseconds) {
  if (nanoseconds == NULL) return FS_ERR_NULL;
  if ((uintptr_t)nanoseconds % 8 != 0) return FS_ERR_ALIGN;
  const uintptr_t thread = this_thread();
  uint32_t k = place_of(thread);
  *nanoseconds = k < PLACES ? spent[k] : 0;
  if (k < PLACES) spent[k] = 0;
  if (on && k == PLACES) {
    for (k = 0; k < PLACES; k++) {
      uintptr_t nobody = 0;
      if (!atomic_compare_exchange_strong(&owner[k], &nobody, thread)) continue;
      spent[k] = 0;
      atomic_fetch_add(&counting, 1);
      break;
    }
  } else if (!on && k < PLACES) {
    atomic_store(&owner[k], 0);
    atomic_fetch_sub(&counting, 1);
  }
  return FS_OK;
}

/* Apart, so that a call that nobody counts goes straight through. */
static __attribute__((noinline)) void count(void (*task)(void *, uint32_t), void *context, uint32_t parts) {
  const uint32_t k = place_of(this_thread());
  const double start = now();
  fs_on_threads(task, context, parts);
  if (k < PLACES) spent[k] += now() - start;
}

void fs_parallel(void (*task)(void *, uint32_t), void *context, uint32_t parts) {
  if (atomic_load_explicit(&counting, memory_order_relaxed) == 0) fs_on_threads(task, context, parts);
  else count(task, context, parts);
}
