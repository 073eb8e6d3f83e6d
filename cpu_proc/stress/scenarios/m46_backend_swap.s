#: M46  backends are swapped, and code is patched before and behind each swap
#: expect 1 2 2 3 3 4 4 5 5
main:
    la s2, asks
    li s3, 1
    la a0, victim
    call warm
    call report
1:
    la a0, victim
    call warm                   # hot again, unless the backend makes nothing hot
    mv a0, s2
    call ask
    addi s3, s3, 1
    mv a0, s3
    call body
    la t0, middle
    sw a0, 0(t0)
    fence.i
    call victim
    call report                 # at once
    la a0, victim
    call warm
    call report
2:                              # the next text
    lbu t0, 0(s2)
    addi s2, s2, 1
    bnez t0, 2b
    lbu t0, 0(s2)
    bnez t0, 1b
    call done

    .data
asks:
    .asciz "swap reference"
    .asciz "swap none"
    .asciz "swap llvm,level=2"
    .asciz "swap llvm"
    .byte 0
    .text

    .align 12
victim:
    li t6, 3
1:
    addi t6, t6, -1
middle:
    li a0, 1
    bnez t6, 1b
    ret
    .align 12
