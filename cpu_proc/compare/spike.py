"""Spike, the RISC-V simulator that is used as a reference: an interpreter with a cache of decoded
instructions.

The problem: Spike has the serial port and the CLINT where `virt` has them, but neither `virt`'s
power switch nor a way for the host to reach in. It ends when a guest writes an odd number to the
symbol `tohost`, and all numbers that switch `virt` off are odd: so the image comes as an ELF file
in which that symbol is the power switch's address, with a page of memory there. Its serial port
gives no input before a guest enables the FIFO, which scenarios do not: no wish is answered.

Read next: `peer.py`.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

from cpu_proc.compare.peer import (
    IMPOSSIBLE,
    KEPT,
    Cell,
    Dialogue,
    Guest,
    Impossible,
    Peer,
    end,
    reader,
)
from cpu_proc.stress.scenario import RAM_BASE
from protocol.riscv.assembler import Program

ISA = "rv64gc_zicntr_zicclsm_zba_zbb_zbs_sstc_svadu"
TOHOST = 0x10_0000  # where the program thinks the power switch is
DEVICES = ("pflash", "disk", "boot-remap", "icount")
SECONDS = 30.0  # for --help


class Spike(Peer):
    """A Spike binary."""

    name = "spike"

    def __init__(self, path: str = "spike") -> None:
        self._path = path

    def missing(self) -> str:
        """Whether there is such a program."""
        if shutil.which(self._path) is None:
            return (
                f"{self._path} is not there: Debian has no package of it; build it, or give --spike"
            )
        return ""

    def version(self) -> str:
        """As the program says."""
        done = subprocess.run(
            [self._path, "--help"], capture_output=True, text=True, check=False, timeout=SECONDS
        )
        found = re.search(r"Simulator (\S+)", done.stdout + done.stderr)
        return f"Spike {found[1]}" if found else "Spike"

    def run(self, guest: Guest) -> Cell:
        """Start Spike on the guest's program."""
        if lacking := guest.needs(*DEVICES):
            return Cell(IMPOSSIBLE, f"no such device: {', '.join(lacking)}")
        if re.search(r"\b0x7777\b", guest.scenario.text):
            return Cell(IMPOSSIBLE, "no such device: reset")
        image = guest.folder / "program.elf"
        image.write_bytes(elf(guest.program()))
        size = (6 << 30) if guest.needs("bigram") else (64 << 20)
        command = [self._path, f"--isa={ISA}", f"-p{guest.harts}", "--real-time-clint"]
        command += [f"-m{TOHOST:#x}:0x1000,{RAM_BASE:#x}:{size:#x}", str(image)]
        errors = guest.folder / "spike.log"
        with errors.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert process.stdout is not None

        def send(data: bytes) -> None:
            raise Impossible("no input on its serial line")

        try:
            cell = Dialogue(guest, reader(process.stdout.fileno()), send).go()
        finally:
            end(process)
            process.stdout.close()
        if cell.kind == "ended" and not cell.values:
            said = errors.read_text(errors="replace")[-KEPT:].strip().splitlines()
            return Cell("crashed", said[0] if said else cell.detail)
        return cell


def elf(program: Program) -> bytes:
    """An ELF file with one loaded segment, and the two symbols that make Spike look there."""
    names = b"\0tohost\0fromhost\0.symtab\0.strtab\0"
    symbols = bytes(24)
    for index, name in enumerate((b"tohost", b"fromhost")):
        where = TOHOST + 64 * index
        symbols += struct.pack("<IBBHQQ", names.index(name), 0x10, 0, 0xFFF1, where, 8)
    header, entry = 64, 56
    data_at = header + entry
    symbols_at = data_at + len(program.data) + -len(program.data) % 8
    names_at = symbols_at + len(symbols)
    sections_at = names_at + len(names) + -len(names) % 8
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    out = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(identity, 2, 243, 1, program.base, header, sections_at, 5, header, entry, 1, 64, 3, 2),
    )
    size = len(program.data)
    out += struct.pack("<IIQQQQQQ", 1, 7, data_at, program.base, program.base, size, size, 8)
    out = (out + program.data).ljust(symbols_at, b"\0") + symbols + names
    out = out.ljust(sections_at, b"\0") + bytes(64)
    out += struct.pack(
        "<IIQQQQIIQQ", names.index(b".symtab"), 2, 0, 0, symbols_at, len(symbols), 2, 1, 8, 24
    )
    out += struct.pack(
        "<IIQQQQIIQQ", names.index(b".strtab"), 3, 0, 0, names_at, len(names), 0, 0, 1, 0
    )
    return out
