/**
 * Benchmark only: what the memory allows. Each reads and writes the buffers of a rule, with one addition an element.
 */
#define traffic_adam_FLAGS(X)
#define traffic_adam_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(expAvg, rw, 0) X(expAvgSq, rw, 0)
#define traffic_adam_HYPERS(X) X(gradSign)

FS_RULE(traffic_adam) {
  const real g = LOAD(grad);
  STORE(param, LOAD(param) + g);
  STORE(expAvg, LOAD(expAvg) + g);
  STORE(expAvgSq, LOAD(expAvgSq) + g);
  (void)h;
}

#define traffic_momentum_FLAGS(X)
#define traffic_momentum_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(momentumBuffer, rw, 0)
#define traffic_momentum_HYPERS(X) X(gradSign)

FS_RULE(traffic_momentum) {
  const real g = LOAD(grad);
  STORE(param, LOAD(param) + g);
  STORE(momentumBuffer, LOAD(momentumBuffer) + g);
  (void)h;
}

#define traffic_sgd_FLAGS(X)
#define traffic_sgd_BUFFERS(X) X(param, rw, 0) X(grad, r, 0)
#define traffic_sgd_HYPERS(X) X(gradSign)

FS_RULE(traffic_sgd) {
  STORE(param, LOAD(param) + LOAD(grad));
  (void)h;
}
