#: M12  the length: DMA over three pages, the code in the third
#: expect 1 20 21 22 20 21 22
#: option disk
#: disk bodies
# The block device reads three pages at once; the last one holds a function that is hot,
# not at its beginning.
    .equ BLOCKS, 3
    .equ BYTES, 12288
    .equ REQUESTS, 6

main:
    la s7, before               # where blocks go
    call disk_set_up
    la a0, start
    call warm
    call report
    li s6, REQUESTS
    li s5, 0                    # the block to read, of three pages
1:
    call settle
    mv a0, s5
    call disk_read
    fence.i
    la a0, start
    call warm
    call report
    addi s5, s5, 1
    li t0, BLOCKS
    bne s5, t0, 2f
    li s5, 0
2:
    addi s6, s6, -1
    bnez s6, 1b
    call done

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

disk_read:                      # the block a0, of BYTES
    li t0, BYTES / 512
    mul t0, t0, a0
    li t1, RING + 0x2000
    sd zero, 0(t1)
    sd t0, 8(t1)
    lhu t0, 130(s9)             # available.idx; the ring's entries are all 0
    addi t0, t0, 1
    sh t0, 130(s9)
    fence
    sw zero, 0x50(s8)           # QueueNotify
3:
    li t1, RING + 0x1002
    lhu t1, 0(t1)
    bne t1, t0, 3b
    fence
    ret

    .align 12
before:
    .space 8192 + 128
start:
    li t6, 2
4:
    li a0, 1
    addi t6, t6, -1
    bnez t6, 4b
    ret
    .align 12
    .space 4096

    .data
    .align 12
bodies:
    .space 8192 + 128
    li t6, 2
    li a0, 20
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    .space 8192 + 128
    li t6, 2
    li a0, 21
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
    .space 8192 + 128
    li t6, 2
    li a0, 22
    addi t6, t6, -1
    bnez t6, .-8
    ret
    .align 12
bodies_end:
    .text
