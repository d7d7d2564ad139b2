/* A matrix product whose rows do not depend on each other: out[m, j] = sum over k, in order, of x[m, k] w[k, j], each
   term added by one fused multiply-add. So a row's bits are the same whatever rows are beside it, and in any number.

   w is packed in panels of PANEL columns, [panel][k][PANEL], padded with zeros: once, when the model is loaded, where a
   library packs it in every call. Six rows of sums by sixteen columns (thirty-two, where a register holds sixteen) stay
   in twelve registers (the shape of BLIS' kernel for Haswell: Van Zee and van de Geijn 2015, doi:10.1145/2764454), and
   DEPTH terms of their panels in the nearest cache. */

#include "native.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
typedef __m512 Lanes;
#define LOAD(from) _mm512_loadu_ps(from)
#define STORE(into, value) _mm512_storeu_ps(into, value)
#define SPREAD(value) _mm512_set1_ps(value)
#define FUSED(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__) && defined(__FMA__)
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
#if LANES == 16
#define PANELS_AT_ONCE 2
#define DEPTH 192
#else
#define PANELS_AT_ONCE 1
#define DEPTH 256
#endif

/* `rows` (at most ROWS_AT_ONCE) by `panels` (at most PANELS_AT_ONCE), both known to the compiler, the panels w_stride
   apart: adds `depth` terms to zero if they are the `first` ones, else to what is there. */
ALIKE void tile(int rows, int panels, const float *x, int64_t x_stride, const float *w, int64_t w_stride, int64_t depth,
                int first, float *out, int64_t out_stride)
{
    Lanes sums[ROWS_AT_ONCE][PANELS_AT_ONCE][PANEL / LANES];
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            for (int l = 0; l < PANEL / LANES; l++)
                sums[r][p][l] = first ? SPREAD(0.0f) : LOAD(out + r * out_stride + p * PANEL + l * LANES);
    for (int64_t k = 0; k < depth; k++, w += PANEL)
        for (int r = 0; r < rows; r++) {
            Lanes value = SPREAD(x[r * x_stride + k]);
            for (int p = 0; p < panels; p++)
                for (int l = 0; l < PANEL / LANES; l++)
                    sums[r][p][l] = FUSED(value, LOAD(w + p * w_stride + l * LANES), sums[r][p][l]);
        }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < panels; p++)
            for (int l = 0; l < PANEL / LANES; l++)
                STORE(out + r * out_stride + p * PANEL + l * LANES, sums[r][p][l]);
}

/* All rows by some panels. Meanwhile what comes after them is fetched, a share beside each tile: of deep ones alone,
   for shallow ones are of small models, whose weights are near. */
ALIKE void column(int panels, int64_t rows, const float *x, int64_t x_stride, const float *w, int64_t w_stride,
                  int64_t depth, int first, float *out, int64_t out_stride)
{
    const float *next = w + depth * PANEL;
    int64_t tiles = rows / ROWS_AT_ONCE, share = tiles && depth >= DEPTH / 2 ? (depth + tiles - 1) / tiles : 0;
    for (; rows >= ROWS_AT_ONCE; rows -= ROWS_AT_ONCE) {
        for (int64_t line = 0; line < share; line++, next += PANEL)
            for (int p = 0; p < panels; p++)
                __builtin_prefetch(next + p * w_stride);
        tile(ROWS_AT_ONCE, panels, x, x_stride, w, w_stride, depth, first, out, out_stride);
        x += ROWS_AT_ONCE * x_stride;
        out += ROWS_AT_ONCE * out_stride;
    }
#define REST(rows) \
    case rows: tile(rows, panels, x, x_stride, w, w_stride, depth, first, out, out_stride); break
    switch (rows) {
        REST(5);
        REST(4);
        REST(3);
        REST(2);
        REST(1);
    }
#undef REST
}

/* out [rows, panels x PANEL] = x [rows, depth] w. */
static void product(int64_t rows, const float *x, int64_t x_stride, const float *w, int64_t depth, int64_t panels,
                    float *out, int64_t out_stride)
{
    int64_t w_stride = depth * PANEL;
    for (int64_t panel = 0; panel < panels; panel += PANELS_AT_ONCE)
        for (int64_t k = 0; k < depth; k += DEPTH) {
            int64_t terms = depth - k < DEPTH ? depth - k : DEPTH;
            const float *from = w + panel * w_stride + k * PANEL;
            float *into = out + panel * PANEL;
            if (panels - panel >= PANELS_AT_ONCE)
                column(PANELS_AT_ONCE, rows, x + k, x_stride, from, w_stride, terms, k == 0, into, out_stride);
            else
                for (int64_t one = panel; one < panels; one++, from += w_stride, into += PANEL)
                    column(1, rows, x + k, x_stride, from, w_stride, terms, k == 0, into, out_stride);
        }
}
