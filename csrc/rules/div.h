/**
 * foreach.div_.
 *
 *   self = self / other        (self / value without tensor)
 */
#define div_FLAGS(X) X(tensor, 0)
#define div_BUFFERS(X) X(self, rw, 0) X(other, r, 1u << 0)
#define div_HYPERS(X) X(value)

FS_RULE(div) {
  const real x = tensor ? LOAD(other) : h.value;
  STORE(self, LOAD(self) / x);
}
