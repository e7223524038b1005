/* Single-precision functions that a compiler can turn into vector code: no calls, no branches. */
#ifndef TAOLORA_MATHS_H
#define TAOLORA_MATHS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x within 2 units in the last place, for x clamped to +-87: 2^n * p(r), |r| <= ln 2 / 2.
 * p is the Taylor polynomial of degree 7, whose remainder is below 1e-8 there. */
static inline float exponential(float x)
{
    x = x > -87.0f ? x : -87.0f;  /* of what is no number, too */
    x = x < 87.0f ? x : 87.0f;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;  /* ln 2 in two parts */
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exponential(-x));
}

/* x * Phi(x), the error function within 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
static inline float gelu(float x)
{
    float z = fabsf(x) * 0.70710678f;
    float t = 1.0f / (1.0f + 0.3275911f * z);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float tail = p * t * exponential(-z * z);  /* 1 - erf(z) */
    return 0.5f * x * (x < 0.0f ? tail : 2.0f - tail);
}

#endif
