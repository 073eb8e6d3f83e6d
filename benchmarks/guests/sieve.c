/* Primes by Eratosthenes' sieve: byte stores with a stride. */
#include "bench.h"

#define SIZE 300000
static u8 composite[SIZE];

void setup(void) {}

u64 chunk(u64 number) {
    u64 sum = 0;
    for (int round = 0; round < 12; round++) {
        for (u64 i = 0; i < SIZE; i++)
            composite[i] = 0;
        for (u64 i = 2; i * i < SIZE; i++)
            if (!composite[i])
                for (u64 j = i * i; j < SIZE; j += i)
                    composite[j] = 1;
        for (u64 i = 2; i < SIZE; i++)
            if (!composite[i])
                sum += i ^ number;
    }
    return sum;
}
