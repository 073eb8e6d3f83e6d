#: M24  one address is two pages in two modes, entered by mret
#: expect 1 2 1 2 1 2
# Machine mode sees the body that returns 1 at AT, supervisor mode the one that returns 2.
    .equ AT, 0x80205000
    .equ OTHER, 0x80405000
main:
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la t0, handler
    csrw mtvec, t0
    li s0, AT
    li a0, 1
    call write
    li s0, OTHER
    li a0, 2
    call write
    fence.i
    la t0, root                 # the third GiB by pages of 2 MiB: the first as it is, AT is OTHER
    la t1, table
    srli t2, t1, 2
    ori t2, t2, 1
    sd t2, 16(t0)
    li t2, (0x80000000 >> 2) | 0xcf
    sd t2, 0(t1)
    li t2, (0x80400000 >> 2) | 0xcf
    sd t2, 8(t1)
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    li s1, 3
again:
    li a0, AT
    call warm
    call report
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x0800
    csrs mstatus, t0
    li t0, AT
    csrw mepc, t0
    la ra, back
    mret
back:
    ecall
    .align 2
handler:                        # from supervisor mode; it stays machine mode here
    call report
    addi s1, s1, -1
    bnez s1, again
    call done

write:                          # at s0, a body that counts to 3 and returns a0
    addi sp, sp, -16
    sd ra, 8(sp)
    call body
    la t0, pattern
    li t1, 5
1:
    lw t2, 0(t0)
    bnez t2, 2f
    mv t2, a0
2:
    sw t2, 0(s0)
    addi t0, t0, 4
    addi s0, s0, 4
    addi t1, t1, -1
    bnez t1, 1b
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

    .align 2
pattern:
    .word 0x00300f93            # li t6, 3
    .word 0xffff8f93            # addi t6, t6, -1
    .word 0                     # li a0, N
    .word 0xfe0f9ce3            # bnez t6, .-8
    .word RET

    .data
    .align 12
root:
    .space 4096
table:
    .space 4096
