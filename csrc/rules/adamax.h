/**
 * Adamax: Adam by the infinity norm (Kingma & Ba 2014, arXiv:1412.6980, section 7; torch/optim/adamax.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   m = lerp(m, g, 1 - beta1)      u = max(beta2 * u, |g| + eps)
 *   p = p - stepSize * m / u       stepSize = lr / (1 - beta1^t)
 */
#define adamax_FLAGS(X) X(l2, 0)
#define adamax_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(expAvg, rw, 0) X(expInf, rw, 0)
#define adamax_HYPERS(X) X(gradSign) X(weightDecay) X(oneMinusBeta1) X(beta1) X(beta2) X(eps) X(stepSize)

FS_RULE(adamax) {
  const real p = LOAD(param), m0 = LOAD(expAvg);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  const real d = g - m0;
  const real m = h.oneMinusBeta1 < HALF ? m0 + h.oneMinusBeta1 * d : g - h.beta1 * d;
  const real decayed = h.beta2 * LOAD(expInf), now = ABSOLUTE(g) + h.eps;
  const real u = MAXIMUM(decayed, now);
  STORE(expAvg, m);
  STORE(expInf, u);
  STORE(param, p - (h.stepSize * m) / u);
}
