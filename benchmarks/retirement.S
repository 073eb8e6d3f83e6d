# The guest of retirement.py: each operation in a loop of COUNT, timed by the guest itself, round after round.
#
# Bare metal from RAM's start in M-mode, the same on every emulator. One line of output a round: ticks of 100 ns each
# operation's loop took, in hexadecimal, in the order of `table`. A wrong result of patched code ends the run with
# status 1. TICKS is how long to go on.
#
# Registers: s0 end of the run, s1 row of the table, s2 function, s3 and s4 times; an operation may use the others.

    .equ UART, 0x10000000
    .equ FINISHER, 0x100000
    .equ MTIMECMP, 0x2004000
    .equ RAM, 0x80000000
    .equ MEMORY, RAM + 0x400000     # 16 pages to touch
    .equ WINDOW, 0x40000000         # where S-mode sees them
    .equ MSTATUS_FS, 0x6000
    .equ MPP, 0x1800
    .equ MPP_S, 0x800
    .equ SV39, 8 << 60

    .text
start:
    csrr t0, mhartid
    bnez t0, park
    la sp, stack_end
    la t0, handler
    csrw mtvec, t0
    li t0, MSTATUS_FS
    csrs mstatus, t0
    li t0, -1                       # PMP: everything to everybody
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    li t0, -1
    li t1, MTIMECMP
    sd t0, 0(t1)
    li t0, 1 << 7                   # a machine timer that never comes is enabled, as in a real system
    csrw mie, t0
    call make_tables
    csrr s0, time
    li t0, TICKS
    add s0, s0, t0

round:
    la s1, table
1:  ld s2, 0(s1)
    beqz s2, 2f
    ld a0, 8(s1)
    csrr s3, time
    jalr s2
    csrr s4, time
    sub a0, s4, s3
    call print
    addi s1, s1, 16
    j 1b
2:  li t1, UART
    li t0, 10
    sb t0, 0(t1)
    csrr t0, time
    bltu t0, s0, round
    li t0, 0x5555
    li t1, FINISHER
    sw t0, 0(t1)
    j .
wrong:
    li t0, 0x13333
    li t1, FINISHER
    sw t0, 0(t1)
park:
    wfi
    j park

print:                              # a0 as hexadecimal digits and a blank
    li t1, UART
    li t2, 28
1:  srl t0, a0, t2
    andi t0, t0, 15
    addi t0, t0, '0'
    li t3, '9'
    bleu t0, t3, 2f
    addi t0, t0, 39
2:  sb t0, 0(t1)
    addi t2, t2, -4
    bgez t2, 1b
    li t0, ' '
    sb t0, 0(t1)
    ret

    .align 3
table:
    .dword patch, N_PATCH
    .dword rewrite, N_REWRITE
    .dword fence, N_FENCE
    .dword store_plain, N_STORE
    .dword store_beside, N_STORE
    .dword fence_vma, N_VMA
    .dword satp_asid, N_VMA
    .dword satp_plain, N_VMA
    .dword environment_call, N_CALL
    .dword hot_alone, N_STORE
    .dword 0

# --- code that changes ------------------------------------------------------------------------------------------

patch:                              # one instruction, fence.i, call
    mv s5, ra
    mv s6, a0
    la s7, victim
    li s8, 0x00000513               # li a0, 0
    li s9, 1 << 20
1:  sw s8, 0(s7)
    fence.i
    jalr s7
    srli t0, s8, 20
    bne a0, t0, wrong
    xor s8, s8, s9
    addi s6, s6, -1
    bnez s6, 1b
    jr s5

rewrite:                            # 256 instructions, fence.i, run once
    mv s5, ra
    mv s6, a0
    la s7, body
    li s8, 0x00150513               # addi a0, a0, 1
    li s9, 1 << 20
    la s10, body + 1020
1:  mv t1, s7
2:  sw s8, 0(t1)
    addi t1, t1, 4
    bne t1, s10, 2b
    li t0, 0x00008067               # ret
    sw t0, 0(t1)
    fence.i
    li a0, 0
    jalr s7
    srli t0, s8, 20
    li t1, 255
    mul t0, t0, t1
    bne a0, t0, wrong
    li t0, 3 << 20                  # adds 1, then 2
    xor s8, s8, t0
    addi s6, s6, -1
    bnez s6, 1b
    jr s5

fence:                              # fence.i, eight a turn, with nothing changed
1:  fence.i
    fence.i
    fence.i
    fence.i
    fence.i
    fence.i
    fence.i
    fence.i
    addi a0, a0, -8
    bgtz a0, 1b
    ret

# --- data -------------------------------------------------------------------------------------------------------

store_plain:
    la t1, plain
    j store
store_beside:                       # to another line of the page that holds the loop itself
    la t1, beside
    j store

    .balign 4096
store:                              # eight stores a turn
1:  sd a0, 0(t1)
    sd a0, 8(t1)
    sd a0, 16(t1)
    sd a0, 24(t1)
    sd a0, 32(t1)
    sd a0, 40(t1)
    sd a0, 48(t1)
    sd a0, 56(t1)
    addi a0, a0, -8
    bgtz a0, 1b
    ret
    .balign 64
