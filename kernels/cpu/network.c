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

/* Sum over k of x[i][k] * w[k] for GROUP rows of x and LANES columns of w. */
static inline void multiply(int length, const float *x, int xs, const float *w, int ws,
                            Lanes sum[GROUP])
{
    for (int k = 0; k < length; k++) {
        Lanes row = load(w + (size_t)k * ws);
#pragma GCC unroll 4
        for (int i = 0; i < GROUP; i++)
            sum[i] += x[i * xs + k] * row;
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

/* y (T, D) = depthwise convolution of the first D columns of x, times SiLU of the next D. */
static void convolve(const Network *net, const Block *block, const float *x, int xs, float *y,
                     int ys)
{
    int width = net->width, reach = net->taps / 2, stride = PAD(width);
    for (int t = 0; t < net->tokens; t++) {
        int first = at_least(reach - t, 0), last = net->taps;
        if (t + last - reach > net->tokens)
            last = net->tokens - t + reach;
        for (int d = 0; d < width; d += LANES) {
            const float *column = x + (size_t)(t - reach + first) * xs + d;
            const float *w = block->kernel + (size_t)first * stride + d;
            Lanes even = load(block->kernel + (size_t)net->taps * stride + d), odd = {0};
            int j = first;
            for (; j + 1 < last; j += 2, column += 2 * xs, w += 2 * stride) {
                even += load(w) * load(column);
                odd += load(w + stride) * load(column + xs);
            }
            if (j < last)
                even += load(w) * load(column);
            store(y + (size_t)t * ys + d, even + odd);
        }
        float *to = y + (size_t)t * ys;
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

/* Softmax of GROUP rows of scores (GROUP, T), in place. */
static void softmax(int tokens, int stride, float *score)
{
    for (int i = 0; i < GROUP; i++, score += stride) {
        float top = -INFINITY, total = 0;
        for (int s = 0; s < tokens; s++)
            top = score[s] > top ? score[s] : top;
        for (int s = 0; s < tokens; s++) {
            score[s] = exponential(score[s] - top);
            total += score[s];
        }
        for (int s = 0; s < tokens; s++)
            score[s] /= total;
    }
}

/* y (T, D) = attention over x (T, 3 D), whose rows may be read up to LANES beyond their end.
 * T is a multiple of GROUP; room: (E + GROUP) * PAD(T) + (GROUP + 1) * PAD(E) floats. */
static void attend(const Network *net, const float *x, int xs, float *y, int ys, float *room)
{
    int width = net->width, size = width / net->heads, tokens = net->tokens, stride = PAD(tokens);
    float *keys = room, *score = keys + size * stride, *turned = score + GROUP * stride;
    float *key = turned + GROUP * PAD(size), factor = 1.0f / sqrtf((float)size);
    for (int h = 0; h < net->heads; h++) {
        const float *head = x + h * size;
        for (int t = 0; t < tokens; t++) {
            rotate(net, t, head + (size_t)t * xs + width, 1.0f, key);
            for (int e = 0; e < size; e++)
                keys[e * stride + t] = key[e];
        }
        for (int t = 0; t < tokens; t += GROUP) {
            for (int i = 0; i < GROUP; i++)
                rotate(net, t + i, head + (size_t)(t + i) * xs, factor, turned + i * size);
            for (int s = 0; s < tokens; s += LANES) {
                Lanes sum[GROUP] = {{0}};
                multiply(size, turned, size, keys + s, stride, sum);
                for (int i = 0; i < GROUP; i++)
                    store(score + i * stride + s, sum[i]);
            }
            softmax(tokens, stride, score);
            for (int e = 0; e < size; e += LANES) {
                Lanes sum[GROUP] = {{0}};
                int columns = size - e < LANES ? size - e : LANES;
                float *to = y + (size_t)t * ys + h * size + e;
                multiply(tokens, score, stride, head + 2 * width + e, xs, sum);
                for (int i = 0; i < GROUP; i++, to += ys)
                    memcpy(to, sum + i, sizeof(float) * columns);
            }
        }
    }
}

typedef struct {
    float *x, *mixed, *inner;         /* [T][PAD(D)] twice, [T][PAD(3 D)] and LANES more */
    float *normal, *middle;           /* [ROWS][PAD(D)], [ROWS][PAD(mlp D)] */
    float *rest;                      /* of one function at a time */
} Room;

/* Lay a room out from base on; return how many floats it takes. */
static int64_t lay_out(const Network *net, float *base, Room *room)
{
    int64_t tokens = net->tokens, size = net->width / net->heads, reads = 2 * net->mlp * net->width;
    int64_t pixels = PAD(net->patch * net->features), rank = 0, codes = 0;
    for (int i = 0; i < net->blocks; i++) {
        const Linear *layers[] = {&net->block[i].inner, &net->block[i].outer, &net->block[i].up,
                                  &net->block[i].down};
        for (int j = 0; j < 4; j++) {
            rank = at_least(rank, PAD(layers[j]->rank));
            codes = at_least(codes, layers[j]->groups * layers[j]->steps * STEP);
        }
    }
    int64_t one = ROWS * codes + GROUP * (reads + rank);
    int64_t two = (size + GROUP) * PAD(tokens) + (GROUP + 1) * PAD(size);
    int64_t three = ROWS * (PAD(net->classes + 1) + PAD(net->bottleneck) + pixels);
    room->x = base;
    room->mixed = room->x + tokens * PAD(net->width);
    room->inner = room->mixed + tokens * PAD(net->width);
    room->normal = room->inner + tokens * PAD(3 * net->width) + LANES;
    room->middle = room->normal + ROWS * PAD(net->width);
    room->rest = room->middle + ROWS * PAD(net->mlp * net->width);
    return room->rest + at_least(one, at_least(two, three)) - base;
}

/* Probability, offset and the square errors of rebuilding of a tile of tokens, normed before. */
static void heads(const Network *net, int rows, const float *patches, const Room *room,
                  float *probability, float *offset, float *anomaly)
{
    int pixels = net->patch * net->features, classes = net->classes, few = PAD(classes + 1);
    int stride = PAD(net->width), narrow = PAD(net->bottleneck), wide = PAD(pixels);
    float *out = room->rest, *squeezed = out + ROWS * few, *rebuilt = squeezed + ROWS * narrow;
    dense(&net->head, rows, room->normal, stride, out, few);
    dense(&net->squeeze, rows, room->normal, stride, squeezed, narrow);
    dense(&net->rebuild, rows, squeezed, narrow, rebuilt, wide);
    for (int m = 0; m < rows; m++, out += few, probability += classes) {
        float top = -INFINITY, total = 0;
        for (int i = 0; i < classes; i++)
            top = out[i] > top ? out[i] : top;
        for (int i = 0; i < classes; i++)
            total += probability[i] = exponential(out[i] - top);
        for (int i = 0; i < classes; i++)
            probability[i] /= total;
        offset[m] = (1 + 2 * net->margin) * sigmoid(out[classes]) - net->margin;
        for (int i = 0; i < pixels; i++) {
            float error = patches[m * pixels + i] - rebuilt[m * wide + i];
            anomaly[i % net->features] += error * error;
        }
    }
}

/* One block on the tokens of a window, room->x to room->x. */
static void run_block(const Network *net, const Block *block, const uint8_t *open,
                      const Room *room)
{
    int tokens = net->tokens, width = net->width, stride = PAD(width), wide = PAD(3 * width);
    int hidden = PAD(net->mlp * width);
    float *normal = room->normal, *middle = room->middle, *rest = room->rest;
    for (int t = 0; t < tokens; t += ROWS) {
        int rows = tokens - t < ROWS ? tokens - t : ROWS;
        layer_norm(rows, width, block->norm1, net->epsilon, room->x + t * stride, stride, normal,
                   stride);
        linear(&block->inner, rows, open + t, normal, stride, room->inner + t * wide, wide, 0,
               rest);
    }
    if (block->attention)
        attend(net, room->inner, wide, room->mixed, stride, rest);
    else
        convolve(net, block, room->inner, wide, room->mixed, stride);
    for (int t = 0; t < tokens; t += ROWS) {
        int rows = tokens - t < ROWS ? tokens - t : ROWS;
        float *tile = room->x + t * stride, *mixed = room->mixed + t * stride;
        linear(&block->outer, rows, open + t, mixed, stride, tile, stride, 1, rest);
        layer_norm(rows, width, block->norm2, net->epsilon, tile, stride, normal, stride);
        linear(&block->up, rows, open + t, normal, stride, middle, hidden, 0, rest);
        for (int j = 0; j < rows * hidden; j++)
            middle[j] = gelu(middle[j]);
        linear(&block->down, rows, open + t, middle, hidden, tile, stride, 1, rest);
    }
}

/* Score windows (B, T * patch, features) with gates (B, T): probability (B, T, classes),
 * offset (B, T), anomaly (B, features), and unless it is NULL embedding (B, T, D), what the head
 * read. base: taolora_room floats. */
void taolora_run(const Network *net, int32_t windows, const float *x, const uint8_t *gates,
                 float *base, float *probability, float *offset, float *anomaly, float *embedding)
{
    int pixels = net->patch * net->features, tokens = net->tokens, width = net->width;
    Room room;
    lay_out(net, base, &room);
    for (int i = 0; i < windows; i++) {
        memset(anomaly, 0, sizeof(float) * net->features);
        dense(&net->embed, tokens, x, pixels, room.x, PAD(net->width));
        for (int j = 0; j < net->blocks; j++)
            run_block(net, net->block + j, gates, &room);
        for (int t = 0; t < tokens; t += ROWS) {
            int rows = tokens - t < ROWS ? tokens - t : ROWS;
            layer_norm(rows, width, net->norm, net->epsilon, room.x + t * PAD(width), PAD(width),
                       room.normal, PAD(width));
            heads(net, rows, x + t * pixels, &room, probability, offset, anomaly);
            for (int m = 0; embedding && m < rows; m++, embedding += width)
                memcpy(embedding, room.normal + m * PAD(width), sizeof(float) * width);
            probability += rows * net->classes;
            offset += rows;
        }
        for (int f = 0; f < net->features; f++)
            anomaly[f] = sqrtf(anomaly[f] / (tokens * net->patch)) / net->anomaly[f];
        x += tokens * pixels;
        gates += tokens;
        anomaly += net->features;
    }
}

/* y (rows, PAD(n)) = one INT4 layer of x (rows, k): a benchmark's and a test's way in.
 * room: ROWS * groups * steps * STEP + GROUP * (2 k + PAD(rank)) floats. */
void taolora_linear(const Linear *l, int32_t rows, const uint8_t *open, const float *x, float *y,
                    float *room)
{
    for (int m = 0; m < rows; m += ROWS)
        linear(l, rows - m < ROWS ? rows - m : ROWS, open + m, x + (size_t)m * l->k, l->k,
               y + (size_t)m * PAD(l->n), PAD(l->n), 0, room);
}

/* How many floats of room `taolora_run` needs. */
int64_t taolora_room(const Network *net)
{
    Room room;
    return lay_out(net, NULL, &room);
}

/* What the integer product is compiled to. */
const char *taolora_isa(void)
{
    return ISA;
}
