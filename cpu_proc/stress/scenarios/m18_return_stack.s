#: M18  a return stack keeps a pointer to code
#: expect 1*ROUNDS 2 3 4 5 6 7 8
# A function calls another, which patches the caller's code behind the call, does fence.i and
# returns into it.
    .equ TIMES, 7
main:
    li s0, 1                    # what the callee patches in
    li s1, ROUNDS
1:
    call caller
    call report
    addi s1, s1, -1
    bnez s1, 1b
    li s1, TIMES
2:
    addi s0, s0, 1
    call caller
    call report
    addi s1, s1, -1
    bnez s1, 2b
    call done

    .align 12
caller:
    addi sp, sp, -16
    sd ra, 0(sp)
    call callee
behind:
    nop
value:
    li a0, 0                    # patched
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 12
callee:
    li t6, 2
3:
    addi t6, t6, -1
    bnez t6, 3b
    slli t0, s0, 20
    addi t0, t0, 0x513          # li a0, s0
    la t1, value
    lw t2, 0(t1)
    beq t0, t2, 4f              # nothing to change
    sw t0, 0(t1)
    fence.i
4:
    ret
