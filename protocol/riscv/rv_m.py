"""M: integer multiplication and division, with the 32-bit forms of RV64.

Source: unprivileged ISA, chapter "M" Standard Extension. Division never traps: a zero divisor gives
all ones as quotient and the dividend as remainder; the one overflow, most negative / -1, gives the
dividend and 0. The 32-bit forms widen first, so that their overflow needs no case of its own: the
64-bit quotient exists and its low half is right.

Read next: `rv_zb.py`, or `language.py` for what these functions may say.
"""

from protocol.riscv.isa import instruction
from protocol.riscv.words import *

# --- multiplication ---------------------------------------------------------------------------


@instruction("0000001 rs2 rs1 000 rd 0110011", "mul rd, rs1, rs2")
def mul(rd, rs1, rs2):
    X[rd] = X[rs1] * X[rs2]


@instruction("0000001 rs2 rs1 001 rd 0110011", "mulh rd, rs1, rs2")
def mulh_(rd, rs1, rs2):
    X[rd] = mulh(X[rs1], X[rs2])


@instruction("0000001 rs2 rs1 010 rd 0110011", "mulhsu rd, rs1, rs2")
def mulhsu_(rd, rs1, rs2):
    X[rd] = mulhsu(X[rs1], X[rs2])


@instruction("0000001 rs2 rs1 011 rd 0110011", "mulhu rd, rs1, rs2")
def mulhu_(rd, rs1, rs2):
    X[rd] = mulhu(X[rs1], X[rs2])


@instruction("0000001 rs2 rs1 000 rd 0111011", "mulw rd, rs1, rs2")
def mulw(rd, rs1, rs2):
    X[rd] = sext(X[rs1] * X[rs2], 32)


# --- division ---------------------------------------------------------------------------------


@instruction("0000001 rs2 rs1 100 rd 0110011", "div rd, rs1, rs2")
def div(rd, rs1, rs2):
    dividend = X[rs1]
    divisor = X[rs2]
    if divisor == 0:
        X[rd] = ~0
    elif dividend == 1 << 63 and divisor == ~0:
        X[rd] = dividend
    else:
        X[rd] = divs(dividend, divisor)


@instruction("0000001 rs2 rs1 101 rd 0110011", "divu rd, rs1, rs2")
def divu_(rd, rs1, rs2):
    if X[rs2] == 0:
        X[rd] = ~0
    else:
        X[rd] = divu(X[rs1], X[rs2])


@instruction("0000001 rs2 rs1 110 rd 0110011", "rem rd, rs1, rs2")
def rem(rd, rs1, rs2):
    dividend = X[rs1]
    divisor = X[rs2]
    if divisor == 0:
        X[rd] = dividend
    elif divisor == ~0:  # whatever the dividend: this covers the overflow
        X[rd] = 0
    else:
        X[rd] = rems(dividend, divisor)


@instruction("0000001 rs2 rs1 111 rd 0110011", "remu rd, rs1, rs2")
def remu_(rd, rs1, rs2):
    if X[rs2] == 0:
        X[rd] = X[rs1]
    else:
        X[rd] = remu(X[rs1], X[rs2])


@instruction("0000001 rs2 rs1 100 rd 0111011", "divw rd, rs1, rs2")
def divw(rd, rs1, rs2):
    divisor = sext(X[rs2], 32)
    if divisor == 0:
        X[rd] = ~0
    else:
        X[rd] = sext(divs(sext(X[rs1], 32), divisor), 32)


@instruction("0000001 rs2 rs1 101 rd 0111011", "divuw rd, rs1, rs2")
def divuw(rd, rs1, rs2):
    divisor = zext(X[rs2], 32)
    if divisor == 0:
        X[rd] = ~0
    else:
        X[rd] = sext(divu(zext(X[rs1], 32), divisor), 32)


@instruction("0000001 rs2 rs1 110 rd 0111011", "remw rd, rs1, rs2")
def remw(rd, rs1, rs2):
    dividend = sext(X[rs1], 32)
    divisor = sext(X[rs2], 32)
    if divisor == 0:
        X[rd] = dividend
    else:
        X[rd] = rems(dividend, divisor)


@instruction("0000001 rs2 rs1 111 rd 0111011", "remuw rd, rs1, rs2")
def remuw(rd, rs1, rs2):
    divisor = zext(X[rs2], 32)
    if divisor == 0:
        X[rd] = sext(X[rs1], 32)
    else:
        X[rd] = sext(remu(zext(X[rs1], 32), divisor), 32)
