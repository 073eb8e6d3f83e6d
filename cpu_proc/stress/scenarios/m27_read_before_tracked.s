#: M27  bytes are read before their lines are tracked
#: harts 2
#: expect 0
# A function with two ways, in two lines, of which only the first is ever gone while the function
# becomes hot. Hart 0 makes it hot; while it is being translated, hart 1 patches the second way; then
# hart 0 goes that way. A fresh copy each round. Reported: how often the patch was not seen.
    .equ COPIES, 0x80200000
main:
    li s0, 0                    # stale
    li s1, 1                    # the round
    li s2, COPIES
each:
    call settle
    la t0, template             # two lines of code to s2
    mv t1, s2
    li t2, 16
1:
    ld t3, 0(t0)
    sd t3, 0(t1)
    addi t0, t0, 8
    addi t1, t1, 8
    addi t2, t2, -1
    bnez t2, 1b
    fence.i
    fence rw, rw
    la t0, order
    sd s2, 8(t0)
    sd s1, 0(t0)
    la t0, answer               # hart 1 has made translation slow
2:
    ld t1, 0(t0)
    bne t1, s1, 2b
    li a1, 0
    mv a0, s2
    call often
    la t0, answer
3:
    ld t1, 8(t0)                # hart 1 has patched
    bne t1, s1, 3b
    call settle                 # what was asked for is there
    fence.i
    li a1, 1
    jalr ra, 0(s2)
    li t0, 100
    add t0, t0, s1
    beq a0, t0, 4f
    addi s0, s0, 1
4:
    li t0, 4096
    add s2, s2, t0
    addi s1, s1, 1
    li t0, 4
    blt s1, t0, each
    mv a0, s0
    call report
    call done

often:                          # the function a0 with a1 as it is
    mv s9, ra
    mv s8, a0
    li s7, WARM
5:
    jalr ra, 0(s8)
    addi s7, s7, -1
    bnez s7, 5b
    jr s9

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li s1, 1
6:
    la t0, order
    ld t1, 0(t0)
    bne t1, s1, 6b
    ld s2, 8(t0)
    la a0, slow
    call ask
    addi a0, s1, 100
    call body
    la t0, answer
    sd s1, 0(t0)
    li t3, CLINT + 0xbff8       # mtime: by a load, which a region may hold
    ld t1, 0(t3)                # the request is made, the bytes are read meanwhile
    li t2, 6000000
    add t1, t1, t2
7:
    ld t2, 0(t3)
    bltu t2, t1, 7b
    sw a0, 64(s2)
    fence rw, rw
    la t0, answer
    sd s1, 8(t0)
    addi s1, s1, 1
    j 6b

    .align 6
template:
    bnez a1, 8f
    li a0, 1
    ret
    .align 6
8:
    li a0, 2
    ret
    .align 6

slow:
    .asciz "slow 1200"

    .data
    .align 6
order:
    .dword 0, 0
    .align 6
answer:
    .dword 0, 0
