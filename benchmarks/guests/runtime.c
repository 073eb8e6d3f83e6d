/* The loop around every program, for the guest's bare machine and for the host's operating system. */
#include "bench.h"

#ifdef __riscv

extern volatile u64 limit; /* in start.S: chunks to run; 0: for ever. Whoever loads the image writes it. */

static void line(const char *text, u64 length) {
    volatile u8 *uart = (volatile u8 *)0x10000000;
    for (u64 i = 0; i < length; i++)
        *uart = (u8)text[i];
}

#else

#include <stdlib.h>
#include <unistd.h>

static u64 limit;

static void line(const char *text, u64 length) {
    if (write(1, text, length) != (long)length)
        _exit(1);
}

#endif

static void report(u64 value) {
    char text[17];
    for (int i = 0; i < 16; i++)
        text[i] = "0123456789abcdef"[value >> (60 - 4 * i) & 15];
    text[16] = '\n';
    line(text, sizeof text);
}

static void run(void) {
    u64 sum = 1;
    setup();
    for (u64 number = 0; limit == 0 || number < limit; number++) {
        sum = mix(sum, chunk(number));
        report(sum);
    }
}

/* The compiler may call these for assignments and initialisers. */
#ifdef __riscv

void *memcpy(void *to, const void *from, u64 size) {
    u8 *t = to;
    const u8 *f = from;
    for (; size >= 8 && !(((u64)t | (u64)f) & 7); size -= 8, t += 8, f += 8)
        *(u64 *)t = *(const u64 *)f;
    for (; size; size--)
        *t++ = *f++;
    return to;
}

void *memset(void *to, int value, u64 size) {
    u8 *t = to;
    u64 word = (u8)value * 0x0101010101010101ul;
    for (; size && (u64)t & 7; size--)
        *t++ = (u8)value;
    for (; size >= 8; size -= 8, t += 8)
        *(u64 *)t = word;
    for (; size; size--)
        *t++ = (u8)value;
    return to;
}

void guest_main(void) { run(); }

#else

int main(int count, char **words) {
    limit = count > 1 ? strtoul(words[1], 0, 10) : 0;
    run();
    return 0;
}

#endif
