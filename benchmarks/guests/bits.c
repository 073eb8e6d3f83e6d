/* Bit by bit: a crc by table and one without, populations, reversals, bit sets, variable shifts, a Gray code. */
#include "bench.h"

#define SIZE 8192
static u8 data[SIZE];
static u32 table[256];
static u64 set[SIZE / 8];

static NOINLINE u32 crc32(u32 crc) {
    for (u64 i = 0; i < SIZE; i++)
        crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
    return crc;
}

static NOINLINE u32 crc_slow(u32 crc, u64 size) {
    for (u64 i = 0; i < size; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
    }
    return crc;
}

static NOINLINE u64 population(void) {
    u64 sum = 0;
    for (u64 i = 0; i < SIZE / 8; i++) {
        u64 x = set[i];
        x -= x >> 1 & 0x5555555555555555ul;
        x = (x & 0x3333333333333333ul) + (x >> 2 & 0x3333333333333333ul);
        x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0ful;
        sum += x * 0x0101010101010101ul >> 56;
    }
    return sum;
}

static NOINLINE u64 reverse(u64 x) {
    for (int shift = 32, i = 0; i < 6; i++, shift >>= 1) {
        u64 mask = ~0ul / ((1ul << shift) + 1);
        x = (x >> shift & mask) | (x & mask) << shift;
    }
    return x;
}

static NOINLINE u64 toggle(u64 random) {
    u64 hits = 0;
    for (int i = 0; i < 4000; i++) {
        u64 bit = next(&random) % (SIZE * 8);
        hits += set[bit >> 6] >> (bit & 63) & 1;
        set[bit >> 6] ^= 1ul << (bit & 63);
    }
    return hits;
}

void setup(void) {
    u64 random = 5;
    for (u64 i = 0; i < SIZE; i++)
        data[i] = (u8)next(&random);
    for (u32 i = 0; i < 256; i++) {
        u32 crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xedb88320 & -(crc & 1));
        table[i] = crc;
    }
}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 200; round++) {
        data[(number + (u64)round) % SIZE]++;
        sum = mix(sum, crc32((u32)sum));
        sum = mix(sum, crc_slow((u32)sum, 2048));
        sum = mix(sum, toggle(sum | 1));
        sum = mix(sum, population());
        for (u64 i = 0; i < 500; i++)
            sum = reverse(sum + i) + (i ^ i >> 1) + (sum << (i & 63)) + (sum >> (-i & 63));
    }
    return sum;
}
