#: M9  remap of a guest-physical range: a flash's command mode
#: expect 1 32871 128 101|102 1 32871 128 101|102 1 32871 128 101|102 1
#: option pflash
# Flash is memory, then registers, then memory again, at one address: each time code runs there or
# does not, and a load sees the array or the status.
main:
    la t0, caught
    csrw mtvec, t0
    li s0, BANK1 + 0x55000       # no other code has its place in a TLB of 256 entries
    addi a0, s0, 4
    li a1, RET
    call program
    li a0, 1
    call body
    mv a1, a0
    mv a0, s0
    call program
    call array
    li s1, 3
each:
    mv a0, s0
    call warm
    call report
    lwu a0, 4(s0)
    call report
    li t0, 0x00700070           # read status
    sw t0, 0(s0)
    fence.i
    lhu a0, 4(s0)
    call report
    jalr ra, 0(s0)
    call report
    call array
    addi s1, s1, -1
    bnez s1, each
    mv a0, s0
    call warm
    call report
    call done

array:
    li t0, 0x00ff00ff
    sw t0, 0(s0)
    fence.i
    ret

program:                        # the word a1 at a0; command mode stays
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
1:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 1b
    ret
