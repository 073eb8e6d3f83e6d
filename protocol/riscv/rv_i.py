"""RV64I, the base integer instructions (Unprivileged ISA, chapters 2 and 4), and `fence`.

A reading guide: each declaration is encoding, assembly text, semantics. `X[rd] = ...` with rd = 0
has no effect; a load to x0 still accesses memory.
"""

from __future__ import annotations

from protocol.riscv.isa import instruction
from protocol.riscv.words import *


@instruction("imm[31:12] rd 0110111", "lui rd, imm")
def lui(rd, imm):
    X[rd] = imm


@instruction("imm[31:12] rd 0010111", "auipc rd, imm")
def auipc(rd, imm):
    X[rd] = pc + imm


@instruction("imm[20|10:1|11|19:12] rd 1101111", "jal rd, target")
def jal(rd, imm):
    X[rd] = pc + length
    branch(imm)


@instruction("imm[11:0] rs1 000 rd 1100111", "jalr rd, imm(rs1)")
def jalr(rd, rs1, imm):
    target = (X[rs1] + imm) & ~1
    X[rd] = pc + length
    jump(target)


@instruction("imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011", "beq rs1, rs2, target")
def beq(rs1, rs2, imm):
    if X[rs1] == X[rs2]:
        branch(imm)


@instruction("imm[12|10:5] rs2 rs1 001 imm[4:1|11] 1100011", "bne rs1, rs2, target")
def bne(rs1, rs2, imm):
    if X[rs1] != X[rs2]:
        branch(imm)


@instruction("imm[12|10:5] rs2 rs1 100 imm[4:1|11] 1100011", "blt rs1, rs2, target")
def blt(rs1, rs2, imm):
    if signed(X[rs1]) < signed(X[rs2]):
        branch(imm)


@instruction("imm[12|10:5] rs2 rs1 101 imm[4:1|11] 1100011", "bge rs1, rs2, target")
def bge(rs1, rs2, imm):
    if signed(X[rs1]) >= signed(X[rs2]):
        branch(imm)


@instruction("imm[12|10:5] rs2 rs1 110 imm[4:1|11] 1100011", "bltu rs1, rs2, target")
def bltu(rs1, rs2, imm):
    if X[rs1] < X[rs2]:
        branch(imm)


@instruction("imm[12|10:5] rs2 rs1 111 imm[4:1|11] 1100011", "bgeu rs1, rs2, target")
def bgeu(rs1, rs2, imm):
    if X[rs1] >= X[rs2]:
        branch(imm)


@instruction("imm[11:0] rs1 000 rd 0000011", "lb rd, imm(rs1)")
def lb(rd, rs1, imm):
    X[rd] = sext(load(X[rs1] + imm, 1), 8)


@instruction("imm[11:0] rs1 001 rd 0000011", "lh rd, imm(rs1)")
def lh(rd, rs1, imm):
    X[rd] = sext(load(X[rs1] + imm, 2), 16)


@instruction("imm[11:0] rs1 010 rd 0000011", "lw rd, imm(rs1)")
def lw(rd, rs1, imm):
    X[rd] = sext(load(X[rs1] + imm, 4), 32)


@instruction("imm[11:0] rs1 011 rd 0000011", "ld rd, imm(rs1)")
def ld(rd, rs1, imm):
    X[rd] = load(X[rs1] + imm, 8)


@instruction("imm[11:0] rs1 100 rd 0000011", "lbu rd, imm(rs1)")
def lbu(rd, rs1, imm):
    X[rd] = load(X[rs1] + imm, 1)


@instruction("imm[11:0] rs1 101 rd 0000011", "lhu rd, imm(rs1)")
def lhu(rd, rs1, imm):
    X[rd] = load(X[rs1] + imm, 2)


@instruction("imm[11:0] rs1 110 rd 0000011", "lwu rd, imm(rs1)")
def lwu(rd, rs1, imm):
    X[rd] = load(X[rs1] + imm, 4)


@instruction("imm[11:5] rs2 rs1 000 imm[4:0] 0100011", "sb rs2, imm(rs1)")
def sb(rs1, rs2, imm):
    store(X[rs1] + imm, X[rs2], 1)


@instruction("imm[11:5] rs2 rs1 001 imm[4:0] 0100011", "sh rs2, imm(rs1)")
def sh(rs1, rs2, imm):
    store(X[rs1] + imm, X[rs2], 2)


@instruction("imm[11:5] rs2 rs1 010 imm[4:0] 0100011", "sw rs2, imm(rs1)")
def sw(rs1, rs2, imm):
    store(X[rs1] + imm, X[rs2], 4)


@instruction("imm[11:5] rs2 rs1 011 imm[4:0] 0100011", "sd rs2, imm(rs1)")
def sd(rs1, rs2, imm):
    store(X[rs1] + imm, X[rs2], 8)


@instruction("imm[11:0] rs1 000 rd 0010011", "addi rd, rs1, imm")
def addi(rd, rs1, imm):
    X[rd] = X[rs1] + imm


@instruction("imm[11:0] rs1 010 rd 0010011", "slti rd, rs1, imm")
def slti(rd, rs1, imm):
    X[rd] = word(signed(X[rs1]) < signed(imm))


@instruction("imm[11:0] rs1 011 rd 0010011", "sltiu rd, rs1, imm")
def sltiu(rd, rs1, imm):
    X[rd] = word(X[rs1] < imm)


