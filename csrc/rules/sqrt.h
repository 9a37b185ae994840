/**
 * foreach.sqrt_.
 *
 *   self = sqrt(self)
 */
#define sqrt_FLAGS(X)
#define sqrt_BUFFERS(X) X(self, rw, 0)
#define sqrt_HYPERS(X)

FS_RULE(sqrt) {
  STORE(self, ROOT(LOAD(self)));
  (void)h;
}
