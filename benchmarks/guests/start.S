# Power-on of a bare machine: one hart in M-mode at 0x80000000, floating point on, a stack, then guest_main.
# RAM is zero at power-on and each run is a machine of its own, so .bss is not cleared.
        .section .text.start, "ax"
        .globl  _start, limit
_start: j       begin
        .balign 8
limit:  .dword  0                       # at 0x80000008, see runtime.c
begin:  csrr    t0, mhartid
        bnez    t0, park
        la      t0, trap
        csrw    mtvec, t0
        li      t0, 0x2000              # mstatus.FS: initial
        csrs    mstatus, t0
        fscsr   zero
        .option push
        .option norelax
        la      gp, __global_pointer$
        .option pop
        la      sp, stack_end
        call    guest_main
        li      t1, 0x5555              # sifive_test: off
exit:   li      t0, 0x100000
        sw      t1, 0(t0)
park:   wfi
        j       park
        .balign 4
trap:   li      t1, 0x13333             # no program traps: exit status 1
        j       exit
