/* A chain of pointers through 64 MiB in random order: nothing is in a cache, nor in a TLB. */
#include "bench.h"

#define COUNT (1u << 20)
struct node {
    struct node *next;
    u64 value[7];
};
static struct node nodes[COUNT];

void setup(void) {
    u64 random = 4711, step = 0x9e37b | 1; /* a full cycle i -> i * 5 + step over a power of two */
    u64 i = 0;
    for (u64 n = 0; n < COUNT; n++) {
        u64 j = (i * 0x5851f42d + step) & (COUNT - 1);
        nodes[i].next = &nodes[j];
        nodes[i].value[0] = next(&random);
        i = j;
    }
}

u64 chunk(u64 number) {
    const struct node *node = &nodes[number * 7919 & (COUNT - 1)];
    u64 sum = 0;
    for (u64 n = 0; n < 400000; n++) {
        sum += node->value[0];
        node = node->next;
    }
    return sum;
}
