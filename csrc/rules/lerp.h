/**
 * Linear interpolation (foreach.lerp_, and the exponential moving average of getEmaMultiAvgFn).
 *
 *   self = self + weight * (end - self)        (end - complement * (end - self) where weight >= 0.5)
 *
 * complement = 1 - weight. Of the two forms, which are equal but for rounding, torch takes the one that multiplies by less.
 */
#define lerp_FLAGS(X)
#define lerp_BUFFERS(X) X(self, rw, 0) X(end, r, 0)
#define lerp_HYPERS(X) X(weight) X(complement)

FS_RULE(lerp) {
  const real from = LOAD(self), to = LOAD(end), d = to - from;
  STORE(self, h.weight < HALF ? from + h.weight * d : to - h.complement * d);
}