@instruction("imm[11:0] rs1 100 rd 0010011", "xori rd, rs1, imm")
def xori(rd, rs1, imm):
    X[rd] = X[rs1] ^ imm


@instruction("imm[11:0] rs1 110 rd 0010011", "ori rd, rs1, imm")
def ori(rd, rs1, imm):
    X[rd] = X[rs1] | imm


@instruction("imm[11:0] rs1 111 rd 0010011", "andi rd, rs1, imm")
def andi(rd, rs1, imm):
    X[rd] = X[rs1] & imm


@instruction("000000 shamt[5:0] rs1 001 rd 0010011", "slli rd, rs1, shamt")
def slli(rd, rs1, shamt):
    X[rd] = X[rs1] << shamt


@instruction("000000 shamt[5:0] rs1 101 rd 0010011", "srli rd, rs1, shamt")
def srli(rd, rs1, shamt):
    X[rd] = X[rs1] >> shamt


@instruction("010000 shamt[5:0] rs1 101 rd 0010011", "srai rd, rs1, shamt")
def srai(rd, rs1, shamt):
    X[rd] = signed(X[rs1]) >> shamt


@instruction("0000000 rs2 rs1 000 rd 0110011", "add rd, rs1, rs2")
def add(rd, rs1, rs2):
    X[rd] = X[rs1] + X[rs2]


@instruction("0100000 rs2 rs1 000 rd 0110011", "sub rd, rs1, rs2")
def sub(rd, rs1, rs2):
    X[rd] = X[rs1] - X[rs2]


@instruction("0000000 rs2 rs1 001 rd 0110011", "sll rd, rs1, rs2")
def sll(rd, rs1, rs2):
    X[rd] = X[rs1] << (X[rs2] & 63)


@instruction("0000000 rs2 rs1 010 rd 0110011", "slt rd, rs1, rs2")
def slt(rd, rs1, rs2):
    X[rd] = word(signed(X[rs1]) < signed(X[rs2]))


@instruction("0000000 rs2 rs1 011 rd 0110011", "sltu rd, rs1, rs2")
def sltu(rd, rs1, rs2):
    X[rd] = word(X[rs1] < X[rs2])


@instruction("0000000 rs2 rs1 100 rd 0110011", "xor rd, rs1, rs2")
def xor(rd, rs1, rs2):
    X[rd] = X[rs1] ^ X[rs2]


@instruction("0000000 rs2 rs1 101 rd 0110011", "srl rd, rs1, rs2")
def srl(rd, rs1, rs2):
    X[rd] = X[rs1] >> (X[rs2] & 63)


@instruction("0100000 rs2 rs1 101 rd 0110011", "sra rd, rs1, rs2")
def sra(rd, rs1, rs2):
    X[rd] = signed(X[rs1]) >> (X[rs2] & 63)


@instruction("0000000 rs2 rs1 110 rd 0110011", "or rd, rs1, rs2")
def or_(rd, rs1, rs2):
    X[rd] = X[rs1] | X[rs2]


@instruction("0000000 rs2 rs1 111 rd 0110011", "and rd, rs1, rs2")
def and_(rd, rs1, rs2):
    X[rd] = X[rs1] & X[rs2]


@instruction("imm[11:0] rs1 000 rd 0011011", "addiw rd, rs1, imm")
def addiw(rd, rs1, imm):
    X[rd] = sext(X[rs1] + imm, 32)


@instruction("0000000 shamt[4:0] rs1 001 rd 0011011", "slliw rd, rs1, shamt")
def slliw(rd, rs1, shamt):
    X[rd] = sext(X[rs1] << shamt, 32)


@instruction("0000000 shamt[4:0] rs1 101 rd 0011011", "srliw rd, rs1, shamt")
def srliw(rd, rs1, shamt):
    X[rd] = sext(zext(X[rs1], 32) >> shamt, 32)


@instruction("0100000 shamt[4:0] rs1 101 rd 0011011", "sraiw rd, rs1, shamt")
def sraiw(rd, rs1, shamt):
    X[rd] = signed(sext(X[rs1], 32)) >> shamt


@instruction("0000000 rs2 rs1 000 rd 0111011", "addw rd, rs1, rs2")
def addw(rd, rs1, rs2):
    X[rd] = sext(X[rs1] + X[rs2], 32)


@instruction("0100000 rs2 rs1 000 rd 0111011", "subw rd, rs1, rs2")
def subw(rd, rs1, rs2):
    X[rd] = sext(X[rs1] - X[rs2], 32)


@instruction("0000000 rs2 rs1 001 rd 0111011", "sllw rd, rs1, rs2")
def sllw(rd, rs1, rs2):
    X[rd] = sext(X[rs1] << (X[rs2] & 31), 32)


@instruction("0000000 rs2 rs1 101 rd 0111011", "srlw rd, rs1, rs2")
def srlw(rd, rs1, rs2):
    X[rd] = sext(zext(X[rs1], 32) >> (X[rs2] & 31), 32)


@instruction("0100000 rs2 rs1 101 rd 0111011", "sraw rd, rs1, rs2")
def sraw(rd, rs1, rs2):
    X[rd] = signed(sext(X[rs1], 32)) >> (X[rs2] & 31)


@instruction("fm[3:0] pred[3:0] succ[3:0] rs1 000 rd 0001111", "fence pred, succ")
def fence_():
    fence()