hot_alone:                          # a loop that stores nothing
1:  addi t1, t1, 1
    xor t2, t2, t1
    add t2, t2, a0
    addi a0, a0, -1
    bgtz a0, 1b
    ret
    .balign 64
beside:
    .space 64
    .balign 4096

# --- translation ------------------------------------------------------------------------------------------------

to_supervisor:                      # go on behind the call in S-mode, with translation by satp = a1
    li t0, MPP
    csrc mstatus, t0
    li t0, MPP_S
    csrs mstatus, t0
    csrw mepc, ra
    csrw satp, a1
    sfence.vma
    mret
to_machine:                         # and back; a7 = 1 says so
    li a7, 1
    ecall
    csrw satp, zero
    sfence.vma
    ret

    .align 2
handler:
    bnez a7, 1f
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    mret
1:  li a7, 0
    csrr t0, mcause
    addi t0, t0, -9                 # what is not an ecall from S is a mistake
    beqz t0, 2f
    j wrong
2:  csrr t0, mepc
    addi t0, t0, 4
    jr t0

fence_vma:
    mv s5, ra
    mv s6, a0
    la t0, satp_values
    ld a1, 0(t0)
    call to_supervisor
    li s7, WINDOW
    li s8, 4096
1:  sfence.vma
    call touch
    addi s6, s6, -1
    bnez s6, 1b
    call to_machine
    jr s5

satp_asid:                          # two address spaces with an ASID each: no fence is needed
    mv s5, ra
    mv s6, a0
    la t0, satp_values
    ld s9, 0(t0)
    ld s10, 8(t0)
    mv a1, s9
    call to_supervisor
    li s7, WINDOW
1:  csrw satp, s10
    call touch
    xor s9, s9, s10
    xor s10, s9, s10
    xor s9, s9, s10
    addi s6, s6, -1
    bnez s6, 1b
    call to_machine
    jr s5

satp_plain:                         # two without: a fence after each switch
    mv s5, ra
    mv s6, a0
    la t0, satp_values
    ld s9, 16(t0)
    ld s10, 24(t0)
    mv a1, s9
    call to_supervisor
    li s7, WINDOW
1:  csrw satp, s10
    sfence.vma
    call touch
    xor s9, s9, s10
    xor s10, s9, s10
    xor s9, s9, s10
    addi s6, s6, -1
    bnez s6, 1b
    call to_machine
    jr s5

touch:                              # load from each of 16 pages
    li t1, 0x1000
    mv t0, s7
    li t2, WINDOW + 0x10000
1:  ld a0, 0(t0)
    add t0, t0, t1
    bne t0, t2, 1b
    ret

environment_call:
    mv s5, ra
    mv s6, a0
    li a1, 0
    call to_supervisor
    li a7, 0
1:  ecall
    addi s6, s6, -1
    bnez s6, 1b
    call to_machine
    jr s5

make_tables:                        # two trees: RAM by its identity in 2 MiB pages, and the window in 4 KiB ones
    la t0, satp_values
    la t1, roots
    li t6, 0
1:  slli t2, t6, 14                 # 16 KiB a tree: root, middle of RAM, middle of the window, leaves
    add t2, t2, t1
    srli t3, t2, 12
    li t4, SV39
    or t4, t4, t3
    slli t5, t6, 3
    add t5, t5, t0
    sd t4, 16(t5)                   # ASID 0
    addi t3, t6, 1
    slli t3, t3, 44
    or t4, t4, t3
    sd t4, 0(t5)                    # ASID 1 or 2
    li t3, 0x1000
    add t3, t2, t3                  # middle of RAM
    srli t4, t3, 2
    ori t4, t4, 1
    sd t4, 16(t2)
    li t4, RAM >> 2 | 0xcf
    sd t4, 0(t3)
    li t4, (RAM + 0x200000) >> 2 | 0xcf
    sd t4, 8(t3)
    li t3, 0x2000
    add t3, t2, t3
    srli t4, t3, 2
    ori t4, t4, 1
    sd t4, 8(t2)                    # WINDOW is in the second gigabyte
    li t5, 0x3000
    add t5, t2, t5
    srli t4, t5, 2
    ori t4, t4, 1
    sd t4, 0(t3)
    li t4, MEMORY >> 2 | 0xc7       # A and D set, R, W
    li t3, 16
2:  sd t4, 0(t5)
    addi t4, t4, 0x400
    addi t5, t5, 8
    addi t3, t3, -1
    bnez t3, 2b
    addi t6, t6, 1
    li t3, 2
    bne t6, t3, 1b
    ret

# --- memory -----------------------------------------------------------------------------------------------------

    .balign 4096
victim:
    li a0, 0
    ret
    .balign 4096
body:
    .space 4096
plain:
    .space 4096
    .balign 4096
satp_values:
    .space 32
    .balign 4096
    .space 4096
stack_end:
    .balign 4096
roots:
    .space 0x8000
