#: M11  an instruction over a page's edge: its tail is patched
#: expect 1 2 3 4 5 6
# Four bytes, two in each of two pages; only what stands in the second page is written.
main:
    li s1, 1
each:
    slli t0, s1, 4              # the upper half of `li a0, N`
    la t1, tail
    sh t0, 0(t1)
    fence.i
    la a0, start
    call warm
    call report
    la a0, branch
    call refresh
    la a0, start
    call warm
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

    .align 12
    .space 4088
start:
    li t6, 2
    c.nop
victim:
    .half 0x0513                # li a0, N
tail:
    .half 0
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
