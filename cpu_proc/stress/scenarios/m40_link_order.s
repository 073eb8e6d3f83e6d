#: M40  a link is patched in two stores
#: harts 2
#: expect 0 0 0
# A link is toggled by hart 0 while hart 1 runs through it: every run ends at one target or the
# other. Then the harts take turns in running through links of their own, which lie alike in their
# pages, with all lookups flushed at each turn. Reported: how often hart 1 came to neither target, or,
# in the end, not to the last; then how often each hart came to another target than its own.
    .equ TOGGLES, ROUNDS * 4
    .equ RUNS, 8
    .equ TURNS, ROUNDS * 4
main:
    la s0, toggled              # what stands there jumps to one; the other jump is made of these
    la t0, jumps
    lw s1, 0(t0)
    lw s2, 4(t0)
    li s3, TOGGLES
1:
    sw s1, 0(s0)
    call pause
    sw s2, 0(s0)
    call pause
    addi s3, s3, -1
    bnez s3, 1b
    fence rw, rw
    la t0, order
    li t1, 1
    sd t1, 0(t0)
    la a0, answer
    call wait
    call report
    la s1, link0
    li s2, 1
    li s4, 0
    call turns
    call report
    la a0, answer
    call wait
    call report
    call done

pause:
    li t0, 2000
2:
    addi t0, t0, -1
    bnez t0, 2b
    ret

wait:                           # for a word at a0 that is not 0: that word less 1; it is 0 then
    ld t0, 0(a0)
    beqz t0, wait
    sd zero, 0(a0)
    addi a0, t0, -1
    ret

turns:                          # TURNS times with the other hart: the function s1 is run, which
    mv s9, ra                   # returns s2; s4: 0 or 1, who we are; a0: how often it did not
    li s3, TURNS
    li s5, 0
3:
    la t0, turn
    ld t1, 0(t0)
    bne t1, s4, 3b
    csrw pmpaddr0, s3          # off, so it means nothing; yet all lookups are flushed
    li s6, RUNS
4:
    jalr ra, 0(s1)
    beq a0, s2, 5f
    addi s5, s5, 1
5:
    addi s6, s6, -1
    bnez s6, 4b
    xori t1, s4, 1
    la t0, turn
    fence rw, rw
    sd t1, 0(t0)
    addi s3, s3, -1
    bnez s3, 3b
    mv a0, s5
    jr s9

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li s0, 0
5:
    call toggled
    addi t0, a0, -1
    li t1, 2
    bltu t0, t1, 6f
    addi s0, s0, 1
6:
    la t0, order
    ld t0, 0(t0)
    beqz t0, 5b
    fence.i
    call toggled
    addi a0, a0, -2
    beqz a0, 7f
    addi s0, s0, 1
7:
    addi s0, s0, 1
    la t0, answer
    sd s0, 0(t0)
    la s1, link1
    li s2, 2
    li s4, 1
    call turns
    addi a0, a0, 1
    la t0, answer
8:
    ld t1, 0(t0)                # the first answer is taken
    bnez t1, 8b
    sd a0, 0(t0)
    j park

    .align 12
toggled:
    j one
jumps:                          # as they would stand at `toggled`
    .word 0x0000106f            # j . + 0x1000: one
    .word 0x0400106f            # j . + 0x1040: two
    .align 12
one:
    li a0, 1
    ret
    .align 6
two:
    li a0, 2
    ret
    .align 12
link0:
    j one
    .align 12
link1:
    j two

    .data
    .align 6
order:
    .dword 0
    .align 6
answer:
    .dword 0
    .align 6
turn:
    .dword 0
