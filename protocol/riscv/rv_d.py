"""RV64D: double-precision floating point, with the compressed loads and stores.

Each instruction is that of rv_f.py in the wider format: no boxing, else the same.

Source: RISC-V unprivileged architecture, chapters "D" and "C".

Read next: rv_f.py, whose header states the invariants; softfloat.py.
"""

from __future__ import annotations

from protocol.riscv.isa import compressed, instruction, routine
from protocol.riscv.rv_f import (
    NV,
    box,
    check_fp,
    classify,
    dirty_fp,
    order,
    requires_fp,
    rounding,
    unbox,
)
from protocol.riscv.words import *

SIGN = 0x80000000_00000000
MAGNITUDE = 0x7FFFFFFF_FFFFFFFF
LEAST_NORMAL = 0x00100000_00000000
INFINITY = 0x7FF00000_00000000
QUIET = 0x00080000_00000000
CANONICAL_NAN = 0x7FF80000_00000000


@routine(pure=True)
def is_nan_d(value):
    return (value & MAGNITUDE) > INFINITY


@routine(pure=True)
def is_signalling_d(value):
    return is_nan_d(value) and (value & QUIET) == 0


@routine
def pick_number_d(a, b, prefer_a):
    """As `pick_number_s` in rv_f.py."""
    if is_signalling_d(a) or is_signalling_d(b):
        raise_flags(NV)
    number = a if prefer_a != 0 else b
    if is_nan_d(a):
        number = b
    if is_nan_d(b):
        number = a
    return CANONICAL_NAN if is_nan_d(number) else number


# --- Loads and stores -----------------------------------------------------------------------------


@instruction("imm[11:0] rs1 011 rd 0000111", "fld rd, imm(rs1)")
def fld(rd, rs1, imm):
    check_fp()
    value = load(X[rs1] + imm, 8)
    dirty_fp()
    F[rd] = value


@instruction("imm[11:5] rs2 rs1 011 imm[4:0] 0100111", "fsd rs2, imm(rs1)")
def fsd(rs1, rs2, imm):
    check_fp()
    store(X[rs1] + imm, F[rs2], 8)


# fmt: off
compressed("001 uimm[5:3] rs1' uimm[7:6] rd' 00",   "c.fld rd', uimm(rs1')",    "fld",    rd="rd'", rs1="rs1'", imm="uimm")
compressed("101 uimm[5:3] rs1' uimm[7:6] rs2' 00",  "c.fsd rs2', uimm(rs1')",   "fsd",    rs1="rs1'", rs2="rs2'", imm="uimm")
compressed("001 uimm[5] rd uimm[4:3|8:6] 10",       "c.fldsp rd, uimm(sp)",     "fld",    rd="rd", rs1=2, imm="uimm")
compressed("101 uimm[5:3|8:6] rs2 10",              "c.fsdsp rs2, uimm(sp)",    "fsd",    rs1=2, rs2="rs2", imm="uimm")
# fmt: on


# --- Arithmetic -----------------------------------------------------------------------------------


