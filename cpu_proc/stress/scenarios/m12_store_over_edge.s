#: M12  the width: a misaligned store over two instructions, or parts of three
#: expect 17 34 51 17 34 51 17 34 51
# Within a line of 64 bytes, over a line's edge, over a page's edge: what is returned is the sum of
# what the first and the second instruction say.
main:
    la s3, within
    call three
    la s3, over_line
    call three
    la s3, over_page
    call three
    call done

three:                          # s3: where the first instruction ends and the second begins
    addi sp, sp, -16
    sd ra, 0(sp)
    li s4, 1
each:
    addi a0, s3, -8
    call warm
    call settle
    andi t0, s4, 1
    beqz t0, both
    slli t0, s4, 4 + 4          # the first one's upper half: li a0, 16 * n
    slli t1, s4, 20
    li t2, 0x50513              # the second one: addi a0, a0, n
    add t1, t1, t2
    slli t1, t1, 16
    or t0, t0, t1
    lhu t1, 4(s3)               # the third one's lower half, as it is
    slli t1, t1, 48
    or t0, t0, t1
    sd t0, -2(s3)
    j stored
both:
    slli t0, s4, 20 + 4         # all of the first one and of the second
    addi t0, t0, 0x513
    slli t1, s4, 20
    li t2, 0x50513
    add t1, t1, t2
    slli t1, t1, 32
    or t0, t0, t1
    sd t0, -4(s3)
stored:
    fence.i
    addi a0, s3, -8
    call warm
    call report
    addi a0, s3, 8
    call refresh
    addi s4, s4, 1
    li t0, 4
    bne s4, t0, each
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 6
    .space 16
    li t6, 2
    li a0, 0
within:
    addi a0, a0, 0
    addi t6, t6, -1
    bnez t6, within - 4
    ret

    .align 6
    .space 56
    li t6, 2
    li a0, 0
over_line:
    addi a0, a0, 0
    addi t6, t6, -1
    bnez t6, over_line - 4
    ret

    .align 12
    .space 4088
    li t6, 2
    li a0, 0
over_page:
    addi a0, a0, 0
    addi t6, t6, -1
    bnez t6, over_page - 4
    ret
