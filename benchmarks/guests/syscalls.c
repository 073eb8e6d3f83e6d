/* A small kernel in S-mode with two processes in U-mode, each in its own Sv39 address space: system calls, copies
 * from user memory, a switch of address spaces every few calls. `chunk` enters the kernel, and its end returns to it. */
#include "bench.h"

struct context { /* see syscalls_start.S */
    u64 registers[32], pc, status, satp;
    u64 ended, sum;
};

extern u8 user_code[];
extern void kernel_entry(void);
extern u64 run_kernel(struct context *first);

enum { PAGES = 12 };
#define USER_CODE 0x10000ul
#define USER_DATA 0x40000ul

static u64 tables[2][3][512] __attribute__((aligned(4096)));
static u8 data[2][PAGES][4096] __attribute__((aligned(4096)));
static struct context processes[2];
static u64 switches;
static int have_asids;

enum { VALID = 1, READ = 2, WRITE = 4, EXECUTE = 8, USER = 16, GLOBAL = 32, ACCESSED = 64, DIRTY = 128 };

static u64 entry(const void *at, u64 flags) { return (u64)at >> 12 << 10 | flags | VALID; }

void setup(void) {
    for (u64 p = 0; p < 2; p++) {
        u64 *root = tables[p][0], *middle = tables[p][1], *leaf = tables[p][2];
        u64 kernel = READ | WRITE | EXECUTE | GLOBAL | ACCESSED | DIRTY;
        root[2] = entry((const void *)0x80000000ul, kernel);
        root[0] = entry(middle, 0);
        middle[0] = entry(leaf, 0);
        leaf[USER_CODE >> 12] = entry(user_code, READ | EXECUTE | USER | ACCESSED);
        for (u64 i = 0; i < PAGES; i++)
            leaf[(USER_DATA >> 12) + i] = entry(data[p][i], READ | WRITE | USER | ACCESSED | DIRTY);
        processes[p].satp = 8ul << 60 | (p + 1) << 44 | (u64)root >> 12;
    }
    u64 satp = processes[0].satp;
    __asm__ volatile("csrw satp, %1\n csrr %0, satp\n csrw satp, zero" : "=r"(satp) : "r"(satp) : "memory");
    have_asids = (satp >> 44 & 3) == 1;
    __asm__ volatile("sfence.vma\n csrw pmpaddr0, %0\n csrw pmpcfg0, %1\n csrw medeleg, %2\n csrw stvec, %3"
                     :: "r"(~0ul >> 10), "r"(31ul), "r"(1ul << 8), "r"(kernel_entry) : "memory");
}

static struct context *switch_from(struct context *process) {
    struct context *other = process == &processes[0] ? &processes[1] : &processes[0];
    if (other->ended)
        other = process;
    switches++;
    __asm__ volatile("csrw satp, %0" :: "r"(other->satp) : "memory");
    if (!have_asids)
        __asm__ volatile("sfence.vma" ::: "memory");
    return other;
}

/* A trap from U-mode: which process goes on? 0: none, back to M-mode. */
struct context *kernel_trap(struct context *process, u64 cause) {
    u64 *r = process->registers, sum = 0;
    if (cause != 8) { /* an ecall is all that can happen */
        process->sum = cause << 32;
        return 0;
    }
    process->pc += 4;
    switch (r[17]) {
    case 0: r[10] = (u64)(process - processes) + 1; break;
    case 1: /* a sum over memory of the process's */
        __asm__ volatile("csrs sstatus, %0" :: "r"(1ul << 18) : "memory");
        for (const volatile u64 *p = (const volatile u64 *)r[10], *end = p + r[11]; p < end; p++)
            sum += *p;
        __asm__ volatile("csrc sstatus, %0" :: "r"(1ul << 18) : "memory");
        r[10] = sum;
        break;
    case 2: return switch_from(process);
    case 3:
        process->ended = 1;
        process->sum = r[10];
        return processes[0].ended && processes[1].ended ? 0 : switch_from(process);
    default: r[10] = -1ul;
    }
    return process;
}

u64 chunk(u64 number) {
    for (u64 p = 0; p < 2; p++) {
        struct context *process = &processes[p];
        for (int i = 0; i < 32; i++)
            process->registers[i] = 0;
        process->registers[8] = number + p;
        process->registers[9] = 2000;
        process->registers[18] = USER_DATA;
        process->pc = USER_CODE;
        process->status = 0x20;
        process->ended = process->sum = 0;
    }
    run_kernel(&processes[0]);
    return mix(mix(processes[0].sum, processes[1].sum), switches);
}
