"""Small guests in assembly, and how they are run: bare metal in M-mode, an exit by HTIF or the
test finisher.

Problem: what a guest sees of retired code must be decided by the guest alone, as a number it ends
with; and the same program must run on every tier. So a program is text for our own assembler, ends
by `pass` or `fail`, and is run by the real command.

A program may use: `PASS` and `FAIL` (jump there; FAIL's exit status is in s11), `warm` (below), and
the symbols of `PRELUDE`. a0 holds the hart's id and a1 the device tree when `main` begins; sp is
the end of a stack.

Read next: `test_retirement`, `test_exits`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from protocol.riscv.assembler import Program, assemble
from tests.cpu_proc.make_elf import ElfFile, Segment
from tests.system import runner

RAM = 0x8000_0000

PRELUDE = """
    .equ FINISHER, 0x100000
    .equ UART, 0x10000000
    .text
_start:
    la sp, stack_end
    la t0, unexpected
    csrw mtvec, t0
    li t0, 0x6000               # FS: dirty
    csrs mstatus, t0
    j main

    .align 2
unexpected:                     # a trap nobody asked for: its cause + 100
    csrr s11, mcause
    addi s11, s11, 100
FAIL:
    slli s11, s11, 16
    li t0, 0x3333
    or s11, s11, t0
    li t1, FINISHER
    sw s11, 0(t1)
    j .
PASS:
    li t0, 0x5555
    li t1, FINISHER
    sw t0, 0(t1)
    j .

    # Have the function at s0 run s1 times; it must return s2 each time (else FAIL with s3).
check:
    addi sp, sp, -16
    sd ra, 8(sp)
1:
    jalr ra, 0(s0)
    mv s11, s3
    bne a0, s2, FAIL
    addi s1, s1, -1
    bnez s1, 1b
    ld ra, 8(sp)
    addi sp, sp, 16
    ret
"""

EPILOGUE = """
    .data
    .align 12
stack:
    .space 4096
stack_end:
"""


def program(text: str, base: int = RAM) -> Program:
    """Assemble PRELUDE, `text` (with `main`) and a stack."""
    return assemble(f"{PRELUDE}\n{text}\n{EPILOGUE}", base)


def elf(text: str, folder: Path, symbols: Sequence[str] = ()) -> Path:
    """The ELF file of a program, in `folder`; `symbols`: labels of it that the ELF names."""
    made = program(text)
    path = folder / "program.elf"
    named = {name: made.symbols[name] for name in symbols}
    path.write_bytes(bytes(ElfFile([Segment(made.base, made.data)], symbols=named)))
    return path


def run(
    text: str, folder: Path, *words: str | Path, symbols: Sequence[str] = ()
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with `coldboot run WORDS`."""
    return runner.run("-m", "32M", *words, elf(text, folder, symbols))
