/**
 * Rules that look at a whole tensor: everything is checked here, and then handed to adafactor.c and muon.c.
 */
#include "tensor.h"

/* A row of the table; *n is its elements. */
static int32_t check_row(uint32_t rule, uint32_t dtype, const uint64_t *row, uint64_t *n) {
  const uint64_t most = (uint64_t)PTRDIFF_MAX / 64, batches = row[T_BATCHES], rows = row[T_ROWS], columns = row[T_COLUMNS];
  *n = 0;
  if (columns == 0 || (batches != 0 && rows == 0)) return FS_OK;
  if (columns > most) return FS_ERR_LENGTH;
  if (batches != 0 && (rows > most / columns || batches > most / columns / rows)) return FS_ERR_LENGTH;
  if (rule == FS_MUON && batches != 1) return FS_ERR_SHAPE;
  *n = fs_tensor_size(row);
  for (uint32_t b = T_PARAM; b < FS_TENSOR_WORDS; b++) {
    if (b == T_SECOND && (rule == FS_MUON || batches == 0)) continue;
    if (row[b] == 0) return FS_ERR_NULL;
    if (row[b] % fs_element_size[dtype] != 0) return FS_ERR_ALIGN;
  }
  return FS_OK;
}

static int32_t check_table(uint32_t rule, uint32_t dtype, const uint64_t *table, uint32_t count, const double *hypers,
                           uint32_t threads, uint64_t *room) {
  *room = 0;
  if (rule >= FS_TENSOR_RULES) return FS_ERR_RULE;
  if (dtype >= FS_DTYPES) return FS_ERR_DTYPE;
  if (count == 0) return FS_OK;
  if (table == NULL) return FS_ERR_NULL;
  if (((uintptr_t)table | (uintptr_t)hypers) % 8 != 0) return FS_ERR_ALIGN;
  uint64_t sum = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint64_t n;
    const uint64_t *row = table + (size_t)i * FS_TENSOR_WORDS;
    const int32_t status = check_row(rule, dtype, row, &n);
    if (status != FS_OK) return status;
    if (n > (uint64_t)PTRDIFF_MAX / 64 - sum) return FS_ERR_LENGTH;
    sum += n;
    if (rule == FS_MUON && n > 0) {
      const uint64_t needed = fs_muon_room(dtype, row, threads);
      if (needed > *room) *room = needed;
      if (hypers != NULL) {
        const double steps = hypers[(size_t)i * FS_MUON_HYPERS + M_STEPS];
        if (!(steps >= 0 && steps < 100)) return FS_ERR_HYPER;
      }
    }
  }
  for (uint32_t i = 0; rule == FS_ADAFACTOR && i < count;) {
    uint64_t needed;
    i += fs_adafactor_together(table + (size_t)i * FS_TENSOR_WORDS, count - i, &needed);
    if (needed > *room) *room = needed;
  }
  return *room > UINT32_MAX ? FS_ERR_LENGTH : FS_OK;
}

int32_t fs_tensor_scratch(uint32_t rule, uint32_t dtype, const uint64_t *table, uint32_t count, uint32_t threads,
                          double *length) {
  if (length == NULL) return FS_ERR_NULL;
  if ((uintptr_t)length % 8 != 0) return FS_ERR_ALIGN;
  uint64_t room;
  const int32_t status = check_table(rule, dtype, table, count, NULL, threads, &room);
  if (status == FS_OK) *length = (double)room;
  return status;
}

int32_t fs_run_tensors(uint32_t rule, uint32_t dtype, const uint64_t *table, uint32_t count, const double *hypers,
                       double *scratch, uint32_t scratch_length, uint32_t threads) {
  uint64_t room;
  if (count > 0 && hypers == NULL) return FS_ERR_NULL;
  const int32_t status = check_table(rule, dtype, table, count, hypers, threads, &room);
  if (status != FS_OK) return status;
  if (room > scratch_length) return FS_ERR_SCRATCH;
  if (room == 0) return FS_OK;
  if (scratch == NULL) return FS_ERR_NULL;
  if ((uintptr_t)scratch % 8 != 0) return FS_ERR_ALIGN;
  for (uint32_t i = 0; i < count;) {
    const uint64_t *row = table + (size_t)i * FS_TENSOR_WORDS;
    if (rule == FS_ADAFACTOR) {
      const uint32_t together = fs_adafactor_together(row, count - i, &room);
      fs_adafactor(dtype, row, together, hypers + (size_t)i * FS_ADAFACTOR_HYPERS, scratch, threads);
      i += together;
    } else {
      if (fs_tensor_size(row) > 0) fs_muon(dtype, row, hypers + (size_t)i * FS_MUON_HYPERS, scratch, threads);
      i++;
    }
  }
  return FS_OK;
}
