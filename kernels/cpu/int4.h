/* A tile of ROWS tokens times four-bit weights, in exact integers (METHOD section 1).
 *
 *     acc[m][n] = sum over k of x[m][k] * w[k][n]        |x| <= 15, w in -7 .. 7
 *
 * Weights lie in blocks of LANES columns and steps of 8 rows: 64 bytes, in which byte 4 n + j
 * holds w[8 s + j][n] + 8 in its low and w[8 s + 4 + j][n] + 8 in its high half. So one load and
 * two masks give two registers for a product that sums four bytes at a time (VNNI's vpdpbusd, of
 * 512 or 256 bits, ARM's sdot; AVX2 has vpmaddubsw, whose 16 bits suffice for four-bit factors).
 * What the 8 adds is taken off again as 8 * sum of x. Bytes read: K * N / 2 for each tile of ROWS
 * tokens.
 */
#ifndef TAOLORA_INT4_H
#define TAOLORA_INT4_H

#include <stdint.h>
#include <string.h>

#if !defined(TAOLORA_PORTABLE) && (defined(__AVX512VNNI__) || defined(__AVX2__))
#include <immintrin.h>
#elif !defined(TAOLORA_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define ROWS 8    /* tokens in a tile */
#define LANES 16  /* columns in a block */
#define STEP 8    /* rows of the weights in 64 bytes */

static inline int32_t four(const int8_t *x)
{
    int32_t word;
    memcpy(&word, x, sizeof word);
    return word;
}

#if !defined(TAOLORA_PORTABLE) && defined(__AVX2__)
/* Return 8 columns' codes of 4 rows and of the 4 after these. */
static inline void unpack(const uint8_t *w, __m256i *first, __m256i *second)
{
    const __m256i low = _mm256_set1_epi8(0x0f);
    __m256i both = _mm256_loadu_si256((const __m256i *)w);
    *first = _mm256_and_si256(both, low);
    *second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
}
#endif

#if !defined(TAOLORA_PORTABLE) && defined(__AVX512VNNI__)
#define ISA "AVX-512 VNNI"

static void int4_tile(int steps, const int8_t *x, int stride, const uint8_t *w,
                      const int32_t *sums, int32_t acc[ROWS][LANES])
{
    const __m512i low = _mm512_set1_epi8(0x0f);
    __m512i total[ROWS];
    for (int m = 0; m < ROWS; m++)
        total[m] = _mm512_set1_epi32(-8 * sums[m]);
    for (int s = 0; s < steps; s++, w += 64, x += STEP) {
        __m512i both = _mm512_loadu_si512(w);
        __m512i first = _mm512_and_si512(both, low);
        __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
#pragma GCC unroll 8
        for (int m = 0; m < ROWS; m++) {
            const int8_t *row = x + m * stride;
            total[m] = _mm512_dpbusd_epi32(total[m], first, _mm512_set1_epi32(four(row)));
            total[m] = _mm512_dpbusd_epi32(total[m], second, _mm512_set1_epi32(four(row + 4)));
        }
    }
    for (int m = 0; m < ROWS; m++)
        _mm512_storeu_si512(acc[m], total[m]);
}

#elif !defined(TAOLORA_PORTABLE) && defined(__AVXVNNI__)
#define ISA "AVX-VNNI"

static void int4_tile(int steps, const int8_t *x, int stride, const uint8_t *w,
                      const int32_t *sums, int32_t acc[ROWS][LANES])
{
    for (int half = 0; half < 2; half++) {  /* 8 columns each */
        __m256i total[ROWS];
        for (int m = 0; m < ROWS; m++)
            total[m] = _mm256_set1_epi32(-8 * sums[m]);
        for (int s = 0; s < steps; s++) {
            __m256i a, b;
            unpack(w + 64 * s + 32 * half, &a, &b);
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; m++) {
                const int8_t *row = x + m * stride + STEP * s;
                total[m] = _mm256_dpbusd_avx_epi32(total[m], a, _mm256_set1_epi32(four(row)));
                total[m] = _mm256_dpbusd_avx_epi32(total[m], b, _mm256_set1_epi32(four(row + 4)));
            }
        }
        for (int m = 0; m < ROWS; m++)
            _mm256_storeu_si256((__m256i *)(acc[m] + 8 * half), total[m]);
    }
}

