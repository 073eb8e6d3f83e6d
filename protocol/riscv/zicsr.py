"""Zicsr: the six instructions that read and write control and status registers.

Source: unprivileged ISA, chapter Zicsr. Whether an instruction writes is a matter of its encoding:
csrrs and csrrc with rs1 = x0 (or the immediate 0) do not, whatever the register holds. Counters
(Zicntr) are read by the same instructions; see csr.py.

Read next: csr.py.
"""

from protocol.riscv.csr import csr_check, csr_disturbs, csr_modify_base, csr_read, csr_write
from protocol.riscv.isa import instruction
from protocol.riscv.words import *


@instruction("csr rs1 001 rd 1110011", "csrrw rd, csr, rs1")
def csrrw(rd, rs1, csr):
    value = X[rs1]
    csr_check(csr, 1)
    old = csr_read(csr)
    csr_write(csr, value)
    X[rd] = old
    if csr_disturbs(csr):
        resync()


@instruction("csr rs1 010 rd 1110011", "csrrs rd, csr, rs1")
def csrrs(rd, rs1, csr):
    mask = X[rs1]
    csr_check(csr, rs1)
    old = csr_read(csr)
    if rs1 != 0:
        csr_write(csr, csr_modify_base(csr, old) | mask)
    X[rd] = old
    if rs1 != 0 and csr_disturbs(csr):
        resync()


@instruction("csr rs1 011 rd 1110011", "csrrc rd, csr, rs1")
def csrrc(rd, rs1, csr):
    mask = X[rs1]
    csr_check(csr, rs1)
    old = csr_read(csr)
    if rs1 != 0:
        csr_write(csr, csr_modify_base(csr, old) & ~mask)
    X[rd] = old
    if rs1 != 0 and csr_disturbs(csr):
        resync()


@instruction("csr zimm 101 rd 1110011", "csrrwi rd, csr, zimm")
def csrrwi(rd, zimm, csr):
    csr_check(csr, 1)
    old = csr_read(csr)
    csr_write(csr, zimm)
    X[rd] = old
    if csr_disturbs(csr):
        resync()


@instruction("csr zimm 110 rd 1110011", "csrrsi rd, csr, zimm")
def csrrsi(rd, zimm, csr):
    csr_check(csr, zimm)
    old = csr_read(csr)
    if zimm != 0:
        csr_write(csr, csr_modify_base(csr, old) | zimm)
    X[rd] = old
    if zimm != 0 and csr_disturbs(csr):
        resync()


@instruction("csr zimm 111 rd 1110011", "csrrci rd, csr, zimm")
def csrrci(rd, zimm, csr):
    csr_check(csr, zimm)
    old = csr_read(csr)
    if zimm != 0:
        csr_write(csr, csr_modify_base(csr, old) & ~zimm)
    X[rd] = old
    if zimm != 0 and csr_disturbs(csr):
        resync()
