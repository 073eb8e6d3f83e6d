/* A hot loop on one page that calls small functions on others: a leaf, and one that calls a leaf in turn. */
#include "bench.h"

#define PAGE __attribute__((noinline, aligned(4096)))
static u64 table[256];

static PAGE u64 scramble(u64 x) { return (x ^ x >> 23) * 0x2127599bf4325c37ul; }
static PAGE u64 look(u64 x) { return table[x & 255] + x; }
static PAGE u64 both(u64 x) { return look(scramble(x)) ^ scramble(x + 1); }
static PAGE u64 loop(u64 sum) {
    for (u64 i = 0; i < 250000; i++) {
        sum += scramble(i);
        if (sum & 4)
            sum ^= look(sum);
        else
            sum += both(sum);
    }
    return sum;
}

void setup(void) {
    for (u64 i = 0; i < 256; i++)
        table[i] = i * i * i;
}

u64 chunk(u64 number) { return loop(number); }
