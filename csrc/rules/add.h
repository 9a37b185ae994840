/**
 * foreach.add_ and foreach.sub_.
 *
 *   self = self + alpha * other        (alpha * value without tensor)
 */
#define add_FLAGS(X) X(tensor, 0)
#define add_BUFFERS(X) X(self, rw, 0) X(other, r, 1u << 0)
#define add_HYPERS(X) X(alpha) X(value)

FS_RULE(add) {
  const real x = tensor ? LOAD(other) : h.value;
  STORE(self, LOAD(self) + h.alpha * x);
}
