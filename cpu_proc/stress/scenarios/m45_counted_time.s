#: M45  where time is counted, interrupts come at any jump, whatever was translated before
#: expect 1
#: option icount aged
# Code of many jumps, interrupted again and again. By counted time an interrupt is taken at the jump
# at which it is due, so that most are inside of the code; code made for a host's clock looks at its
# loop's head alone. `aged`: the program has run before, without -icount.
    .equ MTIMECMP, 0x2004000
    .equ MTIME, 0x200bff8
    .equ TIMES, 40
main:
    la t0, handler
    csrw mtvec, t0
    la a0, chain
    call warm
    li s6, 0                    # interrupts
    li s7, 0                    # of these in the middle
    li s8, 5
    li t0, 0x80
    csrw mie, t0
    call arm
    csrsi mstatus, 8
1:
    la a0, chain
    li a1, 20
    call times
    li t0, TIMES
    bltu s6, t0, 1b
    csrci mstatus, 8
    sltu a0, zero, s7
    call report
    call done

arm:                            # the next interrupt, after a number of ticks that varies
    addi s8, s8, 3
    andi s8, s8, 31
    ori s8, s8, 8
    li s9, MTIME
    ld s9, 0(s9)
    add s9, s9, s8
    li s10, TIMES
    bltu s6, s10, 2f
    li s9, -1                   # never again
2:
    li s10, MTIMECMP
    sd s9, 0(s10)
    ret

    .align 2
handler:
    csrw mscratch, ra
    addi s6, s6, 1
    csrr s9, mepc
    la s10, head
    bleu s9, s10, 1f
    la s10, tail
    bgeu s9, s10, 1f
    addi s7, s7, 1
1:
    call arm
    csrr ra, mscratch
    mret

    .align 12
chain:
    li t6, 30
head:
    addi t6, t6, -1
    j 3f
3:
    j 4f
4:
    j 5f
5:
    j 6f
6:
    j 7f
7:
    j 8f
8:
    j 9f
9:
    j 3f
3:
    j 4f
4:
    j 5f
5:
    j 6f
6:
    j 7f
7:
    j 8f
8:
    j 9f
9:
    j 3f
3:
    j 4f
4:
    j 5f
5:
    j 6f
6:
    j 7f
7:
    j 8f
8:
    j 9f
9:
    j 3f
3:
    j 4f
4:
    j 5f
5:
tail:
    bnez t6, head
    ret
    .align 12
