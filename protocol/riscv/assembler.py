"""Guest programs from assembly text, by the instruction declarations.

The problem: tests, examples and boot stubs need small RISC-V programs on machines without a cross
compiler, and a second instruction table would drift from the decoder. So encodings and operand
lists are the declarations' (`encoder.py`), and what is added here is what an assembler adds: labels
and layout, directives, expressions (`expression.py`), pseudo-instructions (`pseudo.py`).

The dialect is GNU as's: `#`, `//` and `/* */` are comments, `;` separates statements, operators
bind as in GNU as, `.align` counts powers of two, `.org` counts from the section's start. The result
is a flat image: sections follow one another in the order of `SECTIONS`, those after `.text` aligned
to 16 bytes or more. Nothing is compressed by itself: write `c.add` for a 16-bit encoding (`.option`
is accepted and changes nothing), so an instruction's size is seen in its text. A branch that does
not reach is an error, never a longer sequence.

Invariants: a statement's size is final when it is first read, so what decides it (the count of
`.space`) must be known there, and `li` of a value not known yet takes two instructions, whatever
the value. Its bytes are made once all symbols are known.
Every symbol is an absolute value. An error names file and line, what is wrong, what to do.

Read next: `encoder.py`; `disassembler.py` for the way back.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from protocol.errors import UserError
from protocol.riscv import pseudo
from protocol.riscv.directives import (
    ALIGNMENTS,
    FILLINGS,
    INTEGERS,
    LARGEST,
    DirectiveError,
    alignment,
    fill_byte,
    filling,
    integer,
    nops,
)
from protocol.riscv.encoder import EncodeError, describe, encode, find, split_memory, takes
from protocol.riscv.expression import ExpressionError, evaluate, hi, lo, wrap
from protocol.riscv.isa import ENCODINGS, Encoding, load_all
from protocol.riscv.operands import X_NUMBERS, operands
from protocol.riscv.statements import split, statements

SECTIONS = (".text", ".rodata", ".data", ".bss")
_IGNORED = (
    *(".globl", ".global", ".local", ".weak", ".type", ".size", ".file", ".attribute", ".ident"),
    ".option",
)
_OWN = (*SECTIONS, *_IGNORED, ".section", ".equ", ".set", ".org")
_SYMBOL = re.compile(r"[A-Za-z_.$][\w.$]*")
_LABEL = re.compile(rf"\s*({_SYMBOL.pattern}|\d+)\s*:")
_EMIT = Callable[[int], bytes]


class AssemblyError(UserError):
    """The text cannot be assembled; the message begins with `file:line:`."""


@dataclass(frozen=True, slots=True)
class Line:
    """Where a statement went: `size` bytes at `address`; `number` of its line counts from 1."""

    number: int
    address: int
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class Program:
    """An assembled image: `data` belongs at `base`; `symbols` are 64-bit values, without sign."""

    data: bytes
    base: int
    symbols: dict[str, int]
    lines: tuple[Line, ...]


def assemble(text: str, base: int = 0x8000_0000, name: str = "<text>") -> Program:
    """Assemble `text` for address `base` (a multiple of 16); `name` stands for the file in errors.

    Raises AssemblyError for the first thing that is wrong.
    """
    load_all()
    return _Assembly(base, name).run(text)


class _Wrong(Exception):
    """What is wrong and what to do, without the place."""


class _Unknown(Exception):
    """The symbol has no value: not yet, in the first pass; not at all, in the second."""


@dataclass(slots=True)
class _Section:
    base: int | None = None  # unknown while sizes are still collected
    size: int = 0
    alignment: int = 16


@dataclass(slots=True)
class _Statement:
    """What the first pass leaves for the second: `emit(address)` makes `size` bytes."""

    number: int
    text: str
    section: _Section
    offset: int
    size: int
    emit: _EMIT


@dataclass(slots=True)
class _Symbol:
    """A label at `offset` of a section, or an expression read where `.equ` stood."""

    number: int
    section: _Section
    offset: int
    statement: int
    expression: str | None = None


class _Assembly:
    """One run: first `read` every statement, then `emit`."""

    def __init__(self, base: int, name: str) -> None:
        self.base = base
        self.name = name
        self.sections = {section: _Section() for section in SECTIONS}
        self.sections[".text"] = _Section(base, 0, 1)
        self.section = self.sections[".text"]
        self.symbols: dict[str, _Symbol] = {}
        self.numeric: dict[str, list[_Symbol]] = {}
        self.statements: list[_Statement] = []
        self.resolving: set[str] = set()
        # Where `.` is: the statement's section, offset and index.
        self.here = (self.section, 0, 0)

    def run(self, text: str) -> Program:
        for number, statement in statements(text):
            with self.place(
                number, "is not known yet here, where a size depends on it: define it above"
            ):
                self.read(number, statement)
        end = self.lay_out()
        image = bytearray(end - self.base)
        lines = []
        for index, s in enumerate(self.statements):
            self.here = (s.section, s.offset, index)
            with self.place(
                s.number, "is not defined: make it a label, or give it a value with .equ"
            ):
                address = self.address(s.section, s.offset)
                data = s.emit(address)
            image[address - self.base : address - self.base + s.size] = data
            if data:
                lines.append(Line(s.number, address, s.size, s.text))
        values = {}
        for name, symbol in self.symbols.items():
            with self.place(
                symbol.number, "is not defined: make it a label, or define it with .equ"
            ):
                values[name] = self.lookup(name) % (1 << 64)
        return Program(bytes(image), self.base, values, tuple(lines))

    @contextlib.contextmanager
    def place(self, number: int, unknown: str) -> Iterator[None]:
        """Give whatever goes wrong inside its file and line."""
        try:
            yield
        except _Unknown as error:
            raise AssemblyError(f"{self.name}:{number}: {error} {unknown}") from None
        except (_Wrong, DirectiveError, EncodeError, ExpressionError) as error:
            raise AssemblyError(f"{self.name}:{number}: {error}") from None

    def lay_out(self) -> int:
        """Give every section its address; the image's end."""
        end = self.base + self.sections[".text"].size
        for section in self.sections.values():
            if section.base is None:
                start = end + -end % section.alignment
                section.base = start
                end = start + section.size if section.size else end
        return end

    # --- symbols --------------------------------------------------------------------------------

    def address(self, section: _Section, offset: int) -> int:
        if section.base is None:
            raise _Unknown("an address after .text")
        return section.base + offset

    def lookup(self, name: str) -> int:
        """The value of a symbol, of `.`, or of a numeric label such as `1b`."""
        section, offset, statement = self.here
        if name == ".":
            return self.address(section, offset)
        if name[0].isdigit():
            return self.numeric_label(name, statement)
        symbol = self.symbols.get(name)
        if symbol is None:
            raise _Unknown(repr(name))
        if symbol.expression is None:
            return self.address(symbol.section, symbol.offset)
        if name in self.resolving:
            raise _Wrong(f"{name!r} is defined by itself: give one of the symbols a number")
        self.resolving.add(name)
        self.here = (symbol.section, symbol.offset, symbol.statement)
        try:
            return evaluate(symbol.expression, self.lookup)
        finally:
            self.resolving.discard(name)
            self.here = (section, offset, statement)

    def numeric_label(self, name: str, statement: int) -> int:
        known = self.numeric.get(name[:-1].lstrip("0") or "0", [])
        if name[-1] == "b":
            known = [s for s in known if s.statement <= statement][-1:]
        else:
            known = [s for s in known if s.statement > statement][:1]
        if not known:
            raise _Unknown(repr(name))
        return self.address(known[0].section, known[0].offset)

    def value(self, text: str) -> int:
        return evaluate(text, self.lookup)

    def symbol_here(self, number: int, expression: str | None = None) -> _Symbol:
        return _Symbol(number, self.section, self.section.size, len(self.statements), expression)

    def label(self, number: int, name: str) -> None:
        if name.isdigit():
            self.numeric.setdefault(name.lstrip("0") or "0", []).append(self.symbol_here(number))
        elif name in self.symbols:
            raise _Wrong(
                f"{name!r} is defined already, in line {self.symbols[name].number}: rename one"
            )
        else:
            self.symbols[name] = self.symbol_here(number)

    def assign(self, number: int, name: str, expression: str) -> None:
        """`.equ`, `.set`, `=`: the last value assigned so far counts, in both passes."""
        old = self.symbols.get(name)
        if not _SYMBOL.fullmatch(name):
            raise _Wrong(f"{name!r} is no symbol: use letters, digits, _ . $")
        if old is not None and old.expression is None:
            raise _Wrong(f"{name!r} is a label already, in line {old.number}: rename one")
        with contextlib.suppress(_Unknown):
            expression = str(self.value(expression))
        symbol = self.symbol_here(number, expression)

        def emit(_: int) -> bytes:
            self.symbols[name] = symbol
            return b""

        emit(0)
        self.add(number, f"{name} = {expression}", 0, emit)

    # --- statements -----------------------------------------------------------------------------

    def add(self, number: int, text: str, size: int, emit: _EMIT) -> None:
        self.statements.append(
            _Statement(number, text, self.section, self.section.size, size, emit)
        )
        self.section.size += size

    def add_bytes(self, number: int, text: str, data: bytes) -> None:
        self.add(number, text, len(data), lambda _: data)

    def read(self, number: int, text: str) -> None:
        while found := _LABEL.match(text):
            self.label(number, found[1])
            text = text[found.end() :]
        text = text.strip()
        self.here = (self.section, self.section.size, len(self.statements))
        if found := re.match(rf"({_SYMBOL.pattern})\s*=(?!=)", text):
            self.assign(number, found[1], text[found.end() :])
        elif text:
            name, rest = (*text.split(None, 1), "")[:2]
            texts = split(rest)
            if name[0] == ".":
                self.directive(number, text, name, texts)
            else:
                size, emit = self.instruction(name.lower(), texts)
                self.add(number, text, size, emit)

    # --- instructions ---------------------------------------------------------------------------

    def instruction(self, name: str, texts: list[str]) -> tuple[int, _EMIT]:
        """Size and bytes-to-be of an instruction or pseudo-instruction."""
        if name == "li":
            return self.li(texts)
        if name in ("la", "lla", "call", "tail", "jump"):
            return self.far(name, texts)
        if name == "jalr" and len(texts) == 3:
            texts = [texts[0], f"{texts[2]}({texts[1]})"]
        elif name == "jalr" and len(texts) == 2 and texts[1] in X_NUMBERS:
            texts = [texts[0], f"0({texts[1]})"]
        elif name in ("jr", "jalr") and len(texts) == 1 and split_memory(texts[0]):
            texts = ["ra" if name == "jalr" else "x0", texts[0]]
            name = "jalr"
        found = find(name)
        if found is not None:
            encoding, ordering = found
            symbolic = self.symbolic(encoding, texts)
            if symbolic is not None:
                return symbolic
            if takes(encoding, len(texts)):
                return encoding.length, lambda pc: encode(encoding, ordering, texts, self.value, pc)
        meaning = pseudo.expand(name, texts)
        if meaning is not None:
            name, texts = meaning
            if name in INTEGERS:
                return self.data(INTEGERS[name], texts)
            return self.instruction(name, texts)
        if found is not None:
            raise _Wrong(f"{name} has {len(texts)} operands: write {describe(found[0])!r}")
        forms = pseudo.forms(name)
        if forms:
            raise _Wrong(f"{name} has {len(texts)} operands: write {' or '.join(map(repr, forms))}")
        near = get_close_matches(name, [*ENCODINGS, *pseudo.names(), "li", "la", "call", "tail"], 1)
        hint = f"did you mean {near[0]}?" if near else "see the ISA's extensions in protocol/riscv"
        raise _Wrong(f"{name!r} is no instruction: {hint} (comments begin with # or //)")

    def part(self, pc: int, name: str, *texts: str) -> bytes:
        """The bytes of one real instruction."""
        return encode(ENCODINGS[name], 0, list(texts), self.value, pc)

    def li(self, texts: list[str]) -> tuple[int, _EMIT]:
        if len(texts) != 2:
            raise _Wrong("li takes a register and a value: write 'li rd, value'")
        rd, text = texts
        try:
            steps = pseudo.load_constant(self.value(text))
        except _Unknown:
            return 8, lambda _: self.li_later(rd, text)
        data = self.steps(rd, steps)
        return len(data), lambda _: data

    def li_later(self, rd: str, text: str) -> bytes:
        """The form of `li` for a value that its place did not know: always two instructions."""
        value = self.value(text)
        if not -(1 << 31) <= value < 1 << 31:
            raise _Wrong(
                f"li got {value:#x} from a symbol defined further down, where it can load"
                " 32 signed bits only: define it above, or use la for an address"
            )
        return self.steps(rd, [("lui", (value - lo(value)) >> 12 & 0xFFFFF), ("addiw", lo(value))])

    def steps(self, rd: str, steps: list[tuple[str, int]]) -> bytes:
        data, source = b"", "x0"
        for step, operand in steps:
            data += self.part(0, step, rd, *([source] if step != "lui" else []), str(operand))
            source = rd
        return data

    def far(self, name: str, texts: list[str]) -> tuple[int, _EMIT]:
        """`auipc` and an instruction that adds the low 12 bits: reaches 2 GiB either way."""
        forms = {"la": ("rd", "symbol"), "lla": ("rd", "symbol"), "jump": ("symbol", "rt")}
        form = forms.get(name, ("symbol",))
        if name == "call" and len(texts) == 2:
            form = ("rd", "symbol")
        if len(texts) != len(form):
            raise _Wrong(f"{name} has {len(texts)} operands: write '{name} {', '.join(form)}'")
        given = dict(zip(form, texts, strict=True))
        if name in ("la", "lla"):
            return self.pair(given["rd"], given["symbol"], "addi", [given["rd"], given["rd"]], "{}")
        link = given.get("rd", "ra") if name == "call" else "x0"
        through = link if form == ("symbol",) and name == "call" else given.get("rt", "t1")
        return self.pair(through, given["symbol"], "jalr", [link], f"{{}}({through})")

    def symbolic(self, encoding: Encoding, texts: list[str]) -> tuple[int, _EMIT] | None:
        """A load or store at a symbol: `lw a0, x`; `sw a0, x, t0`; `flw fa0, x, t0`."""
        shape = operands(encoding)
        if (
            encoding.length != 4
            or len(shape) != 2
            or shape[1].kind != "memory"
            or not shape[1].field
        ):
            return None
        if encoding.name == "jalr" or len(texts) < 2 or split_memory(texts[1]) is not None:
            return None
        if texts[1] in X_NUMBERS:
            raise _Wrong(
                f"{texts[1]!r} is a register: write '{encoding.name} {texts[0]}, 0({texts[1]})'"
            )
        load_to_x = shape[0].kind == "x" and shape[0].field == "rd"
        if len(texts) != (2 if load_to_x else 3):
            third = "" if load_to_x else ", and a register for the address"
            raise _Wrong(f"{encoding.name} with a symbol takes a register and the symbol{third}")
        through = texts[0] if load_to_x else texts[2]
        return self.pair(through, texts[1], encoding.name, [texts[0]], f"{{}}({through})")

    def pair(
        self, register: str, symbol: str, name: str, before: list[str], last: str
    ) -> tuple[int, _EMIT]:
        def emit(pc: int) -> bytes:
            offset = wrap(self.value(symbol) - pc)
            if not -(1 << 31) <= offset + 0x800 < 1 << 31:
                raise _Wrong(f"{symbol} is {offset:+#x} bytes away, more than 2 GiB: use li")
            first = self.part(pc, "auipc", register, str(hi(offset)))
            return first + self.part(pc + 4, name, *before, last.format(lo(offset)))

        return 8, emit

    # --- directives -----------------------------------------------------------------------------

    def directive(self, number: int, text: str, name: str, texts: list[str]) -> None:
        if name in _IGNORED:
            return
        if name in SECTIONS or name == ".section":
            wanted = name if name in SECTIONS else texts[0] if texts else ""
            known = next((s for s in SECTIONS if wanted == s or wanted.startswith(f"{s}.")), None)
            if known is None:
                raise _Wrong(f"section {wanted!r} is unknown: use {' '.join(SECTIONS)}")
            self.section = self.sections[known]
        elif name in (".equ", ".set"):
            if len(texts) != 2:
                raise _Wrong(f"{name} takes a symbol and a value: write '{name} symbol, value'")
            self.assign(number, *texts)
        elif name in INTEGERS:
            self.add(number, text, *self.data(INTEGERS[name], texts))
        elif name in FILLINGS:
            self.add_bytes(number, text, filling(name, texts, self.value))
        elif name in (".org", *ALIGNMENTS):
            if len(texts) not in (1, 2):
                raise _Wrong(f"{name} has {len(texts)} operands: write '{name} number, fill byte'")
            self.add_bytes(number, text, self.padding(name, texts))
        else:
            near = get_close_matches(name, (*_OWN, *FILLINGS, *INTEGERS, *ALIGNMENTS), 1)
            raise _Wrong(f"{name!r} is no directive known here" + "".join(f": {n}?" for n in near))

    def data(self, size: int, texts: list[str]) -> tuple[int, _EMIT]:
        def emit(_: int) -> bytes:
            data = b""
            section, offset, index = self.here
            for text in texts:
                self.here = (section, offset + len(data), index)  # `.` moves on, as in GNU as
                data += integer(self.value(text), size)
            return data

        return size * len(texts), emit

    def padding(self, name: str, texts: list[str]) -> bytes:
        """The bytes of an alignment or of `.org`, whose value is an offset or an address."""
        value, section = self.value(texts[0]), self.section
        fill = fill_byte(texts[1:], self.value)
        if name == ".org":
            start = None if section.base is None else wrap(section.base)
            offset = value if start is None or value < start else value - start
            if not section.size <= offset <= section.size + LARGEST:
                raise _Wrong(f".org {value:#x} is behind us: we are at {section.size:#x} already")
            return fill * (offset - section.size)
        unit = alignment(name, value)
        section.alignment = max(section.alignment, unit)
        size = -((section.base or 0) + section.size) % unit
        is_code = len(texts) == 1 and section is self.sections[".text"]
        return nops(size) if is_code else fill * size
