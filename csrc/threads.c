/**
 * The thread pool: started at the first work that is worth it, resident from then on, asleep when idle. Between the steps of a
 * training run it stays awake (linger()), where that takes nothing from anybody.
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
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
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

/* The work in progress. Written under the gate before `work` is, and read after by those it calls. */
static void (*work_task)(void *, uint32_t);
static void *work_context;
static _Atomic uint64_t work;              /* its number, and in the last bits (PARTS) how many threads it is for */
static atomic_uint unfinished;             /* of the workers called, how many are at work */
static atomic_uint asleep[FS_MAX_THREADS]; /* workers; written under sleep_lock */
static atomic_uint started;                /* `workers`, for those without the gate */
static atomic_uint master_asleep;
static atomic_uint nudges;                 /* how often fs_wake has woken sleepers; raised under sleep_lock */
static atomic_uint last_parts;             /* of the last fs_on_threads; 1 if it was short */
static atomic_uint turned_away;            /* somebody has found the pool busy */

#define PARTS UINT64_C(127)

static atomic_uint may_stay_awake = 1;

void fs_set_awake(uint32_t on) { atomic_store_explicit(&may_stay_awake, on != 0, memory_order_relaxed); }

/* Whether there is work for a worker, whose last was `seen`. It stays so until the worker has done it. */
static int called(uint32_t index, uint64_t seen) {
  const uint64_t number = atomic_load(&work);
  return number != seen && index + 1 < (number & PARTS);
}

/* Whether some of the first workers sleep. */
static int some_asleep(uint32_t helpers) {
  uint32_t k = 0;
  while (k < helpers && atomic_load(&asleep[k]) == 0) k++;
  return k < helpers;
}

static void wake_workers(void) {
  lock(&sleep_lock);
  wake_all(&work_signal);
  unlock(&sleep_lock);
}

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

#if defined(__linux__)
/*
 * Waking a thread that sleeps takes the system some 40 microseconds in a virtual machine, and a step comes every few milliseconds:
 * so those that the last work has needed go on looking, for twice as long as it has lately taken until there was work again. They
 * do so only where that is another's loss in nothing: all processors are this process's to use, without a quota; a worker
 * yields its processor at every look; and when more threads want to run than there are processors, it goes to sleep at once. (The
 * policy SCHED_IDLE was worse for others: the system left two busy threads on one processor beside it. And few may leave it.)
 */
#define LONGEST_GAP UINT64_C(50000000) /* nanoseconds; whose work is farther apart does not feel the wake-up */
#define CROWD_EVERY UINT64_C(100000)   /* how often to see who else wants to run */
#define SHORT_WORK UINT64_C(40000)     /* whoever is awake may help with it; nobody stays awake for it */
#define OTHERS_WORK 8                  /* who is not called for so many times is not needed */
#define LOOKS 32                       /* between two yields: about a microsecond */

static atomic_uint too_many;          /* the last work was for more threads than there are processors */
static _Atomic uint64_t linger_until; /* on the clock below */
static uint32_t own_processors;       /* 0: there is no lingering; set before the first worker starts */
static uint32_t processors;           /* that there are for this process */
static uintptr_t last_caller;
static uint64_t shared_until;         /* several threads make steps: these are crowd enough */
static uint64_t last_end, window_start, window_gap, earlier_gap, usual_gap, last_start, linger_before; /* these and the two above: guarded by gate */

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Whether there is lingering at all. */
static int lingers(void) { return own_processors > 0 && atomic_load_explicit(&may_stay_awake, memory_order_relaxed); }

/* Work for so many threads begins. */
static void note_start(uint32_t threads) {
  atomic_store_explicit(&too_many, threads > processors, memory_order_relaxed);
  if (!lingers()) return;
  last_start = now();
  linger_before = atomic_load_explicit(&linger_until, memory_order_relaxed);
  if (usual_gap > 0) atomic_store_explicit(&linger_until, last_start + LONGEST_GAP, memory_order_relaxed); /* for who is done first */
}

/* And ends; 1 if it was worth waking threads for. How long it has taken until there was some: the longest of the last 200 to 400 ms. */
static int note_end(uint32_t threads) {
  if (!lingers()) return 1;
  const uint64_t t = now(), gap = last_start - last_end;
  if (t - last_start < SHORT_WORK) {
    atomic_store_explicit(&linger_until, linger_before, memory_order_relaxed);
    return 0;
  }
  if (gap > LONGEST_GAP) window_gap = earlier_gap = 0, window_start = t;
  if (t - window_start > 4 * LONGEST_GAP) earlier_gap = window_gap, window_gap = 0, window_start = t;
  if (gap <= LONGEST_GAP && gap > window_gap) window_gap = gap;
  const uintptr_t caller = (uintptr_t)pthread_self();
  if (atomic_exchange(&turned_away, 0) || (caller != last_caller && last_caller != 0)) shared_until = t + 4 * LONGEST_GAP;
  usual_gap = threads > own_processors || t < shared_until ? 0 : window_gap > earlier_gap ? window_gap : earlier_gap;
  last_caller = caller;
  last_end = t;
  atomic_store_explicit(&linger_until, t + 2 * usual_gap, memory_order_relaxed);
  return 1;
}

uint32_t fs_awake(void) {
  const uint32_t there = atomic_load(&started);
  uint32_t k = 0;
  if (there == 0 || !lingers()) return 0;
  while (k < there && atomic_load(&asleep[k]) == 0) k++;
  return k;
}

