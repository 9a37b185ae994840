/**
 * The thread pool: started at the first work that is worth it, resident from then on, asleep when idle.
 *
 * One set of workers serves the whole process. Work is handed out statically (worker k runs part k + 1), so that a thread
 * meets the same memory at every step. Who finds the pool busy (another JavaScript worker's step) runs its parts itself:
 * results do not depend on it. The library is never unloaded once a worker runs (pin()).
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "internal.h"

#include <stdatomic.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
typedef SRWLOCK lock_t;
typedef CONDITION_VARIABLE signal_t;
#define LOCK_INIT SRWLOCK_INIT
#define SIGNAL_INIT CONDITION_VARIABLE_INIT
static void lock(lock_t *l) { AcquireSRWLockExclusive(l); }
static int try_lock(lock_t *l) { return TryAcquireSRWLockExclusive(l) != 0; }
static void unlock(lock_t *l) { ReleaseSRWLockExclusive(l); }
static void wait_on(signal_t *s, lock_t *l) { SleepConditionVariableSRW(s, l, INFINITE, 0); }
static void wake_all(signal_t *s) { WakeAllConditionVariable(s); }
#else
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
typedef pthread_mutex_t lock_t;
typedef pthread_cond_t signal_t;
#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define SIGNAL_INIT PTHREAD_COND_INITIALIZER
static void lock(lock_t *l) { pthread_mutex_lock(l); }
static int try_lock(lock_t *l) { return pthread_mutex_trylock(l) == 0; }
static void unlock(lock_t *l) { pthread_mutex_unlock(l); }
static void wait_on(signal_t *s, lock_t *l) { pthread_cond_wait(s, l); }
static void wake_all(signal_t *s) { pthread_cond_broadcast(s); }
#endif

/* How often a thread looks before it sleeps: about a hundred microseconds; and when it has been told that work is near. */
#define SPINS 6000
#define SPINS_NEAR 20000

static lock_t gate = LOCK_INIT;            /* held by the one whose work the pool does */
static lock_t sleep_lock = LOCK_INIT;      /* guards the two signals */
static signal_t work_signal = SIGNAL_INIT, done_signal = SIGNAL_INIT;
static uint32_t workers;                   /* running; guarded by gate */

/* The work in progress. Written under the gate before `generation` is raised, read after. */
static void (*work_task)(void *, uint32_t);
static void *work_context;
static uint32_t work_parts;
static atomic_uint generation, unfinished, sleepers, master_asleep;
static atomic_uint nudges;                 /* how often fs_wake has woken sleepers; raised under sleep_lock */
static atomic_uint last_parts;             /* of the last fs_on_threads */

static void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

#if defined(__linux__)
/*
 * A system that wakes a worker on its waker's processor leaves it there, for it sees the two run one after the other; then
 * two threads are as slow as one. So each worker notes where it runs, and one that was on the caller's processor is kept
 * off it (never off all others).
 */
static atomic_int worker_cpu[FS_MAX_THREADS]; /* 1 + the processor of its last work; 0: none yet */
static atomic_int worker_id[FS_MAX_THREADS];

static void note_place(uint32_t index) { atomic_store_explicit(&worker_cpu[index], 1 + sched_getcpu(), memory_order_relaxed); }

static void keep_apart(uint32_t helpers) {
  const int here = sched_getcpu();
  if (here < 0) return;
  for (uint32_t k = 0; k < helpers; k++) {
    if (atomic_load_explicit(&worker_cpu[k], memory_order_relaxed) != 1 + here) continue;
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return;
    if (here < CPU_SETSIZE) CPU_CLR(here, &set);
    if (CPU_COUNT(&set) > 0) sched_setaffinity(atomic_load(&worker_id[k]), sizeof set, &set);
  }
}
#else
static void note_place(uint32_t index) { (void)index; }
static void keep_apart(uint32_t helpers) { (void)helpers; }
#endif

