# The guest of the demonstration: M-mode firmware that tries to catch its machine running stale code.
#
# It works in one mode at a time, in pieces of a few milliseconds. Every piece ends in a check that
# this guest makes itself: a result is right, or an instruction that is no longer there was executed.
# Modes and orders are single letters on the serial port (see `orders`); every 25 ms it reports
#
#     MODE PIECES INSTRUCTIONS TICKS CHECKS STALE PAUSE
#
# in decimal: what it did since its last report and how long that took (10 MHz), then the totals of
# checks made and failed since power-on, and the longest time a piece took since the last order.
# Other lines begin with a word: `boot COUNT ANSWER`, `ready`, `end CHECKS STALE`, `trap CAUSE PC`.
#
# Read next: cpu_proc/demo.py, which gives the orders. Any `virt` machine runs this: try the letters
# by hand.

        .equ UART, 0x10000000
        .equ FINISHER, 0x100000
        .equ LEDGER, 0x80040000         # beyond the image: a reset restores the image, not this
        .equ SIEVE, 0x80050000
        .equ SIEVE_SIZE, 8192
        .equ WINDOW, 250000             # ticks between two reports
        .equ ANSWER, 42
        .equ PRIMES_HASH, 0xb56f7e9d90c282b1  # what eight sieves must come to

        # The ledger.
        .equ MAGIC, 0
        .equ BOOTS, 8
        .equ CHECKS, 16
        .equ STALE, 24
        .equ ORDER, 32                  # the host sets it: `spin` patches itself

        # s0 UART, s1 ledger, s2 mode's letter, s3 mode's piece, s4 the longest piece, s5 pieces,
        # s6 and s7 instret and time at the last report, s8 what `hot` adds, s9 what `answer` returns,
        # s10 what `spin` adds, s11 time at the last piece's end.

start:  la   t0, trapped
        csrw mtvec, t0
        li   s0, UART
        li   s1, LEDGER
        mv   sp, s1
        li   s2, 'w'
        la   s3, work
        ld   t0, MAGIC(s1)
        li   t1, 0xc01db007
        beq  t0, t1, 1f
        sd   t1, MAGIC(s1)              # power-on
        sd   zero, BOOTS(s1)
        sd   zero, CHECKS(s1)
        sd   zero, STALE(s1)
        sd   zero, ORDER(s1)
        j    2f
1:      li   s2, 'a'                    # after a reset: is the answer the one of the image?
        la   s3, answers
2:      ld   t0, BOOTS(s1)
        addi t0, t0, 1
        sd   t0, BOOTS(s1)
        li   s8, 1
        li   s9, ANSWER
        li   s10, 1
        la   a0, text_boot
        call print
        ld   a0, BOOTS(s1)
        call print_number
        call answer
        call print_number
        call new_line
        j    window

# --- the loop: pieces, reports, orders --------------------------------------------------------------

window: rdtime s7
        rdinstret s6
        mv   s11, s7
        li   s5, 0
piece:  jalr s3                         # a0 checks made, a1 failed
        ld   t0, CHECKS(s1)
        ld   t1, STALE(s1)
        add  t0, t0, a0
        add  t1, t1, a1
        sd   t0, CHECKS(s1)
        sd   t1, STALE(s1)
        addi s5, s5, 1
        rdtime t2
        sub  t3, t2, s11
        mv   s11, t2
        bleu t3, s4, 1f
        mv   s4, t3
1:      sub  t3, t2, s7
        li   t4, WINDOW
        bltu t3, t4, piece
        call report
        lbu  t0, 5(s0)
        andi t0, t0, 1
        beqz t0, window
        lbu  a0, 0(s0)
        li   s4, 0
        call obey
        j    window

report: addi sp, sp, -16
        sd   ra, 0(sp)
        rdinstret a0
        sub  s6, a0, s6
        sub  s7, t2, s7
        sb   s2, 0(s0)
        mv   a0, s5
        call print_number
        mv   a0, s6
        call print_number
        mv   a0, s7
        call print_number
        ld   a0, CHECKS(s1)
        call print_number
        ld   a0, STALE(s1)
        call print_number
        mv   a0, s4
        call print_number
        call new_line
        ld   ra, 0(sp)
        addi sp, sp, 16
        ret

