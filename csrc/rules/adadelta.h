/**
 * Adadelta (Zeiler 2012, arXiv:1212.5701; torch/optim/adadelta.py).
 *
 *   g = gradSign * grad            (+ weightDecay * p with l2)
 *   v = rho * v + (1 - rho) * g * g
 *   d = sqrt((u + eps) / (v + eps)) * g          torch takes the two roots apart
 *   u = rho * u + (1 - rho) * d * d
 *   p = p - lr * d
 */
#define adadelta_FLAGS(X) X(l2, 0)
#define adadelta_BUFFERS(X) X(param, rw, 0) X(grad, r, 0) X(squareAvg, rw, 0) X(accDelta, rw, 0)
#define adadelta_HYPERS(X) X(gradSign) X(weightDecay) X(rho) X(oneMinusRho) X(eps) X(lr)

FS_RULE(adadelta) {
  const real p = LOAD(param), u = LOAD(accDelta);
  real g = h.gradSign * LOAD(grad);
  if (l2) g = g + h.weightDecay * p;
  const real v = h.rho * LOAD(squareAvg) + (h.oneMinusRho * g) * g;
  const real d = ROOT((u + h.eps) / (v + h.eps)) * g;
  STORE(squareAvg, v);
  STORE(accDelta, h.rho * u + (h.oneMinusRho * d) * d);
  STORE(param, p - h.lr * d);
}
