#: M48  an event is dropped where a list is full
#: expect 6 600 6 600
#: option disk
#: disk bodies
# The block device reads new code over functions on six pages with one request.
    .equ BYTES, 6 * 4096
main:
    la s7, start                # where blocks go
    call disk_set_up
    li s6, 2
again:
    call run
    call report
    call settle
    li a0, 0
    call disk_read
    fence.i
    call run
    call report
    li a0, 48                   # the second half of the disk: as it was
    call disk_read
    fence.i
    addi s6, s6, -1
    bnez s6, again
    call done

run:                            # all six functions; a0: the sum
    addi sp, sp, -32
    sd ra, 0(sp)
    sd s0, 8(sp)
    sd s1, 16(sp)
    la s0, start
    li s1, 0
    li s2, 6
1:
    mv a0, s0
    call warm
    add s1, s1, a0
    li t0, 4096
    add s0, s0, t0
    addi s2, s2, -1
    bnez s2, 1b
    mv a0, s1
    ld ra, 0(sp)
    ld s0, 8(sp)
    ld s1, 16(sp)
    addi sp, sp, 32
    ret

    # A virtio block device of version 1 (legacy), the last slot of `virt`; polled.
    .equ SLOT, 0x10008000
    .equ RING, 0x81000000
disk_set_up:                    # s7: where to read to
    li s8, SLOT
    li t0, 4096
    sw t0, 0x28(s8)             # GuestPageSize
    sw zero, 0x70(s8)           # Status
    li t0, 3
    sw t0, 0x70(s8)
    sw zero, 0x30(s8)           # QueueSel
    li t0, 8
    sw t0, 0x38(s8)             # QueueNum
    li t0, 4096
    sw t0, 0x3c(s8)             # QueueAlign
    li t0, RING >> 12
    sw t0, 0x40(s8)             # QueuePFN
    li t0, 7
    sw t0, 0x70(s8)
    li s9, RING                 # descriptors; available at +128, used at +4096
    li t0, RING + 0x2000        # 0: the request's header
    sd t0, 0(s9)
    li t0, 16 | 1 << 32 | 1 << 48
    sd t0, 8(s9)
    sd s7, 16(s9)               # 1: over the code
    li t0, BYTES | 3 << 32 | 2 << 48
    sd t0, 24(s9)
    li t0, RING + 0x2010        # 2: the status
    sd t0, 32(s9)
    li t0, 1 | 2 << 32
    sd t0, 40(s9)
    ret

disk_read:                      # from sector a0 on
    li t1, RING + 0x2000
    sd zero, 0(t1)
    sd a0, 8(t1)
    lhu t0, 130(s9)             # available.idx; the ring's entries are all 0
    addi t0, t0, 1
    sh t0, 130(s9)
    fence
    sw zero, 0x50(s8)           # QueueNotify
2:
    li t1, RING + 0x1002
    lhu t1, 0(t1)
    bne t1, t0, 2b
    fence
    ret

    .align 12
start:
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12

    .data
    .align 12
bodies:
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 100
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    li t6, 2
    li a0, 1
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
bodies_end:
    .text