/* A pause before the next look; where there are more threads than processors, somebody else's turn now and then. */
static void look_again(uint32_t i) {
  if (i % LOOKS == LOOKS - 1 && atomic_load_explicit(&too_many, memory_order_relaxed)) sched_yield();
  else pause_cpu();
}

/* Whether more threads want to run than there are processors: the fourth field of /proc/loadavg, "2/345". */
static int crowded(void) {
  static int file = -2;
  char text[64];
  if (file == -2) file = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
  const ssize_t got = file < 0 ? 0 : pread(file, text, sizeof text - 1, 0);
  uint32_t running = 0, spaces = 0;
  for (ssize_t i = 0; i < got && text[i] != '/'; i++) {
    if (text[i] == ' ') spaces++;
    else if (spaces == 3) running = running * 10 + (uint32_t)(text[i] - '0');
  }
  return running == 0 || running > own_processors; /* 0: nobody knows, for this thread runs */
}

/* Returns when there is work, or when it is time to sleep. The first worker looks after the others. */
static void linger(uint32_t index, uint64_t seen) {
  uint64_t look = 0;
  uint32_t crowds = 0;
  for (uint64_t t = now(); t < atomic_load_explicit(&linger_until, memory_order_relaxed); t = now()) {
    if (atomic_load(&work) - seen > OTHERS_WORK * (PARTS + 1)) return;
    if (index == 0 && t >= look) {
      crowds = crowded() ? crowds + 1 : 0; /* twice in a row: some of the system's threads run for microseconds */
      if (crowds == 2) atomic_store_explicit(&linger_until, 0, memory_order_relaxed);
      look = t + CROWD_EVERY;
    }
    sched_yield();
    for (uint32_t i = 0; i < LOOKS; i++) {
      if (called(index, seen)) return;
      pause_cpu();
    }
  }
}
#else
static uint32_t own_processors, processors;
static void note_start(uint32_t threads) { (void)threads; }
static int note_end(uint32_t threads) { return (void)threads, 1; }
static void look_again(uint32_t i) { (void)i, pause_cpu(); }
uint32_t fs_awake(void) { return 0; }
static void linger(uint32_t index, uint64_t seen) { (void)index, (void)seen; }
#endif

static void worker_loop(uint32_t index, uint64_t seen) {
#if defined(__linux__)
  atomic_store(&worker_id[index], (int)syscall(SYS_gettid));
#endif
  for (;;) {
    for (uint32_t spins = SPINS; !called(index, seen); spins = SPINS_NEAR) {
      for (uint32_t i = 0; i < spins && !called(index, seen); i++) look_again(i);
      linger(index, seen);
      if (called(index, seen)) break;
      lock(&sleep_lock);
      const uint32_t before = atomic_load(&nudges);
      atomic_store(&asleep[index], 1);
      while (!called(index, seen) && (atomic_load(&nudges) == before || index + 1 >= atomic_load(&last_parts))) {
        wait_on(&work_signal, &sleep_lock);
      }
      atomic_store(&asleep[index], 0);
      unlock(&sleep_lock);
    }
    seen = atomic_load(&work);
    note_place(index);
    work_task(work_context, index + 1);
    if (atomic_fetch_sub(&unfinished, 1) == 1 && atomic_load(&master_asleep)) {
      lock(&sleep_lock);
      wake_all(&done_signal);
      unlock(&sleep_lock);
    }
  }
}

/* What a new worker is told: its number and the work it starts after. */
static uint32_t start_index;
static uint64_t start_work;

#if defined(_WIN32)
static DWORD WINAPI worker_main(void *unused) {
#else
static void *worker_main(void *unused) {
#endif
  (void)unused;
  const uint32_t index = start_index;
  const uint64_t seen = start_work;
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
  if (workers == 0) {
    pin();
    own_processors = fs_own_processors();
    processors = fs_cpu_count();
  }
  start_index = workers;
  start_work = atomic_load(&work);
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
  atomic_store(&started, workers);
  return 1;
}

void fs_wake(void) {
  const uint32_t parts = atomic_load_explicit(&last_parts, memory_order_relaxed), there = atomic_load(&started);
  if (parts < 2 || !some_asleep(parts - 1 < there ? parts - 1 : there)) return;
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
      note_start(helped);
      keep_apart(helped - 1);
      atomic_store(&unfinished, helped - 1);
      atomic_store(&work, (atomic_load(&work) | PARTS) + 1 + helped);
      if (some_asleep(helped - 1)) wake_workers();
    }
    task(context, 0);
    for (uint32_t part = helped; part < parts; part++) task(context, part);
    if (helped > 1) {
      for (uint32_t i = 0; i < SPINS && atomic_load(&unfinished) != 0; i++) look_again(i);
      if (atomic_load(&unfinished) != 0) {
        lock(&sleep_lock);
        atomic_store(&master_asleep, 1);
        while (atomic_load(&unfinished) != 0) wait_on(&done_signal, &sleep_lock);
        atomic_store(&master_asleep, 0);
        unlock(&sleep_lock);
      }
      if (!note_end(helped)) atomic_store_explicit(&last_parts, 1, memory_order_relaxed);
    }
    unlock(&gate);
    return;
  }
  if (parts > 1) atomic_store_explicit(&turned_away, 1, memory_order_relaxed);
  for (uint32_t part = 0; part < parts; part++) task(context, part);
}
