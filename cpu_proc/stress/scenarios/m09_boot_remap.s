#: M9  remap of a guest-physical range: flash, RAM, flash at one address
#: expect 1 2 1 2 3 4 3 4
#: option boot-remap pflash
# A window shows flash or RAM, as a register says; each holds a function of its own at one address.
# In the second half each is patched while the other one is shown.
    .equ VIEW, 0x102004
    .equ PLACE, 0x555000        # no other code has its place in a TLB of 256 entries
    .equ WINDOW, 0x24000000 + PLACE
    .equ IN_FLASH, BANK0 + PLACE
    .equ IN_RAM, 0x80000000 + PLACE
main:
    la s4, model                # the same function in both, but for what it returns
    li s5, 0
1:
    lw a1, 0(s4)
    li a0, IN_FLASH
    add a0, a0, s5
    call program
    lw a1, 0(s4)
    li t0, IN_RAM
    add t0, t0, s5
    sw a1, 0(t0)
    addi s4, s4, 4
    addi s5, s5, 4
    li t0, 20
    bne s5, t0, 1b
    li a0, 1
    call flash
    li a0, 2
    call ram
    li a0, 0
    call show
    li a0, 1
    call show
    li a0, 0
    call show
    li a0, 1
    call show
    li a0, 3
    call flash
    li a0, 0
    call show
    li a0, 4
    call ram
    li a0, 1
    call show
    li a0, 0
    call show
    li a0, 1
    call show
    call done

show:                           # flash or RAM (0 or 1); run and report
    addi sp, sp, -16
    sd ra, 0(sp)
    li t0, VIEW
    sw a0, 0(t0)
    fence.i
    li a0, WINDOW
    call warm
    call report
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

flash:                          # a0: what the one in flash returns from now on
    addi sp, sp, -16
    sd ra, 0(sp)
    call body
    mv a1, a0
    li a0, IN_FLASH + 4
    call program
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

ram:
    addi sp, sp, -16
    sd ra, 0(sp)
    call body
    li t0, IN_RAM + 4
    sw a0, 0(t0)
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

program:                        # the word a1 at a0 in flash, and back to the array
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
1:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 1b
    li t0, 0x00ff00ff
    sw t0, 0(a0)
    ret

model:
    li t6, 2
    li a0, 0
    addi t6, t6, -1
    bnez t6, model + 4
    ret
