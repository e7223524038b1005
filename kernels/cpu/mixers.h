/* What reads other tokens of a window: gated depthwise convolution, rotary attention.
 *
 *     T tokens    D width    H heads    E = D / H
 */
#ifndef TAOLORA_MIXERS_H
#define TAOLORA_MIXERS_H

#include "structures.h"

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

#endif
