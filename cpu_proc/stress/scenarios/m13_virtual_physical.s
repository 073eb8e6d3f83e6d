#: M13  a virtual page number is taken for a physical one
#: expect 1 1 2 2 3 3 4 4 5 5 6 6
# A page's virtual address is the physical address of another page of RAM. It is patched by the
# identity map and run by the other, and the other way round.
    .equ VIEW, 0x82000000
main:
    la a0, root                 # 1 GiB of devices; RAM by 2 MiB, but for VIEW by 4 KiB
    li t1, 0xcf
    sd t1, 0(a0)
    la t0, middle
    srli t1, t0, 2
    ori t1, t1, 1
    sd t1, 16(a0)
    li t1, (0x80000000 >> 2) | 0xcf
    li t2, 32
    mv t3, t0
1:
    sd t1, 0(t3)
    addi t3, t3, 8
    li t4, 0x200000 >> 2
    add t1, t1, t4
    addi t2, t2, -1
    bnez t2, 1b
    la t1, leaf
    srli t2, t1, 2
    ori t2, t2, 1
    sd t2, 128(t0)
    la t0, start
    srli t0, t0, 2
    ori t0, t0, 0xcf
    sd t0, 0(t1)
    call supervise
    la s4, victim
    la s9, start
    li s10, VIEW
    sub s5, s4, s9
    add s5, s5, s10
    li s1, 1
each:
    mv a0, s1
    call body
    sw a0, 0(s4)
    fence.i
    mv a0, s10
    call warm
    call report
    mv a0, s9
    call warm
    call report
    la a0, branch
    call refresh
    mv a0, s10
    call warm
    call settle
    mv t0, s4
    mv s4, s5
    mv s5, t0
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

    .align 12
start:
    li t6, 2
victim:
    li a0, 0
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret

    .align 12
root:
    .space 4096
middle:
    .space 4096
leaf:
    .space 4096
