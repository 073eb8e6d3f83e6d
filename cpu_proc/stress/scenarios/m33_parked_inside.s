#: M33  code space is used again while a hart is inside
#: harts 2
#: expect 7*ROUNDS 7*ROUNDS
# Hart 1 sleeps in a function. Meanwhile hart 0 writes a word of it anew, as it is, and of another
# function of the page, and runs that. Hart 1 wakes and returns what its function returns.
main:
    li s1, ROUNDS * 2
    li s2, 1
1:
    la t0, state                # hart 1 goes to sleep
2:
    ld t1, 0(t0)
    bne t1, s2, 2b
    li t0, 400000
3:
    addi t0, t0, -1
    bnez t0, 3b
    la t0, last
    lw t1, 0(t0)
    sw t1, 0(t0)
    la t0, other
    lw t1, 0(t0)
    sw t1, 0(t0)
    fence.i
    la a0, other
    call warm
    la t0, order
    sd s2, 0(t0)
    li t0, CLINT
    li t1, 1
    sw t1, 4(t0)                # wake hart 1
4:
    la t0, answer
    ld a0, 0(t0)
    beqz a0, 4b
    sd zero, 0(t0)
    call report
    addi s2, s2, 1
    addi s1, s1, -1
    bnez s1, 1b
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li t0, 8
    csrw mie, t0                # MSIP wakes, mstatus.MIE stays off
    la s4, order
    li s2, 1
5:
    li s3, 0                    # hot without a sleep
    la a0, nap
    call warm
    la t0, state
    sd s2, 0(t0)
    mv s3, s2
    la a0, nap
    li a1, 1
    call times
    li t0, CLINT
    sw zero, 4(t0)
    la t0, answer
    sd a0, 0(t0)
    addi s2, s2, 1
    j 5b

    .align 12
nap:                            # until the order is s3 or more
    ld t0, 0(s4)
    bge t0, s3, last
    wfi
    ld t0, 0(s4)
    blt t0, s3, nap
last:
    li a0, 7
    ret
    .align 6
other:
    nop
    li a0, 9
    ret

    .data
    .align 6
order:
    .dword 0
    .align 6
answer:
    .dword 0
    .align 6
state:
    .dword 0