#elif !defined(TAOLORA_PORTABLE) && defined(__AVX2__)
#define ISA "AVX2"
#define WIDEN 16  /* steps whose 4 products of at most 225 each fit in 16 bits, twice over */

static inline __m256i products(__m256i w, const int8_t *row, __m256i sum)
{
    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, _mm256_set1_epi32(four(row))));
}

static void int4_tile(int steps, const int8_t *x, int stride, const uint8_t *w,
                      const int32_t *sums, int32_t acc[ROWS][LANES])
{
    const __m256i one = _mm256_set1_epi16(1);
    for (int half = 0; half < 2; half++) {  /* 8 columns each */
        __m256i total[ROWS];
        for (int m = 0; m < ROWS; m++)
            total[m] = _mm256_set1_epi32(-8 * sums[m]);
        for (int first = 0; first < steps; first += WIDEN) {
            int last = first + WIDEN < steps ? first + WIDEN : steps;
            __m256i sum[ROWS];
            for (int m = 0; m < ROWS; m++)
                sum[m] = _mm256_setzero_si256();
            for (int s = first; s < last; s++) {
                __m256i a, b;
                unpack(w + 64 * s + 32 * half, &a, &b);
#pragma GCC unroll 8
                for (int m = 0; m < ROWS; m++) {
                    const int8_t *row = x + m * stride + STEP * s;
                    sum[m] = products(b, row + 4, products(a, row, sum[m]));
                }
            }
            for (int m = 0; m < ROWS; m++)
                total[m] = _mm256_add_epi32(total[m], _mm256_madd_epi16(sum[m], one));
        }
        for (int m = 0; m < ROWS; m++)
            _mm256_storeu_si256((__m256i *)(acc[m] + 8 * half), total[m]);
    }
}

#elif !defined(TAOLORA_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)
#define ISA "NEON dot product"

static void int4_tile(int steps, const int8_t *x, int stride, const uint8_t *w,
                      const int32_t *sums, int32_t acc[ROWS][LANES])
{
    for (int part = 0; part < LANES; part += 4) {  /* 4 columns each */
        int32x4_t total[ROWS];
        for (int m = 0; m < ROWS; m++)
            total[m] = vdupq_n_s32(-8 * sums[m]);
        for (int s = 0; s < steps; s++) {
            uint8x16_t both = vld1q_u8(w + 64 * s + 4 * part);
            int8x16_t first = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(0x0f)));
            int8x16_t second = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
#pragma GCC unroll 8
            for (int m = 0; m < ROWS; m++) {
                int8x8_t row = vld1_s8(x + m * stride + STEP * s);
                total[m] = vdotq_lane_s32(total[m], first, row, 0);
                total[m] = vdotq_lane_s32(total[m], second, row, 1);
            }
        }
        for (int m = 0; m < ROWS; m++)
            vst1q_s32(acc[m] + part, total[m]);
    }
}

#else
#define ISA "plain C"

static void int4_tile(int steps, const int8_t *x, int stride, const uint8_t *w,
                      const int32_t *sums, int32_t acc[ROWS][LANES])
{
    for (int m = 0; m < ROWS; m++)
        for (int n = 0; n < LANES; n++)
            acc[m][n] = -8 * sums[m];
    for (int s = 0; s < steps; s++, w += 64, x += STEP)
        for (int m = 0; m < ROWS; m++)
            for (int n = 0; n < LANES; n++)
                for (int j = 0; j < 4; j++)
                    acc[m][n] += (w[4 * n + j] & 0x0f) * x[m * stride + j]
                               + (w[4 * n + j] >> 4) * x[m * stride + 4 + j];
}

#endif
#endif
