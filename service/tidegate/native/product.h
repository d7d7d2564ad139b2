/* A matrix product whose rows do not depend on each other: out[m, j] = sum over k, in order, of x[m, k] w[k, j], each
   term added by one fused multiply-add. So a row's bits are the same whatever rows are beside it, and in any number.

   w is packed in panels of PANEL columns, [panel][k][PANEL], padded with zeros: once, when the model is loaded, where a
   library packs it in every call. Six rows by sixteen columns of sums stay in registers (the shape of BLIS' kernel for
   Haswell: Van Zee and van de Geijn 2015, doi:10.1145/2764454), and DEPTH terms of a panel in the nearest cache. */

#include "native.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES 8
typedef __m256 Lanes;
#define LOAD(from) _mm256_loadu_ps(from)
#define STORE(into, value) _mm256_storeu_ps(into, value)
#define SPREAD(value) _mm256_set1_ps(value)
#define FUSED(a, b, c) _mm256_fmadd_ps(a, b, c)
#elif defined(__ARM_NEON) && defined(__aarch64__)
#include <arm_neon.h>
#define LANES 4
typedef float32x4_t Lanes;
#define LOAD(from) vld1q_f32(from)
#define STORE(into, value) vst1q_f32(into, value)
#define SPREAD(value) vdupq_n_f32(value)
#define FUSED(a, b, c) vfmaq_f32(c, a, b)
#else
#define LANES 1
typedef float Lanes;
#define LOAD(from) (*(from))
#define STORE(into, value) (*(into) = (value))
#define SPREAD(value) (value)
#define FUSED(a, b, c) fmaf(a, b, c)
#endif

#define PANEL 16
#define ROWS_AT_ONCE 6
#define DEPTH 256

/* `rows` (at most ROWS_AT_ONCE, known to the compiler) by one panel: adds `depth` terms to zero if they are the `first`
   ones, else to what is there. */
ALIKE void tile(int rows, const float *x, int64_t x_stride, const float *w, int64_t depth, int first, float *out,
                int64_t out_stride)
{
    Lanes sums[ROWS_AT_ONCE][PANEL / LANES];
    for (int r = 0; r < rows; r++)
        for (int l = 0; l < PANEL / LANES; l++)
            sums[r][l] = first ? SPREAD(0.0f) : LOAD(out + r * out_stride + l * LANES);
    for (int64_t k = 0; k < depth; k++, w += PANEL)
        for (int r = 0; r < rows; r++) {
            Lanes value = SPREAD(x[r * x_stride + k]);
            for (int l = 0; l < PANEL / LANES; l++)
                sums[r][l] = FUSED(value, LOAD(w + l * LANES), sums[r][l]);
        }
    for (int r = 0; r < rows; r++)
        for (int l = 0; l < PANEL / LANES; l++)
            STORE(out + r * out_stride + l * LANES, sums[r][l]);
}

/* All rows by one panel. Meanwhile what comes after the panel is fetched, a share beside each tile: of a deep one alone,
   for shallow ones are of small models, whose weights are near. */
static void column(int64_t rows, const float *x, int64_t x_stride, const float *w, int64_t depth, int first, float *out,
                   int64_t out_stride)
{
    const float *next = w + depth * PANEL;
    int64_t tiles = rows / ROWS_AT_ONCE, share = tiles && depth >= DEPTH / 2 ? (depth + tiles - 1) / tiles : 0;
    for (; rows >= ROWS_AT_ONCE; rows -= ROWS_AT_ONCE) {
        for (int64_t line = 0; line < share; line++, next += PANEL)
            __builtin_prefetch(next);
        tile(ROWS_AT_ONCE, x, x_stride, w, depth, first, out, out_stride);
        x += ROWS_AT_ONCE * x_stride;
        out += ROWS_AT_ONCE * out_stride;
    }
    switch (rows) {
    case 5: tile(5, x, x_stride, w, depth, first, out, out_stride); break;
    case 4: tile(4, x, x_stride, w, depth, first, out, out_stride); break;
    case 3: tile(3, x, x_stride, w, depth, first, out, out_stride); break;
    case 2: tile(2, x, x_stride, w, depth, first, out, out_stride); break;
    case 1: tile(1, x, x_stride, w, depth, first, out, out_stride); break;
    }
}

/* out [rows, panels x PANEL] = x [rows, depth] w. */
static void product(int64_t rows, const float *x, int64_t x_stride, const float *w, int64_t depth, int64_t panels,
                    float *out, int64_t out_stride)
{
    for (int64_t panel = 0; panel < panels; panel++, out += PANEL)
        for (int64_t k = 0; k < depth; k += DEPTH) {
            int64_t terms = depth - k < DEPTH ? depth - k : DEPTH;
            column(rows, x + k, x_stride, w, terms, k == 0, out, out_stride);
            w += terms * PANEL;
        }
}
