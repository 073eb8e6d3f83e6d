#: M10  a permission changes after the TLB was filled
#: expect 112 1 2 112 7 2 112 1 2 112 7 2
# A page is written while it may not be executed, run when it may, written, run; then it may not be
# executed any more; then another page stands at its address, then the first one again.
    .equ VIEW, 0x40055000         # no other code has its place in a TLB of 256 entries
main:
    la t0, caught
    csrw mtvec, t0
    la a0, root                 # 1 GiB each: devices, and RAM
    li t1, 0xcf
    sd t1, 0(a0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(a0)
    la t0, middle
    srli t1, t0, 2
    ori t1, t1, 1
    sd t1, 8(a0)
    la s2, leaf
    srli t1, s2, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    la t0, page
    srli s3, t0, 2              # entries: without flags
    la t0, other
    srli s4, t0, 2
    call supervise
    li s0, VIEW
    li s5, 2
each:
    ori t0, s3, 0xc7            # not executable
    call set
    li a0, 1
    call body
    sw a0, 4(s0)
    fence.i
    call run
    ori t0, s3, 0xcf
    call set
    call run
    li a0, 2
    call body
    sw a0, 4(s0)
    fence.i
    call run
    ori t0, s3, 0xc7
    call set
    call run
    ori t0, s4, 0xcf
    call set
    call run
    ori t0, s3, 0xcf
    call set
    call run
    addi s5, s5, -1
    bnez s5, each
    call done

set:                            # the leaf entry
    sd t0, 0x55 * 8(s2)
    sfence.vma s0
    ret

run:
    addi sp, sp, -16
    sd ra, 0(sp)
    mv a0, s0
    call warm
    call report
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 12
page:
    li t6, 2
    li a0, 0
    addi t6, t6, -1
    bnez t6, page + 4
    ret
    .align 12
other:
    li t6, 2
    li a0, 7
    addi t6, t6, -1
    bnez t6, other + 4
    ret
    .align 12
root:
    .space 4096
middle:
    .space 4096
leaf:
    .space 4096
