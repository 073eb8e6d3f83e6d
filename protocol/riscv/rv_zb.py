"""Zba, Zbb and Zbs: address generation, basic and single-bit manipulation.

Source: unprivileged ISA, chapter "B" Extension for Bit Manipulation. Shift amounts are masked here,
because the language's shifts demand an amount below 64.

Read next: `language.py` for what these functions may say.
"""

from protocol.riscv.isa import instruction
from protocol.riscv.words import *

# --- Zba: address generation -------------------------------------------------------------------


@instruction("0000100 rs2 rs1 000 rd 0111011", "add.uw rd, rs1, rs2")
def add_uw(rd, rs1, rs2):
    X[rd] = zext(X[rs1], 32) + X[rs2]


@instruction("0010000 rs2 rs1 010 rd 0110011", "sh1add rd, rs1, rs2")
def sh1add(rd, rs1, rs2):
    X[rd] = (X[rs1] << 1) + X[rs2]


@instruction("0010000 rs2 rs1 100 rd 0110011", "sh2add rd, rs1, rs2")
def sh2add(rd, rs1, rs2):
    X[rd] = (X[rs1] << 2) + X[rs2]


@instruction("0010000 rs2 rs1 110 rd 0110011", "sh3add rd, rs1, rs2")
def sh3add(rd, rs1, rs2):
    X[rd] = (X[rs1] << 3) + X[rs2]


@instruction("0010000 rs2 rs1 010 rd 0111011", "sh1add.uw rd, rs1, rs2")
def sh1add_uw(rd, rs1, rs2):
    X[rd] = (zext(X[rs1], 32) << 1) + X[rs2]


@instruction("0010000 rs2 rs1 100 rd 0111011", "sh2add.uw rd, rs1, rs2")
def sh2add_uw(rd, rs1, rs2):
    X[rd] = (zext(X[rs1], 32) << 2) + X[rs2]


@instruction("0010000 rs2 rs1 110 rd 0111011", "sh3add.uw rd, rs1, rs2")
def sh3add_uw(rd, rs1, rs2):
    X[rd] = (zext(X[rs1], 32) << 3) + X[rs2]


@instruction("000010 shamt[5:0] rs1 001 rd 0011011", "slli.uw rd, rs1, shamt")
def slli_uw(rd, rs1, shamt):
    X[rd] = zext(X[rs1], 32) << shamt


# --- Zbb: logic with negate --------------------------------------------------------------------


@instruction("0100000 rs2 rs1 111 rd 0110011", "andn rd, rs1, rs2")
def andn(rd, rs1, rs2):
    X[rd] = X[rs1] & ~X[rs2]


@instruction("0100000 rs2 rs1 110 rd 0110011", "orn rd, rs1, rs2")
def orn(rd, rs1, rs2):
    X[rd] = X[rs1] | ~X[rs2]


@instruction("0100000 rs2 rs1 100 rd 0110011", "xnor rd, rs1, rs2")
def xnor(rd, rs1, rs2):
    X[rd] = ~(X[rs1] ^ X[rs2])


# --- Zbb: counting -----------------------------------------------------------------------------


@instruction("0110000 00000 rs1 001 rd 0010011", "clz rd, rs1")
def clz_(rd, rs1):
    X[rd] = clz(X[rs1])


@instruction("0110000 00001 rs1 001 rd 0010011", "ctz rd, rs1")
def ctz_(rd, rs1):
    X[rd] = ctz(X[rs1])


@instruction("0110000 00010 rs1 001 rd 0010011", "cpop rd, rs1")
def cpop_(rd, rs1):
    X[rd] = cpop(X[rs1])


@instruction("0110000 00000 rs1 001 rd 0011011", "clzw rd, rs1")
def clzw(rd, rs1):
    X[rd] = clz(zext(X[rs1], 32)) - 32


@instruction("0110000 00001 rs1 001 rd 0011011", "ctzw rd, rs1")
def ctzw(rd, rs1):
    X[rd] = ctz(X[rs1] | (1 << 32))


@instruction("0110000 00010 rs1 001 rd 0011011", "cpopw rd, rs1")
def cpopw(rd, rs1):
    X[rd] = cpop(zext(X[rs1], 32))


# --- Zbb: minimum and maximum ------------------------------------------------------------------


@instruction("0000101 rs2 rs1 100 rd 0110011", "min rd, rs1, rs2")
def min_(rd, rs1, rs2):
    X[rd] = X[rs1] if signed(X[rs1]) < signed(X[rs2]) else X[rs2]


@instruction("0000101 rs2 rs1 101 rd 0110011", "minu rd, rs1, rs2")
def minu(rd, rs1, rs2):
    X[rd] = X[rs1] if X[rs1] < X[rs2] else X[rs2]


@instruction("0000101 rs2 rs1 110 rd 0110011", "max rd, rs1, rs2")
def max_(rd, rs1, rs2):
    X[rd] = X[rs1] if signed(X[rs1]) > signed(X[rs2]) else X[rs2]


