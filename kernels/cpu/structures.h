/* What a network is made of in memory (layout.py makes it), and LANES floats at a time. Rows are
 * padded to LANES columns with zeros.
 */
#ifndef TAOLORA_STRUCTURES_H
#define TAOLORA_STRUCTURES_H

#include "int4.h"
#include "maths.h"

#define PAD(n) (((n) + LANES - 1) / LANES * LANES)
#define GROUP 4  /* rows of a float product computed together */

typedef float Lanes __attribute__((vector_size(4 * LANES)));

typedef struct {
    int32_t k, n, groups, steps;      /* steps of 8 inputs in each group */
    int32_t low, high, rank, residual;
    const uint8_t *weight;            /* [groups][PAD(n) / LANES][steps][64] */
    const float *scale;               /* [groups][PAD(n)] */
    const float *inverse, *step;      /* [k] x_inv and 1 / x_inv */
    const float *bias;                /* [PAD(n)] */
    const float *a, *b;               /* [k or 2 k][PAD(rank)], [rank][PAD(n)] */
} Linear;

typedef struct {
    int32_t k, n;
    const float *weight, *bias;       /* [k][PAD(n)], [PAD(n)] */
} Dense;

typedef struct {
    int32_t attention;                /* else convolution */
    const float *norm1, *norm2;       /* [2][D] weight and bias */
    const float *kernel;              /* [taps + 1][PAD(D)], the last row the bias */
    Linear inner, outer, up, down;
} Block;

typedef struct {
    int32_t tokens, width, heads, taps, mlp, classes, patch, features, bottleneck, blocks;
    float epsilon, margin;
    const float *norm, *rotary;       /* [2][D]; [2][T][E / 2] cos and sin */
    const float *anomaly;             /* [features] */
    Dense embed, head, squeeze, rebuild;
    const Block *block;
} Network;

static int at_least(int a, int b) { return a > b ? a : b; }

static inline Lanes load(const float *x)
{
    Lanes y;
    memcpy(&y, x, sizeof y);
    return y;
}

static inline Lanes integers(const int32_t *x)
{
    int32_t y __attribute__((vector_size(4 * LANES)));
    memcpy(&y, x, sizeof y);
    return __builtin_convertvector(y, Lanes);
}

static inline void store(float *x, Lanes y)
{
    memcpy(x, &y, sizeof y);
}

/* Floats in a register of this machine. Wider vectors than that would be kept in memory. */
#if defined(__AVX512F__)
#define NATIVE 16
#elif defined(__AVX__)
#define NATIVE 8
#else
#define NATIVE 4
#endif
#define PARTS (LANES / NATIVE)

typedef float Native __attribute__((vector_size(4 * NATIVE)));

/* Add to sum, over k, x[i][k] * w[k] for GROUP rows of x and LANES columns of w. */
static inline void multiply(int length, const float *x, int xs, const float *w, int ws,
                            Lanes sum[GROUP])
{
    Native total[GROUP][PARTS];
    memcpy(total, sum, sizeof total);
    for (int k = 0; k < length; k++) {
        Native row[PARTS];
#pragma GCC unroll 4
        for (int p = 0; p < PARTS; p++)
            memcpy(row + p, w + (size_t)k * ws + p * NATIVE, sizeof *row);
#pragma GCC unroll 4
        for (int i = 0; i < GROUP; i++)
#pragma GCC unroll 4
            for (int p = 0; p < PARTS; p++)
                total[i][p] += x[i * xs + k] * row[p];
    }
    memcpy(sum, total, sizeof total);
}

#endif
