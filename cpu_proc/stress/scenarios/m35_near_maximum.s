#: M35  a counter wraps without a retirement of everything
#: option wrap
#: expect 0
#: no-regions whoever waits for each region cannot be late for it
# All counters begin just before their wrap. A function is made hot and, some time later, patched four
# times, so that the counter of its page wraps while a region of it is being made; then it is run when
# no answer is owed any more. Now and then everything is retired, so that the epoch wraps too. Reported:
# how often it returned another value than the one patched in.
main:
    li s0, 0                    # stale
    li s1, 1                    # the value patched in last
    li s2, 8                    # enough for each counter to wrap
    li t0, MODE - 2
    bnez t0, again              # nothing can be late there
    li s2, ROUNDS * 5
again:
    la a0, branch
    call refresh
    li s3, 200                  # hot, and asked for
    call run
    andi s4, s2, 7
    addi s4, s4, 1
    li t0, 20000
    mul s4, s4, t0              # 2 to 16 ms
    rdtime t0
    add s4, s4, t0
1:
    rdtime t0
    bltu t0, s4, 1b
    li s5, 4
2:
    addi s1, s1, 1
    mv a0, s1
    call body
    la t0, victim
    sw a0, 0(t0)
    fence.i
    li s3, 1
    call run
    addi s5, s5, -1
    bnez s5, 2b
    call settle
    li s3, 100
    call run
    andi s4, s2, 3
    bnez s4, 5f
    la a0, retire
    call ask
5:
    addi s2, s2, -1
    bnez s2, again
    mv a0, s0
    call report
    call done

run:                            # s3 times
    mv s9, ra
3:
    la t0, start
    jalr ra, 0(t0)
    beq a0, s1, 4f
    addi s0, s0, 1
4:
    addi s3, s3, -1
    bnez s3, 3b
    jr s9

retire:
    .asciz "retire"
    .align 12
start:
    li t6, 2
victim:
    li a0, 1
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
