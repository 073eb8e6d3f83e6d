#: M39  an access that aborted a region is carried out twice
#: expect 100 200 3 100 100 4950
# A loop works on words of the page it stands in: in the line of its own code, and beside it. Each
# atomic operation counts once, and a loop that stores beside itself comes to its end.
    .equ TIMES, 100
main:
    la s1, inside
    la s2, beside
    sd zero, 0(s1)
    sd zero, 0(s2)
    call work
    ld a0, 0(s1)
    call report
    ld a0, 0(s2)
    call report
    la s2, beside
    lw a0, 16(s2)
    call report
    la s2, beside
    ld a0, 24(s2)
    call report
    ld a0, 32(s2)
    call report
    ld a0, 40(s2)
    call report
    call done

    .align 12
work:
    li t0, TIMES
    li t1, 1
    li t2, 2
    li t4, 3
    la t5, beside + 16
    la t6, beside + 24
    j 1f
    .align 6
inside:
    .dword 0
1:
    ld t3, 0(s1)
    amoadd.d t3, t1, (s1)
    amoadd.w t3, t2, (s2)
    amoor.w t3, t4, (t5)
2:
    lr.d t3, (t6)
    addi t3, t3, 1
    sc.d a0, t3, (t6)
    bnez a0, 2b
    ld t3, 8(t6)                # plain stores
    addi t3, t3, 1
    sd t3, 8(t6)
    addi t0, t0, -1
    ld t3, 16(t6)
    add t3, t3, t0
    sd t3, 16(t6)
    bnez t0, 1b
    ret
    .align 6
beside:
    .dword 0, 0, 0, 0, 0, 0
    .align 6
