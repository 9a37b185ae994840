/**
 * foreach.maximum_: the larger one, a NaN if there is one.
 *
 *   self = max(self, other)
 */
#define maximum_FLAGS(X)
#define maximum_BUFFERS(X) X(self, rw, 0) X(other, r, 0)
#define maximum_HYPERS(X)

FS_RULE(maximum) {
  const real x = LOAD(self), y = LOAD(other);
  STORE(self, MAXIMUM(x, y));
  (void)h;
}
