/* Backtracking: queens on a board, with bit masks and with arrays; branches that nobody foresees. */
#include "bench.h"

static u8 columns[16], up[32], down[32];
static u64 nodes;

static NOINLINE u64 by_masks(u32 all, u32 column, u32 left, u32 right) {
    u64 count = 0;
    if (column == all)
        return 1;
    for (u32 free = all & ~(column | left | right); free; free &= free - 1) {
        u32 bit = free & -free;
        count += by_masks(all, column | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    return count;
}

static NOINLINE u64 by_arrays(int size, int row) {
    u64 count = 0;
    nodes++;
    if (row == size)
        return 1;
    for (int column = 0; column < size; column++) {
        if (columns[column] || up[row + column] || down[row - column + 16])
            continue;
        columns[column] = up[row + column] = down[row - column + 16] = 1;
        count += by_arrays(size, row + 1);
        columns[column] = up[row + column] = down[row - column + 16] = 0;
    }
    return count;
}

void setup(void) {}

u64 chunk(u64 number) {
    u64 sum = by_masks((1u << 11) - 1, 0, 0, 0) + by_masks((1u << 10) - 1, 0, number & 3, 0);
    return sum + by_arrays(9, 0) * 3 + nodes;
}
