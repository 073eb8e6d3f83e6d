#: M38  a store to the block it stands in
#: expect 0 0 0 0
# Functions that patch an instruction of their own a few instructions ahead, do fence.i and come to it:
# behind the fence.i at once, later, alone in its block, and in the next turn of a loop. Reported: how
# often each returned another value than the one it patched in.
main:
    la s1, at_once
    la s2, at_once_here
    call rounds
    la s1, later
    la s2, later_here
    call rounds
    la s1, alone
    la s2, alone_here
    call rounds
    la s1, turned
    la s2, turned_here
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
at_once:
    sw a1, 0(a2)
    fence.i
at_once_here:
    li a0, 0
    ret

    .align 12
later:
    nop
    sw a1, 0(a2)
    fence.i
    nop
    nop
later_here:
    li a0, 0
    ret

    .align 12
alone:
    nop
    sw a1, 0(a2)
    fence.i
    j alone_here
    nop
alone_here:
    li a0, 0
    j 3f
    nop
3:
    ret

    .align 12
turned:
    li t0, 2
4:
    addi t0, t0, -1
turned_here:
    li a0, 0
    beqz t0, 5f
    sw a1, 0(a2)
    fence.i
    j 4b
5:
    ret