# --- orders: a letter in a0 -------------------------------------------------------------------------

obey:   la   t0, orders
1:      lbu  t1, 0(t0)
        beqz t1, 2f                     # unknown: nothing happens
        lwu  t2, 4(t0)
        addi t0, t0, 8
        bne  t1, a0, 1b
        jr   t2
2:      ret

        .balign 8
orders: .word 'w', mode_work
        .word 'p', mode_patch
        .word 'h', mode_hot
        .word 's', mode_spin
        .word 'a', mode_answers
        .word 'n', patch_hot
        .word 'd', await_device
        .word 'b', patch_answer
        .word 'x', reset
        .word 'q', finish
        .word 0, 0

mode_work:
        la   s3, work
        j    1f
mode_patch:
        la   s3, patches
        j    1f
mode_hot:
        la   s3, hot_calls
        j    1f
mode_spin:
        la   s3, spins
        j    1f
mode_answers:
        la   s3, answers
1:      mv   s2, a0
        ret

patch_hot:                              # the next number for `hot` to add
        addi s8, s8, 1
        andi s8, s8, 1023
        slli t0, s8, 20
        li   t1, 0x50513                # addi a0, a0, 0
        or   t0, t0, t1
        la   t1, hot_site
        sw   t0, 0(t1)
        fence.i
        ret

await_device:                           # somebody else patches `hot`; the number follows in ORDER
        addi sp, sp, -16
        sd   ra, 0(sp)
        la   a0, text_ready
        call print
        call new_line
1:      lbu  t0, 5(s0)
        andi t0, t0, 1
        beqz t0, 1b
        lbu  t0, 0(s0)
        ld   s8, ORDER(s1)
        sd   zero, ORDER(s1)
        fence.i
        ld   ra, 0(sp)
        addi sp, sp, 16
        ret

patch_answer:                           # from now on 13
        li   s9, 13
        li   t0, 0x00d00513             # addi a0, zero, 13
        la   t1, answer
        sw   t0, 0(t1)
        fence.i
        ret

reset:  li   t0, FINISHER
        li   t1, 0x7777
        sw   t1, 0(t0)
        j    .                          # not another instruction is due, and none counts

finish: la   a0, text_end
        call print
        ld   a0, CHECKS(s1)
        call print_number
        ld   a0, STALE(s1)
        call print_number
        call new_line
        li   t0, FINISHER
        li   t1, 0x5555
        ld   t2, STALE(s1)
        beqz t2, 1f
        li   t1, 0x13333                # exit code 1
1:      sw   t1, 0(t0)
        j    .

        .balign 4
trapped:
        la   a0, text_trap
        call print
        csrr a0, mcause
        call print_number
        csrr a0, mepc
        call print_number
        call new_line
        li   t0, FINISHER
        li   t1, 0x23333                # exit code 2
        sw   t1, 0(t0)
        j    .

# --- mode w: work as programs do it, loops, loads, stores, calls --------------------------------------

work:   addi sp, sp, -16
        sd   ra, 0(sp)
        li   a0, 0                      # the hash
        li   a2, 8
        li   a3, SIEVE
        li   a4, SIEVE_SIZE
        li   a5, 1
next_sieve:
        mv   t0, a3
        add  t1, a3, a4
1:      sd   zero, 0(t0)
        addi t0, t0, 8
        bltu t0, t1, 1b
        li   a1, 2
2:      add  t0, a3, a1
        lbu  t0, 0(t0)
        bnez t0, 4f
        call mix
        slli t0, a1, 1
3:      bgeu t0, a4, 4f
        add  t1, a3, t0
        sb   a5, 0(t1)
        add  t0, t0, a1
        j    3b
