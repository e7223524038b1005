/* The TAO network on one core: windows in, scores out, nothing allocated, nothing global.
 *
 * A tile of ROWS tokens stays in the first cache from norm to residual: normalised, rounded to
 * four bits, multiplied (int4.h), and for tokens with an open gate corrected by the LoRA. Only
 * convolution and attention need the whole window. Rows are padded to LANES columns with zeros.
 * The arithmetic is that of taolora_ros/network.py; sums are taken in another order.
 *
 *     T tokens    D width    H heads    E = D / H    K inputs    N outputs    r rank
 */
#include "int4.h"
#include "maths.h"

#define PAD(n) (((n) + LANES - 1) / LANES * LANES)
#define GROUP 4  /* open tokens whose LoRA is computed together */

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

/* Round a tile (rows, k) to codes (ROWS, groups * steps * 8), zero beyond; sum them by group. */
static void quantize(const Linear *l, int rows, const float *x, int stride, int8_t *q, int32_t *sums)
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
                code = code < low ? low : code > high ? high : code;
                to[k] = (int8_t)(int32_t)code;
                sum += (int32_t)code;
            }
            sums[g * ROWS + m] = sum;
        }
}

/* Add X' A B to up to GROUP rows of y; which[] names them in x, q and y. */
static void transient(const Linear *l, const int *which, int count, const float *x, int xs,
                      const int8_t *q, float *y, int ys)
{
    int size = l->k / l->groups, padded = l->steps * STEP, width = l->groups * padded;
    int ranks = PAD(l->rank);
    for (int first = 0; first < l->rank; first += LANES) {
        float h[GROUP][LANES] = {{0}};
        for (int k = 0; k < l->k; k++) {
            const float *a = l->a + (size_t)k * ranks + first, *a2 = a + (size_t)l->k * ranks;
            int code = k / size * padded + k % size;
            for (int i = 0; i < count; i++) {
                float value = x[which[i] * xs + k];
                float dropped = value - q[which[i] * width + code] * l->step[k];
                if (l->residual)
                    for (int r = 0; r < LANES; r++)
                        h[i][r] += dropped * a[r] + value * a2[r];
                else
                    for (int r = 0; r < LANES; r++)
                        h[i][r] += value * a[r];
            }
        }
        int last = l->rank - first < LANES ? l->rank - first : LANES;
        for (int r = 0; r < last; r++)
            for (int i = 0; i < count; i++) {
                const float *b = l->b + (size_t)(first + r) * PAD(l->n);
                float *row = y + which[i] * ys, factor = h[i][r];
                for (int n = 0; n < l->n; n++)
                    row[n] += factor * b[n];
            }
    }
}

/* y (rows, n) = Q4(x) Q4(W) + bias + gate * X' A B (+ y, when add is set). */
static void linear(const Linear *l, int rows, const uint8_t *open, const float *x, int xs,
                   float *y, int ys, int add, int8_t *q)
{
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
                if (g == 0 && !add)
                    for (int i = 0; i < LANES; i++)
                        to[i] = acc[m][i] * scale[i] + l->bias[n + i];
                else if (g == 0)
                    for (int i = 0; i < LANES; i++)
                        to[i] += acc[m][i] * scale[i] + l->bias[n + i];
                else
                    for (int i = 0; i < LANES; i++)
                        to[i] += acc[m][i] * scale[i];
            }
        }
    int which[GROUP], count = 0;
    for (int m = 0; m < rows; m++) {
        if (open[m])
            which[count++] = m;
        if (count == GROUP || (count && m == rows - 1)) {
            transient(l, which, count, x, xs, q, y, ys);
            count = 0;
        }
    }
}

static void layer_norm(int rows, int width, const float *norm, float epsilon, const float *x, int xs,
                       float *y, int ys)
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

static void dense(const Dense *l, int rows, const float *x, int xs, float *y, int ys)
{
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < PAD(l->n); n += LANES) {
            float sum[LANES];
            memcpy(sum, l->bias + n, sizeof sum);
            for (int k = 0; k < l->k; k++) {
                const float *w = l->weight + (size_t)k * PAD(l->n) + n;
                for (int i = 0; i < LANES; i++)
                    sum[i] += x[m * xs + k] * w[i];
            }
            memcpy(y + m * ys + n, sum, sizeof sum);
        }
}