@instruction("0000101 rs2 rs1 111 rd 0110011", "maxu rd, rs1, rs2")
def maxu(rd, rs1, rs2):
    X[rd] = X[rs1] if X[rs1] > X[rs2] else X[rs2]


# --- Zbb: extension ----------------------------------------------------------------------------


@instruction("0110000 00100 rs1 001 rd 0010011", "sext.b rd, rs1")
def sext_b(rd, rs1):
    X[rd] = sext(X[rs1], 8)


@instruction("0110000 00101 rs1 001 rd 0010011", "sext.h rd, rs1")
def sext_h(rd, rs1):
    X[rd] = sext(X[rs1], 16)


@instruction("0000100 00000 rs1 100 rd 0111011", "zext.h rd, rs1")
def zext_h(rd, rs1):
    X[rd] = zext(X[rs1], 16)


# --- Zbb: rotation -----------------------------------------------------------------------------


@instruction("0110000 rs2 rs1 001 rd 0110011", "rol rd, rs1, rs2")
def rol(rd, rs1, rs2):
    amount = X[rs2] & 63
    X[rd] = (X[rs1] << amount) | (X[rs1] >> ((64 - amount) & 63))


@instruction("0110000 rs2 rs1 101 rd 0110011", "ror rd, rs1, rs2")
def ror(rd, rs1, rs2):
    amount = X[rs2] & 63
    X[rd] = (X[rs1] >> amount) | (X[rs1] << ((64 - amount) & 63))


@instruction("011000 shamt[5:0] rs1 101 rd 0010011", "rori rd, rs1, shamt")
def rori(rd, rs1, shamt):
    X[rd] = (X[rs1] >> shamt) | (X[rs1] << ((64 - shamt) & 63))


@instruction("0110000 rs2 rs1 001 rd 0111011", "rolw rd, rs1, rs2")
def rolw(rd, rs1, rs2):
    value = zext(X[rs1], 32)
    amount = X[rs2] & 31
    X[rd] = sext((value << amount) | (value >> (32 - amount)), 32)


@instruction("0110000 rs2 rs1 101 rd 0111011", "rorw rd, rs1, rs2")
def rorw(rd, rs1, rs2):
    value = zext(X[rs1], 32)
    amount = X[rs2] & 31
    X[rd] = sext((value >> amount) | (value << (32 - amount)), 32)


@instruction("0110000 shamt[4:0] rs1 101 rd 0011011", "roriw rd, rs1, shamt")
def roriw(rd, rs1, shamt):
    value = zext(X[rs1], 32)
    X[rd] = sext((value >> shamt) | (value << (32 - shamt)), 32)


# --- Zbb: bytes --------------------------------------------------------------------------------


@instruction("0010100 00111 rs1 101 rd 0010011", "orc.b rd, rs1")
def orc_b(rd, rs1):
    value = X[rs1]
    low = 0x7F7F_7F7F_7F7F_7F7F
    # adding 0x7F carries into a byte's top bit, and no further, unless its low seven bits are 0
    ones = ((((value & low) + low) | value) & ~low) >> 7
    X[rd] = (ones << 8) - ones


@instruction("011010111000 rs1 101 rd 0010011", "rev8 rd, rs1")
def rev8(rd, rs1):
    X[rd] = bswap(X[rs1])


# --- Zbs: single bits --------------------------------------------------------------------------


@instruction("0100100 rs2 rs1 001 rd 0110011", "bclr rd, rs1, rs2")
def bclr(rd, rs1, rs2):
    X[rd] = X[rs1] & ~(1 << (X[rs2] & 63))


@instruction("010010 shamt[5:0] rs1 001 rd 0010011", "bclri rd, rs1, shamt")
def bclri(rd, rs1, shamt):
    X[rd] = X[rs1] & ~(1 << shamt)


@instruction("0100100 rs2 rs1 101 rd 0110011", "bext rd, rs1, rs2")
def bext(rd, rs1, rs2):
    X[rd] = (X[rs1] >> (X[rs2] & 63)) & 1


@instruction("010010 shamt[5:0] rs1 101 rd 0010011", "bexti rd, rs1, shamt")
def bexti(rd, rs1, shamt):
    X[rd] = (X[rs1] >> shamt) & 1


@instruction("0110100 rs2 rs1 001 rd 0110011", "binv rd, rs1, rs2")
def binv(rd, rs1, rs2):
    X[rd] = X[rs1] ^ (1 << (X[rs2] & 63))


@instruction("011010 shamt[5:0] rs1 001 rd 0010011", "binvi rd, rs1, shamt")
def binvi(rd, rs1, shamt):
    X[rd] = X[rs1] ^ (1 << shamt)


@instruction("0010100 rs2 rs1 001 rd 0110011", "bset rd, rs1, rs2")
def bset(rd, rs1, rs2):
    X[rd] = X[rs1] | (1 << (X[rs2] & 63))


@instruction("001010 shamt[5:0] rs1 001 rd 0010011", "bseti rd, rs1, shamt")
def bseti(rd, rs1, shamt):
    X[rd] = X[rs1] | (1 << shamt)
