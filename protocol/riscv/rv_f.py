"""RV64F: single-precision floating point, and what RV64D shares with it.

The problem: a binary32 lives NaN-boxed in a 64-bit register (its upper half all ones), so every
operand is unboxed before use and every result boxed; an operand that is not properly boxed counts
as the canonical NaN. Only `fsw`, `fmv.x.w` and the sign-agnostic moves of bits skip that check.

Source: RISC-V unprivileged architecture, chapter "F" (rounding modes, flags, NaN generation) and
"D", section "NaN Boxing of Narrower Values"; privileged, section 3.1.6.6 (mstatus.FS).

Invariants:

- An instruction traps before it changes anything: first `rounding` or `check_fp`, then the memory
  access if there is one, and only then is FS made Dirty.
- FS becomes Dirty whenever a floating-point register or a flag may change, even if it does not;
  stores, moves to an integer register and `fclass` leave it alone.
- Rounding modes reach the built-ins resolved, 0 to 4.

Read next: rv_d.py (the same in double precision), softfloat.py (what the built-ins compute).
"""

from __future__ import annotations

from protocol.riscv.csr import MSTATUS_FS, fp_enabled
from protocol.riscv.isa import instruction, routine
from protocol.riscv.privileged import ILLEGAL_INSTRUCTION
from protocol.riscv.words import *

NV = 16  # the invalid-operation flag
DYNAMIC = 7  # rm: use frm
GREATEST_MODE = 4  # the modes above are reserved

BOX = 0xFFFFFFFF_00000000
SIGN = 0x80000000
MAGNITUDE = 0x7FFFFFFF
LEAST_NORMAL = 0x00800000
INFINITY = 0x7F800000
QUIET = 0x00400000  # the bit that makes a NaN a quiet one
CANONICAL_NAN = 0x7FC00000


# --- Shared with double precision -----------------------------------------------------------------


@routine
def check_fp():
    """Trap if FS is Off: for instructions that leave the floating-point state as it is."""
    if not fp_enabled():
        trap(ILLEGAL_INSTRUCTION, raw)


@routine
def dirty_fp():
    hart.mstatus = hart.mstatus | MSTATUS_FS


@routine
def requires_fp():
    """Trap if FS is Off, else make it Dirty."""
    check_fp()
    dirty_fp()


@routine
def rounding(rm):
    """The mode that an instruction's `rm` asks for; traps if that is a reserved one."""
    mode = hart.frm if rm == DYNAMIC else rm
    if mode > GREATEST_MODE:
        trap(ILLEGAL_INSTRUCTION, raw)
    return mode


@routine(pure=True)
def order(value):
    """Numbers in sign and magnitude, -0 below +0, as integers to compare `signed`."""
    return value ^ ((signed(value) >> 63) >> 1)


@routine(pure=True)
def classify(magnitude, negative, least_normal, infinity, quiet):
    """The mask of `fclass` (table "Format of result of FCLASS instruction")."""
    # 0 zero, 1 subnormal, 2 normal, 3 infinite
    kind = word(magnitude != 0) + word(magnitude >= least_normal) + word(magnitude >= infinity)
    number = 3 - kind if negative != 0 else 4 + kind
    nan = 9 if (magnitude & quiet) != 0 else 8
    return 1 << (nan if magnitude > infinity else number)


# --- Single precision's own -----------------------------------------------------------------------


@routine(pure=True)
def box(value):
    return value | BOX


@routine(pure=True)
def unbox(register):
    return register & 0xFFFFFFFF if register >= BOX else CANONICAL_NAN


@routine(pure=True)
def is_nan_s(value):
    return (value & MAGNITUDE) > INFINITY


@routine(pure=True)
def is_signalling_s(value):
    return is_nan_s(value) and (value & QUIET) == 0


@routine
def pick_number_s(a, b, prefer_a):
    """Of two operands the number, of two numbers the preferred one (minimumNumber and
    maximumNumber of IEEE 754-2019, section 9.6)."""
    if is_signalling_s(a) or is_signalling_s(b):
        raise_flags(NV)
    number = a if prefer_a != 0 else b
    if is_nan_s(a):
        number = b
    if is_nan_s(b):
        number = a
    return CANONICAL_NAN if is_nan_s(number) else number


