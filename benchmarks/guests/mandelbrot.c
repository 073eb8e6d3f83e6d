/* The Mandelbrot set in single precision: a short loop of dependent operations with a comparison. */
#include "bench.h"

void setup(void) {}

static NOINLINE u32 escape(float cx, float cy) {
    float x = 0, y = 0;
    u32 count = 0;
    for (; count < 200; count++) {
        float xx = x * x, yy = y * y;
        if (xx + yy > 4.0f)
            break;
        y = 2 * x * y + cy;
        x = xx - yy + cx;
    }
    return count;
}

u64 chunk(u64 number) {
    u64 sum = number;
    float left = -2.0f + (float)(number & 15) * 0.01f;
    for (int row = 0; row < 48; row++)
        for (int column = 0; column < 128; column++)
            sum = sum * 31 + escape(left + (float)column * (3.0f / 128), -1.2f + (float)row * (2.4f / 48));
    return sum;
}
