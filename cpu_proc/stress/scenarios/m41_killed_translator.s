#: M41  an answer of an older incarnation is accepted
#: expect 1020304 4030201 1020304
# Four functions become hot; the translator is killed; with the next one they become hot in the
# reverse order. Each time they were executed whole before, so that the same is made of each.
main:
    call once
    la a0, first
    li a1, 4096
    call run
    call report
    la a0, kill
    call ask
    call once                   # decoded again
    la a0, ready
    call ask
    la a0, last
    li a1, -4096
    call run
    call report
    la a0, first
    li a1, 4096
    call run
    call report
    call done

kill:
    .asciz "kill"
ready:
    .asciz "ready"
    .align 2
once:                           # each function, interpreted
    mv s2, ra
    la s0, first
    li s1, 4
1:
    li a1, 1
    jalr ra, 0(s0)
    li t0, 4096
    add s0, s0, t0
    addi s1, s1, -1
    bnez s1, 1b
    jr s2

run:                            # the functions from a0 on, a1 bytes apart, four; a0: their digits
    addi sp, sp, -48
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    sd s2, 24(sp)
    sd s3, 32(sp)
    mv s0, a0
    mv s3, a1
    li s1, 0
    li s2, 4
1:
    li a1, WARM
    jalr ra, 0(s0)
    call settle_after
    li a1, WARM
    jalr ra, 0(s0)
    li t0, 100
    mul s1, s1, t0
    add s1, s1, a0
    add s0, s0, s3
    addi s2, s2, -1
    bnez s2, 1b
    mv a0, s1
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    ld s2, 24(sp)
    ld s3, 32(sp)
    addi sp, sp, 48
    ret

settle_after:
    addi sp, sp, -16
    sd ra, 0(sp)
    call settle
    ld ra, 0(sp)
    addi sp, sp, 16
    ret
    .align 12
first:
    li t6, 2
2:
    li a0, 1
    addi t6, t6, -1
    bnez t6, 2b
    addi a1, a1, -1
    bnez a1, first
    ret
    .align 12
f2:
    li t6, 2
2:
    li a0, 2
    addi t6, t6, -1
    bnez t6, 2b
    addi a1, a1, -1
    bnez a1, f2
    ret
    .align 12
f3:
    li t6, 2
2:
    li a0, 3
    addi t6, t6, -1
    bnez t6, 2b
    addi a1, a1, -1
    bnez a1, f3
    ret
    .align 12
last:
    li t6, 2
2:
    li a0, 4
    addi t6, t6, -1
    bnez t6, 2b
    addi a1, a1, -1
    bnez a1, last
    ret
