/**
 * The rules' kernels for one dtype; included by stamp.h in the place of its loops.
 *
 * A thread takes FS_CUDA_EACH elements at a time, FS_CUDA_APART apart, and loads all of them before it computes: so enough
 * loads are under way to keep the memory busy, neighbours read neighbours, and the offsets are constants.
 */
#define FS_CUDA_EACH 4u
#define FS_CUDA_APART 256u
#define FS_CUDA_TILE (FS_CUDA_EACH * FS_CUDA_APART)

#define FS_USED(needs) ((needs) == 0 || ((needs) & variant) != 0)
#define FS_IS(name, other) (__builtin_strcmp(#name, #other) == 0)
#define FS_LOADED(x) FS_CAT(fs_load, FS_DTYPE)(x)
#define FS_ROUNDED(x) FS_CAT(fs_store, FS_DTYPE)(x)

/* x * unscale * clip, rounded to the dtype each time (reduce.h's fs_scaler). */
FS_INLINE elem FS_STAMPED(fs_scaled)(const elem x, const real unscale, const real clip) {
  return FS_ROUNDED(FS_LOADED(FS_ROUNDED(FS_LOADED(x) * unscale)) * clip);
}

#define FS_READ_HYPER(name) h.name = (real)s.hypers[hyper++];
#define FS_AT(name, access, needs) elem *const name##_at = FS_GLOBAL(elem, *word++ + first * sizeof(elem));
#define FS_LOCAL(name, access, needs) elem name[FS_CUDA_EACH];
#define FS_READ(name, access, needs) \
  if (FS_USED(needs)) name[k] = name##_at[i + k * FS_CUDA_APART];
#define FS_SCALE(name, access, needs) \
  if (FS_IS(name, grad)) name[k] = FS_STAMPED(fs_scaled)(name[k], unscale, clip);
#define FS_WRITE(name, access, needs) \
  if (FS_IS(access, rw) && FS_USED(needs)) name##_at[i + k * FS_CUDA_APART] = name[k];
#define FS_SOME(name, many)                                                                \
  {                                                                                        \
    name##_BUFFERS(FS_LOCAL)                                                               \
    FS_UNROLL for (uint32_t k = 0; k < (many); k++) { name##_BUFFERS(FS_READ) }            \
    FS_UNROLL for (uint32_t k = 0; k < (many); k++) {                                      \
      name##_BUFFERS(FS_SCALE)                                                             \
      FS_BODY(name, k);                                                                    \
    }                                                                                      \
    FS_UNROLL for (uint32_t k = 0; k < (many); k++) { name##_BUFFERS(FS_WRITE) }           \
  }
#define FS_RUN(name)                                                                       \
  for (uint32_t t = fs_thread(); t < tiles; t += fs_threads()) {                           \
    const uint32_t i = t / FS_CUDA_APART * FS_CUDA_TILE + t % FS_CUDA_APART;               \
    FS_SOME(name, FS_CUDA_EACH)                                                            \
  }                                                                                        \
  FS_NO_UNROLL for (uint32_t i = tiles * FS_CUDA_EACH + fs_thread(); i < length; i += fs_threads()) FS_SOME(name, 1)

#define RULE(name)                                                                         \
  FS_KERNEL FS_CAT(name, FS_DTYPE)(const fs_cuda_step s) {                                 \
    const uint64_t *const chunks = FS_GLOBAL(const uint64_t, s.chunks);                    \
    const real unscale = (real)s.unscale, clip = (real)s.clip;                             \
    struct FS_STAMPED(name##_hypers) h;                                                    \
    uint32_t hyper = 0;                                                                    \
    _Static_assert(0 name##_HYPERS(FS_COUNT) <= (int)FS_CUDA_HYPERS, "too many hyperparameters"); \
    name##_HYPERS(FS_READ_HYPER)                                                           \
    for (uint64_t c = fs_block(); c < s.count; c += fs_blocks()) {                         \
      const uint64_t *const row = FS_GLOBAL(const uint64_t, s.table) + chunks[2 * c] * s.words; \
      const uint64_t first = chunks[2 * c + 1], left = row[0] - first;                     \
      if (first >= row[0]) continue;                                                       \
      const uint32_t length = left < s.length ? (uint32_t)left : s.length, flags = (uint32_t)(row[1] >> 32); \
      const uint32_t tiles = length / FS_CUDA_TILE * FS_CUDA_APART;                        \
      const uint64_t *word = row + 2;                                                      \
      name##_BUFFERS(FS_AT)                                                                \
      FS_VARIANTS(name)                                                                    \
    }                                                                                      \
    (void)unscale, (void)clip, (void)hyper, (void)h;                                       \
  }
#include "rules.def"
#undef RULE

#undef FS_CUDA_EACH
#undef FS_CUDA_APART
#undef FS_CUDA_TILE
#undef FS_USED
#undef FS_IS
#undef FS_LOADED
#undef FS_ROUNDED
#undef FS_READ_HYPER
#undef FS_AT
#undef FS_LOCAL
#undef FS_READ
#undef FS_SCALE
#undef FS_WRITE
#undef FS_SOME
#undef FS_RUN
