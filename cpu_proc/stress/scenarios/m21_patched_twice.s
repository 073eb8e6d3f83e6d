#: M21  the translator keeps its copy of a page's bytes
#: expect 1 2 3 4 5
# One word is patched again and again, and nothing else is fetched in between.
main:
    li s0, 1
again:
    mv a0, s0
    call body
    la t0, victim
    sw a0, 0(t0)
    la a0, branch
    call refresh
    la a0, start
    call warm
    call settle
    la a0, start
    call warm
    call report
    addi s0, s0, 1
    li t0, 6
    bne s0, t0, again
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
