/**
 * ASGD: averaged stochastic gradient descent (Polyak & Juditsky 1992; torch/optim/asgd.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   p = decay * p - eta * g        decay = 1 - lambd * eta
 *   ax = ax + mu * (p - ax)        (p while mu is 1)
 */
#define asgd_FLAGS(X) X(l2, 0)
#define asgd_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(ax, rw, 0)
#define asgd_HYPERS(X) X(gradSign) X(weightDecay) X(decay) X(eta) X(mu)

FS_RULE(asgd) {
  const real p0 = LOAD(param), a = LOAD(ax);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p0;
  const real p = h.decay * p0 - h.eta * g;
  const real averaged = a + h.mu * (p - a);
  STORE(param, p);
  STORE(ax, h.mu == ONE ? p : averaged);
}
