/**
 * Binding many arrays in one call, each held against the memory that is written.
 */
#include "internal.h"

/* Where one span begins and ends. */
typedef uint64_t span[2];

/* Sifts spans[at] down into the heap below it, the span that begins last on top. */
static void sift(span *spans, size_t at, size_t count) {
  const uint64_t from = spans[at][0], to = spans[at][1];
  for (size_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && spans[child + 1][0] > spans[child][0]) child++;
    if (spans[child][0] <= from) break;
    spans[at][0] = spans[child][0], spans[at][1] = spans[child][1];
  }
  spans[at][0] = from, spans[at][1] = to;
}

/* In place and without recursion, in n log n steps whatever the order. */
static void sort(span *spans, size_t count) {
  for (size_t at = count / 2; at-- > 0;) sift(spans, at, count);
  for (size_t last = count; last-- > 1;) {
    const uint64_t from = spans[0][0], to = spans[0][1];
    spans[0][0] = spans[last][0], spans[0][1] = spans[last][1];
    spans[last][0] = from, spans[last][1] = to;
    sift(spans, 0, last);
  }
}

/* Makes one span of those that follow upon each other; how many are left. */
static size_t merge(span *spans, size_t count) {
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    if (kept > 0 && spans[i][0] >= spans[kept - 1][0] && spans[i][0] <= spans[kept - 1][1]) {
      if (spans[i][1] > spans[kept - 1][1]) spans[kept - 1][1] = spans[i][1];
    } else {
      spans[kept][0] = spans[i][0], spans[kept][1] = spans[i][1];
      kept++;
    }
  }
  return kept;
}

int32_t fs_make_spans(uint64_t *words, uint32_t count) {
  if (count == 0) return 0;
  if (words == NULL) return FS_ERR_NULL;
  if ((uintptr_t)words % 8 != 0) return FS_ERR_ALIGN;
  if (count > INT32_MAX) return FS_ERR_LENGTH;
  for (size_t i = 0; i < count; i++) {
    const uint64_t *piece = words + 3 * i;
    if (piece[1] > piece[2] || piece[2] > (uint64_t)PTRDIFF_MAX) return FS_ERR_LENGTH;
    if (piece[0] == 0 && piece[1] < piece[2]) return FS_ERR_NULL;
    if (piece[0] > UINT64_MAX - piece[2]) return FS_ERR_LENGTH;
  }
  span *spans = (span *)words;
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) { /* written behind what has been read */
    const uint64_t base = words[3 * i], from = base + words[3 * i + 1], to = base + words[3 * i + 2];
    if (from == to) continue;
    spans[kept][0] = from, spans[kept][1] = to;
    kept++;
  }
  kept = merge(spans, kept); /* what lies side by side mostly comes in order */
  int sorted = 1;
  for (size_t i = 1; i < kept; i++) sorted &= spans[i - 1][0] < spans[i][0];
  if (!sorted) sort(spans, kept);
  return (int32_t)merge(spans, kept);
}

/*
 * The first span that ends behind `from`; `count` if there is none. Searched in growing steps from where the last one was,
 * since arrays that are made one after the other mostly lie one behind the other.
 */
static size_t find(const span *spans, size_t count, size_t near, uint64_t from) {
  size_t low = 0, high = count, step = 1;
  if (near < count && spans[near][1] <= from) {
    for (low = near + 1; step < count - near && spans[near + step][1] <= from; step *= 2) low = near + step + 1;
    if (step < count - near) high = near + step;
  } else {
    for (high = near; step <= near && spans[near - step][1] > from; step *= 2) high = near - step;
    if (step <= near) low = near - step + 1;
  }
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    if (spans[middle][1] <= from) low = middle + 1;
    else high = middle;
  }
  return low;
}

int32_t fs_bind_arrays(fs_binding *binding, uint32_t first, uint32_t count, const void *a0, const void *a1,
                       const void *a2, const void *a3, const void *a4, const void *a5, const void *a6, const void *a7) {
  if (count == 0) return FS_OK;
  if (binding == NULL) return FS_ERR_NULL;
  if ((uintptr_t)binding % 8 != 0) return FS_ERR_ALIGN;
  const fs_binding b = *binding;
  if (b.dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (b.table == NULL || (b.spans == NULL && b.span_count > 0)) return FS_ERR_NULL;
  if (((uintptr_t)b.table | (uintptr_t)b.spans) % 8 != 0) return FS_ERR_ALIGN;
  if (count > FS_BOUND || first > b.rows || count > b.rows - first || b.word == 0 || b.word >= b.stride) return FS_ERR_ROW;
  const void *const arrays[FS_BOUND] = {a0, a1, a2, a3, a4, a5, a6, a7};
  const uint64_t size = fs_element_size[b.dtype], most = (uint64_t)PTRDIFF_MAX / size;
  const span *spans = (const span *)b.spans;
  uint64_t *const rows = b.table + (size_t)first * b.stride, *row = rows;
  size_t near = b.near < b.span_count ? b.near : b.span_count;
  for (uint32_t k = 0; k < count; k++, row += b.stride) {
    const uint64_t n = row[0], from = (uint64_t)(uintptr_t)arrays[k];
    if (n == 0) continue;
    if (n > most) return FS_ERR_LENGTH;
    if (from == 0) return FS_ERR_NULL;
    if ((from & (size - 1)) != 0) return FS_ERR_ALIGN;
    if (n * size > UINT64_MAX - from) return FS_ERR_LENGTH;
    near = find(spans, b.span_count, near, from);
    if (near < b.span_count && spans[near][0] < from + n * size) return FS_ERR_OVERLAP;
  }
  row = rows;
  for (uint32_t k = 0; k < count; k++, row += b.stride) {
    if (row[0] != 0) row[b.word] = (uint64_t)(uintptr_t)arrays[k];
  }
  binding->near = (uint32_t)near;
  return FS_OK;
}