@instruction("0000001 rs2 rs1 rm rd 1010011", "fadd.d rd, rs1, rs2, rm")
def fadd_d(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_add(F[rs1], F[rs2], mode)


@instruction("0000101 rs2 rs1 rm rd 1010011", "fsub.d rd, rs1, rs2, rm")
def fsub_d(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_sub(F[rs1], F[rs2], mode)


@instruction("0001001 rs2 rs1 rm rd 1010011", "fmul.d rd, rs1, rs2, rm")
def fmul_d(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_mul(F[rs1], F[rs2], mode)


@instruction("0001101 rs2 rs1 rm rd 1010011", "fdiv.d rd, rs1, rs2, rm")
def fdiv_d(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_div(F[rs1], F[rs2], mode)


@instruction("0101101 00000 rs1 rm rd 1010011", "fsqrt.d rd, rs1, rm")
def fsqrt_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_sqrt(F[rs1], mode)


@instruction("rs3 01 rs2 rs1 rm rd 1000011", "fmadd.d rd, rs1, rs2, rs3, rm")
def fmadd_d(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_fma(F[rs1], F[rs2], F[rs3], mode)


@instruction("rs3 01 rs2 rs1 rm rd 1000111", "fmsub.d rd, rs1, rs2, rs3, rm")
def fmsub_d(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_fma(F[rs1], F[rs2], F[rs3] ^ SIGN, mode)


@instruction("rs3 01 rs2 rs1 rm rd 1001011", "fnmsub.d rd, rs1, rs2, rs3, rm")
def fnmsub_d(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_fma(F[rs1] ^ SIGN, F[rs2], F[rs3], mode)


@instruction("rs3 01 rs2 rs1 rm rd 1001111", "fnmadd.d rd, rs1, rs2, rs3, rm")
def fnmadd_d(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_fma(F[rs1] ^ SIGN, F[rs2], F[rs3] ^ SIGN, mode)


# --- Signs, minimum and maximum -------------------------------------------------------------------


@instruction("0010001 rs2 rs1 000 rd 1010011", "fsgnj.d rd, rs1, rs2")
def fsgnj_d(rd, rs1, rs2):
    requires_fp()
    a = F[rs1]
    b = F[rs2]
    F[rd] = (a & MAGNITUDE) | (b & SIGN)


@instruction("0010001 rs2 rs1 001 rd 1010011", "fsgnjn.d rd, rs1, rs2")
def fsgnjn_d(rd, rs1, rs2):
    requires_fp()
    a = F[rs1]
    b = F[rs2]
    F[rd] = (a & MAGNITUDE) | (~b & SIGN)


@instruction("0010001 rs2 rs1 010 rd 1010011", "fsgnjx.d rd, rs1, rs2")
def fsgnjx_d(rd, rs1, rs2):
    requires_fp()
    a = F[rs1]
    b = F[rs2]
    F[rd] = a ^ (b & SIGN)


@instruction("0010101 rs2 rs1 000 rd 1010011", "fmin.d rd, rs1, rs2")
def fmin_d(rd, rs1, rs2):
    requires_fp()
    a = F[rs1]
    b = F[rs2]
    prefer_a = signed(order(a)) < signed(order(b))
    F[rd] = pick_number_d(a, b, word(prefer_a))


@instruction("0010101 rs2 rs1 001 rd 1010011", "fmax.d rd, rs1, rs2")
def fmax_d(rd, rs1, rs2):
    requires_fp()
    a = F[rs1]
    b = F[rs2]
    prefer_a = signed(order(a)) > signed(order(b))
    F[rd] = pick_number_d(a, b, word(prefer_a))


# --- Comparison and classification ----------------------------------------------------------------


@instruction("1010001 rs2 rs1 010 rd 1010011", "feq.d rd, rs1, rs2")
def feq_d(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f64_eq(F[rs1], F[rs2]))


@instruction("1010001 rs2 rs1 001 rd 1010011", "flt.d rd, rs1, rs2")
def flt_d(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f64_lt(F[rs1], F[rs2]))


@instruction("1010001 rs2 rs1 000 rd 1010011", "fle.d rd, rs1, rs2")
def fle_d(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f64_le(F[rs1], F[rs2]))


@instruction("1110001 00000 rs1 001 rd 1010011", "fclass.d rd, rs1")
def fclass_d(rd, rs1):
    check_fp()
    value = F[rs1]
    X[rd] = classify(value & MAGNITUDE, value & SIGN, LEAST_NORMAL, INFINITY, QUIET)


# --- Conversion -----------------------------------------------------------------------------------


@instruction("1100001 00000 rs1 rm rd 1010011", "fcvt.w.d rd, rs1, rm")
def fcvt_w_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f64_to_i32(F[rs1], mode)


@instruction("1100001 00001 rs1 rm rd 1010011", "fcvt.wu.d rd, rs1, rm")
def fcvt_wu_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f64_to_u32(F[rs1], mode)


@instruction("1100001 00010 rs1 rm rd 1010011", "fcvt.l.d rd, rs1, rm")
def fcvt_l_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f64_to_i64(F[rs1], mode)


@instruction("1100001 00011 rs1 rm rd 1010011", "fcvt.lu.d rd, rs1, rm")
def fcvt_lu_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f64_to_u64(F[rs1], mode)


@instruction("1101001 00000 rs1 rm rd 1010011", "fcvt.d.w rd, rs1, rm")
def fcvt_d_w(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_from_i32(X[rs1], mode)


@instruction("1101001 00001 rs1 rm rd 1010011", "fcvt.d.wu rd, rs1, rm")
def fcvt_d_wu(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_from_u32(X[rs1], mode)


@instruction("1101001 00010 rs1 rm rd 1010011", "fcvt.d.l rd, rs1, rm")
def fcvt_d_l(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_from_i64(X[rs1], mode)


@instruction("1101001 00011 rs1 rm rd 1010011", "fcvt.d.lu rd, rs1, rm")
def fcvt_d_lu(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = f64_from_u64(X[rs1], mode)


@instruction("0100000 00001 rs1 rm rd 1010011", "fcvt.s.d rd, rs1, rm")
def fcvt_s_d(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f64_to_f32(F[rs1], mode))


@instruction("0100001 00000 rs1 rm rd 1010011", "fcvt.d.s rd, rs1, rm")
def fcvt_d_s(rd, rs1, rm):
    rounding(rm)  # exact whatever the mode, but a reserved one traps
    requires_fp()
    F[rd] = f32_to_f64(unbox(F[rs1]))


# --- Moves of bits --------------------------------------------------------------------------------


@instruction("1110001 00000 rs1 000 rd 1010011", "fmv.x.d rd, rs1")
def fmv_x_d(rd, rs1):
    check_fp()
    X[rd] = F[rs1]


@instruction("1111001 00000 rs1 000 rd 1010011", "fmv.d.x rd, rs1")
def fmv_d_x(rd, rs1):
    requires_fp()
    F[rd] = X[rs1]
