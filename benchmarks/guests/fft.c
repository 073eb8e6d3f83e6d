/* A fast Fourier transform of doubles, there and back: butterflies over a changing stride. */
#include "bench.h"

#define BITS 11
#define N (1 << BITS)
static double re[N], im[N], cosine[N / 2], sine[N / 2];

static NOINLINE void transform(double direction) {
    for (u32 i = 0, j = 0; i < N; i++) { /* bits reversed */
        if (i < j) {
            double t = re[i];
            re[i] = re[j], re[j] = t;
            t = im[i], im[i] = im[j], im[j] = t;
        }
        u32 bit = N >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
    }
    for (u32 half = 1, step = N / 2; half < N; half *= 2, step /= 2)
        for (u32 start = 0; start < N; start += 2 * half)
            for (u32 k = 0; k < half; k++) {
                double c = cosine[k * step], s = direction * sine[k * step];
                u32 p = start + k, q = p + half;
                double x = re[q] * c - im[q] * s, y = re[q] * s + im[q] * c;
                re[q] = re[p] - x, im[q] = im[p] - y;
                re[p] += x, im[p] += y;
            }
}

void setup(void) {
    /* cos and sin of 2 pi / N by halving pi / 2; then by rotating */
    double c = 0, s = 1;
    for (int i = 2; i < BITS; i++) {
        double half = __builtin_sqrt((1 + c) / 2);
        s = s / (2 * half), c = half;
    }
    double x = 1, y = 0;
    for (int i = 0; i < N / 2; i++) {
        cosine[i] = x, sine[i] = y;
        double t = x * c - y * s;
        y = x * s + y * c, x = t;
    }
    u64 random = 161803;
    for (int i = 0; i < N; i++)
        re[i] = (double)(s64)(next(&random) & 0xffff) - 32768, im[i] = 0;
}

u64 chunk(u64 number) {
    for (int round = 0; round < 12; round++) {
        transform(-1);
        re[number % N] += 1;
        transform(1);
        for (int i = 0; i < N; i++)
            re[i] *= 1.0 / N, im[i] *= 1.0 / N;
    }
    return bits_of(re[number % N]) ^ bits_of(im[17]);
}
