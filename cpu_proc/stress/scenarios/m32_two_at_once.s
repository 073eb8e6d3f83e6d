#: M32  of two retirements at once one is lost
#: harts 2
#: expect 0 0
# Two functions of one page, in lines of their own. Two harts patch one each, at the same time, and
# each runs its own. Reported: how often a hart got another value than its own.
main:
    la s1, first
    li s2, 0
    la s3, here0
    la s4, here1
    call rounds
    call report
    la t1, answer
1:
    ld a0, 0(t1)
    beqz a0, 1b
    addi a0, a0, -1
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    la s1, second
    li s2, 0
    la s3, here1
    la s4, here0
    call rounds
    addi a0, a0, 1
    la t1, answer
    sd a0, 0(t1)
    j park

    # Patch the function s1 and run it, round after round, in step with the other hart, whose counter
    # is at s4; ours is at s3. a0: how often it was stale.
rounds:
    mv s9, ra
    li s5, 1
    li s6, ROUNDS * 4
2:
    mv a0, s1
    call warm
    mv a0, s5
    call body
    sd s5, 0(s3)
3:
    ld t0, 0(s4)
    blt t0, s5, 3b
    sw a0, 4(s1)
    fence.i
    jalr ra, 0(s1)
    beq a0, s5, 4f
    addi s2, s2, 1
4:
    addi s5, s5, 1
    addi s6, s6, -1
    bnez s6, 2b
    mv a0, s2
    jr s9

    .align 12
first:
    nop
    li a0, 0
    ret
    .align 10
second:
    nop
    li a0, 0
    ret

    .data
    .align 6
here0:
    .dword 0
    .align 6
here1:
    .dword 0
    .align 6
answer:
    .dword 0
