/**
 * One more term of an equal average (Izmailov et al. 2018, arXiv:1803.05407; torch/optim/swa_utils.py).
 *
 *   averaged = averaged + (current - averaged) / count        count: the terms, with this one
 */
#define average_FLAGS(X)
#define average_BUFFERS(X) X(averaged, rw, 0) X(current, r, 0)
#define average_HYPERS(X) X(count)

FS_RULE(average) {
  const real a = LOAD(averaged);
  STORE(averaged, a + (LOAD(current) - a) / h.count);
}
