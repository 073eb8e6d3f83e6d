"""What stands round a random program's operations: entry, handlers, page tables, the end.

The problem: operations are chosen at random, so all that must not fail is fixed here: the state
that a reset keeps, the handler that turns any exception in a function into a result, the way into
S- and U-mode, and the last report, a hash of all code and data.

Read next: `random_program.py`.
"""

MAIN = """
    .equ KEPT, 0x80800000
main:                           # what a reset ROM leaves in registers is its own affair
    li a0, 0
    li a1, 0
    li a2, 0
    li a3, 0
    li a4, 0
    li a5, 0
    li a6, 0
    li a7, 0
    li t1, 0
    li t2, 0
    li t4, 0
    li t5, 0
    li t6, 0
    la t0, handler
    csrw mtvec, t0
    li s6, KEPT
    ld s1, 0(s6)                # the segment, and the checksum so far
    ld s0, 8(s6)
    la s7, registers            # where the handler keeps what it uses
    csrw mscratch, s7
    la t3, data
    j enter
begin:
    la t0, segments
    slli t1, s1, 3
    add t0, t0, t1
    ld t0, 0(t0)
    jr t0
again:                          # a reset, and the next segment after it
    addi s1, s1, 1
    sd s1, 0(s6)
    sd s0, 8(s6)
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
1:
    j 1b

finish:                         # the last report: all code and data
    la a1, code
    la a2, data_end
    li a0, 0
1:
    ld a3, 0(a1)
    slli t1, a0, 5
    srli t2, a0, 59
    or a0, t1, t2
    add a0, a0, a3
    addi a1, a1, 8
    bltu a1, a2, 1b
    xor a0, a0, s0
    call report
    call done

fold:                           # a0 to a2 into the checksum
    slli t1, s0, 7
    srli t2, s0, 57
    or s0, t1, t2
    xor s0, s0, a0
    add s0, s0, a1
    xor s0, s0, a2
    la t3, data
    ret

loop:                           # the function t0, t1 times
    addi sp, sp, -32
    sd ra, 0(sp)
    sd s2, 8(sp)
    sd s3, 16(sp)
    mv s2, t0
    mv s3, t1
1:
    jalr ra, 0(s2)
    addi s3, s3, -1
    bnez s3, 1b
    ld ra, 0(sp)
    ld s2, 8(sp)
    ld s3, 16(sp)
    addi sp, sp, 32
    ret

copy2:
    lhu t4, 0(t0)
    sh t4, 0(t1)
    addi t0, t0, 2
    addi t1, t1, 2
    addi t2, t2, -1
    bnez t2, copy2
    ret
copy4:
    lwu t4, 0(t0)
    sw t4, 0(t1)
    addi t0, t0, 4
    addi t1, t1, 4
    addi t2, t2, -1
    bnez t2, copy4
    ret

    # Any exception but the services of `ecall` ends the function: a0 is the cause, and back to ra.
    .align 2
handler:
    csrrw s7, mscratch, s7
    sd t4, 0(s7)
    sd t5, 8(s7)
    csrr t4, mcause
    li t5, 8
    beq t4, t5, from_user
    li t5, 9
    beq t4, t5, service
    li t5, 11
    beq t4, t5, service
    addi a0, t4, 1000
    csrr t4, mstatus            # an exception in U-mode ends the excursion
    srli t4, t4, 11
    andi t4, t4, 3
    li t5, 3
    beq t4, t5, 1f
    beqz t4, back
1:
    csrw mepc, ra
    j leave
service:
    csrr t4, mepc
    addi t4, t4, 4
    csrw mepc, t4
    bnez a7, to_user
    sw a1, 0(a0)
    fence.i
leave:
    ld t4, 0(s7)
    ld t5, 8(s7)
    csrrw s7, mscratch, s7
    mret
to_user:
    sd t4, 16(s7)               # where to go on in S-mode
    csrw mepc, t0
    li t4, 0x1800
    csrc mstatus, t4
    j leave
from_user:
back:
    ld t4, 16(s7)
    csrw mepc, t4
    li t4, 0x1800
    csrc mstatus, t4
    li t4, 0x800
    csrs mstatus, t4
    j leave
"""

BARE = """
enter:
    j begin
"""

VIRTUAL = """
enter:                          # identity by gigapages; code pages again at 0x40000000
    la t0, leaves
    li t1, 0                    # the page
    la t2, code
1:
    srli t4, t2, 2
    ori t5, t4, 0xcf            # alias
    sd t5, 0(t0)
    sd t5, 128(t0)              # window
    ori t5, t4, 0xdf            # U-mode
    sd t5, 256(t0)
    li t4, 4096
    add t2, t2, t4
    addi t0, t0, 8
    addi t1, t1, 1
    li t4, 4
    bne t1, t4, 1b
    la t4, user_page
    srli t4, t4, 2
    ori t5, t4, 0xdf            # behind them, the way back from U-mode
    sd t5, 256(t0)
    li t4, -1
    srli t4, t4, 10
    csrw pmpaddr0, t4
    li t4, 0x1f
    csrw pmpcfg0, t4
    la t4, root
    srli t4, t4, 12
    li t5, 8
    slli t5, t5, 60
    or t4, t4, t5
    csrw satp, t4
    sfence.vma
    li t4, 0x1800
    csrc mstatus, t4
    li t4, 0x800
    csrs mstatus, t4
    la t4, begin
    csrw mepc, t4
    mret

in_user:                        # the function t0 in U-mode
    addi sp, sp, -16
    sd ra, 0(sp)
    li ra, 0x40024000
    li a7, 1
    ecall
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 12
user_page:
    ecall
    j .
    .align 12
root:
    .dword 0xcf, middle_entry, 0x200000cf
    .space 4096 - 24
middle:
    .dword leaves_entry
    .space 4096 - 8
leaves:
    .space 4096
    .equ middle_entry, (middle >> 2) + 1
    .equ leaves_entry, (leaves >> 2) + 1
"""

DATA = """
    .align 3
data:
    .space 256
data_end:
registers:
    .space 64
"""
