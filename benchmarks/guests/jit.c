/* A compiler in the guest: it writes small functions, makes them visible, and calls each some times. */
#include "bench.h"

/* What a function does: x -> three times (x + a) ^ b, x * 5 + c, with a, b and c of its own (11 bits each). */
typedef u64 (*function)(u64);

#define SLOTS 64
#ifdef __riscv

static u32 code[SLOTS][64] __attribute__((aligned(4096)));

static void begin(void) {}

static u32 immediate(u32 operation, u32 value) { return value << 20 | operation; }

static void write_function(int slot, u32 a, u32 b, u32 c) {
    u32 *p = code[slot];
    for (int i = 0; i < 3; i++) {
        *p++ = immediate(0x00050513, a); /* addi a0, a0, a */
        *p++ = immediate(0x00054513, b); /* xori a0, a0, b */
        *p++ = 0x00251293;               /* slli t0, a0, 2 */
        *p++ = 0x00550533;               /* add a0, a0, t0 */
        *p++ = immediate(0x00050513, c); /* addi a0, a0, c */
    }
    *p++ = 0x00008067; /* ret */
    __asm__ volatile("fence.i" ::: "memory");
}

static function get(int slot) { return (function)(u64)code[slot]; }

#else

#include <stdlib.h>
#include <sys/mman.h>

static u8 *code;

static void begin(void) {
    code = mmap(0, SLOTS * 256, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        exit(1);
}

static u8 *put(u8 *p, const char *bytes, int count, u32 value) {
    for (int i = 0; i < count; i++)
        *p++ = (u8)bytes[i];
    for (int i = 0; i < 4; i++, value >>= 8)
        *p++ = (u8)value;
    return p;
}

static void write_function(int slot, u32 a, u32 b, u32 c) {
    u8 *p = code + slot * 256;
    *p++ = 0x48, *p++ = 0x89, *p++ = 0xf8; /* mov rax, rdi */
    for (int i = 0; i < 3; i++) {
        p = put(p, "\x48\x05", 2, a);                                  /* add rax, a */
        p = put(p, "\x48\x35", 2, b);                                  /* xor rax, b */
        *p++ = 0x48, *p++ = 0x8d, *p++ = 0x04, *p++ = 0x80;            /* lea rax, [rax + rax * 4] */
        p = put(p, "\x48\x05", 2, c);                                  /* add rax, c */
    }
    *p++ = 0xc3; /* ret */
}

static function get(int slot) { return (function)(u64)(code + slot * 256); }

#endif

void setup(void) { begin(); }

u64 chunk(u64 number) {
    u64 random = number + 1, sum = 0;
    for (int round = 0; round < 4000; round++) {
        u64 n = next(&random);
        int slot = (int)(n >> 58);
        write_function(slot, (u32)n & 0x3ff, (u32)(n >> 10) & 0x3ff, (u32)(n >> 20) & 0x3ff);
        function f = get(slot);
        for (int i = 0; i < 32; i++)
            sum = f(sum + (u64)i);
    }
    return sum;
}
