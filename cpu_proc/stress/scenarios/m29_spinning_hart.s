#: M29  a remote hart never leaves its loop
#: harts 2
#: expect 0*ROUNDS
# Hart 1 spins in a loop of one block; hart 0 patches the loop's jump, and hart 1 must leave it within
# a bound (two seconds; in fact it takes microseconds). Reported: 1 if it did not.
main:
    li s1, ROUNDS
    li s2, 1
    la s3, closing
    lw s4, 0(s3)                # the jump
each:
    la t0, state                # hart 1 goes into its loop
1:
    ld t1, 0(t0)
    bne t1, s2, 1b
    li t0, 300000
2:
    addi t0, t0, -1
    bnez t0, 2b
    la a0, all_there            # the loop is as hot as it gets
    call ask
    csrr s5, time
    li t0, 20000000
    add s5, s5, t0
    li t0, 0x13                 # nop
    sw t0, 0(s3)
3:
    li t1, 100000
    la t0, left
4:
    ld t2, 0(t0)
    beq t2, s2, 5f
    addi t1, t1, -1
    bnez t1, 4b
    csrr t0, time
    bltu t0, s5, 3b
    li a0, 1                    # it is still there
    call report
    call done
5:
    sw s4, 0(s3)
    fence rw, rw
    la t0, again
    sd s2, 0(t0)
    li a0, 0
    call report
    addi s2, s2, 1
    addi s1, s1, -1
    bnez s1, each
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li s2, 1
6:
    la t0, state
    sd s2, 0(t0)
    fence.i
    call spin
    la t0, left
    sd s2, 0(t0)
    la t0, again
7:
    ld t1, 0(t0)
    bne t1, s2, 7b
    addi s2, s2, 1
    j 6b

    .align 12
spin:
    addi t3, t3, 1
closing:
    j spin
    ret

all_there:
    .asciz "settle"

    .data
    .align 6
state:
    .dword 0
    .align 6
left:
    .dword 0
    .align 6
again:
    .dword 0
