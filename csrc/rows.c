/**
 * Rows of tables: many addresses at once, and rows added up. What a sparse gradient needs beside fs_run.
 */
#include "internal.h"

#include "element.h"

int32_t fs_bind_rows(uint64_t *words, uint32_t index, uint32_t stride, uint32_t count, const uint32_t *rows,
                     uint32_t dtype, uint32_t length, const void *base, uint32_t limit, const uint32_t *positions) {
  if (dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (count == 0) return FS_OK;
  if (words == NULL || base == NULL) return FS_ERR_NULL;
  if ((uintptr_t)words % 8 != 0 || ((uintptr_t)rows | (uintptr_t)positions) % 4 != 0) return FS_ERR_ALIGN;
  const uint64_t bytes = (uint64_t)length * fs_element_size[dtype], from = (uint64_t)(uintptr_t)base;
  if (limit == 0 || bytes > (uint64_t)PTRDIFF_MAX / limit) return FS_ERR_LENGTH;
  if (positions != NULL) {
    uint32_t wrong = 0;
    for (uint32_t r = 0; r < count; r++) wrong |= positions[r] >= limit;
    if (wrong) return FS_ERR_ROW;
  }
  words += index;
  for (uint32_t r = 0; r < count; r++) {
    words[(size_t)(rows ? rows[r] : r) * stride] = from + (positions ? positions[r] * bytes : 0);
  }
  return FS_OK;
}

/* Elements that are added up at a time, in the arithmetic type. */
#define FS_SUMMED 1024u

#define FS_SUM_ROW(dtype, elem, real)                                                                                  \
  static void sum_row_##dtype(void *to, const void *values, size_t length, const uint32_t *source, uint32_t count) {   \
    real sum[FS_SUMMED];                                                                                               \
    for (size_t at = 0; at < length; at += FS_SUMMED) {                                                                \
      const size_t n = length - at < FS_SUMMED ? length - at : FS_SUMMED;                                              \
      const elem *x = (const elem *)values + source[0] * length + at;                                                  \
      for (size_t i = 0; i < n; i++) sum[i] = fs_load_##dtype(x[i]);                                                   \
      for (uint32_t s = 1; s < count; s++) {                                                                           \
        x = (const elem *)values + source[s] * length + at;                                                            \
        for (size_t i = 0; i < n; i++) sum[i] = sum[i] + fs_load_##dtype(x[i]);                                        \
      }                                                                                                                \
      elem *out = (elem *)to + at;                                                                                     \
      for (size_t i = 0; i < n; i++) out[i] = fs_store_##dtype(sum[i]);                                                \
    }                                                                                                                  \
  }
FS_SUM_ROW(f32, float, float)
FS_SUM_ROW(f64, double, double)
FS_SUM_ROW(bf16, uint16_t, float)
FS_SUM_ROW(f16, uint16_t, float)

typedef void (*sum_row)(void *to, const void *values, size_t length, const uint32_t *source, uint32_t count);
static const sum_row sum_rows[FS_DTYPES] = {sum_row_f32, sum_row_f64, sum_row_bf16, sum_row_f16};

int32_t fs_sum_rows(uint32_t dtype, void *out, uint32_t count, uint32_t length, const void *values, uint32_t limit,
                    const uint32_t *sources, const uint32_t *starts) {
  if (dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (count == 0 || length == 0) return FS_OK;
  if (out == NULL || starts == NULL) return FS_ERR_NULL;
  const size_t size = fs_element_size[dtype];
  if (((uintptr_t)out | (uintptr_t)values) % size != 0) return FS_ERR_ALIGN;
  if (((uintptr_t)sources | (uintptr_t)starts) % 4 != 0) return FS_ERR_ALIGN;
  if ((uint64_t)length * size > (uint64_t)PTRDIFF_MAX / (limit > count ? limit : count)) return FS_ERR_LENGTH;
  for (uint32_t k = 0; k < count; k++) {
    if (starts[k] > starts[k + 1]) return FS_ERR_ROW;
  }
  if (starts[count] > starts[0]) {
    if (values == NULL || sources == NULL) return FS_ERR_NULL;
    for (uint32_t s = starts[0]; s < starts[count]; s++) {
      if (sources[s] >= limit) return FS_ERR_ROW;
    }
  }
  const uint32_t saved = fs_enter_float();
  for (uint32_t k = 0; k < count; k++) {
    char *to = (char *)out + (size_t)k * length * size;
    const uint32_t several = starts[k + 1] - starts[k];
    if (several == 0) memset(to, 0, length * size);
    else if (several == 1) memcpy(to, (const char *)values + (size_t)sources[starts[k]] * length * size, length * size);
    else sum_rows[dtype](to, values, length, sources + starts[k], several);
  }
  fs_leave_float(saved);
  return FS_OK;
}
