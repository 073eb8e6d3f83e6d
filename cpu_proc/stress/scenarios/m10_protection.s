#: M10  a permission changes after the TLB was filled: PMP
#: expect 1 101 1 2 101 2 3 101
# A function is run in S-mode, with its page executable by PMP, then not, then again; it is patched
# by M-mode meanwhile.
main:
    la s0, start
    srli t0, s0, 2
    ori t0, t0, 0x1ff
    csrw pmpaddr0, t0           # its page
    li t0, -1
    csrw pmpaddr1, t0           # and all
    la t0, trap
    csrw mtvec, t0
    li s1, 1
each:
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    li a0, 0x1f1f
    call run
    li t0, 3
    beq s1, t0, 1f
    li a0, 0x1f1b
    call run
    li a0, 0x1f1f
    call run
    addi s1, s1, 1
    j each
1:
    li a0, 0x1f1b
    call run
    call done

run:                            # in S-mode, with a0 as pmpcfg0; several times
    addi sp, sp, -32
    sd ra, 0(sp)
    csrw pmpcfg0, a0
    li t0, WARM
    sd t0, 8(sp)
2:
    li t0, 0x1000
    csrc mstatus, t0
    li t0, 0x0800
    csrs mstatus, t0
    csrw mepc, s0
    la ra, leave
    mret
leave:
    ecall
    .align 2
trap:
    csrr t0, mcause
    li t1, 9
    beq t0, t1, 3f
    addi a0, t0, 100
3:
    ld t0, 8(sp)
    addi t0, t0, -1
    sd t0, 8(sp)
    bnez t0, 2b
    call report
    ld ra, 0(sp)
    addi sp, sp, 32
    ret

    .align 12
start:
    li t6, 2
victim:
    li a0, 0
    addi t6, t6, -1
    bnez t6, victim
    ret
    .align 12
