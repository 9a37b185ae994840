/**
 * Huge pages: a step over large arrays goes through more pages than a processor keeps addresses of, unless they are huge.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "internal.h"

#if defined(__linux__)
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define SETTINGS "/sys/kernel/mm/transparent_hugepage/"

/* Reads a file's beginning as text; "" where there is none. */
static void read_text(const char *path, char *text, size_t capacity) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  const ssize_t length = file < 0 ? 0 : read(file, text, capacity - 1);
  text[length > 0 ? length : 0] = 0;
  if (file >= 0) close(file);
}

/* The size of a huge page; 0 where the system has none or its administrator wants none used. */
static uintptr_t huge_page(void) {
  static atomic_uintptr_t known; /* 1 + the size; 0: not yet looked */
  uintptr_t found = atomic_load_explicit(&known, memory_order_relaxed);
  if (found == 0) {
    char enabled[64], size[32];
    read_text(SETTINGS "enabled", enabled, sizeof enabled);
    read_text(SETTINGS "hpage_pmd_size", size, sizeof size);
    const unsigned long bytes = strtoul(size, NULL, 10);
    const int usable = enabled[0] != 0 && strstr(enabled, "[never]") == NULL && (bytes & (bytes - 1)) == 0;
    found = 1 + (usable ? bytes : 0);
    atomic_store_explicit(&known, found, memory_order_relaxed);
  }
  return found - 1;
}

int32_t fs_huge_pages(const void *base, uint32_t kib, uint32_t now) {
  const uintptr_t huge = huge_page(), small = (uintptr_t)sysconf(_SC_PAGESIZE), first = (uintptr_t)base;
  if (huge == 0 || base == NULL || kib == 0) return 0;
  const uintptr_t end = first + (uintptr_t)kib * 1024;
  /* Advice is for every page of the array, so that neighbours become one area; what is moved has to be the array's own. */
  const uintptr_t unit = now ? huge : small, from = now ? (first + huge - 1) / unit * unit : first / unit * unit;
  const uintptr_t to = now ? end / unit * unit : (end + unit - 1) / unit * unit;
  if (from >= to) return 0;
  return madvise((void *)from, to - from, now ? MADV_COLLAPSE : MADV_HUGEPAGE) == 0;
}
#else
int32_t fs_huge_pages(const void *base, uint32_t kib, uint32_t now) {
  (void)base, (void)kib, (void)now;
  return 0;
}
#endif
