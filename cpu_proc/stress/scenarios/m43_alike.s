#: M43  two bodies that begin alike alternate at one place
#: expect 2 1 2 1 2 1
# The loop's head, where the code is entered, stands in one line; what differs, in the next.
main:
    li s1, 6
each:
    andi a0, s1, 1
    xori a0, a0, 1
    addi a0, a0, 1
    call body
    la t0, middle
    sw a0, 0(t0)
    fence.i
    la a0, victim
    call warm
    call report
    addi s1, s1, -1
    bnez s1, each
    call done

    .align 12
victim:
    li t6, 3
1:
    addi t6, t6, -1
    .word 0x13, 0x13, 0x13, 0x13, 0x13, 0x13, 0x13    # nop
    .word 0x13, 0x13, 0x13, 0x13, 0x13, 0x13, 0x13
middle:
    li a0, 0
    bnez t6, 1b
    ret
    .align 12
