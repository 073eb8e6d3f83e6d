#: M44  code is visible before it is complete
#: expect 5050 5050 5050
# A loop becomes hot three times over, each time as the newest code there is.
main:
    li s0, 3
1:
    la a0, branch
    call refresh
    la a0, start
    call warm
    call settle
    la a0, start
    call warm
    call report
    addi s0, s0, -1
    bnez s0, 1b
    call done

    .align 12
start:
    li t6, 100
    li a0, 0
2:
    add a0, a0, t6
    addi t6, t6, -1
branch:
    bnez t6, 2b
    ret
