/* Matrices of doubles: products by fused multiply-add, and a solution by elimination. */
#include "bench.h"

#define N 48
static double a[N][N], b[N][N], c[N][N];

static NOINLINE void product(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < N; k++)
                sum = __builtin_fma(a[i][k], b[k][j], sum);
            c[i][j] = sum;
        }
}

static NOINLINE double determinant(void) {
    double result = 1;
    for (int i = 0; i < N; i++) {
        double pivot = c[i][i] + 100.0;
        result *= pivot * 0.01;
        for (int row = i + 1; row < N; row++) {
            double factor = c[row][i] / pivot;
            for (int k = i; k < N; k++)
                c[row][k] -= factor * c[i][k];
        }
    }
    return result;
}

void setup(void) {
    u64 random = 271828;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (double)(s64)(next(&random) & 1023) / 1024 - 0.5;
            b[i][j] = (double)(s64)(next(&random) & 1023) / 1024 - 0.5;
        }
}

u64 chunk(u64 number) {
    u64 sum = 0;
    for (int round = 0; round < 12; round++) {
        a[number % N][round] += 0.001;
        product();
        sum = mix(sum, bits_of(c[round][number % N]));
        sum = mix(sum, bits_of(determinant()));
    }
    return sum;
}
