/* Planets around a sun, double precision: multiplications, divisions, square roots. */
#include "bench.h"

#define BODIES 5
struct body {
    double x, y, z, vx, vy, vz, mass;
};

static struct body bodies[BODIES] = {
    {0, 0, 0, 0, 0, 0, 39.5},
    {4.84, -1.16, -0.10, 0.61, 2.81, -0.025, 0.0377},
    {8.34, 4.12, -0.40, -1.01, 1.82, 0.0084, 0.0113},
    {12.89, -15.11, -0.22, 1.08, 0.87, -0.0108, 0.0017},
    {15.38, -25.92, 0.18, 0.98, 0.59, -0.0347, 0.0020},
};

static NOINLINE void advance(double dt) {
    for (int i = 0; i < BODIES; i++) {
        struct body *a = &bodies[i];
        for (int j = i + 1; j < BODIES; j++) {
            struct body *b = &bodies[j];
            double dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
            double distance = dx * dx + dy * dy + dz * dz;
            double force = dt / (distance * __builtin_sqrt(distance));
            a->vx -= dx * b->mass * force, a->vy -= dy * b->mass * force, a->vz -= dz * b->mass * force;
            b->vx += dx * a->mass * force, b->vy += dy * a->mass * force, b->vz += dz * a->mass * force;
        }
    }
    for (int i = 0; i < BODIES; i++) {
        struct body *a = &bodies[i];
        a->x += dt * a->vx, a->y += dt * a->vy, a->z += dt * a->vz;
    }
}

void setup(void) {}

u64 chunk(u64 number) {
    for (int step = 0; step < 10000; step++)
        advance(0.01);
    return bits_of(bodies[0].x) ^ bits_of(bodies[number % BODIES].vy);
}
