#: M1  six programs, one after another, at one place in flash
#: expect 1 1 2 2 3 3 4 4 5 5 6 6
#: option pflash
# The first block of virt's second flash bank is erased and programmed with `li a0, N; ret`, put back
# into array mode, read, and called after fence.i; for N from 1 to 6. Reported: N as read back from
# the instruction that stands there, and what the call returned. Erased first, since programming can
# only clear bits of a real chip.
main:
    li s0, BANK1
    li s1, 1
each:
    li t0, 0x00200020           # block erase
    sw t0, 0(s0)
    li t0, 0x00d000d0           # confirm
    sw t0, 0(s0)
    call finished
    mv a0, s1
    call body
    mv a1, a0
    mv a0, s0
    call program
    addi a0, s0, 4
    li a1, RET
    call program
    li t0, 0x00ff00ff           # back to the array
    sw t0, 0(s0)
    lwu a0, 0(s0)
    srli a0, a0, 20
    call report
    fence.i
    mv a0, s0
    call warm
    call report
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    call done

program:                        # the word a1 at a0; command mode stays
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
finished:                       # both chips have done what they were told
    lw t0, 0(s0)
    li t1, 0x00800080
    and t0, t0, t1
    bne t0, t1, finished
    ret
