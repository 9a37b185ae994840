/**
 * RAdam: Adam whose step is rectified while the variance is uncertain (Liu et al. 2019, arXiv:1908.03265;
 * torch/optim/radam.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   p = decay * p                  (1 unless decoupled: 1 - lr * weightDecay)
 *   m = lerp(m, g, 1 - beta1)      v = beta2 * v + (1 - beta2) * g * g
 *   p = p - stepSize * m / (sqrt(v) + eps) once it is adaptive, p - stepSize * m before
 */
#define radam_FLAGS(X) X(l2, 0)
#define radam_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(expAvg, rw, 0) X(expAvgSq, rw, 0)
#define radam_HYPERS(X) \
  X(gradSign) X(weightDecay) X(decay) X(oneMinusBeta1) X(beta1) X(beta2) X(oneMinusBeta2) X(stepSize) X(eps) X(adaptive)

FS_RULE(radam) {
  real p = LOAD(param), g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  p = h.decay * p;
  const real m0 = LOAD(expAvg), d = g - m0;
  const real m = h.oneMinusBeta1 < HALF ? m0 + h.oneMinusBeta1 * d : g - h.beta1 * d;
  const real v = h.beta2 * LOAD(expAvgSq) + (h.oneMinusBeta2 * g) * g;
  const real adapted = ROOT(v) + h.eps, denominator = h.adaptive > HALF ? adapted : ONE;
  STORE(expAvg, m);
  STORE(expAvgSq, v);
  STORE(param, p - (h.stepSize * m) / denominator);
}
