/**
 * How many processors there are for this process: those it may run on, and no more than its control group lets it have time of.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "internal.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <unistd.h>
#endif

/* A decimal number at *text, which is moved behind it; -1 if there is none. Digits beyond the 18th are left out: it is large. */
static int64_t number(const char **text) {
  int64_t value = 0;
  uint32_t digits = 0;
  for (; **text >= '0' && **text <= '9'; ++*text) {
    if (digits++ < 18) value = value * 10 + (**text - '0');
  }
  return digits > 0 ? value : -1;
}

uint32_t fs_quota(const char *limit, const char *period) {
  const int64_t time = number(&limit);
  while (*limit == ' ') limit++;
  const int64_t of = number(period != NULL ? &period : &limit);
  if (time <= 0 || of <= 0) return 0; /* "max", "-1" */
  const int64_t cpus = time / of + (time % of != 0);
  return cpus < INT32_MAX ? (uint32_t)cpus : INT32_MAX;
}

const char *fs_group(const char *text, const char *controller, size_t *length) {
  const size_t wanted = strlen(controller);
  while (*text != 0) { /* "4:cpu,cpuacct:/path"; "0::/path" */
    const char *at = text;
    while (*at >= '0' && *at <= '9') at++;
    int found = *at == ':' && at[1] == ':' && wanted == 0;
    if (*at == ':') at++;
    while (*at != 0 && *at != ':' && *at != '\n') {
      const char *name = at;
      while (*at != 0 && *at != ',' && *at != ':' && *at != '\n') at++;
      if (wanted > 0 && (size_t)(at - name) == wanted && memcmp(name, controller, wanted) == 0) found = 1;
      if (*at == ',') at++;
    }
    const char *path = *at == ':' ? at + 1 : at, *end = path;
    while (*end != 0 && *end != '\n') end++;
    if (found && *path == '/') return *length = (size_t)(end - path), path;
    text = *end == 0 ? end : end + 1;
  }
  return NULL;
}

#if defined(__linux__)
#include <fcntl.h>
#include <sched.h>

/* The start of a file as text; 0 if there is none. */
static int read_text(const char *path, char *text, size_t room) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  const ssize_t got = read(file, text, room - 1);
  close(file);
  text[got > 0 ? got : 0] = 0;
  return got > 0;
}

/* What the files of a group and of those above it allow; 0: no limit. In a container the path may be one that is only outside. */
static uint32_t least_quota(const char *mount, const char *group, size_t length, const char *limit_file, const char *period_file) {
  char path[1024], limit[64], period[64];
  const size_t at = strlen(mount), name = strlen(limit_file) > strlen(period_file) ? strlen(limit_file) : strlen(period_file);
  uint32_t least = 0;
  if (at + length + name + 2 > sizeof path) return 0;
  memcpy(path, mount, at);
  memcpy(path + at, group, length);
  for (;;) {
    while (length > 0 && path[at + length - 1] == '/') length--;
    path[at + length] = '/';
    memcpy(path + at + length + 1, limit_file, strlen(limit_file) + 1);
    if (read_text(path, limit, sizeof limit)) {
      memcpy(path + at + length + 1, period_file, strlen(period_file) + 1);
      const int two = *period_file != 0;
      const uint32_t cpus = two && !read_text(path, period, sizeof period) ? 0 : fs_quota(limit, two ? period : NULL);
      if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
    }
    if (length == 0) return least;
    while (length > 0 && path[at + length - 1] != '/') length--;
  }
}

/* The processors that this process may take time of at once, by the quota of its control group; 0: no limit. */
static uint32_t quota(void) {
  char groups[4096];
  size_t length;
  const char *group;
  if (!read_text("/proc/self/cgroup", groups, sizeof groups)) return 0;
  uint32_t least = 0;
  if ((group = fs_group(groups, "", &length)) != NULL) least = least_quota("/sys/fs/cgroup", group, length, "cpu.max", "");
  if ((group = fs_group(groups, "cpu", &length)) != NULL) {
    const uint32_t cpus = least_quota("/sys/fs/cgroup/cpu", group, length, "cpu.cfs_quota_us", "cpu.cfs_period_us");
    if (cpus > 0 && (least == 0 || cpus < least)) least = cpus;
  }
  return least;
}

uint32_t fs_own_processors(void) {
  cpu_set_t set;
  const long all = sysconf(_SC_NPROCESSORS_ONLN);
  if (sched_getaffinity(0, sizeof set, &set) != 0 || CPU_COUNT(&set) != all || quota() != 0) return 0;
  return (uint32_t)all;
}
#else
uint32_t fs_own_processors(void) { return 0; }
#endif

uint32_t fs_cpu_count(void) {
#if defined(_WIN32)
  SYSTEM_INFO info;
  GetSystemInfo(&info);
  return info.dwNumberOfProcessors > 0 ? info.dwNumberOfProcessors : 1;
#else
  long count = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) count = CPU_COUNT(&set);
  const uint32_t most = quota();
  if (most > 0 && count > (long)most) count = (long)most;
#endif
  return count > 0 ? (uint32_t)count : 1;
#endif
}
