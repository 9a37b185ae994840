/**
 * foreach.mul_.
 *
 *   self = self * other        (self * value without tensor)
 */
#define mul_FLAGS(X) X(tensor, 0)
#define mul_BUFFERS(X) X(self, rw, 0) X(other, r, 1u << 0)
#define mul_HYPERS(X) X(value)

FS_RULE(mul) {
  const real x = tensor ? LOAD(other) : h.value;
  STORE(self, LOAD(self) * x);
}
