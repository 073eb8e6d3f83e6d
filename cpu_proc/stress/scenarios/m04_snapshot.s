#: M4  a snapshot is restored
#: expect 1 2 1 2 1 2 1
# The machine is saved; a hot function is patched and run; the machine is restored, which brings the
# first function back. What a guest knows of that is the answer to its question.
main:
    la a0, start
    call warm
    call settle
    la a0, save_text
    call ask                    # comes back more than once
    mv s0, a0
    la a0, start
    call warm
    call report
    li t0, 51                   # '3': the third time
    beq s0, t0, enough
    li t0, 0x00200513           # li a0, 2
    la t1, victim
    sw t0, 0(t1)
    la a0, branch
    call refresh
    la a0, start
    call warm
    call report
    call settle
    la a0, restore_text
    call ask                    # does not come back
enough:
    call done

save_text:
    .asciz "save once"
restore_text:
    .asciz "restore once"
    .align 6
start:
    li t6, 2
victim:
    li a0, 1
    addi t6, t6, -1
branch:
    bnez t6, victim
    ret
