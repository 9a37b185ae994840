/**
 * A gradient times a number, beside a step: for rules that look at whole tensors, and for sparse gradients.
 *
 *   out = x * factor
 */
#define scale_FLAGS(X)
#define scale_BUFFERS(X) X(out, rw, 0) X(x, r, 0)
#define scale_HYPERS(X) X(factor)

FS_RULE(scale) { STORE(out, LOAD(x) * h.factor); }
