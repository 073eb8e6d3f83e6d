#: M2  images are copied again at reset
#: expect 1 2 1 2 1 2 1 2
# A program patches itself and resets the machine; what is loaded anew must run, four times over.
    .equ BOOTS, 0x81000000      # beyond what is loaded
main:
    la s0, start
    mv a0, s0
    call warm
    call report
    call settle
    li t0, 0x00200513           # li a0, 2
    la t1, victim
    sw t0, 0(t1)
    la a0, branch
    call refresh
    mv a0, s0
    call warm
    call report
    li t1, BOOTS
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 4
    beq t0, t2, 1f
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .
1:
    call done

    .align 12
start:
    li t6, 2
victim:
    li a0, 1
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
