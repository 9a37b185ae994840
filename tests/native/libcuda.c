/**
 * A stand-in for libcuda, for machines without a GPU: the driver calls that flatstep makes, and its kernels as functions of the host.
 *
 * It is stricter than the driver. Work is queued, and runs when a call has to wait for it, so that what is not waited for is not there;
 * blocks and threads run from the last to the first. New memory is garbage and lies between guards. Before a kernel runs, every address
 * in its structure and its table must be in live memory of its device. Contexts are current for a thread. What is wrong makes a
 * sticky error, as on a device, and standin_problem() says what it was. Calls can be made to fail: standin_fail().
 */
#define _GNU_SOURCE
#include "ptx.c"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define GUARD 256u
#define MAX_DEVICES 8


enum {
  SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
  INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500,
  ILLEGAL_ADDRESS = 700
};

static const struct { int code, sticky; const char *name, *text; } errors[] = {
  {1, 0, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
  {2, 0, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
  {3, 0, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
  {46, 1, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
  {100, 0, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
  {101, 0, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
  {201, 0, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
  {209, 0, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
  {214, 1, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
  {218, 0, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
  {222, 0, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
  {400, 0, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
  {500, 0, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
  {700, 1, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
  {701, 0, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
  {719, 1, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
  {999, 0, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
#define ERRORS (sizeof errors / sizeof *errors)

typedef struct context { int device, retained, lost; } context;
typedef struct block { struct block *next; unsigned char *base; uint64_t address, size; int device; } block;
typedef struct module { struct module *next; char *text; int device; } module;
typedef struct function { struct function *next; module *owner; const fs_cuda_kernel *kernel; } function;

enum operation_kind { LAUNCH, COPY, FILL };
typedef struct operation {
  struct operation *next;
  enum operation_kind kind;
  int device;
  const fs_cuda_kernel *kernel; /* LAUNCH, with its structure */
  uint64_t parameter[32];
  uint32_t grid, threads;
  uint64_t to, from, count; /* COPY: bytes; FILL: elements of `width` bytes */
  uint32_t pattern, width;
} operation;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static context contexts[MAX_DEVICES];
static _Thread_local context *current;
static block *blocks;
static module *modules;
static function *functions;
static operation *queue, **queue_end = &queue;
static int initialized, devices = 2, capability[2] = {7, 5};
static uint64_t limit = 1u << 30; /* bytes of a device */
static char problem[512];

static struct { char call[64]; long countdown; int code; } failure;
static struct { char name[64]; uint64_t count; } counts[64];

static int trouble(const char *format, ...) {
  if (problem[0] == 0) {
    va_list list;
    va_start(list, format);
    vsnprintf(problem, sizeof problem, format, list);
    va_end(list);
  }
  return ILLEGAL_ADDRESS;
}

static int sticky(int code) {
  for (size_t i = 0; i < ERRORS; i++) if (errors[i].code == code) return errors[i].sticky;
  return 0;
}

static void read_environment(void) {
  static int done;
  if (done) return;
  done = 1;
  const char *text = getenv("FLATSTEP_STANDIN_FAIL"), *colon = text ? strchr(text, ':') : NULL;
  if (colon && colon - text < (long)sizeof failure.call) {
    memcpy(failure.call, text, (size_t)(colon - text));
    sscanf(colon, ":%ld:%d", &failure.countdown, &failure.code);
  }
  if ((text = getenv("FLATSTEP_STANDIN_DEVICES"))) devices = atoi(text);
  if ((text = getenv("FLATSTEP_STANDIN_CAPABILITY"))) sscanf(text, "%d.%d", &capability[0], &capability[1]);
}

/** Begins a call: counts it, and says with what it has to fail. */
static int enter(const char *call) {
  pthread_mutex_lock(&mutex);
  read_environment();
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    if (counts[i].name[0] == 0) strncpy(counts[i].name, call, sizeof counts[i].name - 1);
    if (strcmp(counts[i].name, call) != 0) continue;
    counts[i].count++;
    break;
  }
  if (failure.countdown > 0 && strcmp(failure.call, call) == 0 && --failure.countdown == 0) {
    if (sticky(failure.code) && current) current->lost = failure.code;
    return failure.code;
  }
  return SUCCESS;
}

static int leave(int status) {
  pthread_mutex_unlock(&mutex);
  return status;
}
#define ENTER(call)                                   \
  {                                                   \
    const int injected = enter(#call);                \
    if (injected) return leave(injected);             \
    if (!initialized) return leave(NOT_INITIALIZED);  \
  }
/* The same, for what needs a context. */
#define ENTER_CONTEXT(call)                           \
  ENTER(call)                                         \
  if (!current) return leave(INVALID_CONTEXT);        \
  if (current->lost) return leave(current->lost);

/** The live memory that has these bytes; null: none has. */
static block *find(uint64_t address, uint64_t bytes) {
  for (block *b = blocks; b; b = b->next) {
    if (address >= b->address && address - b->address <= b->size && bytes <= b->size - (address - b->address)) return b;
  }
  return NULL;
}

static int holds(int device, uint64_t address, uint64_t bytes, uint64_t align) {
  const block *b = find(address, bytes);
  return b && b->device == device && address % align == 0;
}

static int check_guards(const block *b) {
  for (uint32_t i = 0; i < GUARD; i++) {
    if (b->base[i] != 0xa5 || b->base[GUARD + b->size + i] != 0xa5) {
      return trouble("something was written beside the %llu bytes at %#llx", (unsigned long long)b->size,
                     (unsigned long long)b->address);
    }
  }
  return SUCCESS;
}

static const uint64_t sizes[] = {4, 8, 2, 2};

/** Whether the elements of a row that a chunk names are there, in the buffers that are used. */
static int check_step(const operation *o) {
  const fs_cuda_kernel *k = o->kernel;
  const fs_cuda_step *s = (const fs_cuda_step *)o->parameter;
  const uint64_t size = sizes[k->dtype];
  if (s->words != 2 + k->buffers) return trouble("%s: rows of %u words, and it has %u buffers", k->name, s->words, k->buffers);
  if (s->length == 0) return trouble("%s: chunks of no elements", k->name);
  if (s->count > 0 && !holds(o->device, s->chunks, 16 * s->count, 8)) return trouble("%s: the chunks are not there", k->name);
  const uint64_t *chunks = (const uint64_t *)(uintptr_t)s->chunks;
  for (uint64_t c = 0; c < s->count; c++) {
    const uint64_t at = s->table + chunks[2 * c] * s->words * 8, first = chunks[2 * c + 1];
    if (!holds(o->device, at, s->words * 8, 8)) return trouble("%s: row %llu is not there", k->name, (unsigned long long)chunks[2 * c]);
    const uint64_t *row = (const uint64_t *)(uintptr_t)at;
    const uint32_t flags = (uint32_t)(row[1] >> 32);
    if (flags >> k->flags) return trouble("%s: it does not have the flags %#x", k->name, flags);
    if (first >= row[0]) return trouble("%s: a chunk begins at %llu of %llu elements", k->name, (unsigned long long)first, (unsigned long long)row[0]);
    const uint64_t n = row[0] - first < s->length ? row[0] - first : s->length;
    for (uint32_t b = 0; b < k->buffers; b++) {
      if (k->needs[b] != 0 && (k->needs[b] & flags) == 0) continue;
      if (!holds(o->device, row[2 + b] + first * size, n * size, size)) {
        return trouble("%s: buffer %u of row %llu is not on device %d", k->name, b, (unsigned long long)chunks[2 * c], o->device);
      }
    }
    for (uint64_t other = 0; other < c && s->count < 1024; other++) {
      if (chunks[2 * other] != chunks[2 * c]) continue;
      const uint64_t from = chunks[2 * other + 1];
      if (from < first + n && first < from + s->length) return trouble("%s: two chunks have the same elements", k->name);
    }
  }
  return SUCCESS;
}

static int check_lanes(const operation *o) {
  const fs_cuda_kernel *k = o->kernel;
  const fs_cuda_lanes *s = (const fs_cuda_lanes *)o->parameter;
  const uint64_t size = sizes[k->dtype];
  if (s->op > FS_REDUCE_OPS || s->x >= s->words || (s->op == FS_DOT && s->y >= s->words)) return trouble("%s: no such reduction", k->name);
  if (s->count > 0 && !holds(o->device, s->chunks, 16 * s->count, 8)) return trouble("%s: the chunks are not there", k->name);
  if (s->count > 0 && !holds(o->device, s->out, 8 * FS_CUDA_LANES * s->count, 8)) return trouble("%s: there is no room for the lanes", k->name);
  const uint64_t *chunks = (const uint64_t *)(uintptr_t)s->chunks;
  for (uint64_t c = 0; c < s->count; c++) {
    const uint64_t at = s->table + chunks[2 * c] * s->words * 8, first = chunks[2 * c + 1];
    if (first % FS_REDUCE_CHUNK != 0) return trouble("%s: a chunk begins at %llu", k->name, (unsigned long long)first);
    if (!holds(o->device, at, s->words * 8, 8)) return trouble("%s: row %llu is not there", k->name, (unsigned long long)chunks[2 * c]);
    const uint64_t *row = (const uint64_t *)(uintptr_t)at;
    if (first >= row[0]) continue;
    const uint64_t n = row[0] - first < FS_REDUCE_CHUNK ? row[0] - first : FS_REDUCE_CHUNK;
    if (!holds(o->device, row[s->x] + first * size, n * size, size) ||
        (s->op == FS_DOT && !holds(o->device, row[s->y] + first * size, n * size, size))) {
      return trouble("%s: what is reduced is not on device %d", k->name, o->device);
    }
  }
  return SUCCESS;
}

static int check_fold(const operation *o) {
  const fs_cuda_fold *s = (const fs_cuda_fold *)o->parameter;
  if (s->op >= FS_REDUCE_OPS || (s->count > 0 && (!holds(o->device, s->lanes, 8 * FS_CUDA_LANES * s->count, 8) ||
                                                  !holds(o->device, s->out, 8 * s->count, 8)))) {
    return trouble("fold: the lanes are not there, or no room for the results");
  }
  return SUCCESS;
}

static uint64_t pieces(uint64_t n, uint64_t length) { return (n + length - 1) / length; }

/** Whether everything that a tensor's row names is there. */
static int check_tensor(const operation *o, const uint64_t *row) {
  const uint64_t size = sizes[o->kernel->dtype], real = size == 8 ? 8 : 4, n = row[C_SIZE], matrices = row[C_MATRICES];
  const uint64_t rows = row[C_ROWS], columns = row[C_COLUMNS], chunks = pieces(n, FS_REDUCE_CHUNK);
  const uint64_t strips = matrices * rows * pieces(columns, 2048), blocks = matrices * pieces(rows, 64);
  const uint64_t units = matrices == 0 ? chunks : blocks * pieces(columns, 2048);
  const int muon = strncmp(o->kernel->name, "muon", 4) == 0;
  if (n == 0 || n != (matrices == 0 ? columns : matrices * rows * columns)) return trouble("%s: a tensor of another size", o->kernel->name);
  const struct { uint64_t address, count, size; } parts[] = {
    {row[C_PARAM], n, size}, {row[C_GRAD], n, size}, {row[C_CHUNK_SUMS], chunks, 8}, {row[C_RESULT], 1, 8},
    {row[C_HYPERS], muon ? 11 : 8, 8}, {row[C_FIRST], muon || matrices == 0 ? n : matrices * rows, size},
    {muon ? row[C_X] : row[C_SECOND], muon ? n : matrices * columns, muon ? real : size},
    {muon ? row[C_LAST] : row[C_FACTORS], muon ? n : matrices * columns, real},
    {row[C_ROW_LANES], muon ? 0 : FS_CUDA_LANES * strips, 8}, {row[C_ROW_SUMS], muon ? 0 : strips, 8},
    {row[C_COLUMN_SUMS], muon ? 0 : blocks * columns, 8}, {row[C_ROW_FACTORS], muon ? 0 : matrices * rows, 8},
    {row[C_MEANS], muon ? 0 : matrices, 8}, {row[C_UNIT_LANES], muon ? 0 : FS_CUDA_LANES * units, 8}, {row[C_UNIT_SUMS], muon ? 0 : units, 8},
  };
  for (size_t p = 0; p < sizeof parts / sizeof *parts; p++) {
    if (parts[p].count > 0 && !holds(o->device, parts[p].address, parts[p].count * parts[p].size, parts[p].size)) {
      return trouble("%s: part %zu of a tensor is not on device %d", o->kernel->name, p, o->device);
    }
  }
  return SUCCESS;
}

static int check_tensors(const operation *o) {
  const fs_cuda_tensors *s = (const fs_cuda_tensors *)o->parameter;
  const uint64_t words = FS_CUDA_TENSOR_WORDS * 8;
  if (s->length == 0) return trouble("%s: chunks of no items", o->kernel->name);
  if (s->count > 0 && !holds(o->device, s->chunks, 16 * s->count, 8)) return trouble("%s: the chunks are not there", o->kernel->name);
  const uint64_t *chunks = (const uint64_t *)(uintptr_t)s->chunks;
  for (uint64_t c = 0; c < s->count; c++) {
    if (c > 0 && chunks[2 * c] == chunks[2 * c - 2]) {
      if (chunks[2 * c + 1] < chunks[2 * c - 1] + s->length) return trouble("%s: two chunks have the same items", o->kernel->name);
      continue;
    }
    const uint64_t row = s->table + chunks[2 * c] * words;
    if (!holds(o->device, row, words, 8)) return trouble("%s: row %llu is not there", o->kernel->name, (unsigned long long)chunks[2 * c]);
    const int wrong = check_tensor(o, (const uint64_t *)(uintptr_t)row);
    if (wrong) return wrong;
  }
  return SUCCESS;
}

/** Whether a matrix whose last element is so far from its first is there. */
static int has_matrix(const operation *o, uint64_t address, uint64_t last) {
  const uint64_t size = sizes[o->kernel->dtype];
  return holds(o->device, address, (last + 1) * size, size);
}

static int check_product(const operation *o) {
  const fs_cuda_product *s = (const fs_cuda_product *)o->parameter;
  if (s->m == 0 || s->n == 0 || s->k == 0) return trouble("%s: a matrix without elements", o->kernel->name);
  const uint64_t m = s->m - 1, n = s->n - 1, k = s->k - 1;
  if (!has_matrix(o, s->a, m * s->a_row + k * s->a_column) || !has_matrix(o, s->b, k * s->b_row + n) ||
      !has_matrix(o, s->out, m * s->n + n) || (s->add != 0 && !has_matrix(o, s->add, m * s->n + n))) {
    return trouble("%s: a matrix is not on device %d", o->kernel->name, o->device);
  }
  if (s->symmetric > 1 || (s->symmetric && s->m != s->n)) return trouble("%s: it cannot be symmetric", o->kernel->name);
  if (s->out == s->a || s->out == s->b || s->out == s->add) return trouble("%s: it would write what it reads", o->kernel->name);
  return SUCCESS;
}

static int check_transpose(const operation *o) {
  const fs_cuda_transpose *s = (const fs_cuda_transpose *)o->parameter;
  const uint64_t last = s->rows * s->columns - 1;
  if (s->rows == 0 || s->columns == 0 || s->from == s->to || !has_matrix(o, s->from, last) || !has_matrix(o, s->to, last)) {
    return trouble("%s: a matrix is not on device %d", o->kernel->name, o->device);
  }
  return SUCCESS;
}

static int check_kernel(const operation *o) {
  switch (o->kernel->kind) {
    case FS_CUDA_STEP: return check_step(o);
    case FS_CUDA_LANES_OF: return check_lanes(o);
    case FS_CUDA_FOLD: return check_fold(o);
    case FS_CUDA_TENSORS: return check_tensors(o);
    case FS_CUDA_PRODUCT: return check_product(o);
    case FS_CUDA_TRANSPOSE: return check_transpose(o);
    default: return trouble("%s: a kernel of no kind", o->kernel->name);
  }
}

static int run_kernel(operation *o) {
  const fs_cuda_kernel *k = o->kernel;
  const int wrong = check_kernel(o);
  if (wrong) return wrong;
  void *parameters[] = {o->parameter};
  fs_cuda_thread.ntid = o->threads;
  fs_cuda_thread.nctaid = o->grid;
  for (uint32_t b = o->grid; b-- > 0;) {
    for (uint32_t t = o->threads; t-- > 0;) {
      fs_cuda_thread.tid = t;
      fs_cuda_thread.ctaid = b;
      k->invoke(parameters);
    }
  }
  return SUCCESS;
}

static int run_operation(operation *o) {
  if (o->kind == LAUNCH) return run_kernel(o);
  if (o->kind == COPY) {
    if (!holds(o->device, o->to, o->count, 1) || !holds(o->device, o->from, o->count, 1)) return trouble("a copy within a device goes astray");
    memmove((void *)(uintptr_t)o->to, (const void *)(uintptr_t)o->from, o->count);
    return SUCCESS;
  }
  if (!holds(o->device, o->to, o->count * o->width, o->width)) return trouble("memory is filled that is not there");
  for (uint64_t i = 0; i < o->count; i++) memcpy((char *)(uintptr_t)o->to + i * o->width, &o->pattern, o->width);
  return SUCCESS;
}

/** Runs what has been queued for the current context's device. */
static int flush(void) {
  operation **at = &queue;
  while (*at) {
    operation *o = *at;
    if (o->device != current->device) {
      at = &o->next;
      continue;
    }
    if (!current->lost) current->lost = run_operation(o);
    *at = o->next;
    free(o);
  }
  queue_end = &queue;
  while (*queue_end) queue_end = &(*queue_end)->next;
  for (block *b = blocks; b && !current->lost; b = b->next) current->lost = check_guards(b);
  return current->lost;
}

static operation *enqueue(enum operation_kind kind) {
  operation *o = calloc(1, sizeof *o);
  o->kind = kind;
  o->device = current->device;
  *queue_end = o;
  queue_end = &o->next;
  return o;
}

API int cuInit(unsigned flags) {
  const int injected = enter("cuInit");
  if (injected) return leave(injected);
  if (flags != 0) return leave(INVALID_VALUE);
  if (devices < 1) return leave(NO_DEVICE);
  initialized = 1;
  return leave(SUCCESS);
}

API int cuDriverGetVersion(int *version) {
  ENTER(cuDriverGetVersion)
  *version = 13000;
  return leave(SUCCESS);
}

API int cuDeviceGetCount(int *count) {
  ENTER(cuDeviceGetCount)
  *count = devices;
  return leave(SUCCESS);
}

/* A device's handle is not its number. */
#define HANDLE(device) ((device) + 1000)
#define DEVICE(handle)                                                                        \
  const int device = (handle) - 1000;                                                         \
  if (device < 0 || device >= devices || device >= MAX_DEVICES) return leave(INVALID_DEVICE);

API int cuDeviceGet(int *handle, int ordinal) {
  ENTER(cuDeviceGet)
  DEVICE(HANDLE(ordinal))
  *handle = HANDLE(device);
  return leave(SUCCESS);
}

API int cuDeviceGetName(char *name, int length, int handle) {
  ENTER(cuDeviceGetName)
  DEVICE(handle)
  snprintf(name, (size_t)length, "Stand-in %d", device);
  return leave(SUCCESS);
}

API int cuDeviceTotalMem_v2(size_t *bytes, int handle) {
  ENTER(cuDeviceTotalMem_v2)
  DEVICE(handle)
  (void)device;
  *bytes = limit;
  return leave(SUCCESS);
}

API int cuDeviceGetAttribute(int *value, int attribute, int handle) {
  ENTER(cuDeviceGetAttribute)
  DEVICE(handle)
  (void)device;
  if (attribute != 75 && attribute != 76) return leave(INVALID_VALUE);
  *value = capability[attribute - 75];
  return leave(SUCCESS);
}

API int cuDevicePrimaryCtxRetain(context **out, int handle) {
  ENTER(cuDevicePrimaryCtxRetain)
  DEVICE(handle)
  contexts[device].device = device;
  contexts[device].retained++;
  *out = &contexts[device];
  return leave(SUCCESS);
}

API int cuCtxSetCurrent(context *c) {
  ENTER(cuCtxSetCurrent)
  if (c < contexts || c >= contexts + MAX_DEVICES || c->retained < 1) return leave(INVALID_CONTEXT);
  current = c;
  return leave(SUCCESS);
}

API int cuCtxSynchronize(void) {
  ENTER_CONTEXT(cuCtxSynchronize)
  return leave(flush());
}

static int has_entry(const module *m, const char *name) {
  const size_t length = strlen(name);
  for (const char *at = m->text; (at = strstr(at, ".entry ")); at++) {
    const char *word = at + 7 + strspn(at + 7, " \t\n");
    if (strncmp(word, name, length) == 0 && strspn(word + length, " \t\n(") > 0) return 1;
  }
  return 0;
}

API int cuModuleLoadDataEx(module **out, const char *image, unsigned count, const int *options, void **values) {
  const int injected = enter("cuModuleLoadDataEx");
  char *log = NULL;
  size_t room = 0;
  for (unsigned i = 0; i < count; i++) {
    if (options[i] == 5) log = values[i];
    if (options[i] == 6) room = (size_t)values[i];
  }
  if (injected) {
    if (log) snprintf(log, room, "ptxas fatal : the stand-in was told to fail");
    return leave(injected);
  }
  if (!initialized) return leave(NOT_INITIALIZED);
  if (!current) return leave(INVALID_CONTEXT);
  if (current->lost) return leave(current->lost);
  if (!strstr(image, ".version ") || !strstr(image, ".target sm_75") || !strstr(image, ".entry ")) {
    if (log) snprintf(log, room, "ptxas fatal : this is no PTX");
    return leave(INVALID_PTX);
  }
  module *m = calloc(1, sizeof *m);
  m->text = strdup(image);
  m->device = current->device;
  m->next = modules;
  *out = modules = m;
  return leave(SUCCESS);
}

API int cuModuleUnload(module *m) {
  ENTER_CONTEXT(cuModuleUnload)
  for (module **at = &modules; *at; at = &(*at)->next) {
    if (*at != m) continue;
    *at = m->next;
    for (function *f = functions; f; f = f->next) if (f->owner == m) f->owner = NULL;
    free(m->text);
    free(m);
    return leave(SUCCESS);
  }
  return leave(INVALID_HANDLE);
}

API int cuModuleGetFunction(function **out, module *m, const char *name) {
  ENTER_CONTEXT(cuModuleGetFunction)
  const module *known = modules;
  while (known && known != m) known = known->next;
  if (!known) return leave(INVALID_HANDLE);
  for (uint32_t i = 0; i < fs_cuda_kernel_count; i++) {
    if (strcmp(fs_cuda_kernels[i].name, name) != 0 || !has_entry(m, name)) continue;
    function *f = calloc(1, sizeof *f);
    f->owner = m;
    f->kernel = &fs_cuda_kernels[i];
    f->next = functions;
    *out = functions = f;
    return leave(SUCCESS);
  }
  return leave(NOT_FOUND);
}

API int cuMemAlloc_v2(uint64_t *out, size_t bytes) {
  ENTER_CONTEXT(cuMemAlloc_v2)
  if (bytes == 0) return leave(INVALID_VALUE);
  uint64_t used = 0;
  for (const block *b = blocks; b; b = b->next) used += b->device == current->device ? b->size : 0;
  if (bytes > limit || used + bytes > limit) return leave(OUT_OF_MEMORY);
  block *b = calloc(1, sizeof *b);
  b->base = aligned_alloc(GUARD, (bytes + 3 * GUARD) / GUARD * GUARD);
  memset(b->base, 0xa5, GUARD);
  memset(b->base + GUARD, 0xcd, bytes);
  memset(b->base + GUARD + bytes, 0xa5, GUARD);
  b->address = (uint64_t)(uintptr_t)b->base + GUARD;
  b->size = bytes;
  b->device = current->device;
  b->next = blocks;
  blocks = b;
  *out = b->address;
  return leave(SUCCESS);
}

API int cuMemFree_v2(uint64_t address) {
  ENTER_CONTEXT(cuMemFree_v2)
  if (flush()) return leave(current->lost);
  for (block **at = &blocks; *at; at = &(*at)->next) {
    block *b = *at;
    if (b->address != address) continue;
    if (b->device != current->device) return leave(trouble("memory of device %d is freed in the context of device %d", b->device, current->device));
    *at = b->next;
    memset(b->base, 0xdd, b->size + 2 * GUARD);
    free(b->base);
    free(b);
    return leave(SUCCESS);
  }
  trouble("memory is freed that is not there");
  return leave(INVALID_VALUE);
}

API int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
  ENTER_CONTEXT(cuMemcpyHtoD_v2)
  if (flush()) return leave(current->lost);
  if (!from || !holds(current->device, to, bytes, 1)) {
    trouble("%zu bytes are copied to where there are none", bytes);
    return leave(INVALID_VALUE);
  }
  memcpy((void *)(uintptr_t)to, from, bytes);
  return leave(SUCCESS);
}

API int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes) {
  ENTER_CONTEXT(cuMemcpyDtoH_v2)
  if (flush()) return leave(current->lost);
  if (!to || !holds(current->device, from, bytes, 1)) {
    trouble("%zu bytes are copied from where there are none", bytes);
    return leave(INVALID_VALUE);
  }
  memcpy(to, (const void *)(uintptr_t)from, bytes);
  return leave(SUCCESS);
}

API int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
  ENTER_CONTEXT(cuMemcpyDtoD_v2)
  operation *o = enqueue(COPY);
  o->to = to;
  o->from = from;
  o->count = bytes;
  return leave(SUCCESS);
}

static int fill(uint64_t to, uint32_t pattern, size_t count, uint32_t width) {
  operation *o = enqueue(FILL);
  o->to = to;
  o->count = count;
  o->pattern = pattern;
  o->width = width;
  return leave(SUCCESS);
}

API int cuMemsetD16_v2(uint64_t to, unsigned short pattern, size_t count) {
  ENTER_CONTEXT(cuMemsetD16_v2)
  return fill(to, pattern, count, 2);
}

API int cuMemsetD32_v2(uint64_t to, unsigned pattern, size_t count) {
  ENTER_CONTEXT(cuMemsetD32_v2)
  return fill(to, pattern, count, 4);
}

API int cuLaunchKernel(function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void *stream, void **parameters, void **extra) {
  ENTER_CONTEXT(cuLaunchKernel)
  const function *known = functions;
  while (known && known != f) known = known->next;
  if (!known || !f->owner || f->owner->device != current->device) return leave(INVALID_HANDLE);
  if (gx < 1 || gx > 0x7fffffffu || gy != 1 || gz != 1 || bx < 1 || bx > 1024 || by != 1 || bz != 1 || shared != 0 ||
      stream || !parameters || extra || f->kernel->parameters != 1 || f->kernel->sizes[0] > sizeof(operation){0}.parameter) {
    return leave(INVALID_VALUE);
  }
  operation *o = enqueue(LAUNCH);
  o->kernel = f->kernel;
  o->grid = gx;
  o->threads = bx;
  memcpy(o->parameter, parameters[0], f->kernel->sizes[0]);
  return leave(SUCCESS);
}

API int cuPointerGetAttribute(void *out, int attribute, uint64_t address) {
  ENTER(cuPointerGetAttribute)
  const block *b = find(address, 1);
  if (attribute != 9 || !b) return leave(INVALID_VALUE);
  *(int *)out = b->device;
  return leave(SUCCESS);
}

API int cuGetErrorName(int code, const char **out) {
  for (size_t i = 0; i < ERRORS; i++) {
    if (errors[i].code == code) return *out = errors[i].name, SUCCESS;
  }
  return *out = NULL, INVALID_VALUE;
}

API int cuGetErrorString(int code, const char **out) {
  for (size_t i = 0; i < ERRORS; i++) {
    if (errors[i].code == code) return *out = errors[i].text, SUCCESS;
  }
  return *out = NULL, INVALID_VALUE;
}

/** The nth call from now on of `call` fails with a code; 0: none does. */
API void standin_fail(const char *call, uint32_t nth, int32_t code) {
  pthread_mutex_lock(&mutex);
  snprintf(failure.call, sizeof failure.call, "%s", call);
  failure.countdown = nth;
  failure.code = code;
  pthread_mutex_unlock(&mutex);
}

/** How many calls of `call` there have been. */
API uint32_t standin_calls(const char *call) {
  uint32_t count = 0;
  pthread_mutex_lock(&mutex);
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    if (strcmp(counts[i].name, call) == 0) count = (uint32_t)counts[i].count;
  }
  pthread_mutex_unlock(&mutex);
  return count;
}

/** Pieces of memory that have not been freed. */
API uint32_t standin_live(void) {
  uint32_t live = 0;
  pthread_mutex_lock(&mutex);
  for (const block *b = blocks; b; b = b->next) live++;
  pthread_mutex_unlock(&mutex);
  return live;
}

/** Operations that are queued. */
API uint32_t standin_queued(void) {
  uint32_t queued = 0;
  pthread_mutex_lock(&mutex);
  for (const operation *o = queue; o; o = o->next) queued++;
  pthread_mutex_unlock(&mutex);
  return queued;
}

/** A device has so many bytes from now on. */
API void standin_limit(uint64_t bytes) {
  pthread_mutex_lock(&mutex);
  limit = bytes;
  pthread_mutex_unlock(&mutex);
}

/** What was wrong first since standin_reset(); an empty text: nothing. Writes at most `capacity` bytes. */
API void standin_problem(char *out, uint32_t capacity) {
  pthread_mutex_lock(&mutex);
  snprintf(out, capacity, "%s", problem);
  pthread_mutex_unlock(&mutex);
}

/** As after a restart, but memory and modules stay: nothing fails, no device is lost, nothing was wrong. */
API void standin_reset(void) {
  pthread_mutex_lock(&mutex);
  failure.countdown = 0;
  problem[0] = 0;
  limit = 1u << 30;
  for (int i = 0; i < MAX_DEVICES; i++) contexts[i].lost = 0;
  pthread_mutex_unlock(&mutex);
}
