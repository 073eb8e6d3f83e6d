#: M1  a device writes memory that holds code: erase
#: expect 1 102 2 102 3 102
#: option pflash
# Code runs in place from flash; its block is erased, which leaves words that are no instructions.
main:
    la t0, caught
    csrw mtvec, t0
    li s0, BANK1
    li s1, 1
each:
    mv a0, s1
    call body
    mv a1, a0
    mv a0, s0
    call program
    addi a0, s0, 4
    li a1, RET
    call program
    call array
    mv a0, s0
    call warm
    call report
    li t0, 0x00200020           # erase the block
    sw t0, 0(s0)
    li t0, 0x00d000d0
    sw t0, 0(s0)
1:
    lw t0, 0(s0)
    andi t0, t0, 0x80
    beqz t0, 1b
    call array
    jalr ra, 0(s0)
    call report
    addi s1, s1, 1
    li t0, 4
    bne s1, t0, each
    call done

array:
    li t0, 0x00ff00ff
    sw t0, 0(s0)
    fence.i
    ret

    # Store the word a1 at a0 in flash, by a word program; command mode stays.
program:
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
2:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 2b
    ret