/* y (T, D) = depthwise convolution of the first D columns of x, times SiLU of the next D. */
static void convolve(const Network *net, const Block *block, const float *x, int xs, float *y, int ys)
{
    int width = net->width, reach = net->taps / 2;
    for (int t = 0; t < net->tokens; t++) {
        float *to = y + t * ys;
        memcpy(to, block->kernel + (size_t)net->taps * PAD(width), sizeof(float) * width);
        for (int j = 0; j < net->taps; j++) {
            int from = t + j - reach;
            if (from < 0 || from >= net->tokens)
                continue;
            const float *w = block->kernel + (size_t)j * PAD(width), *row = x + (size_t)from * xs;
            for (int d = 0; d < width; d++)
                to[d] += w[d] * row[d];
        }
        const float *gate = x + (size_t)t * xs + width;
        for (int d = 0; d < width; d++)
            to[d] *= gate[d] * sigmoid(gate[d]);
    }
}

/* Turn the two halves of a head (E) by a token's angles, times factor. */
static void rotate(const Network *net, int token, const float *x, float factor, float *y)
{
    int half = net->width / net->heads / 2;
    const float *cosine = net->rotary + token * half, *sine = cosine + net->tokens * half;
    for (int e = 0; e < half; e++) {
        float a = x[e] * factor, b = x[half + e] * factor;
        y[e] = a * cosine[e] - b * sine[e];
        y[half + e] = a * sine[e] + b * cosine[e];
    }
}

/* y (T, D) = attention over x (T, 3 D); room holds (E + 1) * PAD(T) + E floats. */
static void attend(const Network *net, const float *x, int xs, float *y, int ys, float *room)
{
    int width = net->width, size = width / net->heads, tokens = net->tokens, stride = PAD(tokens);
    float *keys = room, *weight = keys + size * stride, *turned = weight + stride;
    float factor = 1.0f / sqrtf((float)size);
    for (int h = 0; h < net->heads; h++) {
        for (int t = 0; t < tokens; t++) {
            rotate(net, t, x + (size_t)t * xs + width + h * size, 1.0f, turned);
            for (int e = 0; e < size; e++)
                keys[e * stride + t] = turned[e];
        }
        for (int t = 0; t < tokens; t++) {
            float top = -INFINITY, total = 0;
            rotate(net, t, x + (size_t)t * xs + h * size, factor, turned);
            memset(weight, 0, sizeof(float) * stride);
            for (int e = 0; e < size; e++)
                for (int s = 0; s < tokens; s++)
                    weight[s] += turned[e] * keys[e * stride + s];
            for (int s = 0; s < tokens; s++)
                top = weight[s] > top ? weight[s] : top;
            for (int s = 0; s < tokens; s++) {
                weight[s] = exponential(weight[s] - top);
                total += weight[s];
            }
            float *to = y + (size_t)t * ys + h * size;
            memset(to, 0, sizeof(float) * size);
            for (int s = 0; s < tokens; s++) {
                const float *value = x + (size_t)s * xs + 2 * width + h * size;
                float share = weight[s] / total;
                for (int e = 0; e < size; e++)
                    to[e] += share * value[e];
            }
        }
    }
}

/* Floats that `taolora_run` needs as room, four-bit codes included. */
int64_t taolora_room(const Network *net)
{
    int64_t tokens = net->tokens, stride = PAD(net->width), hidden = PAD(net->mlp * net->width);
    int64_t pixels = PAD(net->patch * net->features), widest = at_least(hidden, 4 * stride);
    return tokens * (2 * stride + PAD(3 * net->width)) + (int64_t)ROWS * (stride + hidden + pixels)
        + (net->width / net->heads + 1) * PAD(tokens) + net->width / net->heads
        + ROWS * (PAD(net->bottleneck) + PAD(net->classes + 1)) + ROWS * (widest + 64 * STEP);
}

