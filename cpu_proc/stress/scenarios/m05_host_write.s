#: M5  a debugger or the host writes memory
#: expect 1 2 3 4 5
# The host patches a function that is hot, as a debugger sets a breakpoint.
main:
    la a0, start
    call warm
    call report
    la s0, texts
    li s1, 4
each:
    la a0, branch
    call refresh
    la a0, start
    call warm
    call settle
    mv a0, s0
    call ask
    fence.i
    la a0, start
    call warm
    call report
    addi s0, s0, 32
    addi s1, s1, -1
    bnez s1, each
    call done

    .align 6
start:
    li t6, 2
victim:
    li a0, 1
    addi t6, t6, -1
    .align 6
branch:
    bnez t6, victim
    ret

    .data
    .align 5
texts:
    .asciz "write victim 13052000"
    .align 5
    .asciz "write victim 13053000"
    .align 5
    .asciz "write victim 13054000"
    .align 5
    .asciz "write victim 13055000"
    .text
