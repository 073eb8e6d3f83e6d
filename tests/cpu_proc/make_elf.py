"""ELF files for tests, byte by byte: no compiler, and every field can be made wrong.

Read next: `test_loader`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class Segment:
    """A PT_LOAD segment. `memory`: its size in memory, at least that of `data`."""

    address: int
    data: bytes
    memory: int | None = None
    virtual: int | None = None


@dataclass
class ElfFile:
    """What goes into the header; `bytes()` makes the file."""

    segments: Sequence[Segment] = ()
    entry: int | None = None
    symbols: Mapping[str, int] = field(default_factory=dict)
    machine: int = 243
    bits: int = 64
    type: int = 2

    def __bytes__(self) -> bytes:
        body = bytearray(64 + 56 * len(self.segments))
        table = bytearray()
        for segment in self.segments:
            memory = len(segment.data) if segment.memory is None else segment.memory
            virtual = segment.address if segment.virtual is None else segment.virtual
            table += struct.pack(
                "<IIQQQQQQ",
                1,
                7,
                len(body),
                virtual,
                segment.address,
                len(segment.data),
                memory,
                4096,
            )
            body += segment.data
        entry = self.entry
        if entry is None:
            entry = self.segments[0].address if self.segments else 0
        section_offset, sections = self._sections(body)
        header = b"\x7fELF" + bytes([2 if self.bits == 64 else 1, 1, 1]) + bytes(9)
        header += struct.pack(
            "<HHIQQQIHHHHHH",
            self.type,
            self.machine,
            1,
            entry,
            64,
            section_offset,
            0,
            64,
            56,
            len(self.segments),
            64,
            sections,
            3 if sections else 0,
        )
        body[: len(header)] = header
        body[64 : 64 + len(table)] = table
        return bytes(body)

    def _sections(self, body: bytearray) -> tuple[int, int]:
        """Append a symbol table, if there are symbols; where the section headers are, how many."""
        if not self.symbols:
            return 0, 0
        names, table = bytearray(b"\0"), bytearray(24)
        for name, value in self.symbols.items():
            table += struct.pack("<IBBHQQ", len(names), 0x11, 0, 0xFFF1, value, 0)
            names += name.encode() + b"\0"
        section_names = b"\0.symtab\0.strtab\0.shstrtab\0"
        places = []
        for part in (bytes(table), bytes(names), section_names):
            places.append((len(body), len(part)))
            body += part
        offset = len(body)
        body += bytes(64)
        body += struct.pack("<IIQQQQIIQQ", 1, 2, 0, 0, *places[0], 2, 1, 8, 24)
        body += struct.pack("<IIQQQQIIQQ", 9, 3, 0, 0, *places[1], 0, 0, 1, 0)
        body += struct.pack("<IIQQQQIIQQ", 17, 3, 0, 0, *places[2], 0, 0, 1, 0)
        return offset, 4
