/**
 * clipGradValue: what is beyond a limit is put at the limit; a NaN stays one.
 *
 *   self = min(max(self, -limit), limit)
 */
#define clamp_FLAGS(X)
#define clamp_BUFFERS(X) X(self, rw, 0)
#define clamp_HYPERS(X) X(limit)

FS_RULE(clamp) {
  const real x = LOAD(self);
  STORE(self, x < -h.limit ? -h.limit : x > h.limit ? h.limit : x);
}
