#: M10  a page table changes while another address space is in use
#: expect 1 2 3 2 1 3 2 2 1 1 1 2 3 2 1 3 2 2 1 1
# Two spaces with an ASID each have pages of their own at VIEW and a global one at SHARED. The page
# of the space not in use is replaced and fenced by address and ASID, then by ASID alone; then the
# global one, in both, fenced by its address.
    .equ VIEW, 0x40055000         # no other code has its place in a TLB of 256 entries
    .equ SHARED, 0x40056000
    .equ SLOT, 0x55 * 8
main:
    la t0, caught
    csrw mtvec, t0
    li s5, 2                      # spaces to make
    la s0, tables
1:
    li t1, 0xcf                   # 1 GiB each: devices, and RAM
    sd t1, 0(s0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(s0)
    li t0, 4096
    add t0, t0, s0
    srli t1, t0, 2
    ori t1, t1, 1
    sd t1, 8(s0)
    li t1, 4096
    add s1, t0, t1
    srli t1, s1, 2
    ori t1, t1, 1
    sd t1, 0(t0)
    srli t1, s0, 12               # satp
    slli t2, s5, 44               # ASID: 2, then 1
    or t1, t1, t2
    li t2, 8 << 60
    or t1, t1, t2
    mv s7, s6
    mv s6, t1
    mv s9, s8
    mv s8, s1                     # the leaves
    li t0, 12288
    add s0, s0, t0
    addi s5, s5, -1
    bnez s5, 1b
    la t0, first
    srli s2, t0, 2
    ori s2, s2, 0xcf
    la t0, second
    srli s3, t0, 2
    ori s3, s3, 0xcf
    la t0, third
    srli s4, t0, 2
    ori s4, s4, 0xcf
    la a0, tables
    call supervise
    li s5, 2
each:
    sd s2, SLOT(s8)               # the first space: first; the other one: second
    sd s3, SLOT(s9)
    ori t0, s3, 0x20              # both: second
    sd t0, SLOT + 8(s8)
    sd t0, SLOT + 8(s9)
    sfence.vma
    csrw satp, s6
    call run                      # 1
    csrw satp, s7
    call run                      # 2
    sd s4, SLOT(s8)
    li t0, VIEW
    li t1, 1
    sfence.vma t0, t1
    csrw satp, s6
    call run                      # 3
    csrw satp, s7
    call run                      # 2
    csrw satp, s6
    sd s2, SLOT(s9)
    li t1, 2
    sfence.vma zero, t1
    csrw satp, s7
    call run                      # 1
    csrw satp, s6
    call run                      # 3
    call run_shared               # 2
    csrw satp, s7
    call run_shared               # 2
    ori t0, s2, 0x20
    sd t0, SLOT + 8(s8)
    sd t0, SLOT + 8(s9)
    li t0, SHARED
    sfence.vma t0
    call run_shared               # 1
    csrw satp, s6
    call run_shared               # 1
    addi s5, s5, -1
    bnez s5, each
    call done

run_shared:
    li a0, SHARED
    j 2f
run:
    li a0, VIEW
2:
    addi sp, sp, -16
    sd ra, 0(sp)
    call warm
    call report
    ld ra, 0(sp)
    addi sp, sp, 16
    ret

    .align 12
first:
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, first + 4
    ret
    .align 12
second:
    li t6, 2
    li a0, 2
    addi t6, t6, -1
    bnez t6, second + 4
    ret
    .align 12
third:
    li t6, 2
    li a0, 3
    addi t6, t6, -1
    bnez t6, third + 4
    ret
    .align 12
tables:
    .space 24576
