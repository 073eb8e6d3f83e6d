/* What a benchmark program is: `setup` once, then `chunk` again and again.
 *
 * A chunk is a few ten milliseconds of an emulator's time. It depends on its number and returns a value that
 * depends on all it did; after each chunk the runtime prints a line with the checksum of all so far, so whoever reads
 * knows how far the program is, and that it has computed the right thing. The same sources are built for the guest
 * (start.S, bare metal) and for the host. */
#ifndef BENCH_H
#define BENCH_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long u64;
typedef long s64;

void setup(void);
u64 chunk(u64 number);

#define NOINLINE __attribute__((noinline))

static inline u64 mix(u64 sum, u64 value) {
    sum = (sum ^ value) * 0x9e3779b97f4a7c15ul;
    return sum ^ sum >> 29;
}

static inline u64 next(u64 *state) { /* xorshift: numbers that look random, the same everywhere */
    u64 x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

static inline u64 bits_of(double value) {
    union {
        double d;
        u64 u;
    } both = {value};
    return both.u;
}

#endif
