#: M8  an implicit store: the page walk's update of A and D, in a page that holds code too
#: expect 0 1 0 1 0 1 0 1
# A leaf entry of a page table is executed: with D clear its low half reads `jal x0, 516`, with D set
# `jal ra, 516`. The walk of a store through that entry sets D; what stands at 516 tells whether ra
# was written.
    .equ DATA, 0x81000000       # what the entry maps; its number makes the jump's distance
    .equ VIEW, 0x40000000       # where
    .equ ENTRY, (DATA >> 2) | 0x6f
main:
    li t0, 1 << 61              # menvcfg.ADUE
    csrs 0x30a, t0
    la a0, root                 # 1 GiB each: devices, and RAM
    li t1, 0xcf
    sd t1, 0(a0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(a0)
    la t0, middle
    srli t1, t0, 2
    ori t1, t1, 1
    sd t1, 8(a0)
    la t1, leaf
    srli t1, t1, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    call supervise
    li s1, 4
    la s2, leaf
each:
    li t0, ENTRY                # D clear, A set
    sd t0, 0(s2)
    sfence.vma
    fence.i
    la a0, run
    call warm
    call report
    la a0, branch
    call refresh
    la a0, run
    call warm
    li t0, VIEW
    ld t1, 0(t0)
    sd t1, 8(t0)                # sets D
    fence.i
    la a0, run
    call warm
    call report
    la a0, branch
    call refresh
    addi s1, s1, -1
    bnez s1, each
    call done

run:                            # a0: 1 if the entry, as an instruction, writes ra
    mv t5, ra
    li ra, 0
    li t6, 2
    la t1, leaf
    jr t1

    .align 12
leaf:
    .dword ENTRY
    .org leaf - _start + 516
    addi t6, t6, -1
branch:
    bnez t6, leaf
    snez a0, ra
    jr t5
    .align 12
root:
    .space 4096
middle:
    .space 4096
