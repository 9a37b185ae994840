/**
 * foreach.addcmul_.
 *
 *   self = self + (value * a) * b
 */
#define addcmul_FLAGS(X)
#define addcmul_BUFFERS(X) X(self, rw, 0) X(a, r, 0) X(b, r, 0)
#define addcmul_HYPERS(X) X(value)

FS_RULE(addcmul) {
  const real x = LOAD(a), y = LOAD(b);
  STORE(self, LOAD(self) + (h.value * x) * y);
}
