#: M37  a reset of one hart, with a retirement pending
#: harts 2
#: expect 0
# Hart 1 patches a function and runs it, over and over. Hart 0 has it reset, time and again; each
# time hart 1 begins with fence.i and a run of the function as it is. Reported: how often hart 1 got
# another value than the one that stands in memory.
    .equ RESETS, 64
main:
    li s1, RESETS
    li s2, 0
1:
    la t0, turns                # hart 1 has been at it for a while
    ld t1, 0(t0)
    beq t1, s2, 1b
    mv s2, t1
    slli t2, s1, 3              # 0 to 15.5 ms later, in other steps than hart 1 takes
    sub t2, t2, s1
    andi t2, t2, 31
    li t0, 5000
    mul t2, t2, t0
    csrr t0, time
    add t2, t2, t0
4:
    csrr t0, time
    bltu t0, t2, 4b
    la a0, again
    call ask
    addi s1, s1, -1
    bnez s1, 1b
    la t0, stale
    ld a0, 0(t0)
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    la s1, victim
    la s2, stale
    la s3, turns
    li s4, 0
    fence.i
2:
    call look
    addi s4, s4, 1
    andi s4, s4, 1023
    mv a0, s4
    call body
    sw a0, 4(s1)
    fence.i
    ld t0, 0(s3)
    addi t0, t0, 1
    sd t0, 0(s3)
    j 2b

look:                           # is what it returns what stands there?
    mv s9, ra
    mv a0, s1
    call warm
    lwu t0, 4(s1)
    srli t0, t0, 20
    beq a0, t0, 3f
    ld t0, 0(s2)
    addi t0, t0, 1
    sd t0, 0(s2)
3:
    jr s9

    .align 12
victim:
    nop
    li a0, 0
    ret

again:
    .asciz "reset-hart 1"

    .data
    .align 6
stale:
    .dword 0
    .align 6
turns:
    .dword 0
