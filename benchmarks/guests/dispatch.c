/* Objects with tables of functions: which one is called is known only at run time. */
#include "bench.h"

struct shape;
struct methods {
    u64 (*area)(const struct shape *);
    u64 (*edge)(const struct shape *);
    void (*grow)(struct shape *, u64);
};
struct shape {
    const struct methods *methods;
    u64 a, b;
};

#define N 512
static struct shape shapes[N];

#define KIND(name, area, edge, grow)                                                  \
    static u64 name##_area(const struct shape *s) { return area; }                    \
    static u64 name##_edge(const struct shape *s) { return edge; }                    \
    static void name##_grow(struct shape *s, u64 by) { grow; }                        \
    static const struct methods name = {name##_area, name##_edge, name##_grow};

KIND(square, s->a * s->a, 4 * s->a, s->a = (s->a + by) & 0xfff)
KIND(rectangle, s->a * s->b, 2 * (s->a + s->b), (s->a = (s->a + by) & 0xfff, s->b ^= by & 7))
KIND(triangle, s->a * s->b / 2, s->a + s->b + (s->a > s->b ? s->a : s->b), s->b = (s->b + by) & 0xfff)
KIND(circle, s->a * s->a * 355 / 113, 2 * s->a * 355 / 113, s->a = (s->a ^ by) & 0xfff)
KIND(point, 0 * s->a, 0 * s->b, s->b += by)
KIND(line, s->b & 1, s->a + s->b, (s->a += by & 1, s->b -= by & 1))

static const struct methods *const kinds[] = {&square, &rectangle, &triangle, &circle, &point, &line, &square, &line};

void setup(void) {
    u64 random = 77;
    for (int i = 0; i < N; i++) {
        u64 n = next(&random);
        shapes[i].methods = kinds[n >> 61];
        shapes[i].a = n & 0xfff, shapes[i].b = n >> 12 & 0xfff;
    }
}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 500; round++)
        for (int i = 0; i < N; i++) {
            struct shape *s = &shapes[(i * 167 + round) & (N - 1)];
            sum += s->methods->area(s);
            if (s->methods->edge(s) & 1)
                s->methods->grow(s, sum);
        }
    return sum;
}
