#: M26  code is freed, other code of the same size comes to the same place
#: expect 1 2 3 1 2 3
main:
    li s1, 0
each:
    la t0, bodies
    slli t1, s1, 3
    add t0, t0, t1
    ld t1, 0(t0)
    la t0, place
    sd t1, 0(t0)                # all of the body but its loop
    fence.i
    la a0, victim
    call warm
    call report
    addi s1, s1, 1
    li t0, 6
    bne s1, t0, each
    call done

    .align 3
bodies:
    .word 0x00100513, 0x00000013    # li a0, 1; nop
    .word 0x00000513, 0x00250513    # li a0, 0; addi a0, a0, 2
    .word 0x00700513, 0xffc50513    # li a0, 7; addi a0, a0, -4
    .word 0x00100513, 0x00000013
    .word 0x00000513, 0x00250513
    .word 0x00700513, 0xffc50513

    .align 12
victim:
    li t6, 3
1:
    addi t6, t6, -1
place:
    nop
    nop
    bnez t6, 1b
    ret
    .align 12
