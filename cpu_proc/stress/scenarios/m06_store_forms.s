#: M6  a store from another tier, a helper or an atomic
#: expect 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 1
# Each form of store patches a hot function. The store itself runs twice in a row when it is hot: in
# tier 0 and in a region.
main:
    li s6, 0                    # number of the form
    li s8, 1                    # value to be returned, 1 to 15
each:
    la t0, forms
    slli t1, s6, 3
    add t0, t0, t1
    ld s5, 0(t0)                # the function that stores
    la s4, elsewhere            # make it hot
    la s7, wanted
    mv a0, s5
    call warm
    call once
    addi s6, s6, 1
    li t0, 16
    bne s6, t0, each
    call done

once:                           # patch, run, report
    addi sp, sp, -16
    sd ra, 0(sp)
    la a0, start                # hot before it is patched
    call warm
    call settle
    mv a0, s8
    call body
    la s7, wanted
    sw a0, 0(s7)
    la s4, victim
    jalr ra, 0(s5)
    fence.i
    la a0, start
    call warm
    call report
    la a0, branch
    call refresh
    addi s8, s8, 1
    andi t0, s8, 15
    bnez t0, 1f
    li s8, 1
1:
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 6
start:
    li t6, 2
    .align 3
victim:                         # at a multiple of 8, for sd and the like
    li a0, 1
following:
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret

    .align 6
form0:                         # sb
    li t6, 2
1:
    lb t0, 2(s7)
    sb t0, 2(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form1:                         # sh
    li t6, 2
1:
    lh t0, 2(s7)
    sh t0, 2(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form2:                         # sw
    li t6, 2
1:
    lw t0, 0(s7)
    sw t0, 0(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form3:                         # sd
    li t6, 2
1:
    ld t0, 0(s7)
    sd t0, 0(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form4:                         # fsw
    li t6, 2
1:
    flw ft0, 0(s7)
    fsw ft0, 0(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form5:                         # fsd
    li t6, 2
1:
    fld ft0, 0(s7)
    fsd ft0, 0(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form6:                         # amoswap.w
    li t6, 2
1:
    lw t0, 0(s7)
    amoswap.w t1, t0, (s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form7:                         # amoswap.d
    li t6, 2
1:
    ld t0, 0(s7)
    amoswap.d t1, t0, (s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form8:                         # amoadd.w
    li t6, 2
1:
    lw t0, 0(s7)
    lw t1, 0(s4)
    sub t0, t0, t1
    amoadd.w t1, t0, (s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form9:                         # sc.w
    li t6, 2
1:
    lw t0, 0(s7)
    lr.w t1, (s4)
    sc.w t1, t0, (s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form10:                         # sc.d
    li t6, 2
1:
    ld t0, 0(s7)
    lr.d t1, (s4)
    sc.d t1, t0, (s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form11:                         # c.sw
    li t6, 2
1:
    mv a4, s4
    lw a5, 0(s7)
    c.sw a5, 0(a4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form12:                         # c.sd
    li t6, 2
1:
    mv a4, s4
    ld a5, 0(s7)
    c.sd a5, 0(a4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form13:                         # c.fsd
    li t6, 2
1:
    mv a4, s4
    fld fa5, 0(s7)
    c.fsd fa5, 0(a4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form14:                         # misaligned sw
    li t6, 2
1:
    lw t0, 2(s7)
    sw t0, 2(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .align 6
form15:                         # misaligned sd
    li t6, 2
1:
    ld t0, -1(s4)
    andi t0, t0, 255
    ld t1, 0(s7)
    slli t1, t1, 8
    or t0, t0, t1
    sd t0, -1(s4)
    addi t6, t6, -1
    bnez t6, 1b
    ret

    .data
    .align 4
forms:
    .dword form0, form1, form2, form3, form4, form5, form6, form7, form8, form9, form10, form11, form12, form13, form14, form15
    .align 6
wanted:
    .word 0x00100513
    .word 0xffff8f93            # addi t6, t6, -1
    .dword 0
    .align 6
    .dword 0
elsewhere:
    .dword 0, 0
    .text
