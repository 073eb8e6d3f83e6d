#: M7  two addresses, one RAM page
#: expect 1 1 2 2 3 3 4 4 5 5 6 6
# A page has two virtual addresses; it is written through one, and run through both, by turns.
    .equ HIGH, 0x40000000       # what is added to an address in RAM, for its other name
main:
    la a0, root                 # 1 GiB each: devices, RAM, and RAM again
    li t1, 0xcf
    sd t1, 0(a0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(a0)
    sd t1, 24(a0)
    call supervise
    la s4, victim
    la s9, start
    li t0, HIGH
    add s5, s4, t0
    add s10, s9, t0
    li s1, 1
each:
    mv a0, s1
    call body
    sw a0, 0(s5)                # written by one name
    fence.i
    mv a0, s9                   # run by the other
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

    .data
    .align 12
root:
    .space 4096
    .text
