#: M42  a retirement is not waited for
#: expect 0
#: no-regions whoever waits for each region cannot be late for it
# A program patches itself, and resets the machine at changing moments while regions of what it
# patched are being made or answers are on their way. Reported: how often a function had another
# value than the one loaded.
    .equ KEPT, 0x81000000       # beyond what is loaded: boots, stale, pseudo-random
main:
    li s10, KEPT
    ld s4, 16(s10)
    li t0, 1103515245
    mul s4, s4, t0
    li t0, 12345
    add s4, s4, t0
    sd s4, 16(s10)
    li s1, 1
    li s3, 300000               # ticks of 100 ns
    call run
    li t0, 0x00200513           # li a0, 2
    la t1, victim
    sw t0, 0(t1)
    fence.i
    li s1, 2
    srli s3, s4, 20
    slli s3, s3, 47
    srli s3, s3, 47             # up to 13 ms
    call run
    ld t0, 0(s10)
    addi t0, t0, 1
    sd t0, 0(s10)
    li t1, ROUNDS * 5
    beq t0, t1, 1f
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .
1:
    ld a0, 8(s10)
    call report
    call done

run:                            # for s3 ticks, expecting s1
    mv s9, ra
    rdtime t0
    add s3, s3, t0
2:
    la t0, start
    jalr ra, 0(t0)
    beq a0, s1, 3f
    ld t0, 8(s10)
    addi t0, t0, 1
    sd t0, 8(s10)
3:
    rdtime t0
    bltu t0, s3, 2b
    jr s9

    .align 12
start:
    li t6, 2
victim:
    li a0, 1
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
