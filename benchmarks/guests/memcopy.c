/* Copying and filling memory, by words and by bytes, forwards and backwards. */
#include "bench.h"

#define WORDS 16384 /* 128 KiB: more than a level-1 cache */
static u64 one[WORDS + 8], other[WORDS + 8];

static NOINLINE void copy(u64 *to, const u64 *from, u64 words) {
    for (; words >= 4; words -= 4, to += 4, from += 4) {
        u64 a = from[0], b = from[1], c = from[2], d = from[3];
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    }
    for (; words; words--)
        *to++ = *from++;
}

static NOINLINE void move_down(u8 *to, const u8 *from, u64 size) {
    while (size--)
        to[size] = from[size];
}

static NOINLINE void fill(u64 *to, u64 value, u64 words) {
    for (u64 i = 0; i < words; i++)
        to[i] = value + i;
}

void setup(void) {}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 300; round++) {
        fill(one, number ^ (u64)round, WORDS);
        copy(other, one, WORDS);
        copy(one + 3, other, WORDS);
        copy(other + 1, one, 64 + (u64)round);
        move_down((u8 *)one + 5, (u8 *)other, 4096);
        sum = mix(sum, one[(number + (u64)round * 131) % WORDS] + other[round]);
    }
    return sum;
}
