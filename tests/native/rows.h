/** What driver.c lends to bind.c, calls.c, rows.c, steps.c, tensors.c and vectors.c. */
#include <stddef.h>
#include <stdint.h>

typedef struct lent {
  uint32_t *passed, *failed; /* counts of checks */
  double (*element)(uint32_t dtype, const void *p);
  void (*set)(uint32_t dtype, void *p, double v);
  double (*value)(uint32_t dtype);
  int (*same)(uint32_t dtype, const void *a, const void *b, size_t bytes);
} lent;

void test_bind(const lent *with, uint32_t dtype);
void test_rows(const lent *with, uint32_t dtype);
void test_steps(const lent *with, uint32_t dtype);
void test_tensors(const lent *with, uint32_t dtype);
void test_vectors(const lent *with, uint32_t dtype);
void test_calls(const lent *with, uint32_t calls, uint64_t seed);
