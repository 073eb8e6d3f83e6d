#: M23  a region assumes FS and the rounding mode
#: expect 0 2 2 2 0
# Floating point that is hot: with FS off, and with frm reserved, each of its instructions must trap.
main:
    la t0, handler
    csrw mtvec, t0
    la a0, victim
    call warm
    call report
    li t0, 0x6000
    csrc mstatus, t0            # FS: off
    call victim
    call report
    la a0, victim
    li a1, 3
    call times
    call report
    li t0, 0x6000
    csrs mstatus, t0
    csrwi frm, 5                # reserved: what rounds dynamically is illegal
    call victim
    call report
    csrwi frm, 0
    la a0, victim
    call warm
    call report
    call done

    .align 2
handler:                        # the cause is what the victim returns
    csrr a0, mcause
    csrw mepc, ra
    mret

    .align 12
victim:
    li t6, 3
1:
    fadd.d fa0, fa0, fa1
    addi t6, t6, -1
    bnez t6, 1b
    li a0, 0
    ret
    .align 12
