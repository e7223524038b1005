/* The TAO network on one core: windows in, scores out, nothing allocated, nothing global.
 *
 * A tile of ROWS tokens stays in the first cache from norm to residual: normalised, rounded to
 * four bits, multiplied (int4.h), and for tokens with an open gate corrected by the LoRA
 * (linear.h). Only convolution and attention need the whole window (mixers.h). Rows are padded to
 * LANES columns with zeros. All of it is one translation unit, so that functions are inlined.
 * The arithmetic is that of taolora_ros/network.py; sums are taken in another order.
 *
 *     T tokens    D width    H heads    E = D / H    K inputs    N outputs    r rank
 */
#include "linear.h"
#include "mixers.h"

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
