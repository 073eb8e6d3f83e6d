"""A: atomic memory operations (Zaamo) and load-reserved/store-conditional (Zalrsc).

Source: unprivileged ISA, chapter "A" Standard Extension. The address is that of the access alone,
no offset. Alignment, translation, the reservation and the store's permission (asked for even by
an AMO that would not change memory) are the memory built-ins' work; they trap before anything has
been written. Every one of them is sequentially consistent, so `aq` and `rl` are decoded, printed
and assembled, but mean nothing more here. A failed `sc` always writes 1.

Read next: `language.py` for `amo`, `load_reserved` and `store_conditional`.
"""

from protocol.riscv.isa import instruction
from protocol.riscv.words import *

# --- 32 bits ----------------------------------------------------------------------------------


@instruction("00010 aq rl 00000 rs1 010 rd 0101111", "lr.w rd, (rs1)")
def lr_w(rd, rs1):
    X[rd] = sext(load_reserved(X[rs1], 4), 32)


@instruction("00011 aq rl rs2 rs1 010 rd 0101111", "sc.w rd, rs2, (rs1)")
def sc_w(rd, rs1, rs2):
    X[rd] = store_conditional(X[rs1], X[rs2], 4)


@instruction("00001 aq rl rs2 rs1 010 rd 0101111", "amoswap.w rd, rs2, (rs1)")
def amoswap_w(rd, rs1, rs2):
    X[rd] = sext(amo("swap", X[rs1], X[rs2], 4), 32)


@instruction("00000 aq rl rs2 rs1 010 rd 0101111", "amoadd.w rd, rs2, (rs1)")
def amoadd_w(rd, rs1, rs2):
    X[rd] = sext(amo("add", X[rs1], X[rs2], 4), 32)


@instruction("00100 aq rl rs2 rs1 010 rd 0101111", "amoxor.w rd, rs2, (rs1)")
def amoxor_w(rd, rs1, rs2):
    X[rd] = sext(amo("xor", X[rs1], X[rs2], 4), 32)


@instruction("01100 aq rl rs2 rs1 010 rd 0101111", "amoand.w rd, rs2, (rs1)")
def amoand_w(rd, rs1, rs2):
    X[rd] = sext(amo("and", X[rs1], X[rs2], 4), 32)


@instruction("01000 aq rl rs2 rs1 010 rd 0101111", "amoor.w rd, rs2, (rs1)")
def amoor_w(rd, rs1, rs2):
    X[rd] = sext(amo("or", X[rs1], X[rs2], 4), 32)


@instruction("10000 aq rl rs2 rs1 010 rd 0101111", "amomin.w rd, rs2, (rs1)")
def amomin_w(rd, rs1, rs2):
    X[rd] = sext(amo("min", X[rs1], X[rs2], 4), 32)


@instruction("10100 aq rl rs2 rs1 010 rd 0101111", "amomax.w rd, rs2, (rs1)")
def amomax_w(rd, rs1, rs2):
    X[rd] = sext(amo("max", X[rs1], X[rs2], 4), 32)


@instruction("11000 aq rl rs2 rs1 010 rd 0101111", "amominu.w rd, rs2, (rs1)")
def amominu_w(rd, rs1, rs2):
    X[rd] = sext(amo("minu", X[rs1], X[rs2], 4), 32)


@instruction("11100 aq rl rs2 rs1 010 rd 0101111", "amomaxu.w rd, rs2, (rs1)")
def amomaxu_w(rd, rs1, rs2):
    X[rd] = sext(amo("maxu", X[rs1], X[rs2], 4), 32)


# --- 64 bits ----------------------------------------------------------------------------------


@instruction("00010 aq rl 00000 rs1 011 rd 0101111", "lr.d rd, (rs1)")
def lr_d(rd, rs1):
    X[rd] = load_reserved(X[rs1], 8)


@instruction("00011 aq rl rs2 rs1 011 rd 0101111", "sc.d rd, rs2, (rs1)")
def sc_d(rd, rs1, rs2):
    X[rd] = store_conditional(X[rs1], X[rs2], 8)


@instruction("00001 aq rl rs2 rs1 011 rd 0101111", "amoswap.d rd, rs2, (rs1)")
def amoswap_d(rd, rs1, rs2):
    X[rd] = amo("swap", X[rs1], X[rs2], 8)


@instruction("00000 aq rl rs2 rs1 011 rd 0101111", "amoadd.d rd, rs2, (rs1)")
def amoadd_d(rd, rs1, rs2):
    X[rd] = amo("add", X[rs1], X[rs2], 8)


@instruction("00100 aq rl rs2 rs1 011 rd 0101111", "amoxor.d rd, rs2, (rs1)")
def amoxor_d(rd, rs1, rs2):
    X[rd] = amo("xor", X[rs1], X[rs2], 8)


@instruction("01100 aq rl rs2 rs1 011 rd 0101111", "amoand.d rd, rs2, (rs1)")
def amoand_d(rd, rs1, rs2):
    X[rd] = amo("and", X[rs1], X[rs2], 8)


@instruction("01000 aq rl rs2 rs1 011 rd 0101111", "amoor.d rd, rs2, (rs1)")
def amoor_d(rd, rs1, rs2):
    X[rd] = amo("or", X[rs1], X[rs2], 8)


@instruction("10000 aq rl rs2 rs1 011 rd 0101111", "amomin.d rd, rs2, (rs1)")
def amomin_d(rd, rs1, rs2):
    X[rd] = amo("min", X[rs1], X[rs2], 8)


@instruction("10100 aq rl rs2 rs1 011 rd 0101111", "amomax.d rd, rs2, (rs1)")
def amomax_d(rd, rs1, rs2):
    X[rd] = amo("max", X[rs1], X[rs2], 8)


@instruction("11000 aq rl rs2 rs1 011 rd 0101111", "amominu.d rd, rs2, (rs1)")
def amominu_d(rd, rs1, rs2):
    X[rd] = amo("minu", X[rs1], X[rs2], 8)


@instruction("11100 aq rl rs2 rs1 011 rd 0101111", "amomaxu.d rd, rs2, (rs1)")
def amomaxu_d(rd, rs1, rs2):
    X[rd] = amo("maxu", X[rs1], X[rs2], 8)
