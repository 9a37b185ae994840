/**
 * NAdam: Adam with Nesterov's momentum (Dozat 2016, "Incorporating Nesterov Momentum into Adam"; torch/optim/nadam.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   p = decay * p                  (1 unless decoupled: 1 - lr * weightDecay)
 *   m = lerp(m, g, 1 - beta1)      v = beta2 * v + (1 - beta2) * g * g
 *   p = p - (gradStep * g + momentumStep * m) / (sqrt(v) + eps)
 *
 * torch divides by sqrt(v / c) + eps, c = 1 - beta2^t, in two updates. Here both steps and eps are multiplied by sqrt(c).
 */
#define nadam_FLAGS(X) X(l2, 0)
#define nadam_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(expAvg, rw, 0) X(expAvgSq, rw, 0)
#define nadam_HYPERS(X) \
  X(gradSign) X(weightDecay) X(decay) X(oneMinusBeta1) X(beta1) X(beta2) X(oneMinusBeta2) X(gradStep) X(momentumStep) X(eps)

FS_RULE(nadam) {
  real p = LOAD(param), g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  p = h.decay * p;
  const real m0 = LOAD(expAvg), d = g - m0;
  const real m = h.oneMinusBeta1 < HALF ? m0 + h.oneMinusBeta1 * d : g - h.beta1 * d;
  const real v = h.beta2 * LOAD(expAvgSq) + (h.oneMinusBeta2 * g) * g;
  STORE(expAvg, m);
  STORE(expAvgSq, v);
  STORE(param, p - (h.gradStep * g + h.momentumStep * m) / (ROOT(v) + h.eps));
}
