/* A long straight line: 20 double rounds of additions, rotations and xors over 16 words, all unrolled. */
#include "bench.h"

static u32 state[16], out[16];

static inline u32 left(u32 x, int n) { return x << n | x >> (32 - n); }

#define QUARTER(a, b, c, d)            \
    a += b, d = left(d ^ a, 16);       \
    c += d, b = left(b ^ c, 12);       \
    a += b, d = left(d ^ a, 8);        \
    c += d, b = left(b ^ c, 7);
#define DOUBLE                         \
    QUARTER(x0, x4, x8, x12)           \
    QUARTER(x1, x5, x9, x13)           \
    QUARTER(x2, x6, x10, x14)          \
    QUARTER(x3, x7, x11, x15)          \
    QUARTER(x0, x5, x10, x15)          \
    QUARTER(x1, x6, x11, x12)          \
    QUARTER(x2, x7, x8, x13)           \
    QUARTER(x3, x4, x9, x14)
#define FOUR DOUBLE DOUBLE DOUBLE DOUBLE

static NOINLINE void block(void) {
    u32 x0 = state[0], x1 = state[1], x2 = state[2], x3 = state[3], x4 = state[4], x5 = state[5], x6 = state[6];
    u32 x7 = state[7], x8 = state[8], x9 = state[9], x10 = state[10], x11 = state[11], x12 = state[12];
    u32 x13 = state[13], x14 = state[14], x15 = state[15];
    FOUR FOUR
    out[0] = x0, out[1] = x1, out[2] = x2, out[3] = x3, out[4] = x4, out[5] = x5, out[6] = x6, out[7] = x7;
    out[8] = x8, out[9] = x9, out[10] = x10, out[11] = x11, out[12] = x12, out[13] = x13, out[14] = x14;
    out[15] = x15;
}

void setup(void) {
    u64 random = 20;
    for (int i = 0; i < 16; i++)
        state[i] = (u32)next(&random);
}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 60000; round++) {
        state[12]++;
        block();
        sum = (sum ^ out[round & 15]) * 0x100000001b3ul;
    }
    return sum;
}
