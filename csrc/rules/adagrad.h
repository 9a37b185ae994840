/**
 * Adagrad (Duchi, Hazan & Singer 2011; torch/optim/adagrad.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   s = s + g * g
 *   p = p - stepSize * g / (sqrt(s) + eps)          stepSize = lr / (1 + (t - 1) * lrDecay)
 */
#define adagrad_FLAGS(X) X(l2, 0)
#define adagrad_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(sum, rw, 0)
#define adagrad_HYPERS(X) X(gradSign) X(weightDecay) X(stepSize) X(eps)

FS_RULE(adagrad) {
  const real p = LOAD(param);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  const real s = LOAD(sum) + g * g;
  STORE(sum, s);
  STORE(param, p - (h.stepSize * g) / (ROOT(s) + h.eps));
}
