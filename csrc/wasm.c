/**
 * What stands in for threads.c and string.h where the library is compiled for WebAssembly: the same kernels, stamped with
 * SIMD128, on one thread, without a libc.
 */
#include "internal.h"

void fs_on_threads(void (*task)(void *, uint32_t), void *context, uint32_t parts) {
  for (uint32_t part = 0; part < parts; part++) task(context, part);
}

void fs_parallel(void (*task)(void *, uint32_t), void *context, uint32_t parts) { fs_on_threads(task, context, parts); }

uint32_t fs_cpu_count(void) { return 1; }

void fs_wake(void) {}

uint32_t fs_awake(void) { return 0; }

void *memcpy(void *restrict to, const void *restrict from, size_t n) {
  unsigned char *a = to;
  const unsigned char *b = from;
  for (size_t i = 0; i < n; i++) a[i] = b[i];
  return to;
}

void *memset(void *to, int value, size_t n) {
  unsigned char *a = to;
  for (size_t i = 0; i < n; i++) a[i] = (unsigned char)value;
  return to;
}

size_t strlen(const char *text) {
  size_t n = 0;
  while (text[n] != 0) n++;
  return n;
}

int strcmp(const char *a, const char *b) {
  while (*a != 0 && *a == *b) a++, b++;
  return (unsigned char)*a - (unsigned char)*b;
}
