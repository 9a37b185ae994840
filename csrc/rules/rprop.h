/**
 * Rprop: resilient backpropagation (Riedmiller & Braun 1993; torch/optim/rprop.py).
 *
 *   s = sign(g) * sign(prev)       g = gradSign * grad
 *   stepSize = clamp(stepSize * (s > 0 ? etaPlus : s < 0 ? etaMinus : 1), stepMin, stepMax)
 *   g = 0 where s < 0
 *   p = p - sign(g) * stepSize     prev = g
 *
 * torch takes the sign of the product g * prev, which underflows to 0. The sign of a NaN is 0, as there: where a gradient is NaN,
 * parameter and step size stay.
 */
#define rprop_FLAGS(X)
#define rprop_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(prev, rw, 0) X(stepSize, rw, 0)
#define rprop_HYPERS(X) X(gradSign) X(etaMinus) X(etaPlus) X(stepMin) X(stepMax)

FS_RULE(rprop) {
  const real g0 = h.gradSign * LOAD(grad);
  const real s = SIGN(g0) * SIGN(LOAD(prev));
  real size = LOAD(stepSize) * (s > 0 ? h.etaPlus : s < 0 ? h.etaMinus : ONE);
  size = size < h.stepMin ? h.stepMin : size > h.stepMax ? h.stepMax : size;
  const real g = s < 0 ? 0 : g0;
  STORE(stepSize, size);
  STORE(prev, g);
  STORE(param, LOAD(param) - SIGN(g) * size);
}
