#: M16  a chained jump keeps a pointer to code
#: expect 1*ROUNDS 2 3 1 2 3 4
# A jumps to B, a page away, until both are hot. B alone is patched, then B's page alone is mapped
# elsewhere; A is run after each.
    .equ VIRTUAL, 0x40010000    # two pages: A and B
    .equ LEVEL2, 0x80100000     # page tables
    .equ LEVEL1, 0x80101000
    .equ LEVEL0, 0x80102000
main:
    li t0, LEVEL2
    li t1, 0xcf                 # identity: devices, then RAM; V R W X A D
    sd t1, 0(t0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(t0)
    li t1, (LEVEL1 >> 2) | 1
    sd t1, 8(t0)
    li t0, LEVEL1
    li t1, (LEVEL0 >> 2) | 1
    sd t1, 0(t0)
    li t0, LEVEL0 + 16 * 8
    la t1, source
    srli t1, t1, 2
    ori t1, t1, 0xcf
    sd t1, 0(t0)
    la a0, target
    call map
    li a0, LEVEL2
    call supervise
    sfence.vma
    li s1, ROUNDS
1:
    li a0, VIRTUAL
    call warm
    call report
    addi s1, s1, -1
    bnez s1, 1b
    li s1, 2                    # B patched
2:
    mv a0, s1
    call body
    la t0, target
    sw a0, 4(t0)
    fence.i
    li a0, VIRTUAL
    call warm
    call report
    addi s1, s1, 1
    li t0, 4
    bne s1, t0, 2b
    la s2, others               # B elsewhere
    li s1, 4
3:
    mv a0, s2
    call map
    li t0, VIRTUAL + 0x1000
    sfence.vma t0
    fence.i
    li a0, VIRTUAL
    call warm
    call report
    li t0, 4096
    add s2, s2, t0
    addi s1, s1, -1
    bnez s1, 3b
    call done

map:                            # the page at a0 behind A's
    li t0, LEVEL0 + 16 * 8
    srli a0, a0, 2
    ori a0, a0, 0xcf
    sd a0, 8(t0)
    ret

    .align 12
source:
    nop
    j source + 4096

    .align 12
target:
    nop
    li a0, 1
    ret

    .align 12
others:
    nop
    li a0, 1
    ret
    .align 12
    nop
    li a0, 2
    ret
    .align 12
    nop
    li a0, 3
    ret
    .align 12
    nop
    li a0, 4
    ret
