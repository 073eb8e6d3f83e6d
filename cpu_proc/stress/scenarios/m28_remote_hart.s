#: M28  one hart only: another hart's copy survives
#: harts 2
#: expect 0
# Hart 1 keeps a function warm; hart 0 patches it, tells hart 1, and hart 1 runs it after its own
# fence.i. Reported: how often hart 1 got another value than the one patched in.
main:
    li s0, 0                    # stale
    li s1, 1                    # the value
    li s2, ROUNDS * 8
1:
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence rw, rw
    la t1, order
    sd s1, 0(t1)                # go
2:
    la t1, answer
    ld t2, 0(t1)
    beqz t2, 2b
    sd zero, 0(t1)
    addi t2, t2, -1
    beq t2, s1, 3f
    addi s0, s0, 1
3:
    addi s1, s1, 1
    addi s2, s2, -1
    bnez s2, 1b
    mv a0, s0
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
4:
    la t1, order
    ld s3, 0(t1)
    beqz s3, 4b
    sd zero, 0(t1)
    fence.i
    la a0, victim
    call warm
    addi a0, a0, 1
    fence rw, rw
    la t1, answer
    sd a0, 0(t1)
    j 4b

    .align 6
victim:
    li a0, 0
    ret

    .data
    .align 6
order:
    .dword 0
    .align 6
answer:
    .dword 0
