"""A backend of another kind than ours: a template of machine code an instruction, no compiler.

It translates straight runs of the simplest integer instructions, registers in memory, and leaves
the rest - branches, loads, stores, everything else - to tier 0: a region may hold as little as it
likes. What it must keep to is `docs/backends.md`.

Offer it to a translator by an entry point, in a package's pyproject.toml:

    [project.entry-points."coldboot.backends"]
    template = "template_backend:TEMPLATE"

and run: coldboot run -backend template ...
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping

from jit_proc.backends import Option
from jit_proc.job import Job, Region, Times, Untranslatable
from protocol.generations import lines_of
from protocol.layout import HART, PAGE_SIZE, RECORD_SIZE
from protocol.riscv import isa
from protocol.riscv.isa import Decoded

LONGEST = 64  # instructions of a run

# r12: the hart. r13: the record of the instruction at the entry. r15: instructions retired so far.
# Those, and every other register but rax and rcx, are handed on as they came.


def at(opcode: str, register: int) -> bytes:
    """An instruction with the operand [r12 + place of x<register>], to or from rax."""
    return bytes.fromhex(opcode) + struct.pack("<i", HART.offset("x", register))


def load(register: int) -> bytes:
    return at("498b8424", register)  # mov rax, [r12 + ...]


def store(register: int) -> bytes:
    return at("49898424", register) if register else b""  # x0 stays zero


def number(opcode: str, value: int) -> bytes:
    return bytes.fromhex(opcode) + struct.pack("<i", value)


TWO = {  # op rax, [r12 + place of rs2]
    "add": "49038424", "sub": "492b8424", "and_": "49238424", "or_": "490b8424", "xor": "49338424",
}  # fmt: skip
IMMEDIATE = {"addi": "4805", "andi": "4825", "ori": "480d", "xori": "4835"}  # op rax, imm32
SHIFT = {"slli": "48c1e0", "srli": "48c1e8", "srai": "48c1f8"}  # op rax, imm8
WORD = {"addw": "41038424", "subw": "412b8424"}  # op eax, [r12 + place of rs2]
EXTEND = bytes.fromhex("4863c0")  # movsxd rax, eax


def template(decoded: Decoded) -> bytes | None:
    """Machine code for one instruction; None for what is tier 0's."""
    name, o = decoded.instruction.semantics.name, decoded.operands
    if name in TWO:
        return load(o["rs1"]) + at(TWO[name], o["rs2"]) + store(o["rd"])
    if name in WORD:
        return load(o["rs1"]) + at(WORD[name], o["rs2"]) + EXTEND + store(o["rd"])
    if name in IMMEDIATE:
        return load(o["rs1"]) + number(IMMEDIATE[name], o["imm"]) + store(o["rd"])
    if name in SHIFT:
        amount = next(v for k, v in o.items() if k not in ("rd", "rs1"))
        return load(o["rs1"]) + bytes.fromhex(SHIFT[name]) + bytes([amount]) + store(o["rd"])
    if name == "addiw":
        return load(o["rs1"]) + number("05", o["imm"]) + EXTEND + store(o["rd"])
    if name == "lui":
        return number("48c7c0", o["imm"]) + store(o["rd"])  # mov rax, sign-extended imm32
    return None


def run_from(content: bytes, start: int) -> tuple[bytes, int, int, int]:
    """The code of the run that begins at an offset of the page: code, its end, instructions; and
    the end of what was looked at: with another instruction behind it the run would be longer.
    """
    code, offset, count, seen = b"", start, 0, start
    while count < LONGEST and offset + 2 <= PAGE_SIZE:
        raw = int.from_bytes(content[offset : offset + 4], "little")
        decoded = isa.decode(raw)
        seen = min(PAGE_SIZE, offset + (4 if decoded is None else decoded.length))
        if decoded is None or offset + decoded.length > PAGE_SIZE - 4:
            break  # tier 0 knows what to do at a page's end
        piece = template(decoded)
        if piece is None:
            break
        code, offset, count = code + piece, offset + decoded.length, count + 1
    return code, offset, count, seen


class Template:
    """See the module's text."""

    name = "template"
    summary = "an example: machine code by templates, straight runs of integer instructions"
    options: tuple[Option, ...] = ()

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """One run for each entry that begins one; refuses when there is none."""
        began = time.perf_counter_ns()
        isa.load_all()
        code, total = b"", 0
        entries: list[tuple[int, int]] = []
        spans: list[tuple[int, int]] = []
        for slot in job.entries:
            body, end, count, seen = run_from(job.content, 2 * slot)
            if not count or (spans and 2 * slot < spans[-1][1]):
                continue
            entries.append((slot, len(code)))
            if spans and spans[-1][1] == 2 * slot:
                spans[-1] = (spans[-1][0], seen)
            else:
                spans.append((2 * slot, seen))
            # Retire what was executed, and go on by the record behind it: the only way out.
            step = (end - 2 * slot) // 2 * RECORD_SIZE
            code += body + number("4981c7", count) + number("4981c5", step) + b"\x41\xff\x65\0"
            total += count
        if not entries:
            raise Untranslatable("unsupported", "no run of simple instructions at the entries")
        runs = tuple((start, end - start) for start, end in spans)
        took = (time.perf_counter_ns() - began) // 1000
        return Region(code, tuple(entries), runs, lines_of(runs), total, Times(lift=took))


TEMPLATE = Template()
