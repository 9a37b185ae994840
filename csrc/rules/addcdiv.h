/**
 * foreach.addcdiv_.
 *
 *   self = self + (value * a) / b
 */
#define addcdiv_FLAGS(X)
#define addcdiv_BUFFERS(X) X(self, rw, 0) X(a, r, 0) X(b, r, 0)
#define addcdiv_HYPERS(X) X(value)

FS_RULE(addcdiv) {
  const real x = LOAD(a), y = LOAD(b);
  STORE(self, LOAD(self) + (h.value * x) / y);
}
