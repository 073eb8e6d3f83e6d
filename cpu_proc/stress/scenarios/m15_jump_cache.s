#: M15  a jump cache keeps a pointer to code
#: expect 1 2 3 4 5 6 7 8
# One indirect call calls a function until it is hot; the function is patched and called from there
# again. Then the same with a second function in turn, so that the call has two targets.
main:
    call first                  # from here, so that it is hot at its first instruction
    call second
    la a0, first
    call warm
    la a0, second
    call warm
    li s0, 1                    # the value
1:
    la s1, first
    call patch
    la s1, second
    call patch
    li t0, 9
    bne s0, t0, 1b
    call done

    # Patch the function s1 to return s0, run it by the indirect call, report; s0 + 1.
patch:
    mv s2, ra
    mv a0, s0
    call body
    sw a0, 0(s1)
    fence.i
    la a0, first
    beq a0, s1, 2f
    call warm                   # the other one in between
2:
    mv a0, s1
    call warm
    call report
    addi s0, s0, 1
    jr s2

    .align 12
first:
    li a0, 0
    ret
    .align 6
    .word 0
second:
    li a0, 0
    ret
