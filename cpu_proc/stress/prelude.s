# What every scenario begins with. A program has `main`, run by hart 0 in M-mode with interrupts off,
# and may have `secondary`, run by the others (a0: the hart's number). sp is a stack of 4 KiB; traps
# nobody asked for end the program with a report of `trap CAUSE EPC`.
#
#   report    print a0 as one of the values that are compared. Keeps all but t0 to t6.
#   ask       have the outside world do what the text at a0 says (see `trial.py`); a0: its answer, a byte
#   warm      call the function a0 WARM times, so that it becomes hot; a0: what it returned last
#   times     call the function a0 a1 times; a0: what it returned last
#   settle    in mixed mode: wait until all regions asked for are there. Hart 0 only
#   done      the end; harts but 0 may use `park`
#   refresh   make what is hot count from the beginning: write the branch at a0 as it is; fence.i
#   supervise go on in S-mode under Sv39 with the root table at a0; all physical memory is allowed
#   caught    for mtvec: a call that traps returns 100 + the cause instead
#   body      a0: the instruction `li a0, N` for N in a0 (0 to 2047)
#   WARM, ROUNDS, MODE (0 tier 0, 1 regions, 2 mixed); UART, FINISHER, CLINT, BANK0, BANK1, RET

    .equ FINISHER, 0x100000
    .equ CLINT, 0x2000000
    .equ UART, 0x10000000
    .equ BANK0, 0x20000000
    .equ BANK1, 0x22000000
    .equ RET, 0x8067

    .text
_start:
    csrr a0, mhartid
    la sp, stacks_end
    slli t1, a0, 12
    sub sp, sp, t1
    la t1, unexpected
    csrw mtvec, t1
    li t1, 0x6000               # FS: dirty
    csrs mstatus, t1
    bnez a0, secondary
    li t0, MODE - 2
    bnez t0, 1f
    la a0, ready_text           # else all would be over before there is a translator
    call ask
1:
    j main

    .align 2
unexpected:
    la a0, trap_text
    call print
    csrr a0, mcause
    call number
    li a0, 32
    call put
    csrr a0, mepc
    call number
    li a0, 10
    call put
    li t0, 0x10003333
    li t1, FINISHER
    sw t0, 0(t1)
    j .

done:
    li t0, 0x5555
    li t1, FINISHER
    sw t0, 0(t1)
park:
    wfi
    j park

put:                            # the byte a0
    li t0, UART
1:
    lbu t1, 5(t0)
    andi t1, t1, 0x20
    beqz t1, 1b
    sb a0, 0(t0)
    ret

print:                          # the text at a0, up to a zero
    mv t4, a0
    mv t5, ra
2:
    lbu a0, 0(t4)
    beqz a0, 3f
    call put
    addi t4, t4, 1
    j 2b
3:
    jr t5

number:                         # a0 in decimal digits
    mv t5, ra
    addi sp, sp, -32
    addi t4, sp, 31
    sb zero, 0(t4)
    li t2, 10
4:
    remu t3, a0, t2
    divu a0, a0, t2
    addi t3, t3, 48
    addi t4, t4, -1
    sb t3, 0(t4)
    bnez a0, 4b
5:
    lbu a0, 0(t4)
    beqz a0, 6f
    call put
    addi t4, t4, 1
    j 5b
6:
    addi sp, sp, 32
    jr t5

report:
    addi sp, sp, -32
    sd a0, 0(sp)
    sd ra, 8(sp)
    li a0, 61
    call put
    ld a0, 0(sp)
    call number
    li a0, 10
    call put
    ld a0, 0(sp)
    ld ra, 8(sp)
    addi sp, sp, 32
    ret

ask:
    addi sp, sp, -32
    sd a0, 0(sp)
    sd ra, 8(sp)
    li a0, 33
    call put
    ld a0, 0(sp)
    call print
    li a0, 10
    call put
    li t0, UART
7:
    lbu t1, 5(t0)
    andi t1, t1, 1
    beqz t1, 7b
    lbu a0, 0(t0)
    ld ra, 8(sp)
    addi sp, sp, 32
    ret

warm:
    li a1, WARM
times:
    addi sp, sp, -32
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    mv s0, a0
    mv s1, a1
8:
    jalr ra, 0(s0)
    addi s1, s1, -1
    bnez s1, 8b
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    addi sp, sp, 32
    ret

settle:
    li t0, MODE - 2
    bnez t0, 1f
    la a0, settle_text
    j ask
1:
    ret

refresh:
    lw t0, 0(a0)
    sw t0, 0(a0)
    fence.i
    ret

supervise:
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    srli a0, a0, 12
    li t0, 8 << 60
    or a0, a0, t0
    csrw satp, a0
    sfence.vma
    csrw mepc, ra
    li t0, 0x1000
    csrc mstatus, t0
    li t0, 0x0800
    csrs mstatus, t0
    mret

    .align 2
caught:
    csrr a0, mcause
    addi a0, a0, 100
    csrw mepc, ra
    mret

body:
    slli a0, a0, 20
    addi a0, a0, 0x513
    ret

settle_text:
    .asciz "settle"
ready_text:
    .asciz "ready"
trap_text:
    .asciz "trap "
    .align 2
