/* Polynomials and rational functions of doubles by Horner's rule, fused: exp, sin and atan by hand. */
#include "bench.h"

void setup(void) {}

static NOINLINE double exponential(double x) { /* |x| < 40 */
    s64 n = (s64)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));
    double r = __builtin_fma((double)n, -0.6931471805599453, x), sum = 1.0 / 3628800;
    static const double terms[] = {1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120,
                                   1.0 / 24,     1.0 / 6,     0.5,        1.0,       1.0};
    for (int i = 0; i < 10; i++)
        sum = __builtin_fma(sum, r, terms[i]);
    union {
        u64 u;
        double d;
    } power = {(u64)(n + 1023) << 52};
    return sum * power.d;
}

static NOINLINE double sinus(double x) {
    double s = x * x;
    double sum = __builtin_fma(s, -1.0 / 39916800, 1.0 / 362880);
    sum = __builtin_fma(s, sum, -1.0 / 5040);
    sum = __builtin_fma(s, sum, 1.0 / 120);
    sum = __builtin_fma(s, sum, -1.0 / 6);
    return __builtin_fma(s * x, sum, x);
}

static NOINLINE double arcus(double x) {
    double y = __builtin_fabs(x), z = y > 1 ? 1 / y : y, s = z * z;
    double up = __builtin_fma(__builtin_fma(s, 0.0443, 0.7826), s, 1.0);
    double down = __builtin_fma(__builtin_fma(__builtin_fma(s, 0.0049, 0.2714), s, 1.1159), s, 1.0);
    double result = z * up / down;
    return __builtin_copysign(y > 1 ? 1.5707963267948966 - result : result, x);
}

u64 chunk(u64 number) {
    double sum = (double)(s64)(number & 1023) * 0.001;
    for (int i = 0; i < 100000; i++) {
        double x = (double)(i - 50000) * 0.0004;
        sum += exponential(x * 0.1) * sinus(x * 0.05) + arcus(x);
    }
    return bits_of(sum);
}