# --- Loads and stores -----------------------------------------------------------------------------


@instruction("imm[11:0] rs1 010 rd 0000111", "flw rd, imm(rs1)")
def flw(rd, rs1, imm):
    check_fp()
    value = load(X[rs1] + imm, 4)
    dirty_fp()
    F[rd] = box(value)


@instruction("imm[11:5] rs2 rs1 010 imm[4:0] 0100111", "fsw rs2, imm(rs1)")
def fsw(rs1, rs2, imm):
    check_fp()
    store(X[rs1] + imm, F[rs2], 4)


# --- Arithmetic -----------------------------------------------------------------------------------


@instruction("0000000 rs2 rs1 rm rd 1010011", "fadd.s rd, rs1, rs2, rm")
def fadd_s(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_add(unbox(F[rs1]), unbox(F[rs2]), mode))


@instruction("0000100 rs2 rs1 rm rd 1010011", "fsub.s rd, rs1, rs2, rm")
def fsub_s(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_sub(unbox(F[rs1]), unbox(F[rs2]), mode))


@instruction("0001000 rs2 rs1 rm rd 1010011", "fmul.s rd, rs1, rs2, rm")
def fmul_s(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_mul(unbox(F[rs1]), unbox(F[rs2]), mode))


@instruction("0001100 rs2 rs1 rm rd 1010011", "fdiv.s rd, rs1, rs2, rm")
def fdiv_s(rd, rs1, rs2, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_div(unbox(F[rs1]), unbox(F[rs2]), mode))


@instruction("0101100 00000 rs1 rm rd 1010011", "fsqrt.s rd, rs1, rm")
def fsqrt_s(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_sqrt(unbox(F[rs1]), mode))


@instruction("rs3 00 rs2 rs1 rm rd 1000011", "fmadd.s rd, rs1, rs2, rs3, rm")
def fmadd_s(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_fma(unbox(F[rs1]), unbox(F[rs2]), unbox(F[rs3]), mode))


@instruction("rs3 00 rs2 rs1 rm rd 1000111", "fmsub.s rd, rs1, rs2, rs3, rm")
def fmsub_s(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_fma(unbox(F[rs1]), unbox(F[rs2]), unbox(F[rs3]) ^ SIGN, mode))


@instruction("rs3 00 rs2 rs1 rm rd 1001011", "fnmsub.s rd, rs1, rs2, rs3, rm")
def fnmsub_s(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_fma(unbox(F[rs1]) ^ SIGN, unbox(F[rs2]), unbox(F[rs3]), mode))


@instruction("rs3 00 rs2 rs1 rm rd 1001111", "fnmadd.s rd, rs1, rs2, rs3, rm")
def fnmadd_s(rd, rs1, rs2, rs3, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_fma(unbox(F[rs1]) ^ SIGN, unbox(F[rs2]), unbox(F[rs3]) ^ SIGN, mode))


# --- Signs, minimum and maximum -------------------------------------------------------------------


@instruction("0010000 rs2 rs1 000 rd 1010011", "fsgnj.s rd, rs1, rs2")
def fsgnj_s(rd, rs1, rs2):
    requires_fp()
    a = unbox(F[rs1])
    b = unbox(F[rs2])
    F[rd] = box((a & MAGNITUDE) | (b & SIGN))


@instruction("0010000 rs2 rs1 001 rd 1010011", "fsgnjn.s rd, rs1, rs2")
def fsgnjn_s(rd, rs1, rs2):
    requires_fp()
    a = unbox(F[rs1])
    b = unbox(F[rs2])
    F[rd] = box((a & MAGNITUDE) | (~b & SIGN))


@instruction("0010000 rs2 rs1 010 rd 1010011", "fsgnjx.s rd, rs1, rs2")
def fsgnjx_s(rd, rs1, rs2):
    requires_fp()
    a = unbox(F[rs1])
    b = unbox(F[rs2])
    F[rd] = box(a ^ (b & SIGN))


