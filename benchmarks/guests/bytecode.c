/* A bytecode interpreter with computed gotos; its program is a nest of loops over a small array. */
#include "bench.h"

enum { PUSH, LOAD, STORE, ADD, SUB, MUL, XOR, AND, SHR, LESS, JUMP, BRANCH, FETCH, PUT, HALT };

static const u8 program[] = {
    /* i = 0; do { j = 0; do { */
    PUSH, 0, STORE, 0,                                                /* 0 */
    PUSH, 0, STORE, 1,                                                /* 4 */
    /* x = array[(i + j) & 63] * 3 + j ^ x >> 1 */
    LOAD, 0, LOAD, 1, ADD, PUSH, 63, AND, FETCH,                      /* 8 */
    PUSH, 3, MUL, LOAD, 1, ADD, LOAD, 2, PUSH, 1, SHR, XOR, STORE, 2, /* 17 */
    /* array[j & 63] = x - i */
    LOAD, 2, LOAD, 0, SUB, LOAD, 1, PUSH, 63, AND, PUT,               /* 31 */
    LOAD, 1, PUSH, 1, ADD, STORE, 1,                                  /* 42 */
    LOAD, 1, PUSH, 100, LESS, BRANCH, 8,                              /* 49 */
    LOAD, 0, PUSH, 1, ADD, STORE, 0,                                  /* 56 */
    LOAD, 0, PUSH, 120, LESS, BRANCH, 4,                              /* 63 */
    HALT,                                                             /* 70 */
};

static u64 array[64];

static NOINLINE u64 interpret(const u8 *code, u64 x) {
    static const void *const labels[] = {&&push, &&load, &&store, &&add, &&sub, &&mul, &&xor, &&and,
                                         &&shr,  &&less, &&jump,  &&branch, &&fetch, &&put, &&halt};
    u64 stack[16], *top = stack, variables[3] = {0, 0, x};
    const u8 *pc = code;
#define NEXT goto *labels[*pc++]
    NEXT;
push: *++top = *pc++; NEXT;
load: *++top = variables[*pc++]; NEXT;
store: variables[*pc++] = *top--; NEXT;
add: top--; *top += top[1]; NEXT;
sub: top--; *top -= top[1]; NEXT;
mul: top--; *top *= top[1]; NEXT;
xor: top--; *top ^= top[1]; NEXT;
and: top--; *top &= top[1]; NEXT;
shr: top--; *top >>= top[1] & 63; NEXT;
less: top--; *top = *top < top[1]; NEXT;
jump: pc = code + *pc; NEXT;
branch: pc = *top-- ? code + *pc : pc + 1; NEXT;
fetch: *top = array[*top]; NEXT;
put: top -= 2; array[top[2]] = top[1]; NEXT;
halt: return variables[2];
}

void setup(void) {
    for (u64 i = 0; i < 64; i++)
        array[i] = i * i;
}

u64 chunk(u64 number) {
    u64 sum = number;
    for (int round = 0; round < 5; round++)
        sum = interpret(program, sum);
    return sum;
}
