#: M19  one tier is forgotten
#: expect 1 2 2 3 3 4 4 5 5 6 6
# A function of several blocks is hot; an instruction in its middle, where nothing enters, is patched.
# It is run at once, and again when it is hot again.
main:
    la a0, start
    call warm
    call report
    li s1, 2
each:
    la a0, branch
    call refresh
    la a0, start
    call warm
    call settle
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    la a0, start
    jalr ra, 0(a0)
    call report
    la a0, start
    call warm
    call report
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

    .align 6
start:
    li t6, 2
head:
    addi t5, t6, 1
    bgtz t5, 1f
    nop
1:
    addi t5, t5, 1
    addi t5, t5, 1
victim:
    li a0, 1
    addi t5, t5, 1
    addi t6, t6, -1
    .align 6
branch:
    bnez t6, head
    ret
