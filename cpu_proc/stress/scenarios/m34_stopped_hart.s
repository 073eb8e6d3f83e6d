#: M34  a stopped hart misses what was retired meanwhile
#: harts 2
#: expect 0
# Hart 1 runs a function until it is hot and sleeps (wfi); hart 0 patches the function many times,
# running it after each, and wakes hart 1, which does fence.i and runs it. Reported: how often a hart
# got another value than the last one patched in.
    .equ MANY, ROUNDS * 4
main:
    li s0, 0                    # stale
    li s1, 0                    # the value
    li s2, ROUNDS
each:
    la t1, state                # wait until hart 1 has said that it goes to sleep
    ld t0, 0(t1)
    beqz t0, each
    sd zero, 0(t1)
    li t0, 400000               # and let it fall asleep
1:
    addi t0, t0, -1
    bnez t0, 1b
    li s3, MANY
2:
    addi s1, s1, 1
    andi s1, s1, 2047
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    call victim
    beq a0, s1, 3f
    addi s0, s0, 1
3:
    addi s3, s3, -1
    bnez s3, 2b
    fence rw, rw
    li t0, CLINT
    li t1, 1
    sw t1, 4(t0)                # wake hart 1
4:
    la t1, answer
    ld t2, 0(t1)
    beqz t2, 4b
    sd zero, 0(t1)
    addi t2, t2, -1
    beq t2, s1, 5f
    addi s0, s0, 1
5:
    addi s2, s2, -1
    bnez s2, each
    mv a0, s0
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li t0, 8
    csrw mie, t0                # MSIP wakes, mstatus.MIE stays off
sleep:
    la a0, victim
    call warm
    li t0, CLINT
    sw zero, 4(t0)
    li t0, 1
    la t1, state
    sd t0, 0(t1)
6:
    wfi
    csrr t0, mip
    andi t0, t0, 8
    beqz t0, 6b
    fence.i
    la a0, victim
    call warm
    addi a0, a0, 1
    fence rw, rw
    la t1, answer
    sd a0, 0(t1)
    j sleep

    .align 6
victim:
    li a0, 0
    ret

    .data
    .align 6
answer:
    .dword 0
    .align 6
state:
    .dword 0
