#: M44  code is visible before it is complete
#: expect 0*ROUNDS
# A long function adds one number many times, its first half as its second; it is patched from end to
# end, again and again, and is the newest code there is when it has become hot. Reported: how many
# calls of each round had another sum.
    .equ TIMES, 48

main:
    li s2, ROUNDS
    li s1, 10                   # the number
    li s6, 3
    li t0, MODE - 2
    bnez t0, 1f
    li s6, 200
1:
    addi s1, s1, 11
    mv a0, s1
    call write
    li s0, 0
    mv s3, s6
    call run
    call settle
    mv s3, s6
    call run
    mv a0, s0
    call report
    addi s2, s2, -1
    bnez s2, 1b
    call done

write:                          # the function with the number a0; s5: its sum
    mv s9, ra
    li t3, TIMES
    mul s5, a0, t3
    call add_it
    la t0, filled
    la t1, mixing
    lw t1, 0(t1)
2:
    sw a0, 0(t0)
    sw t1, 4(t0)
    addi t0, t0, 8
    addi t3, t3, -1
    bnez t3, 2b
    fence.i
    jr s9

add_it:                         # the instruction `addi a0, a0, N` for N in a0
    slli a0, a0, 20
    la t1, adding
    lw t1, 0(t1)
    or a0, a0, t1
    ret

run:                            # s3 times
    mv s9, ra
3:
    li a1, 1
    li a2, 0
    li t6, 3
    la t0, start                # the head of its own loop: one entry, one region
    jalr ra, 0(t0)
    beq a0, s5, 4f
    addi s0, s0, 1
4:
    addi s3, s3, -1
    bnez s3, 3b
    jr s9

    .align 2
adding:
    addi a0, a0, 0
mixing:
    mul a0, a0, a1              # by one, which no translator knows

    .align 12
start:
    mv a0, a2
filled:
    .space TIMES * 8
    addi t6, t6, -1
    bnez t6, start
    ret
