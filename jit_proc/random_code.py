"""Pages of random code, for comparing two backends by what nobody thought of.

The problem: a guest's code has the sequences that compilers make; a backend must be right about the
others too. So a page is made from the ISA's own declarations: instructions of every encoding, with
few different registers so that they depend on one another, accesses near the pointers a state has,
and branches to and fro inside the stretch.

Invariants: `page` is a function of its seed. An encoding that is added to the ISA is met here
without a line more, but for those in `LEFT_OUT`, which leave the page or its mode for good.

Read next: `backend_tool.py` (`coldboot backends --try`), `states.py`.
"""

from __future__ import annotations

import functools
import random

from protocol.layout import PAGE_SIZE
from protocol.riscv import csr, isa
from protocol.riscv.isa import ENCODINGS, REGISTER_BITS, Encoding, Pattern

LEFT_OUT = ("mret", "sret", "wfi", "sfence.vma", "ecall", "ebreak")
CSRS = ("fflags", "frm", "fcsr", "sscratch", "scause", "stval", "sepc", "instret", "cycle")
REGISTERS = (0, 1, 2, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 28)
"""Of the fields that can name any; some of them also of those with three bits."""
MEMORY = frozenset(("load", "store", "amo", "load_reserved", "store_conditional"))
LONGEST = 90  # instructions


@functools.cache
def _encodings() -> tuple[list[Encoding], list[Encoding], list[Encoding], list[Encoding]]:
    """What computes, what accesses memory, what transfers control, what reads and writes CSRs."""
    isa.load_all()
    kinds: tuple[list[Encoding], ...] = ([], [], [], [])
    for encoding in ENCODINGS.values():
        used = encoding.instruction.semantics.builtins
        if encoding.instruction.name in LEFT_OUT:
            continue
        if "csr" in encoding.pattern.fields:
            kinds[3].append(encoding)
        elif used & {"branch", "jump"}:
            kinds[2].append(encoding)
        else:
            kinds[1 if used & MEMORY else 0].append(encoding)
    return kinds[0], kinds[1], kinds[2], kinds[3]


def page(seed: int) -> tuple[bytes, int]:
    """4096 bytes, and the slot at which the code in it begins."""
    pick = random.Random(seed)
    plain, memory, control, system = _encodings()
    start = pick.randrange(0, PAGE_SIZE // 2, 2) if pick.random() < 0.8 else PAGE_SIZE - 64
    code = bytearray()
    number = pick.randrange(4, LONGEST)
    for _ in range(number):
        kind = pick.random()
        few = pick.random() < 0.5
        chosen = plain if kind < 0.55 else memory if kind < 0.8 else control
        encoding = pick.choice(system if kind > 0.97 else chosen)
        code += _instruction(pick, encoding, few, len(code), number * 3)
        if start + len(code) >= PAGE_SIZE:
            break
    code += bytes.fromhex("6f000000")  # j .: the end is a loop like any other
    whole = bytes(start) + bytes(code)
    return (whole + bytes(PAGE_SIZE))[:PAGE_SIZE], start // 2


def _instruction(pick: random.Random, encoding: Encoding, few: bool, at: int, length: int) -> bytes:
    pattern = encoding.pattern
    while True:
        fields = {name: _field(pick, pattern, name, few) for name in pattern.fields}
        used = encoding.instruction.semantics.builtins
        if used & {"branch", "jump"} and "imm" in fields and "rs1" not in fields:
            fields["imm"] = _clamped(pattern, "imm", pick.randrange(-at // 3, length - at // 3, 2))
        elif "branch" in used and "imm" in fields:
            fields["imm"] = _clamped(pattern, "imm", pick.randrange(-at - 2, length, 2))
        if encoding.holds(fields):
            break
    return pattern.insert(fields).to_bytes(encoding.length, "little")


def _field(pick: random.Random, pattern: Pattern, name: str, few: bool) -> int:
    if name.rstrip("'") in ("rd", "rs1", "rs2", "rs3"):
        if name.endswith("'"):
            return 8 + pick.getrandbits(1 if few else 3)
        return pick.choice(REGISTERS) if few else pick.getrandbits(5)
    if name == "rm":
        return 7 if pick.random() < 0.6 else pick.randrange(6)
    if name == "csr":
        return csr.NUMBERS[pick.choice(CSRS)]
    if name in REGISTER_BITS:
        return pick.getrandbits(REGISTER_BITS[name])
    low, high, step = _range(pattern, name)
    kind = pick.random()
    if kind < 0.5:
        return max(low, min(high, pick.choice((0, step, -step, 8, 16, -8)) // step * step))
    return pick.randrange(low, high + 1, step)


def _clamped(pattern: Pattern, name: str, value: int) -> int:
    low, high, step = _range(pattern, name)
    return max(low, min(high, value // step * step))


def _range(pattern: Pattern, name: str) -> tuple[int, int, int]:
    """(lowest, highest, step) of an immediate field."""
    pieces = [piece for piece in pattern.pieces if piece.name == name]
    step = 1 << min(piece.at for piece in pieces)
    width = max(piece.at + piece.width for piece in pieces)
    if name in ("imm", "nzimm"):
        return -(1 << (width - 1)), (1 << (width - 1)) - step, step
    return 0, (1 << width) - step, step
