#: M20  a refusal to translate is remembered for ever
#: expect 102 7 102 8
# A word that is no instruction is called until it is hot; then there is one.
main:
    la t0, caught
    csrw mtvec, t0
    li s0, 7
again:
    la t0, victim
    sw zero, 0(t0)
    fence.i
    la a0, victim
    call warm
    call report
    call settle
    mv a0, s0
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    la a0, victim
    call warm
    call settle
    la a0, victim
    call warm
    call report
    addi s0, s0, 1
    li t0, 9
    bne s0, t0, again
    call done

    .align 12
victim:
    .word 0
    ret
