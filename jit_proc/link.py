"""A linker for what LLVM emits: one relocatable ELF x86-64 object becomes one blob that runs at
any address.

The problem: the translator writes code into a segment that the machine process maps at an address
of its own, so an image may hold no absolute address and needs no dynamic linker. LLVM's objects
with `reloc='pic'` and the small code model need only distances inside the image once the read-only
data (jump tables, constant pools) travels with the code.

Invariants:

- `Linked.code` is position independent: the only relocations applied are R_X86_64_PC32 and
  R_X86_64_PLT32 (System V ABI, AMD64 supplement, section 4.4.1), whose value is a distance between
  two places of the image.
- Whatever cannot be placed exactly so is refused by `LinkError`, which names the section or symbol
  and says what to change in the IR. Nothing is left out silently but what no code reads: unwind
  tables, notes, debug information.
- Alignment holds as long as the image starts on a multiple of `MAX_ALIGNMENT`.

The one exception to "no absolute values" is `.llvm_stackmaps`, which is data for the translator,
not part of the image: it is handed back with function addresses as offsets into the image (LLVM's
StackMaps document, "Stack Map Format").

Read next: `llvm.py` (where objects come from), `code_space.py` (where images go).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_ALIGNMENT = 64

_R_X86_64_64 = 1
_R_X86_64_PC32 = 2
_R_X86_64_PLT32 = 4
_RELOCATION_NAMES = {
    0: "R_X86_64_NONE",
    1: "R_X86_64_64",
    2: "R_X86_64_PC32",
    3: "R_X86_64_GOT32",
    4: "R_X86_64_PLT32",
    9: "R_X86_64_GOTPCREL",
    10: "R_X86_64_32",
    11: "R_X86_64_32S",
    19: "R_X86_64_TLSGD",
    20: "R_X86_64_TLSLD",
    22: "R_X86_64_GOTTPOFF",
    23: "R_X86_64_TPOFF32",
    24: "R_X86_64_PC64",
    25: "R_X86_64_GOTOFF64",
    26: "R_X86_64_GOTPC32",
    41: "R_X86_64_GOTPCRELX",
    42: "R_X86_64_REX_GOTPCRELX",
}
_GOT_RELOCATIONS = frozenset({3, 9, 25, 26, 41, 42})

_SHT_PROGBITS = 1
_SHT_SYMTAB = 2
_SHT_RELA = 4
_SHT_NOBITS = 8
_SHT_REL = 9
_SHT_GROUP = 17
_SHT_SYMTAB_SHNDX = 18
_SHT_X86_64_UNWIND = 0x70000001

_SHF_WRITE = 0x1
_SHF_ALLOC = 0x2
_SHF_EXECINSTR = 0x4
_SHF_TLS = 0x400
_SHF_COMPRESSED = 0x800

_SHN_UNDEF = 0
_SHN_LORESERVE = 0xFF00
_SHN_ABS = 0xFFF1
_SHN_COMMON = 0xFFF2

_STB_LOCAL = 0
_STT_OBJECT = 1
_STT_FUNC = 2
_STT_SECTION = 3
_STT_FILE = 4
_STT_TLS = 6
_STT_GNU_IFUNC = 10

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")


class LinkError(Exception):
    """The object holds something that cannot be placed at a free address; the message says what
    and how to avoid it.
    """


@dataclass(frozen=True)
class Linked:
    """An image that runs at any address that is a multiple of `MAX_ALIGNMENT`.

    `symbols` gives the byte offsets of the functions (internal ones too) and of the visible
    constants; `text_size` how much of `code`, from its start, is instructions; `stack_maps` the
    raw table, or nothing.
    """

    code: bytes
    symbols: dict[str, int] = field(default_factory=dict)
    text_size: int = 0
    stack_maps: bytes = b""


class _Section(NamedTuple):
    number: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


class _Symbol(NamedTuple):
    name: str
    type: int
    binding: int
    section: int
    value: int


def link(elf: bytes) -> Linked:
    """Place the relocatable object `elf`.

    Raises LinkError when it is not one, or holds writable data, undefined symbols, COMDAT groups,
    thread-local storage or relocations other than distances inside the image.
    """
    try:
        return _Object(elf).link()
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise LinkError(f"malformed object of {len(elf)} bytes: {error}") from error


class _Object:
    """One object while it is linked."""

    def __init__(self, elf: bytes) -> None:
        self.elf = elf
        self.sections = self._read_sections()
        self.symbols = self._read_symbols()
        self.places: dict[int, int] = {}  # section index -> offset in the image
        self.image = bytearray()
        self.stack_map_section = -1

    def link(self) -> Linked:
        text_size = self._place()
        stack_maps = bytearray()
        if self.stack_map_section >= 0:
            stack_maps += self._content(self.sections[self.stack_map_section])
        for section in self.sections:
            if section.type == _SHT_REL and section.info in self.places:
                raise LinkError(
                    f"section {section.name}: relocations without addends are not x86-64's"
                )
            if section.type != _SHT_RELA:
                continue
            if section.info in self.places:
                self._relocate(section)
            elif section.info == self.stack_map_section:
                self._relocate_stack_maps(section, stack_maps)
        return Linked(bytes(self.image), self._offsets(), text_size, bytes(stack_maps))

    # --- reading ----------------------------------------------------------------------------------

    def _read_sections(self) -> list[_Section]:
        if len(self.elf) < _FILE_HEADER.size:
            raise LinkError(f"not an ELF object: {len(self.elf)} bytes only")
        header = _FILE_HEADER.unpack_from(self.elf)
        ident, kind, machine = header[:3]
        if ident[:6] != b"\x7fELF\x02\x01" or kind != 1 or machine != 62:
            raise LinkError(
                "not a relocatable ELF object for x86-64 (ELF64, little endian, ET_REL)"
            )
        table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
        if entry_size != _SECTION_HEADER.size or count == 0:
            raise LinkError(
                f"section table of {count} entries of {entry_size} bytes not understood"
            )
        raw = [_SECTION_HEADER.unpack_from(self.elf, table + i * entry_size) for i in range(count)]
        for number, entry in enumerate(raw):
            if entry[1] != _SHT_NOBITS and entry[4] + entry[5] > len(self.elf):
                raise LinkError(
                    f"section {number} reaches beyond the object's {len(self.elf)} bytes"
                )
        names = raw[names_index]
        strings = self.elf[names[4] : names[4] + names[5]]
        return [
            _Section(i, _string(strings, e[0]), e[1], e[2], e[4], e[5], e[6], e[7], e[8], e[9])
            for i, e in enumerate(raw)
        ]

    def _read_symbols(self) -> list[_Symbol]:
        tables = [section for section in self.sections if section.type == _SHT_SYMTAB]
        if len(tables) > 1:
            raise LinkError("more than one symbol table")
        if not tables:
            return []
        strings = self._content(self.sections[tables[0].link])
        return [
            _Symbol(_string(strings, name), info & 0xF, info >> 4, section, value)
            for name, info, _other, section, value, _size in _SYMBOL.iter_unpack(
                self._content(tables[0])
            )
        ]

    def _content(self, section: _Section) -> bytes:
        return self.elf[section.offset : section.offset + section.size]

    # --- placing ----------------------------------------------------------------------------------

    def _place(self) -> int:
        """Lay out the image, instructions first; return how many bytes they take."""
        kept = [section for section in self.sections if self._keep(section)]
        text = [section for section in kept if section.flags & _SHF_EXECINSTR]
        constants = [section for section in kept if not section.flags & _SHF_EXECINSTR]
        if not text:
            raise LinkError(
                "the object holds no code: no function was defined, or all were dropped"
            )
        for section in text:
            self._append(section, filler=b"\xcc")  # int3: running into a gap must not go unnoticed
        text_size = len(self.image)
        for section in constants:
            self._append(section, filler=b"\0")
        return text_size

    def _append(self, section: _Section, filler: bytes) -> None:
        alignment = section.alignment or 1
        if alignment & (alignment - 1) or alignment > MAX_ALIGNMENT:
            raise LinkError(
                f"section {section.name} asks for an alignment of {alignment};"
                f" powers of two up to {MAX_ALIGNMENT} are possible"
            )
        self.image += filler * (-len(self.image) % alignment)
        self.places[section.number] = len(self.image)
        self.image += self._content(section)

    def _keep(self, section: _Section) -> bool:
        """Whether `section` becomes part of the image; LinkError if it would have to and cannot."""
        name, flags = section.name, section.flags
        if section.type == _SHT_GROUP:
            raise LinkError(
                f"section {name}: COMDAT groups are not supported;"
                " give functions internal or external linkage"
            )
        if section.type == _SHT_SYMTAB_SHNDX:
            raise LinkError("more than 65,279 sections in one object are not supported")
        if not flags & _SHF_ALLOC or section.size == 0:
            return False
        if flags & _SHF_TLS:
            raise LinkError(f"section {name}: thread-local storage is not supported")
        if flags & _SHF_COMPRESSED:
            raise LinkError(f"section {name} is compressed")
        if section.type == _SHT_X86_64_UNWIND or name == ".eh_frame":
            return False  # nothing unwinds through translated code
        if name == ".llvm_stackmaps":
            self.stack_map_section = section.number
            return False
        if section.type == _SHT_NOBITS:
            raise LinkError(
                f"section {name}: zero-initialised data ({section.size} bytes)"
                " has no place beside code"
            )
        if flags & _SHF_EXECINSTR:
            if flags & _SHF_WRITE:
                raise LinkError(f"section {name} is both writable and executable")
            return True
        if flags & _SHF_WRITE and not name.startswith(".data.rel.ro"):
            raise LinkError(
                f"section {name}: writable data ({section.size} bytes) has no place beside code;"
                " make the variable constant or keep it in the hart's state"
            )
        if section.type != _SHT_PROGBITS:
            raise LinkError(f"section {name}: type {section.type:#x} is not supported")
        # `.data.rel.ro` holds tables of distances to functions: read-only once relocated.
        return True

    # --- relocating -------------------------------------------------------------------------------

    def _relocate(self, relocations: _Section) -> None:
        target = self.sections[relocations.info]
        base = self.places[target.number]
        for offset, info, addend in _RELOCATION.iter_unpack(self._content(relocations)):
            kind = info & 0xFFFF_FFFF
            symbol = self.symbols[info >> 32]
            where = f"{target.name}+{offset:#x} -> {self._describe(symbol)}"
            if kind not in (_R_X86_64_PC32, _R_X86_64_PLT32):
                raise LinkError(f"relocation {_relocation_name(kind)} at {where}: {_advice(kind)}")
            if offset + 4 > target.size:
                raise LinkError(f"relocation at {where} lies outside its section")
            distance = self._resolve(symbol, where) + addend - (base + offset)
            if not -(1 << 31) <= distance < 1 << 31:
                raise LinkError(f"relocation at {where}: distance {distance:#x} exceeds 32 bits")
            struct.pack_into("<i", self.image, base + offset, distance)

    def _relocate_stack_maps(self, relocations: _Section, table: bytearray) -> None:
        for offset, info, addend in _RELOCATION.iter_unpack(self._content(relocations)):
            kind = info & 0xFFFF_FFFF
            symbol = self.symbols[info >> 32]
            where = f".llvm_stackmaps+{offset:#x} -> {self._describe(symbol)}"
            if kind != _R_X86_64_64 or offset + 8 > len(table):
                raise LinkError(f"relocation {_relocation_name(kind)} at {where} not understood")
            struct.pack_into("<q", table, offset, self._resolve(symbol, where) + addend)

    def _resolve(self, symbol: _Symbol, where: str) -> int:
        """The offset of `symbol` in the image."""
        if symbol.type == _STT_GNU_IFUNC:
            raise LinkError(f"{where}: indirect functions are not supported")
        if symbol.type == _STT_TLS:
            raise LinkError(f"{where}: thread-local storage is not supported")
        if symbol.section == _SHN_UNDEF:
            raise LinkError(
                f"{where}: undefined symbol; nothing outside the image can be reached by distance,"
                " call it through a pointer in the hart's state"
            )
        if symbol.section == _SHN_COMMON:
            raise LinkError(f"{where}: common (zero-initialised) data is not supported")
        if symbol.section >= _SHN_LORESERVE:
            raise LinkError(f"{where}: absolute addresses are not supported")
        if symbol.section not in self.places:
            raise LinkError(
                f"{where}: lies in section {self.sections[symbol.section].name}, which is not kept"
            )
        return self.places[symbol.section] + symbol.value

    def _offsets(self) -> dict[str, int]:
        offsets: dict[str, int] = {}
        for symbol in self.symbols:
            if symbol.section not in self.places or not symbol.name:
                continue
            if symbol.type == _STT_FUNC or (
                symbol.type != _STT_SECTION and symbol.binding != _STB_LOCAL
            ):
                offsets[symbol.name] = self.places[symbol.section] + symbol.value
        return offsets

    def _describe(self, symbol: _Symbol) -> str:
        if symbol.name or symbol.section >= len(self.sections):
            return symbol.name or "an unnamed symbol"
        return self.sections[symbol.section].name


def _string(table: bytes, offset: int) -> str:
    if offset >= len(table):
        return ""
    return table[offset : table.index(b"\0", offset)].decode()


def _relocation_name(kind: int) -> str:
    return _RELOCATION_NAMES.get(kind, f"type {kind}")


def _advice(kind: int) -> str:
    if kind in _GOT_RELOCATIONS:
        return "there is no global offset table; make the symbol internal, hidden or dso_local"
    if kind == _R_X86_64_64:
        return "the image has no address of its own; store a distance (sub of two ptrtoint) instead"
    return "only R_X86_64_PC32 and R_X86_64_PLT32 are position independent here"
