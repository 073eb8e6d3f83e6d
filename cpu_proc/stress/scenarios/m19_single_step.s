#: M19  one tier is forgotten: single steps
#: expect 2 2 3 3 4 4 5 5
# A hot function is patched, and run once, while the host executes the guest one instruction at a
# time; then it runs by itself.
main:
    li s1, 2
each:
    mv a0, s1
    call body
    mv s3, a0
    la a0, start
    call warm
    call settle
    la a0, text
    call ask
    la t0, victim               # from here on by single steps
    sw s3, 0(t0)
    fence.i
    la a0, start
    jalr ra, 0(a0)
    call report                 # and somewhere in here no more
    la a0, start
    call warm
    call report
    la a0, branch
    call refresh
    addi s1, s1, 1
    li t0, 6
    bne s1, t0, each
    call done

text:
    .asciz "step 40"
    .align 6
start:
    li t6, 2
head:
    addi t5, t6, 1
    addi t5, t5, 1
victim:
    li a0, 1
    addi t6, t6, -1
    .align 6
branch:
    bnez t6, head
    ret
