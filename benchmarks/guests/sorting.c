/* Quicksort and heapsort that compare by a function pointer. */
#include "bench.h"

#define N 8192
static u64 values[N];
typedef int (*compare)(const u64 *, const u64 *);

static NOINLINE int ascending(const u64 *a, const u64 *b) { return *a < *b ? -1 : *a > *b; }
static NOINLINE int by_low_half(const u64 *a, const u64 *b) { return (int)((u32)*a >> 1) - (int)((u32)*b >> 1); }

static inline void swap(u64 *a, u64 *b) {
    u64 t = *a;
    *a = *b, *b = t;
}

static NOINLINE void quicksort(u64 *low, u64 *high, compare order) {
    while (high - low > 8) {
        u64 *middle = low + (high - low) / 2, *i = low, *j = high, pivot = *middle;
        while (i <= j) {
            while (order(i, &pivot) < 0)
                i++;
            while (order(j, &pivot) > 0)
                j--;
            if (i <= j)
                swap(i++, j--);
        }
        if (j - low < high - i) {
            quicksort(low, j, order);
            low = i;
        } else {
            quicksort(i, high, order);
            high = j;
        }
    }
    for (u64 *i = low + 1; i <= high; i++)
        for (u64 *j = i; j > low && order(j - 1, j) > 0; j--)
            swap(j - 1, j);
}

static NOINLINE void sift(u64 root, u64 size, compare order) {
    for (u64 child; (child = 2 * root + 1) < size; root = child) {
        if (child + 1 < size && order(&values[child], &values[child + 1]) < 0)
            child++;
        if (order(&values[root], &values[child]) >= 0)
            return;
        swap(&values[root], &values[child]);
    }
}

void setup(void) {}

u64 chunk(u64 number) {
    u64 random = number + 1, sum = 0;
    static const compare orders[] = {ascending, by_low_half};
    for (int round = 0; round < 4; round++) {
        compare order = orders[round & 1];
        for (u64 i = 0; i < N; i++)
            values[i] = next(&random);
        if (round < 2) {
            quicksort(values, values + N - 1, order);
        } else {
            for (u64 i = N / 2; i--;)
                sift(i, N, order);
            for (u64 size = N; --size;) {
                swap(&values[0], &values[size]);
                sift(0, size, order);
            }
        }
        for (u64 i = 0; i < N; i += 97)
            sum = mix(sum, values[i]);
    }
    return sum;
}
