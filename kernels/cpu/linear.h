/* Layers of a token each: INT4 with a gated LoRA, in full precision, norm.
 *
 *     K inputs    N outputs    r rank
 */
#ifndef TAOLORA_LINEAR_H
#define TAOLORA_LINEAR_H

#include "structures.h"

/* Round a tile (rows, k) to codes (ROWS, groups * steps * 8), zero beyond; sum them by group. */
static void quantize(const Linear *l, int rows, const float *x, int stride, int8_t *q,
                     int32_t *sums)
{
    int size = l->k / l->groups, padded = l->steps * STEP, width = l->groups * padded;
    memset(q, 0, (size_t)ROWS * width);
    memset(sums, 0, sizeof(int32_t) * ROWS * l->groups);
    for (int m = 0; m < rows; m++)
        for (int g = 0; g < l->groups; g++) {
            const float *from = x + m * stride + g * size, *inverse = l->inverse + g * size;
            int8_t *to = q + m * width + g * padded;
            float low = l->low, high = l->high;
            int32_t sum = 0;
            for (int k = 0; k < size; k++) {
                float code = rintf(from[k] * inverse[k]);
                code = code > low ? code : low;  /* of what is no number, too */
                code = code < high ? code : high;
                to[k] = (int8_t)(int32_t)code;
                sum += (int32_t)code;
            }
            sums[g * ROWS + m] = sum;
        }
}

/* Add X' A B to up to GROUP rows of y; which[] names them in x, q and y. */
static void transient(const Linear *l, const int *which, int count, const float *x, int xs,
                      const int8_t *q, float *y, int ys, float *room)
{
    int size = l->k / l->groups, padded = l->steps * STEP, width = l->groups * padded;
    int ranks = PAD(l->rank), reads = l->residual ? 2 * l->k : l->k;
    float *read = room, *inner = read + GROUP * reads;  /* X' and X' A of these rows */
    memset(read, 0, sizeof(float) * GROUP * reads);
    for (int i = 0; i < count; i++) {
        const float *from = x + which[i] * xs;
        float *to = read + i * reads;
        for (int g = 0; l->residual && g < l->groups; g++) {
            const int8_t *code = q + which[i] * width + g * padded;
            for (int k = 0; k < size; k++)
                to[g * size + k] = from[g * size + k] - code[k] * l->step[g * size + k];
        }
        memcpy(to + reads - l->k, from, sizeof(float) * l->k);
    }
    for (int r = 0; r < ranks; r += LANES) {
        Lanes sum[GROUP] = {{0}};
        multiply(reads, read, reads, l->a + r, ranks, sum);
        for (int i = 0; i < GROUP; i++)
            memcpy(inner + i * ranks + r, sum + i, sizeof *sum);
    }
    for (int n = 0; n < PAD(l->n); n += LANES) {
        Lanes sum[GROUP] = {{0}};
        multiply(l->rank, inner, ranks, l->b + n, PAD(l->n), sum);
        for (int i = 0; i < count; i++) {
            float *to = y + which[i] * ys + n;
            store(to, load(to) + sum[i]);
        }
    }
}

/* y (rows, n) = Q4(x) Q4(W) + bias + gate * X' A B (+ y, when add is set). */
static void linear(const Linear *l, int rows, const uint8_t *open, const float *x, int xs,
                   float *y, int ys, int add, float *room)
{
    int8_t *q = (int8_t *)room;
    int32_t sums[64 * ROWS], acc[ROWS][LANES];
    int columns = PAD(l->n), width = l->groups * l->steps * STEP;
    quantize(l, rows, x, xs, q, sums);
    for (int g = 0; g < l->groups; g++)
        for (int n = 0; n < columns; n += LANES) {
            const uint8_t *w = l->weight + ((size_t)g * columns + n) / LANES * l->steps * 64;
            const float *scale = l->scale + g * columns + n;
            int4_tile(l->steps, q + g * l->steps * STEP, width, w, sums + g * ROWS, acc);
            for (int m = 0; m < rows; m++) {
                float *to = y + m * ys + n;
                Lanes sum = integers(acc[m]) * load(scale);
                if (g == 0)
                    sum += load(l->bias + n);
                store(to, g || add ? load(to) + sum : sum);
            }
        }
    int which[GROUP], count = 0;
    for (int m = 0; m < rows; m++) {
        if (open[m])
            which[count++] = m;
        if (count == GROUP || (count && m == rows - 1)) {
            transient(l, which, count, x, xs, q, y, ys, room + ROWS * width);
            count = 0;
        }
    }
}

static void layer_norm(int rows, int width, const float *norm, float epsilon, const float *x,
                       int xs, float *y, int ys)
{
    for (int m = 0; m < rows; m++) {
        const float *from = x + m * xs;
        float mean = 0, square = 0;
        for (int d = 0; d < width; d++)
            mean += from[d];
        mean /= width;
        for (int d = 0; d < width; d++)
            square += (from[d] - mean) * (from[d] - mean);
        float inverse = 1.0f / sqrtf(square / width + epsilon);
        for (int d = 0; d < width; d++)
            y[m * ys + d] = (from[d] - mean) * inverse * norm[d] + norm[width + d];
    }
}

/* y = x W + bias for rows of x, which must be a multiple of GROUP. */
static void dense(const Dense *l, int rows, const float *x, int xs, float *y, int ys)
{
    for (int m = 0; m < rows; m += GROUP)
        for (int n = 0; n < PAD(l->n); n += LANES) {
            Lanes sum[GROUP];
            for (int i = 0; i < GROUP; i++)
                sum[i] = load(l->bias + n);
            multiply(l->k, x + (size_t)m * xs, xs, l->weight + n, PAD(l->n), sum);
            for (int i = 0; i < GROUP; i++)
                store(y + (size_t)(m + i) * ys + n, sum[i]);
        }
}

#endif
