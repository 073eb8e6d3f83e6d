# How syscalls.c is entered and left. A context: x0 to x31, then pc at 256, sstatus at 264, satp at 272.
        .globl  kernel_entry, run_kernel, user_code
        .text

# M-mode: start the kernel with the context in a0; returns when the kernel is done.
run_kernel:
        addi    sp, sp, -128
        sd      ra, 0(sp)
        sd      gp, 8(sp)
        sd      tp, 16(sp)
        sd      s0, 24(sp)
        sd      s1, 32(sp)
        sd      s2, 40(sp)
        sd      s3, 48(sp)
        sd      s4, 56(sp)
        sd      s5, 64(sp)
        sd      s6, 72(sp)
        sd      s7, 80(sp)
        sd      s8, 88(sp)
        sd      s9, 96(sp)
        sd      s10, 104(sp)
        sd      s11, 112(sp)
        csrr    t0, mtvec
        sd      t0, 120(sp)
        csrw    mscratch, sp
        la      t0, done
        csrw    mtvec, t0
        la      t0, kernel_start
        csrw    mepc, t0
        li      t0, 0x1800              # MPP: S
        csrc    mstatus, t0
        li      t0, 0x0800
        csrs    mstatus, t0
        mret
        .balign 4
done:   csrr    sp, mscratch
        csrw    satp, zero
        ld      t0, 120(sp)
        csrw    mtvec, t0
        csrr    t0, mcause
        li      t1, 9                   # an ecall from S-mode; anything else is an error
        beq     t0, t1, 1f
        li      t0, 0x100000
        li      t1, 0x23333
        sw      t1, 0(t0)
1:      ld      ra, 0(sp)
        ld      gp, 8(sp)
        ld      tp, 16(sp)
        ld      s0, 24(sp)
        ld      s1, 32(sp)
        ld      s2, 40(sp)
        ld      s3, 48(sp)
        ld      s4, 56(sp)
        ld      s5, 64(sp)
        ld      s6, 72(sp)
        ld      s7, 80(sp)
        ld      s8, 88(sp)
        ld      s9, 96(sp)
        ld      s10, 104(sp)
        ld      s11, 112(sp)
        addi    sp, sp, 128
        ret

# S-mode: the first process, in a0.
kernel_start:
        ld      t0, 272(a0)
        csrw    satp, t0
        sfence.vma
        j       resume

        .balign 4
kernel_entry:
        csrrw   sp, sscratch, sp
        .irp    n, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        sd      x\n, 8*\n(sp)
        .endr
        csrr    t0, sscratch
        sd      t0, 16(sp)
        csrr    t0, sepc
        sd      t0, 256(sp)
        csrr    t0, sstatus
        sd      t0, 264(sp)
        mv      a0, sp
        csrr    a1, scause
        la      sp, kernel_stack_end
        .option push
        .option norelax
        la      gp, __global_pointer$
        .option pop
        call    kernel_trap
        bnez    a0, resume
        ecall                           # to M-mode: done
resume: ld      t0, 256(a0)
        csrw    sepc, t0
        ld      t0, 264(a0)
        csrw    sstatus, t0
        csrw    sscratch, a0
        mv      sp, a0
        .irp    n, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
        ld      x\n, 8*\n(sp)
        .endr
        ld      sp, 16(sp)
        sret

# U-mode, at 0x10000. s0: a number of its own, s1: rounds, s2: its data.
        .balign 4096
user_code:
1:      li      t0, 0                   # a word on each of 12 pages
        mv      t1, s2
        li      t2, 12
2:      andi    t3, s1, 0x7f
        slli    t3, t3, 3
        add     t3, t3, t1
        ld      t4, 0(t3)
        add     s0, s0, t4
        slli    t5, s0, 5
        xor     s0, s0, t5
        sd      s0, 0(t3)
        li      t5, 4096
        add     t1, t1, t5
        addi    t2, t2, -1
        bnez    t2, 2b
        li      a7, 0                   # who am I?
        ecall
        add     s0, s0, a0
        mv      a0, s2                  # a sum of 16 words
        li      a1, 16
        li      a7, 1
        ecall
        add     s0, s0, a0
        andi    t0, s1, 3
        bnez    t0, 3f
        li      a7, 2                   # the other's turn
        ecall
3:      addi    s1, s1, -1
        bnez    s1, 1b
        mv      a0, s0
        li      a7, 3                   # the end
        ecall
        .balign 4096
        .bss
        .balign 16
        .zero   8192
kernel_stack_end:
