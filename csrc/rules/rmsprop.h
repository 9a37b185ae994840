/**
 * RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013, arXiv:1308.0850; torch/optim/rmsprop.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   v = alpha * v + (1 - alpha) * g * g
 *   a = lerp(a, g, 1 - alpha)                         with centered
 *   d = sqrt(v) + eps                                 (sqrt(max(v - a * a, 0)) + eps with centered)
 *   p = p - lr * g / d                                (b = momentum * b + g / d, p = p - lr * b with momentum)
 *
 * torch does not clamp v - a * a, which rounding can make negative.
 */
#define rmsprop_FLAGS(X) X(l2, 0) X(centered, 1) X(momentum, 2)
#define rmsprop_BUFFERS(X) \
  X(param, rw, 0) X(grad, r, 0) X(squareAvg, rw, 0) X(gradAvg, rw, 1u << 1) X(momentumBuffer, rw, 1u << 2)
#define rmsprop_HYPERS(X) X(gradSign) X(weightDecay) X(alpha) X(oneMinusAlpha) X(eps) X(momentum) X(lr)

FS_RULE(rmsprop) {
  const real p = LOAD(param);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  real v = h.alpha * LOAD(squareAvg) + (h.oneMinusAlpha * g) * g;
  STORE(squareAvg, v);
  if (centered) {
    const real a0 = LOAD(gradAvg), d = g - a0;
    const real a = h.oneMinusAlpha < HALF ? a0 + h.oneMinusAlpha * d : g - h.alpha * d;
    STORE(gradAvg, a);
    v = v - a * a;
    v = v < 0 ? 0 : v;
  }
  const real denominator = ROOT(v) + h.eps;
  if (momentum) {
    const real b = h.momentum * LOAD(momentumBuffer) + g / denominator;
    STORE(momentumBuffer, b);
    STORE(param, p - h.lr * b);
  } else {
    STORE(param, p - (h.lr * g) / denominator);
  }
}
