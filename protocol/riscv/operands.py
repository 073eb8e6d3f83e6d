"""How operands are written: registers, CSRs, rounding modes, fence sets, immediates, addresses.

The problem: assembler and disassembler must agree on every operand's text, and neither may hold
a second description of an instruction. Both therefore read the operand list of a declaration's
text ("sw rs2, imm(rs1)") through `operands`, which says what kind each operand is and which field
of the pattern holds it.

Invariants: a register field prints as `f` exactly when the semantics uses it as a number of the F
file; an immediate whose lowest bit is 12 (`lui`, `auipc`, `c.lui`) is written shifted, as the
manual's assembly does; a rounding mode is the last operand and may be left out. The names are those
of the RISC-V assembly programmer's manual and of GNU binutils.

Read next: `assembler.py`, `disassembler.py`.
"""

from __future__ import annotations

import ast
import functools
import re
from dataclasses import dataclass

from protocol.riscv.csr import CSRS, NUMBERS
from protocol.riscv.isa import Encoding, Instruction

X_NAMES = (
    *("zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1"),
    *(f"a{n}" for n in range(8)),
    *(f"s{n}" for n in range(2, 12)),
    *(f"t{n}" for n in range(3, 7)),
)
F_NAMES = (
    *(f"ft{n}" for n in range(8)),
    *("fs0", "fs1"),
    *(f"fa{n}" for n in range(8)),
    *(f"fs{n}" for n in range(2, 12)),
    *(f"ft{n}" for n in range(8, 12)),
)
X_NUMBERS = {f"x{n}": n for n in range(32)} | {n: i for i, n in enumerate(X_NAMES)} | {"fp": 8}
F_NUMBERS = {f"f{n}": n for n in range(32)} | {n: i for i, n in enumerate(F_NAMES)}

ROUNDING_MODES = {"rne": 0, "rtz": 1, "rdn": 2, "rup": 3, "rmm": 4, "dyn": 7}
# Conversions that cannot round: GNU as gives them rne where others get dyn, and so do we.
_EXACT = frozenset(("fcvt.d.w", "fcvt.d.wu", "fcvt.d.s"))
ORDERINGS = ("", ".rl", ".aq", ".aqrl")  # index: aq << 1 | rl

_REGISTER = re.compile(r"(rd|rs1|rs2|rs3)'?")
_FIXED = {"sp": 2}  # registers a text names outright


@dataclass(frozen=True, slots=True)
class Operand:
    """One operand of a declaration's text.

    kind: "x", "f" (register numbers), "imm" (a number), "upper" (a number written without its 12
    low bits), "target" (an address, held relative to pc), "memory" (`field`(`base`)), "csr",
    "rm", "fence" (a set of i, o, r, w), "fixed" (register number `base`, no field).
    For "memory", `field` is "" when there is no offset, and `base` a field or a register number.
    """

    kind: str
    field: str
    base: str | int = ""


def _operand(encoding: Encoding, text: str, f_fields: frozenset[str]) -> Operand:
    if found := re.fullmatch(r"(\w*)\(([\w']+)\)", text):
        base = found[2]
        return Operand("memory", found[1], _FIXED.get(base, base))
    if text in _FIXED:
        return Operand("fixed", "", _FIXED[text])
    if text == "target":
        return Operand("target", "imm")
    if text not in encoding.pattern.fields:
        raise ValueError(f"{encoding.name}: {text!r} in {encoding.text!r} is no field")
    if _REGISTER.fullmatch(text):
        return Operand("f" if text in f_fields else "x", text)
    if text in ("csr", "rm"):
        return Operand(text, text)
    if text in ("pred", "succ"):
        return Operand("fence", text)
    low = min(p.at for p in encoding.pattern.pieces if p.name == text)
    return Operand("upper" if low == 12 else "imm", text)


def _f_params(instruction: Instruction) -> frozenset[str]:
    """Parameters used as `F[parameter]`, read off the syntax: no need to compile for that."""
    found = set()
    for node in ast.walk(instruction.semantics.tree):
        match node:
            case ast.Subscript(ast.Name("F"), ast.Name(param)):
                found.add(param)
    return frozenset(found)


@functools.cache
def operands(encoding: Encoding) -> tuple[Operand, ...]:
    """The operands of the declaration's text, in order; a rounding mode always comes last.

    Raises ValueError when the text names something that is no field of the pattern.
    """
    f_params = _f_params(encoding.instruction)
    f_fields = frozenset(str(v) for p, v in encoding.operands.items() if p in f_params)
    texts = [t.strip() for t in encoding.text.partition(" ")[2].split(",") if t.strip()]
    found = [_operand(encoding, t, f_fields) for t in texts if t != "rm"]
    if "rm" in encoding.pattern.fields:
        found.append(Operand("rm", "rm"))
    return tuple(found)


def default_rounding(encoding: Encoding) -> int:
    """The `rm` an instruction gets when its text names none."""
    return ROUNDING_MODES["rne" if encoding.name in _EXACT else "dyn"]


def low_bit(encoding: Encoding, field: str) -> int:
    """The lowest bit of the field that the encoding can hold."""
    return min(p.at for p in encoding.pattern.pieces if p.name == field)


def is_signed(field: str) -> bool:
    """Whether the field is sign-extended."""
    return field in ("imm", "nzimm")


@functools.cache
def unwritten(encoding: Encoding) -> frozenset[str]:
    """Fields of the pattern that the text does not show: it stands for zeros there."""
    shown = {"aq", "rl"}
    for operand in operands(encoding):
        shown |= {operand.field, str(operand.base)}
    return frozenset(encoding.pattern.fields) - shown


def csr_name(number: int) -> str:
    """ "mstatus" for 0x300; "0x7c0" for a number without a row."""
    row = CSRS.get(number)
    return f"{number:#x}" if row is None else row.name


def csr_number(name: str) -> int | None:
    """The number of a CSR's name; None when there is no such row."""
    return NUMBERS.get(name)


def fence_text(value: int) -> str:
    """ "rw" for 3; "0" for the empty set."""
    return "".join(c for c, bit in (("i", 8), ("o", 4), ("r", 2), ("w", 1)) if value & bit) or "0"


def fence_value(text: str) -> int | None:
    """The inverse of `fence_text`, letters in any order; None when `text` is no such set."""
    if text == "0":
        return 0
    bits = {"i": 8, "o": 4, "r": 2, "w": 1}
    if not text or len(set(text)) != len(text) or not set(text) <= set(bits):
        return None
    return sum(bits[c] for c in text)
