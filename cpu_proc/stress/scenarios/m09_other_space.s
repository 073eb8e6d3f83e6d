#: M9  remap of a guest-physical range that another address space looks at
#: expect 1 2 2 2 1 1 1 2 2 2 1 1
#: option boot-remap pflash
# A window shows flash or RAM, as a register says; each holds a function of its own at one address.
# Two spaces with an ASID each map the window's page. What is shown changes in one of them, and both
# run it; no fence but fence.i is needed.
    .equ SHOWN, 0x102004
    .equ PLACE, 0x555000
    .equ WINDOW, 0x24000000 + PLACE
    .equ IN_FLASH, BANK0 + PLACE
    .equ IN_RAM, 0x80000000 + PLACE
    .equ VIEW, 0x40055000         # no other code has its place in a TLB of 256 entries
main:
    la s4, model                  # the same function in both, but for what it returns
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
    call body
    mv a1, a0
    li a0, IN_FLASH + 4
    call program
    li a0, 2
    call body
    li t0, IN_RAM + 4
    sw a0, 0(t0)
    fence.i
    li s5, 2                      # spaces to make
    la s0, tables
2:
    li t1, 0xcf                   # 1 GiB each: devices, and RAM
    sd t1, 0(s0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(s0)
    li t0, 4096
    add t0, t0, s0
    srli t1, t0, 2
    ori t1, t1, 1
    sd t1, 8(s0)
    li t1, 4096
    add s1, t0, t1
    srli t1, s1, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    li t1, (WINDOW >> 2) | 0xcf
    sd t1, 0x55 * 8(s1)
    srli t1, s0, 12               # satp
    slli t2, s5, 44               # ASID: 2, then 1
    or t1, t1, t2
    li t2, 8 << 60
    or t1, t1, t2
    mv s7, s6
    mv s6, t1
    li t0, 12288
    add s0, s0, t0
    addi s5, s5, -1
    bnez s5, 2b
    la a0, tables
    call supervise
    li s5, 2
each:
    li a0, 0
    call show
    csrw satp, s6
    call run                      # 1
    li a0, 1
    call show
    csrw satp, s7
    call run                      # 2
    csrw satp, s6
    call run                      # 2
    csrw satp, s7
    call run                      # 2
    li a0, 0
    call show
    csrw satp, s6
    call run                      # 1
    csrw satp, s7
    call run                      # 1
    addi s5, s5, -1
    bnez s5, each
    call done

show:                             # flash or RAM (0 or 1)
    li t0, SHOWN
    sw a0, 0(t0)
    fence.i
    ret

run:
    addi sp, sp, -16
    sd ra, 0(sp)
    li a0, VIEW
    call warm
    call report
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

program:                          # the word a1 at a0 in flash, and back to the array
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
3:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 3b
    li t0, 0x00ff00ff
    sw t0, 0(a0)
    ret

model:
    li t6, 2
    li a0, 0
    addi t6, t6, -1
    bnez t6, model + 4
    ret

    .align 12
tables:
    .space 24576
