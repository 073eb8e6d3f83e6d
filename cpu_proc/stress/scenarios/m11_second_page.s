#: M11  an instruction over a page's edge: its second page is mapped elsewhere
#: expect 1 2 1 2
# Two pages in a row; the second one's entry points to one page and to another, by turns.
    .equ VIEW, 0x40000000
    .equ SOME, WARM & 1023      # each one is looked up by a walk: not 100,000
main:
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
    la t0, first
    srli t0, t0, 2
    ori t0, t0, 0xcf
    sd t0, 0(s2)
    call supervise
    li s0, VIEW + 4088
    li s1, VIEW + 4096
    li s5, 2
each:
    la t0, one
    call set
    mv a0, s0
    li a1, SOME
    call times
    call report
    la t0, two
    call set
    mv a0, s0
    li a1, SOME
    call times
    call report
    addi s5, s5, -1
    bnez s5, each
    call done

set:                            # the second page
    srli t0, t0, 2
    ori t0, t0, 0xcf
    sd t0, 8(s2)
    sfence.vma s1
    ret

    .align 12
first:
    .space 4088
    li t6, 2
    c.nop
    .half 0x0513                # li a0, N
one:
    .half 1 << 4
    addi t6, t6, -1
    bnez t6, one - 2
    ret
    .align 12
two:
    .half 2 << 4
    addi t6, t6, -1
    bnez t6, two - 2
    ret
    .align 12
root:
    .space 4096
middle:
    .space 4096
leaf:
    .space 4096
