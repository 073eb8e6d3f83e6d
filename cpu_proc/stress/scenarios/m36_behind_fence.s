#: M36  fence.i does not end a block
#: expect 0 0
# A function patches the instruction right behind a fence.i, and one two instructions behind it.
# Reported: how often each returned another value than the one it patched in.
main:
    la s1, right
    la s2, right_here
    call rounds
    la s1, two
    la s2, two_here
    call rounds
    call done

rounds:                         # the function s1, which patches s2
    mv s9, ra
    li s3, 1
    li s4, ROUNDS * 2
    li s5, 0
1:
    mv a0, s3
    call body
    mv a1, a0
    mv a2, s2
    jalr ra, 0(s1)
    beq a0, s3, 2f
    addi s5, s5, 1
2:
    addi s3, s3, 1
    addi s4, s4, -1
    bnez s4, 1b
    mv a0, s5
    call report
    jr s9

    .align 12
right:
    lw t0, 0(a2)
    sw a1, 0(a2)
    fence.i
right_here:
    li a0, 0
    ret

    .align 12
two:
    lw t0, 0(a2)
    sw a1, 0(a2)
    fence.i
    nop
    nop
two_here:
    li a0, 0
    ret
