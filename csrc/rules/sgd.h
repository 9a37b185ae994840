/**
 * Stochastic gradient descent (Sutskever et al. 2013 for the momenta; torch/optim/sgd.py).
 *
 *   g = gradSign * grad                                  (+ weightDecay * p with l2)
 *   b = momentum * b + oneMinusDampening * g             (b = g with first: torch does not dampen the first gradient)
 *   p = p - lr * b                                       (p - lr * (g + momentum * b) with nesterov; p - lr * g without momentum)
 */
#define sgd_FLAGS(X) X(l2, 0) X(momentum, 1) X(nesterov, 2) X(first, 3)
#define sgd_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(momentumBuffer, rw, 1u << 1)
#define sgd_HYPERS(X) X(gradSign) X(weightDecay) X(momentum) X(oneMinusDampening) X(lr)

FS_RULE(sgd) {
  const real p = LOAD(param);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  if (momentum) {
    const real b = first ? g : h.momentum * LOAD(momentumBuffer) + h.oneMinusDampening * g;
    STORE(momentumBuffer, b);
    g = nesterov ? g + h.momentum * b : b;
  }
  STORE(param, p - h.lr * g);
}
