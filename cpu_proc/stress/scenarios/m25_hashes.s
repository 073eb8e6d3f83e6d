#: M25  many bodies at one place, each another one
#: expect 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24
main:
    li s1, 1
each:
    mv a0, s1
    call body
    la t0, middle
    sw a0, 0(t0)
    fence.i
    la a0, victim
    li a1, 4                    # the loop in it gets hot by itself
    li t0, MODE
    li t1, 2
    bne t0, t1, 1f
    li a1, 10000
1:
    call times
    call report
    addi s1, s1, 1
    li t0, 25
    bne s1, t0, each
    call done

    .align 12
victim:
    li t6, 3
1:
    addi t6, t6, -1
middle:
    li a0, 0
    bnez t6, 1b
    ret
    .align 12
