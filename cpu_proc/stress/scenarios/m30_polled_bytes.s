#: M30  order of unprotect and retire: a hart that sees the bytes has seen the code
#: harts 2
#: expect 0
#: no-regions the victim is a leaf that a loop in a region calls; it is translated or not
# Hart 0 patches a function again and again and tells nobody. Hart 1 reads the function's bytes;
# when they are new it runs fence.i and the function, which must be no older than the bytes read.
main:
    li s1, 1
    li s2, ROUNDS * 200
    la s3, victim
1:
    mv a0, s1
    call body
    sw a0, 0(s3)
    li t0, 200                  # time for the other hart to run what it saw
2:
    addi t0, t0, -1
    bnez t0, 2b
    addi s1, s1, 1
    li t0, 2000
    bltu s1, t0, 3f
    li s1, 1                    # begin again, while the other hart rests
    mv a0, s1
    call body
    mv s4, a0
    la t1, rest
    sd s1, 0(t1)
    la t1, resting
4:
    ld t2, 0(t1)
    beqz t2, 4b
    sw s4, 0(s3)
    fence rw, rw
    la t2, rest
    sd zero, 0(t2)
5:
    ld t2, 0(t1)
    bnez t2, 5b
3:
    addi s2, s2, -1
    bnez s2, 1b
    la t1, rest
    li t0, 1
    sd t0, 0(t1)
    la t1, resting
6:
    ld t2, 0(t1)
    beqz t2, 6b
    la t1, stale
    ld a0, 0(t1)
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    la s3, victim
    la s4, rest
    la s7, resting
    li s5, 0                    # stale
7:
    ld t0, 0(s4)
    bnez t0, 8f
    lw s6, 0(s3)
    fence.i
    jalr ra, 0(s3)
    srli s6, s6, 20
    bgeu a0, s6, 7b
    addi s5, s5, 1
    j 7b
8:
    la t1, stale
    sd s5, 0(t1)
    fence rw, rw
    sd t0, 0(s7)
9:
    ld t0, 0(s4)
    bnez t0, 9b
    sd zero, 0(s7)
    fence.i                     # told that all is new
    j 7b

    .align 6
victim:
    li a0, 0
    ret

    .data
    .align 6
rest:
    .dword 0
    .align 6
resting:
    .dword 0
    .align 6
stale:
    .dword 0
