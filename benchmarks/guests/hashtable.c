/* A hash table with open addressing: insertions, look-ups, deletions. */
#include "bench.h"

#define SLOTS 32768
static u64 keys[SLOTS], values[SLOTS];

static inline u64 slot_of(u64 key) { return key * 0x9e3779b97f4a7c15ul >> 49; }

static NOINLINE u64 *find(u64 key, int insert) {
    u64 slot = slot_of(key);
    while (keys[slot] != key) {
        if (!keys[slot]) {
            if (!insert)
                return 0;
            keys[slot] = key;
            break;
        }
        slot = (slot + 1) & (SLOTS - 1);
    }
    return &values[slot];
}

static NOINLINE void erase(u64 key) {
    u64 slot = slot_of(key);
    while (keys[slot] != key) {
        if (!keys[slot])
            return;
        slot = (slot + 1) & (SLOTS - 1);
    }
    for (u64 hole = slot;;) { /* move up what would not be found across the hole */
        slot = (slot + 1) & (SLOTS - 1);
        if (!keys[slot]) {
            keys[hole] = 0;
            return;
        }
        u64 home = slot_of(keys[slot]);
        if (((slot - home) & (SLOTS - 1)) >= ((slot - hole) & (SLOTS - 1))) {
            keys[hole] = keys[slot], values[hole] = values[slot];
            hole = slot;
        }
    }
}

void setup(void) {}

u64 chunk(u64 number) {
    u64 random = number + 88172645463325252ul, sum = 0;
    for (int i = 0; i < 600000; i++) {
        u64 n = next(&random), key = (n & 0x7fff) * 0x10001 + 1, *value;
        switch (n >> 60 & 3) {
        case 0: *find(key, 1) += n >> 32; break;
        case 1: erase(key); break;
        default:
            if ((value = find(key, 0)))
                sum += *value;
        }
    }
    return sum;
}
