# A loop with its data: a counter, a sum and a small ring of words, stored to in every round.
# BESIDE: the data follow the code in its page, some hundred bytes away. Otherwise they are in .data.
        .globl  setup, chunk
        .text
setup:  ret

        .balign 4096
chunk:  la      t0, ring
        li      t1, 1000000
        mv      t2, a0
        sd      zero, 256(t0)
        sd      a0, 264(t0)
1:      andi    t3, t1, 31
        slli    t3, t3, 3
        add     t3, t3, t0
        ld      t4, 0(t3)
        add     t2, t2, t4
        slli    t5, t2, 7
        xor     t2, t2, t5
        srli    t5, t2, 9
        xor     t2, t2, t5
        sd      t2, 0(t3)
        ld      t4, 256(t0)
        addi    t4, t4, 1
        sd      t4, 256(t0)
        ld      t4, 264(t0)
        add     t4, t4, t2
        sd      t4, 264(t0)
        addi    t1, t1, -1
        bnez    t1, 1b
        ld      a0, 264(t0)
        ld      t4, 256(t0)
        add     a0, a0, t4
        ret
#ifdef BESIDE
        .balign 512
ring:   .zero   272
#else
        .data
        .balign 4096
ring:   .zero   272
#endif
