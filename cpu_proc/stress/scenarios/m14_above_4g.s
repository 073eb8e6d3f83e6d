#: M14  a table's index drops address bits
#: expect 1 2 1 3 4 3 1 2 1 3 4 3
#: option bigram
# Two functions whose addresses differ by 4 GiB. One is patched, both are run.
    .equ LOW, 0x82055000          # no other code has its place in a TLB of 256 entries
main:
    li s2, LOW
    li s3, 1 << 32
    add s3, s3, s2
    li s5, 2
each:
    mv a1, s2
    li a0, 1
    call make
    mv a1, s3
    li a0, 2
    call make
    mv a0, s2
    call warm
    call report
    mv a0, s3
    call warm
    call report
    mv a1, s3
    li a0, 3
    call make
    mv a0, s2
    call warm
    call report
    mv a0, s3
    call warm
    call report
    mv a1, s2
    li a0, 4
    call make
    mv a0, s2
    call warm
    call report
    mv a0, s3
    call warm
    call report
    addi s5, s5, -1
    bnez s5, each
    call done

make:                           # at a1, a function that returns a0
    mv t5, ra
    call body
    la t0, pattern
    lw t1, 0(t0)
    sw t1, 0(a1)
    sw a0, 4(a1)
    lw t1, 8(t0)
    sw t1, 8(a1)
    lw t1, 12(t0)
    sw t1, 12(a1)
    lw t1, 16(t0)
    sw t1, 16(a1)
    fence.i
    jr t5

pattern:
    li t6, 2
    li a0, 0
    addi t6, t6, -1
    bnez t6, pattern + 4
    ret