@instruction("0010100 rs2 rs1 000 rd 1010011", "fmin.s rd, rs1, rs2")
def fmin_s(rd, rs1, rs2):
    requires_fp()
    a = unbox(F[rs1])
    b = unbox(F[rs2])
    prefer_a = signed(order(sext(a, 32))) < signed(order(sext(b, 32)))
    F[rd] = box(pick_number_s(a, b, word(prefer_a)))


@instruction("0010100 rs2 rs1 001 rd 1010011", "fmax.s rd, rs1, rs2")
def fmax_s(rd, rs1, rs2):
    requires_fp()
    a = unbox(F[rs1])
    b = unbox(F[rs2])
    prefer_a = signed(order(sext(a, 32))) > signed(order(sext(b, 32)))
    F[rd] = box(pick_number_s(a, b, word(prefer_a)))


# --- Comparison and classification ----------------------------------------------------------------


@instruction("1010000 rs2 rs1 010 rd 1010011", "feq.s rd, rs1, rs2")
def feq_s(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f32_eq(unbox(F[rs1]), unbox(F[rs2])))


@instruction("1010000 rs2 rs1 001 rd 1010011", "flt.s rd, rs1, rs2")
def flt_s(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f32_lt(unbox(F[rs1]), unbox(F[rs2])))


@instruction("1010000 rs2 rs1 000 rd 1010011", "fle.s rd, rs1, rs2")
def fle_s(rd, rs1, rs2):
    requires_fp()
    X[rd] = word(f32_le(unbox(F[rs1]), unbox(F[rs2])))


@instruction("1110000 00000 rs1 001 rd 1010011", "fclass.s rd, rs1")
def fclass_s(rd, rs1):
    check_fp()
    value = unbox(F[rs1])
    X[rd] = classify(value & MAGNITUDE, value & SIGN, LEAST_NORMAL, INFINITY, QUIET)


# --- Conversion -----------------------------------------------------------------------------------


@instruction("1100000 00000 rs1 rm rd 1010011", "fcvt.w.s rd, rs1, rm")
def fcvt_w_s(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f32_to_i32(unbox(F[rs1]), mode)


@instruction("1100000 00001 rs1 rm rd 1010011", "fcvt.wu.s rd, rs1, rm")
def fcvt_wu_s(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f32_to_u32(unbox(F[rs1]), mode)


@instruction("1100000 00010 rs1 rm rd 1010011", "fcvt.l.s rd, rs1, rm")
def fcvt_l_s(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f32_to_i64(unbox(F[rs1]), mode)


@instruction("1100000 00011 rs1 rm rd 1010011", "fcvt.lu.s rd, rs1, rm")
def fcvt_lu_s(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    X[rd] = f32_to_u64(unbox(F[rs1]), mode)


@instruction("1101000 00000 rs1 rm rd 1010011", "fcvt.s.w rd, rs1, rm")
def fcvt_s_w(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_from_i32(X[rs1], mode))


@instruction("1101000 00001 rs1 rm rd 1010011", "fcvt.s.wu rd, rs1, rm")
def fcvt_s_wu(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_from_u32(X[rs1], mode))


@instruction("1101000 00010 rs1 rm rd 1010011", "fcvt.s.l rd, rs1, rm")
def fcvt_s_l(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_from_i64(X[rs1], mode))


@instruction("1101000 00011 rs1 rm rd 1010011", "fcvt.s.lu rd, rs1, rm")
def fcvt_s_lu(rd, rs1, rm):
    mode = rounding(rm)
    requires_fp()
    F[rd] = box(f32_from_u64(X[rs1], mode))


# --- Moves of bits --------------------------------------------------------------------------------


@instruction("1110000 00000 rs1 000 rd 1010011", "fmv.x.w rd, rs1")
def fmv_x_w(rd, rs1):
    check_fp()
    X[rd] = sext(F[rs1], 32)


@instruction("1111000 00000 rs1 000 rd 1010011", "fmv.w.x rd, rs1")
def fmv_w_x(rd, rs1):
    requires_fp()
    F[rd] = box(zext(X[rs1], 32))
