/* What beside.S does, for the host. */
#include "bench.h"

static volatile u64 ring[32], count, total;

void setup(void) {}

u64 chunk(u64 number) {
    u64 x = number;
    count = 0, total = number;
    for (u64 i = 1000000; i; i--) {
        x += ring[i & 31];
        x ^= x << 7;
        x ^= x >> 9;
        ring[i & 31] = x;
        count++;
        total += x;
    }
    return total + count;
}
