#: M17  a link is made again while it is being broken
#: harts 2
#: expect 0
# Hart 0 runs A, which jumps to B in another page, one to four times; hart 1 retires B by a patch
# while hart 0 is between two runs; hart 0 then does fence.i and runs A. Reported: how often it did
# not get what was patched in.
main:
    call target                 # from here, so that both are hot at their first instructions
    call source
    li s0, 0                    # stale
    li s1, 1                    # the value
    li s2, ROUNDS * 4
each:
    andi s3, s1, 3
1:
    call source
    addi s3, s3, -1
    bgez s3, 1b
    fence rw, rw
    la t1, order
    sd s1, 0(t1)                # go
2:
    andi t0, s1, 8
    beqz t0, 4f
    call source                 # in every other eight rounds; old or new, both are right
4:
    la t1, answer
    ld t2, 0(t1)
    bne t2, s1, 2b
    fence.i
    call source
    beq a0, s1, 3f
    addi s0, s0, 1
3:
    addi s1, s1, 1
    addi s2, s2, -1
    bnez s2, each
    mv a0, s0
    call report
    call done

secondary:
    addi a0, a0, -1
    bnez a0, park               # only hart 1
    li s3, 0
4:
    la t1, order
    ld a0, 0(t1)
    beq a0, s3, 4b
    mv s3, a0
    call body
    la t0, patched
    sw a0, 0(t0)
    fence rw, rw
    la t1, answer
    sd s3, 0(t1)
    j 4b

    .align 12
source:
    j target

    .align 12
target:
    nop
patched:
    li a0, 0
    ret

    .data
    .align 6
order:
    .dword 0
    .align 6
answer:
    .dword 0
