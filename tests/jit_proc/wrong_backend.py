"""A backend with one mistake, for tests of the backend `shadow`: it takes `sltu` for `slt`.

As a lifter's mistakes are, it is right for most operands. Installed as `wrong` by the tests.

Read next: `test_shadow.py`.
"""

from __future__ import annotations

from dataclasses import replace

from jit_proc import lift
from jit_proc.backends.llvm import Llvm
from jit_proc.job import Job, Translation
from protocol.riscv import isa

SLTU, SLT = 0x3033, 0x2033  # of funct7, funct3 and opcode
_MASK = 0xFE00707F


def mistaken(content: bytes) -> bytes:
    """The page with each `sltu` at a multiple of four replaced by `slt` of the same operands."""
    changed = bytearray(content)
    for at in range(0, len(content), 4):
        raw = int.from_bytes(content[at : at + 4], "little")
        if raw & _MASK == SLTU:
            changed[at : at + 4] = (raw & ~_MASK | SLT).to_bytes(4, "little")
    return bytes(changed)


def translate(job: Job) -> Translation:
    """As our lifter does, but for the mistake."""
    isa.load_all()
    return lift.translate(replace(job, content=mistaken(job.content)))


class Wrong(Llvm):
    """`llvm`, but for the mistake."""

    name = "wrong"
    summary = "takes sltu for slt"


WRONG = Wrong("wrong_backend:translate")
