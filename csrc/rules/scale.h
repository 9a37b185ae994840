/**
 * A gradient times a number: what fs_step does to one before its rule reads it.
 *
 *   out = x * factor
 */
#define scale_AHEAD 0
#define scale_FLAGS(X)
#define scale_BUFFERS(X) X(out, rw, 0) X(x, r, 0)
#define scale_HYPERS(X) X(factor)

FS_RULE(scale) { STORE(out, LOAD(x) * h.factor); }
