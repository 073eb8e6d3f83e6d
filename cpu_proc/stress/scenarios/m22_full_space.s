#: M22  a descriptor survives the recycling of its code space
#: option small-space
#: expect 0 0
# Eight long functions, each with a constant of its own, are patched and become hot in turn, round
# after round, so that the room for code is full again and again; behind each round all are called once
# more. Reported: how many calls of each round returned another value than the one patched in.
    .equ MANY, 8
    .equ LONG, 48

main:
    la t0, room
    sd t0, 0(t0)
    la t0, piece
    ld t1, 0(t0)
    la t0, long
    li t2, LONG
1:
    sd t1, 0(t0)
    addi t0, t0, 8
    addi t2, t2, -1
    bnez t2, 1b
    li t5, MANY                 # the functions: as many copies of one page
    la t0, first
    la t1, first
    li t2, 4096
    add t1, t1, t2
1:
    ld t3, 0(t0)
    sd t3, 0(t1)
    addi t0, t0, 8
    addi t1, t1, 8
    addi t2, t2, -8
    bnez t2, 1b
    la t0, first
    li t2, 4096
    addi t5, t5, -1
    bnez t5, 1b
    fence.i
    li s2, 2
    li s6, 3
    li s7, 0
    li t0, MODE - 2
    bnez t0, 2f
    li s6, 200
2:
    li s0, 0
    addi s7, s7, 8             # this round's first constant
    la s8, first
    li s4, 0
3:
    add s1, s7, s4
    mv a0, s1
    call body
    sw a0, 4(s8)
    fence.i
    mv s3, s6
    call run
    call settle
    mv s3, s6
    call run
    call next
    bnez t0, 3b
    la s8, first                # the old calls again
    li s4, 0
4:
    add s1, s7, s4
    li s3, 2
    call run
    call next
    bnez t0, 4b
    mv a0, s0
    call report
    addi s2, s2, -1
    bnez s2, 2b
    call done

next:                           # t0: whether there is one
    addi s4, s4, 1
    li t0, 4096
    add s8, s8, t0
    li t0, MANY
    sub t0, t0, s4
    ret

run:                            # s3 times the function s8, expecting s1
    mv s9, ra
5:
    li t6, 2
    la a1, room
    jalr ra, 0(s8)
    beq a0, s1, 6f
    addi s0, s0, 1
6:
    addi s3, s3, -1
    bnez s3, 5b
    jr s9

    .align 3
room:
    .dword 0
piece:
    ld a2, 0(a2)                # each of another address, as far as anybody knows: much code
    ld a2, 0(a2)

    .align 12
first:                          # the head of its own loop: one entry, one region
    mv a2, a1
    li a0, 0
    nop
    nop
long:
    .space LONG * 8
    addi t6, t6, -1
    bnez t6, first
    ret
    .align 12
    .space 4096 * MANY
