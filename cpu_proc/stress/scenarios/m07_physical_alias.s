#: M7  two addresses, one RAM page: guest-physical
#: expect 1 1 2 2 3 3 4 4 5 5 6 6
#: option boot-remap
# The boot-remap window shows RAM, which so has two physical addresses. A page is written through one,
# and run through both, by turns.
    .equ VIEW, 0x102004
    .equ OFFSET, 0x24000000 - 0x80000000
main:
    li t0, VIEW
    li t1, 1
    sw t1, 0(t0)
    la s4, victim
    la s9, start
    li t0, OFFSET
    add s5, s4, t0
    add s10, s9, t0
    li s1, 1
each:
    mv a0, s1
    call body
    sw a0, 0(s4)                # written by one address
    fence.i
    mv a0, s9                   # run by the one that ran last, then by the other
    call warm
    call report
    mv a0, s10
    call warm
    call report
    la a0, branch
    call refresh
    mv a0, s9                   # and made hot again, by both
    call warm
    mv a0, s10
    call warm
    call settle
    mv t0, s4                   # next time, the other way round
    mv s4, s5
    mv s5, t0
    mv t0, s9
    mv s9, s10
    mv s10, t0
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

    .align 12
start:
    li t6, 2
victim:
    li a0, 0
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
