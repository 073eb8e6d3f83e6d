#: M1  a device writes memory that holds code
#: expect 1 2 3 4 5 6
#: option pflash
# Code runs in place from flash; the flash is programmed under it, five times over.
main:
    li s0, BANK1
    addi a0, s0, 4
    li a1, RET
    call program
    li s1, 1
each:
    mv a0, s1
    call body
    mv a1, a0
    mv a0, s0
    call program
    li t0, 0x00ff00ff           # back to the array
    sw t0, 0(s0)
    fence.i
    mv a0, s0
    call warm
    call report
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

    # Store the word a1 at a0 in flash, by a word program; command mode stays.
program:
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
1:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 1b
    ret