static void worker_loop(uint32_t index, uint32_t seen) {
#if defined(__linux__)
  atomic_store(&worker_id[index], (int)syscall(SYS_gettid));
#endif
  for (;;) {
    for (uint32_t spins = SPINS; atomic_load_explicit(&generation, memory_order_acquire) == seen; spins = SPINS_NEAR) {
      for (uint32_t i = 0; i < spins && atomic_load_explicit(&generation, memory_order_acquire) == seen; i++) pause_cpu();
      if (atomic_load_explicit(&generation, memory_order_acquire) != seen) break;
      lock(&sleep_lock);
      const uint32_t before = atomic_load(&nudges);
      atomic_fetch_add(&sleepers, 1);
      while (atomic_load(&generation) == seen && atomic_load(&nudges) == before) wait_on(&work_signal, &sleep_lock);
      atomic_fetch_sub(&sleepers, 1);
      unlock(&sleep_lock);
    }
    seen = atomic_load_explicit(&generation, memory_order_acquire);
    note_place(index);
    if (index + 1 < work_parts) work_task(work_context, index + 1);
    if (atomic_fetch_sub(&unfinished, 1) == 1 && atomic_load(&master_asleep)) {
      lock(&sleep_lock);
      wake_all(&done_signal);
      unlock(&sleep_lock);
    }
  }
}

/* What a new worker is told: its number and the generation it starts after, in one pointer's worth. */
static uint32_t start_index, start_generation;

#if defined(_WIN32)
static DWORD WINAPI worker_main(void *unused) {
#else
static void *worker_main(void *unused) {
#endif
  (void)unused;
  const uint32_t index = start_index, seen = start_generation;
  atomic_fetch_sub(&unfinished, 1); /* both are read: start_worker may go on */
  worker_loop(index, seen);
  return 0;
}

/* Keeps this library loaded: its threads run its code until the process ends. (On Linux the linker flag nodelete does.) */
static void pin(void) {
#if defined(_WIN32)
  HMODULE self;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, (LPCSTR)(uintptr_t)&pin, &self);
#elif !defined(__linux__)
  Dl_info info;
  if (dladdr((const void *)(uintptr_t)&pin, &info) != 0) dlopen(info.dli_fname, RTLD_NOW | RTLD_NODELETE);
#endif
}

/* Starts one more worker; 0 if the system has none to give. */
static int start_worker(void) {
  if (workers == 0) pin();
  start_index = workers;
  start_generation = atomic_load(&generation);
  atomic_store(&unfinished, 1);
#if defined(_WIN32)
  HANDLE thread = CreateThread(NULL, 256 * 1024, worker_main, NULL, 0, NULL);
  if (thread == NULL) return 0;
  CloseHandle(thread);
#else
  sigset_t all, before;
  sigfillset(&all);
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return 0;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the runtime's business */
  pthread_t thread;
  const int failed = pthread_create(&thread, &attributes, worker_main, NULL);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (failed) return 0;
#endif
  while (atomic_load(&unfinished) != 0) pause_cpu();
  workers++;
  return 1;
}

void fs_wake(void) {
  if (atomic_load_explicit(&last_parts, memory_order_relaxed) < 2 || atomic_load(&sleepers) == 0) return;
  lock(&sleep_lock);
  atomic_fetch_add(&nudges, 1);
  wake_all(&work_signal);
  unlock(&sleep_lock);
}

void fs_on_threads(void (*task)(void *, uint32_t), void *context, uint32_t parts) {
  atomic_store_explicit(&last_parts, parts, memory_order_relaxed);
  if (parts > 1 && try_lock(&gate)) {
    while (workers + 1 < parts && workers < FS_MAX_THREADS - 1 && start_worker()) {
    }
    const uint32_t helped = workers + 1 < parts ? workers + 1 : parts; /* parts [0, helped) have a thread each */
    if (helped > 1) {
      work_task = task;
      work_context = context;
      work_parts = helped;
      keep_apart(helped - 1);
      atomic_store(&unfinished, workers);
      atomic_fetch_add(&generation, 1);
      if (atomic_load(&sleepers) > 0) {
        lock(&sleep_lock);
        wake_all(&work_signal);
        unlock(&sleep_lock);
      }
    }
    task(context, 0);
    for (uint32_t part = helped; part < parts; part++) task(context, part);
    if (helped > 1) {
      for (uint32_t i = 0; i < SPINS && atomic_load(&unfinished) != 0; i++) pause_cpu();
      if (atomic_load(&unfinished) != 0) {
        lock(&sleep_lock);
        atomic_store(&master_asleep, 1);
        while (atomic_load(&unfinished) != 0) wait_on(&done_signal, &sleep_lock);
        atomic_store(&master_asleep, 0);
        unlock(&sleep_lock);
      }
    }
    unlock(&gate);
    return;
  }
  for (uint32_t part = 0; part < parts; part++) task(context, part);
}

uint32_t fs_cpu_count(void) {
#if defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwNumberOfProcessors > 0 ? info.dwNumberOfProcessors : 1;
#else
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
#endif
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (uint32_t)count : 1;
#endif
}
