/**
 * Adam and AdamW (Kingma & Ba 2014, arXiv:1412.6980; Loshchilov & Hutter 2017, arXiv:1711.05101; torch/optim/adam.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   p = decay * p                  (1 unless decoupled: 1 - lr * weightDecay)
 *   m = lerp(m, g, 1 - beta1)      v = beta2 * v + (1 - beta2) * g * g       vmax = max(vmax, v) with amsgrad
 *   p = p - stepSize * m / (sqrt(v) + eps)
 *
 * torch divides sqrt(v) by c = sqrt(1 - beta2^t) and adds eps. Multiplying numerator and denominator by c is the same and
 * saves a division and two roundings an element, so stepSize is lr * c / (1 - beta1^t) here, and eps is eps * c.
 */
#define adam_FLAGS(X) X(l2, 0) X(amsgrad, 1)
#define adam_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(expAvg, rw, 0) X(expAvgSq, rw, 0) X(maxExpAvgSq, rw, 1u << 1)
#define adam_HYPERS(X) \
  X(gradSign) X(weightDecay) X(decay) X(oneMinusBeta1) X(beta1) X(beta2) X(oneMinusBeta2) X(stepSize) X(eps)

FS_RULE(adam) {
  real p = LOAD(param), g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  p = h.decay * p;
  const real m0 = LOAD(expAvg), d = g - m0;
  const real m = h.oneMinusBeta1 < HALF ? m0 + h.oneMinusBeta1 * d : g - h.beta1 * d;
  real v = h.beta2 * LOAD(expAvgSq) + (h.oneMinusBeta2 * g) * g;
  STORE(expAvg, m);
  STORE(expAvgSq, v);
  if (amsgrad) {
    v = MAXIMUM(LOAD(maxExpAvgSq), v);
    STORE(maxExpAvgSq, v);
  }
  STORE(param, p - (h.stepSize * m) / (ROOT(v) + h.eps));
}