4:      addi a1, a1, 1
        bltu a1, a4, 2b
        addi a2, a2, -1
        bnez a2, next_sieve
        li   t0, PRIMES_HASH
        xor  t0, a0, t0
        snez a1, t0
        li   a0, 1
        ld   ra, 0(sp)
        addi sp, sp, 16
        ret

mix:    srli t0, a0, 7                  # hash = (hash * 31 + prime) ^ (hash >> 7)
        slli t1, a0, 5
        sub  a0, t1, a0
        add  a0, a0, a1
        xor  a0, a0, t0
        ret

# --- mode p: an instruction is replaced, then executed, thousands of times ----------------------------

patches:
        mv   t6, ra
        li   a2, 2000
        li   a3, 0                      # failed
        la   a4, patch_site
1:      andi a5, a2, 2047
        slli t0, a5, 20
        ori  t0, t0, 0x513              # addi a0, zero, a5
        sw   t0, 0(a4)
        fence.i
        call patch_site
        xor  t0, a0, a5
        snez t0, t0
        add  a3, a3, t0
        addi a2, a2, -1
        bnez a2, 1b
        li   a0, 2000
        mv   a1, a3
        jr   t6

        .balign 64
patch_site:
        li   a0, 0                      # replaced
        ret
        .balign 64

# --- mode h: a loop that is replaced between two of its runs, while a region of it is published -------

hot_calls:
        mv   t6, ra
        li   a1, 400000
        call hot
        li   t0, 400000
        mul  t0, t0, s8
        xor  t0, t0, a0
        snez a1, t0
        li   a0, 1
        jr   t6

        .balign 64
hot:    li   a0, 0
hot_site:
        addi a0, a0, 1                  # replaced
        addi a1, a1, -1
        bnez a1, hot_site
        ret
        .balign 64

# --- mode s: a loop that replaces its own instruction while it runs, when ORDER says so ---------------

spins:  li   a0, 0
        li   a1, 300000
        li   a2, 0                      # what a0 should be
        la   a3, spin_site
        li   a4, 0x50513                # addi a0, a0, 0
        .balign 64
spin_site:
        addi a0, a0, 1                  # replaced
        add  a2, a2, s10
        addi a1, a1, -1
        ld   t0, ORDER(s1)
        beqz t0, 1f
        sd   zero, ORDER(s1)
        addi s10, s10, 1
        andi s10, s10, 1023
        slli t0, s10, 20
        or   t0, t0, a4
        sw   t0, 0(a3)
        fence.i
1:      bnez a1, spin_site
        xor  t0, a0, a2
        snez a1, t0
        li   a0, 1
        ret
        .balign 64

# --- mode a: a function of the image is asked again and again ------------------------------------------

answers:
        mv   t6, ra
        li   a2, 100000
        li   a3, 0
1:      call answer
        xor  t0, a0, s9
        snez t0, t0
        add  a3, a3, t0
        addi a2, a2, -1
        bnez a2, 1b
        li   a0, 100000
        mv   a1, a3
        jr   t6

        .balign 64
answer: li   a0, ANSWER                 # replaced, but not for longer than until the next reset
        ret
        .balign 64

# --- printing ---------------------------------------------------------------------------------------

print:  lbu  t0, 0(a0)                  # text at a0, ends with 0
        beqz t0, 1f
        sb   t0, 0(s0)
        addi a0, a0, 1
        j    print
1:      ret

print_number:                           # a space and a0 in decimal
        li   t0, ' '
        sb   t0, 0(s0)
        mv   t1, sp
        li   t3, 10
1:      remu t0, a0, t3
        addi t0, t0, '0'
        addi t1, t1, -1
        sb   t0, 0(t1)
        divu a0, a0, t3
        bnez a0, 1b
2:      lbu  t0, 0(t1)
        sb   t0, 0(s0)
        addi t1, t1, 1
        bltu t1, sp, 2b
        ret

new_line:
        li   t0, '\n'
        sb   t0, 0(s0)
        ret

        .section .rodata
text_boot:  .asciz "boot"
text_ready: .asciz "ready"
text_end:   .asciz "end"
text_trap:  .asciz "trap"
