/**
 * Products of matrices, for float32 and float64: the terms of each element are added in the order of k, each product and
 * each sum rounded, as matmul_kernels.h does. A thread has FS_CUDA_DOWN rows of FS_CUDA_ACROSS elements in registers; a
 * warp has the same rows and neighbouring columns, so that b is read in whole lines and a in one place.
 */
#define FS_STAMPED(name) FS_CAT(FS_CAT(name, FS_DTYPE), FS_ISA_NAME)
#define FS_WIDE (FS_CUDA_WARP * FS_CUDA_ACROSS)

/* A thread's piece at row i0 and column j0; `whole` if all of it is there, else the last ones stand for those beyond it. */
FS_INLINE void FS_STAMPED(fs_piece)(const fs_cuda_product *s, const uint64_t i0, const uint64_t j0, const int whole) {
  const real *a[FS_CUDA_DOWN], *b[FS_CUDA_ACROSS];
  real sum[FS_CUDA_DOWN][FS_CUDA_ACROSS];
  FS_UNROLL for (uint32_t i = 0; i < FS_CUDA_DOWN; i++) {
    const uint64_t at = whole || i0 + i < s->m ? i0 + i : s->m - 1;
    a[i] = FS_GLOBAL(const real, s->a) + at * s->a_row;
    FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_ACROSS; j++) sum[i][j] = 0;
  }
  FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_ACROSS; j++) {
    const uint64_t at = j0 + j * FS_CUDA_WARP;
    b[j] = FS_GLOBAL(const real, s->b) + (whole || at < s->n ? at : s->n - 1);
  }
  FS_NO_UNROLL for (uint64_t k = 0; k < s->k; k++) {
    real right[FS_CUDA_ACROSS];
    FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_ACROSS; j++) right[j] = b[j][k * s->b_row];
    FS_UNROLL for (uint32_t i = 0; i < FS_CUDA_DOWN; i++) {
      const real left = a[i][k * s->a_column];
      FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_ACROSS; j++) sum[i][j] = sum[i][j] + left * right[j];
    }
  }
  const real alpha = (real)s->alpha, beta = (real)s->beta;
  const real *const add = FS_GLOBAL(const real, s->add);
  real *const out = FS_GLOBAL(real, s->out);
  FS_UNROLL for (uint32_t i = 0; i < FS_CUDA_DOWN; i++) {
    FS_UNROLL for (uint32_t j = 0; j < FS_CUDA_ACROSS; j++) {
      const uint64_t y = i0 + i, x = j0 + j * FS_CUDA_WARP, at = y * s->n + x;
      if ((!whole && (y >= s->m || x >= s->n)) || (s->symmetric && x < y)) continue;
      const real scaled = alpha * sum[i][j], value = s->add ? beta * add[at] + scaled : scaled;
      out[at] = value;
      if (s->symmetric) out[x * s->n + y] = value;
    }
  }
}

/* A warp's piece after the other: four of them below each other, then the next columns, so that they read the same of b. */
FS_KERNEL FS_CAT(product, FS_DTYPE)(const fs_cuda_product s) {
  const uint64_t down = fs_pieces(s.m, FS_CUDA_DOWN), across = fs_pieces(s.n, FS_WIDE);
  const uint64_t all = fs_pieces(down, 4) * across * 4 * FS_CUDA_WARP, threads = (uint64_t)fs_blocks() * fs_threads();
  for (uint64_t t = (uint64_t)fs_block() * fs_threads() + fs_thread(); t < all; t += threads) {
    const uint64_t piece = t / FS_CUDA_WARP, group = piece / 4;
    const uint64_t i0 = (group / across * 4 + piece % 4) * FS_CUDA_DOWN, from = group % across * FS_WIDE;
    const uint64_t j0 = from + t % FS_CUDA_WARP;
    if (i0 >= s.m || j0 >= s.n || (s.symmetric && from + FS_WIDE <= i0)) continue;
    if (i0 + FS_CUDA_DOWN <= s.m && from + FS_WIDE <= s.n) FS_STAMPED(fs_piece)(&s, i0, j0, 1);
    else FS_STAMPED(fs_piece)(&s, i0, j0, 0);
  }
}

FS_KERNEL FS_CAT(transpose, FS_DTYPE)(const fs_cuda_transpose s) {
  const uint64_t all = s.rows * s.columns, threads = (uint64_t)fs_blocks() * fs_threads();
  const real *const from = FS_GLOBAL(const real, s.from);
  real *const to = FS_GLOBAL(real, s.to);
  for (uint64_t t = (uint64_t)fs_block() * fs_threads() + fs_thread(); t < all; t += threads) {
    to[t] = from[t % s.rows * s.columns + t / s.rows];
  }
}

#undef FS_STAMPED
#undef FS_WIDE
