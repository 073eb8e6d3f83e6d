#: M30  tracking ends before retirement is complete
#: harts 2
#: expect 0
# One line of code, two harts: hart 0 patches one instruction of a hot function, and at the same
# time, a little later each round, hart 1 patches another and runs the function. Reported: how often
# hart 1 got another value than its own.
main:
    li s0, 1                    # the round
    li s1, ROUNDS * 8
each:
    la t1, ready                # hart 1 has it hot
1:
    ld t0, 0(t1)
    bne t0, s0, 1b
    mv a0, s0
    call body
    li t0, 11 ^ 10              # li a1, instead of li a0
    slli t0, t0, 7
    xor a0, a0, t0
    la t1, mine
    la t2, go
    sd s0, 0(t2)
    sw a0, 0(t1)
    addi s0, s0, 1
    addi s1, s1, -1
    bnez s1, each
2:
    la t1, answer
    ld a0, 0(t1)
    beqz a0, 2b
    addi a0, a0, -1
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li s0, 1
    li s1, ROUNDS * 8
    li s2, 0                    # stale
3:
    la a0, victim
    call warm
    andi s3, s0, 7              # how long to wait: 500 to 64000
    li t0, 500
    sll s3, t0, s3
    mv a0, s0
    call body
    mv s4, a0
    la t1, ready
    sd s0, 0(t1)
    la t1, go
4:
    ld t0, 0(t1)
    bne t0, s0, 4b
5:
    addi s3, s3, -1
    bnez s3, 5b
    la t0, yours
    sw s4, 0(t0)
    fence.i
    call victim
    beq a0, s0, 6f
    addi s2, s2, 1
6:
    addi s0, s0, 1
    addi s1, s1, -1
    bnez s1, 3b
    addi s2, s2, 1
    la t1, answer
    sd s2, 0(t1)
    j park

    .align 6
victim:
    nop
    nop
mine:
    li a1, 0
    nop
    nop
yours:
    li a0, 0
    nop
    ret

    .data
    .align 6
ready:
    .dword 0
    .align 6
go:
    .dword 0
    .align 6
answer:
    .dword 0
