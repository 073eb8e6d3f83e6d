#: M42  a retirement is not waited for
#: expect 0
#: no-regions whoever waits for each region cannot be late for it
# A function that takes long to translate is made hot. While a region of it is being made, everything
# is retired; then it is patched and run once, which asks nobody, and run again when no answer is
# owed any more. Reported: how often it returned another value than the one patched in.
    .equ LONG, 35               # times four instructions behind the one that is patched

main:
    la t0, piece
    ld t1, 0(t0)
    ld t2, 8(t0)
    la t0, filled
    li t3, LONG
1:
    sd t1, 0(t0)
    sd t2, 8(t0)
    addi t0, t0, 16
    addi t3, t3, -1
    bnez t3, 1b
    fence.i
    li s0, 0                    # stale
    li s1, 1                    # the value patched in last
    li s2, 2
    li t0, MODE - 2
    bnez t0, again              # nothing can be late there
    li s2, 10
again:
    li s3, 200                  # hot, and asked for
    call run
    andi s4, s2, 3
    addi s4, s4, 1
    li t0, 20000
    mul s4, s4, t0              # 2 to 8 ms
    rdtime t0
    add s4, s4, t0
1:
    rdtime t0
    bltu t0, s4, 1b
    la a0, retire
    call ask
    addi s1, s1, 1
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    li s3, 1
    call run
    call settle
    li s3, 20
    call run
    la a0, branch
    call refresh
    bnez s0, 2f                 # seen
    addi s2, s2, -1
    bnez s2, again
2:
    mv a0, s0
    call report
    call done

run:                            # s3 times
    mv s9, ra
3:
    la t0, start
    jalr ra, 0(t0)
    beq a0, s1, 4f
    addi s0, s0, 1
4:
    addi s3, s3, -1
    bnez s3, 3b
    jr s9

retire:
    .asciz "retire"
    .align 3
piece:
    ld t1, 0(t5)
    mul t2, t1, t6
    add t3, t3, t2
    sd t3, 8(t5)
    .align 12
start:
    li t6, 2
    la t5, room
victim:
    li a0, 1
filled:
    .space LONG * 16
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
    .align 12
room:
    .space 16
