/* A compressor in the manner of LZ77 and its decompressor: hashes of three bytes, matches, literals. */
#include "bench.h"

#define SIZE 32768
static u8 input[SIZE], packed[SIZE * 2], output[SIZE + 300];
static u16 heads[4096];

static NOINLINE u64 pack(void) {
    u64 out = 0;
    for (int i = 0; i < 4096; i++)
        heads[i] = 0;
    for (u64 at = 0; at + 3 < SIZE;) {
        u32 hash = ((u32)input[at] << 16 | (u32)input[at + 1] << 8 | input[at + 2]) * 2654435761u >> 20;
        u64 candidate = heads[hash], length = 0;
        heads[hash] = (u16)at;
        if (candidate < at)
            while (length < 255 && at + length < SIZE && input[candidate + length] == input[at + length])
                length++;
        if (length >= 4) {
            packed[out++] = (u8)length;
            packed[out++] = (u8)(at - candidate);
            packed[out++] = (u8)((at - candidate) >> 8);
            at += length;
        } else {
            packed[out++] = 0;
            packed[out++] = input[at++];
        }
    }
    return out;
}

static NOINLINE u64 unpack(u64 size) {
    u64 at = 0;
    for (u64 in = 0; in < size;) {
        u64 length = packed[in++];
        if (length == 0) {
            output[at++] = packed[in++];
            continue;
        }
        u64 distance = packed[in] | (u64)packed[in + 1] << 8;
        in += 2;
        for (; length; length--, at++)
            output[at] = output[at - distance];
    }
    return at;
}

void setup(void) {
    u64 random = 4321;
    for (u64 i = 0; i < SIZE; i++) {
        u64 n = next(&random);
        input[i] = i > 64 && n & 0x300 ? input[i - 1 - (n >> 16 & 7) * 8] : (u8)(n & 15);
    }
}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 32; round++) {
        input[(number * 8 + (u64)round) * 251 % SIZE]++;
        u64 size = pack(), back = unpack(size);
        sum = mix(sum, size);
        for (u64 i = 0; i < back; i += 64)
            sum += output[i];
    }
    return sum;
}