static void heads(const Network *net, const float *window, const float *x, int stride, float *room,
                  float *probability, float *offset, float *anomaly)
{
    int pixels = net->patch * net->features, classes = net->classes, few = PAD(classes + 1);
    float *normal = room, *out = normal + ROWS * stride, *narrow = out + ROWS * few;
    float *rebuilt = narrow + ROWS * PAD(net->bottleneck);
    memset(anomaly, 0, sizeof(float) * net->features);
    for (int t = 0; t < net->tokens; t++) {
        float top = -INFINITY, total = 0;
        layer_norm(1, net->width, net->norm, net->epsilon, x + (size_t)t * stride, stride, normal, stride);
        dense(&net->head, 1, normal, stride, out, few);
        dense(&net->squeeze, 1, normal, stride, narrow, PAD(net->bottleneck));
        dense(&net->rebuild, 1, narrow, PAD(net->bottleneck), rebuilt, PAD(pixels));
        for (int i = 0; i < classes; i++)
            top = out[i] > top ? out[i] : top;
        for (int i = 0; i < classes; i++)
            total += out[i] = exponential(out[i] - top);
        for (int i = 0; i < classes; i++)
            probability[t * classes + i] = out[i] / total;
        offset[t] = (1 + 2 * net->margin) * sigmoid(out[classes]) - net->margin;
        for (int i = 0; i < pixels; i++) {
            float error = window[(size_t)t * pixels + i] - rebuilt[i];
            anomaly[i % net->features] += error * error;
        }
    }
    for (int f = 0; f < net->features; f++)
        anomaly[f] = sqrtf(anomaly[f] / (net->tokens * net->patch)) / net->anomaly[f];
}

/* Score one window (T * patch, features) with gate flags (T). */
static void run_window(const Network *net, const float *window, const uint8_t *open, float *room,
                       float *probability, float *offset, float *anomaly)
{
    int tokens = net->tokens, width = net->width, stride = PAD(width), wide = PAD(3 * width);
    int pixels = net->patch * net->features, hidden = PAD(net->mlp * width);
    float *x = room, *mixed = x + tokens * stride, *inner = mixed + tokens * stride;
    float *normal = inner + tokens * wide, *middle = normal + ROWS * stride;
    float *rest = middle + ROWS * hidden;
    int8_t *codes = (int8_t *)(rest + (width / net->heads + 1) * PAD(tokens) + width / net->heads);
    dense(&net->embed, tokens, window, pixels, x, stride);
    for (int i = 0; i < net->blocks; i++) {
        const Block *block = net->block + i;
        for (int t = 0; t < tokens; t += ROWS) {
            int rows = tokens - t < ROWS ? tokens - t : ROWS;
            layer_norm(rows, width, block->norm1, net->epsilon, x + t * stride, stride, normal, stride);
            linear(&block->inner, rows, open + t, normal, stride, inner + t * wide, wide, 0, codes);
        }
        if (block->attention)
            attend(net, inner, wide, mixed, stride, rest);
        else
            convolve(net, block, inner, wide, mixed, stride);
        for (int t = 0; t < tokens; t += ROWS) {
            int rows = tokens - t < ROWS ? tokens - t : ROWS;
            float *tile = x + t * stride;
            linear(&block->outer, rows, open + t, mixed + t * stride, stride, tile, stride, 1, codes);
            layer_norm(rows, width, block->norm2, net->epsilon, tile, stride, normal, stride);
            linear(&block->up, rows, open + t, normal, stride, middle, hidden, 0, codes);
            for (int j = 0; j < rows * hidden; j++)
                middle[j] = gelu(middle[j]);
            linear(&block->down, rows, open + t, middle, hidden, tile, stride, 1, codes);
        }
    }
    heads(net, window, x, stride, normal, probability, offset, anomaly);
}

/* Score windows (B, T * patch, features) with gates (B, T): probability (B, T, classes),
 * offset (B, T), anomaly (B, features). room: taolora_room floats. */
void taolora_run(const Network *net, int32_t windows, const float *x, const uint8_t *gates,
                 float *room, float *probability, float *offset, float *anomaly)
{
    for (int i = 0; i < windows; i++)
        run_window(net, x + (size_t)i * net->tokens * net->patch * net->features,
                   gates + (size_t)i * net->tokens, room,
                   probability + (size_t)i * net->tokens * net->classes,
                   offset + (size_t)i * net->tokens, anomaly + (size_t)i * net->features);
}

/* What the integer product is compiled to. */
const char *taolora_isa(void)
{
    return ISA;
}
