"""Names for addresses of a guest: the symbols of the ELF files that were loaded, and of others.

Problem: `0x80000414` says little, `patch+0x8` says where to look. The tables of a kernel hold a
hundred thousand names, so they are read when the first one is wanted, and as bytes.

A file of symbols is an ELF, or lines as nm, System.map and /proc/kallsyms have them.

Invariant: a file that cannot be read, or is neither, has no names; that is no error.

Read next: `explain_file.py`.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable

REACH = 1 << 20  # bytes behind a symbol beyond which an address is another's
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size (ELF-64, figure 4-15)
_NAMED = (0, 1, 2)  # no type, object, function
_CODE = "tTwW"  # types of nm that code has
_MAPPING = "$"  # assemblers' mapping symbols: `$x`, `$d`


class Symbols:
    """The symbols of some files, by address."""

    def __init__(self, paths: Iterable[str], ram: int) -> None:
        """`ram`: where a position-independent file linked at 0 is loaded (`loader.py`)."""
        self._paths = list(paths)
        self._ram = ram
        self._addresses: list[int] | None = None
        self._names: list[str] = []

    def name(self, address: int | None) -> str:
        """`symbol+0x8`, `symbol`, or nothing."""
        name, offset = self._find(address)
        return name + (f"+{offset:#x}" if offset else "")

    def function(self, address: int | None) -> str:
        """The symbol an address belongs to, or nothing."""
        return self._find(address)[0]

    def _find(self, address: int | None) -> tuple[str, int]:
        if address is None:
            return "", 0
        if self._addresses is None:
            self._read()
        assert self._addresses is not None
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or address - self._addresses[index] >= REACH:
            return "", 0
        return self._names[index], address - self._addresses[index]

    def _read(self) -> None:
        found: dict[int, str] = {}
        for path in self._paths:
            for address, name in _symbols(path, self._ram):
                found.setdefault(address, name)
        self._addresses = sorted(found)
        self._names = [found[address] for address in self._addresses]


def _symbols(path: str, ram: int) -> list[tuple[int, str]]:
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        with open(path, "rb") as stream:
            elf = ELFFile(stream)
            table, strings = (elf.get_section_by_name(n) for n in (".symtab", ".strtab"))
            if table is None or strings is None:
                return []
            rows, text = table.data(), strings.data()
            loads = [s["p_paddr"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
            bias = ram if elf["e_type"] == "ET_DYN" and min(loads, default=ram) < ram else 0
    except (ELFError, KeyError):
        return _lines(path)
    except (OSError, ValueError):
        return []
    found = []
    for name, info, _, section, value, _ in _SYMBOL.iter_unpack(
        rows[: len(rows) // _SYMBOL.size * _SYMBOL.size]
    ):
        if section and info & 15 in _NAMED and name < len(text):
            word = text[name : text.find(b"\0", name)].decode("utf-8", "replace")
            if word and not word.startswith(_MAPPING):
                found.append((value + bias, word))
    return found


def _lines(path: str) -> list[tuple[int, str]]:
    """`ffffffff80002000 T _start`, a line each; of code only."""
    try:
        with open(path, encoding="ascii") as file:
            return [
                (int(words[0], 16), words[2])
                for words in map(str.split, file)
                if len(words) >= 3 and words[1] in _CODE and not words[2].startswith(_MAPPING)
            ]
    except (OSError, ValueError):
        return []
