"""GNU binutils as the oracle for encodings and their text.

Problem: our assembler and disassembler read the same declarations, so an error in a pattern cancels
out between them. binutils was written by others.

Invariant: one batch is one run of a program, so thousands of instructions cost a fraction of a
second. A missing program ends the test by `tests.oracle.require`.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.oracle import require

PREFIX = "riscv64-unknown-elf-"
ARCH = "rv64imafdc_zicsr_zifencei_zba_zbb_zbs"
_SCRIPT = """SECTIONS { . = %#x; .text : { *(.text) } .rodata ALIGN(16) : { *(.rodata) }
.data ALIGN(16) : { *(.data) } /DISCARD/ : { *(.riscv.attributes) } }"""


def _run(tool: str, *arguments: str | Path) -> str:
    command = [require(PREFIX + tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[:2000]}"
    return done.stdout


def gnu_assemble(text: str, base: int) -> bytes:
    """The image GNU as and ld make of `text`: sections in our order, no relaxation."""
    with tempfile.TemporaryDirectory(prefix="binutils-") as name:
        folder = Path(name)
        (folder / "t.s").write_text(text)
        (folder / "t.ld").write_text(_SCRIPT % base)
        _run("as", f"-march={ARCH}", "-mno-relax", folder / "t.s", "-o", folder / "t.o")
        _run("ld", "--no-relax", "-T", folder / "t.ld", folder / "t.o", "-o", folder / "t.elf")
        _run("objcopy", "-O", "binary", folder / "t.elf", folder / "t.bin")
        return (folder / "t.bin").read_bytes()


def gnu_disassemble(words: Iterable[int]) -> list[tuple[int, int, str]]:
    """(address, word, text) of each instruction word laid one after another from address 0."""
    lines = [f".insn {4 if w & 3 == 3 else 2}, {w:#x}\n" for w in words]
    with tempfile.TemporaryDirectory(prefix="binutils-") as name:
        folder = Path(name)
        (folder / "t.s").write_text("".join(lines))
        _run("as", f"-march={ARCH}", "-mno-relax", folder / "t.s", "-o", folder / "t.o")
        listing = _run("objdump", "-d", "-M", "no-aliases", folder / "t.o")
    found = re.findall(r"^\s*([0-9a-f]+):\t([0-9a-f]+)\s+(.*)$", listing, re.MULTILINE)
    assert len(found) == len(lines)
    return [(int(address, 16), int(word, 16), text) for address, word, text in found]


def plain(text: str) -> str:
    """Without comments, symbols and spaces; numbers in decimal; "illegal" for no instruction."""
    text = re.sub(r"\s*#.*|\s*<.*>", "", text).strip()
    name, _, operands = text.replace("\t", " ").partition(" ")
    if name in (".word", ".half", ".4byte", ".2byte", ".insn", ".short", "c.unimp"):
        return "illegal"
    parts = [re.sub(r"0x[0-9a-f]+", lambda n: str(int(n[0], 16)), p) for p in operands.split(",")]
    return f"{name} {','.join(p.strip() for p in parts)}".strip()
