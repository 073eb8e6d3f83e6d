/* Calls and recursion: Fibonacci, Ackermann, the towers of Hanoi. */
#include "bench.h"

static NOINLINE u64 fibonacci(u64 n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

static NOINLINE u64 ackermann(u64 m, u64 n) {
    if (m == 0)
        return n + 1;
    return ackermann(m - 1, n == 0 ? 1 : ackermann(m, n - 1));
}

static u64 moves[3];

static NOINLINE void hanoi(u64 disks, u64 from, u64 to, u64 by) {
    if (disks == 0)
        return;
    hanoi(disks - 1, from, by, to);
    moves[to] += disks ^ from;
    hanoi(disks - 1, by, to, from);
}

void setup(void) {}

u64 chunk(u64 number) {
    hanoi(17 + (number & 1), 0, 1, 2);
    return fibonacci(26 + number % 3) + ackermann(2, 500 + number % 7) + ackermann(3, 6) + moves[1] * 3 + moves[2];
}
