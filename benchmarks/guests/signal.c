/* Single precision over arrays: a filter, a saxpy, extremes, conversions to integers and back. */
#include "bench.h"

#define N 4096
static float input[N + 16], output[N], taps[16];
static short samples[N];

static NOINLINE void filter(void) {
    for (int i = 0; i < N; i++) {
        float sum = 0;
        for (int k = 0; k < 16; k++)
            sum += input[i + k] * taps[k];
        output[i] = sum;
    }
}

static NOINLINE void saxpy(float a) {
    for (int i = 0; i < N; i++)
        input[i] = a * output[i] + input[i];
}

static NOINLINE float extremes(void) {
    float low = output[0], high = output[0];
    for (int i = 1; i < N; i++) {
        if (output[i] < low)
            low = output[i];
        if (output[i] > high)
            high = output[i];
    }
    return high - low;
}

static NOINLINE void quantise(float scale) {
    for (int i = 0; i < N; i++)
        samples[i] = (short)(s32)(output[i] * scale);
    for (int i = 0; i < N; i++)
        input[i] = (float)samples[i] / scale;
}

void setup(void) {
    u64 random = 31415;
    for (int i = 0; i < N + 16; i++)
        input[i] = (float)(s32)(next(&random) & 0xfff) / 4096 - 0.5f;
    for (int i = 0; i < 16; i++)
        taps[i] = 1.0f / (float)(i * i + 5);
}

u64 chunk(u64 number) {
    u64 sum = 0;
    for (int round = 0; round < 16; round++) {
        filter();
        saxpy(0.01f);
        float range = extremes();
        sum = mix(sum, bits_of(range));
        quantise(1000.0f / (range + 0.1f));
        sum = mix(sum, (u64)samples[(number + (u64)round * 61) % N]);
        input[number % N] += 1.0f;
    }
    return sum;
}
