/* Long integers: products, squares and Montgomery's reduction of 1,024-bit numbers by 64-bit words. */
#include "bench.h"

#define WORDS 16
static u64 a[WORDS], modulus[WORDS], result[WORDS];
static u64 inverse;

static NOINLINE void montgomery(u64 *to, const u64 *x, const u64 *y) {
    u64 t[WORDS + 2] = {0};
    for (int i = 0; i < WORDS; i++) {
        unsigned __int128 carry = 0;
        for (int j = 0; j < WORDS; j++) {
            carry += (unsigned __int128)x[j] * y[i] + t[j];
            t[j] = (u64)carry;
            carry >>= 64;
        }
        carry += t[WORDS];
        t[WORDS] = (u64)carry;
        t[WORDS + 1] = (u64)(carry >> 64);
        u64 factor = t[0] * inverse;
        carry = ((unsigned __int128)factor * modulus[0] + t[0]) >> 64;
        for (int j = 1; j < WORDS; j++) {
            carry += (unsigned __int128)factor * modulus[j] + t[j];
            t[j - 1] = (u64)carry;
            carry >>= 64;
        }
        carry += t[WORDS];
        t[WORDS - 1] = (u64)carry;
        t[WORDS] = t[WORDS + 1] + (u64)(carry >> 64);
    }
    u64 borrow = 0;
    if (t[WORDS])
        for (int j = 0; j < WORDS; j++) {
            u64 d = t[j] - modulus[j], less = t[j] < modulus[j];
            t[j] = d - borrow;
            borrow = less | (d < borrow);
        }
    for (int j = 0; j < WORDS; j++)
        to[j] = t[j];
}

void setup(void) {
    u64 random = 65537;
    for (int i = 0; i < WORDS; i++)
        a[i] = next(&random), modulus[i] = next(&random);
    modulus[0] |= 1;
    modulus[WORDS - 1] |= 1ul << 63;
    inverse = 1;
    for (int i = 0; i < 6; i++)
        inverse *= 2 - modulus[0] * inverse;
    inverse = -inverse;
}

u64 chunk(u64 number) {
    for (int i = 0; i < WORDS; i++)
        result[i] = a[i] + number;
    for (int i = 0; i < 10000; i++)
        montgomery(result, result, i & 1 ? a : result);
    return result[number % WORDS];
}
