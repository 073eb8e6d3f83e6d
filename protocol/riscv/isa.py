"""Declarations: one instruction stands in one place, and every consumer reads it there.

`@instruction(pattern, text)` declares encoding, assembly text and, as the function's body, the
semantics; `compressed(...)` declares a 16-bit encoding as an expansion of a 32-bit instruction.
From these follow `decode` below, the engine's decoder and handlers, the lifter, the reference
interpreter, the assembler and the disassembler.

A pattern reads as in the manual, most significant bit first: binary digits, register fields
(`rd`, `rs1'`), one-bit flags (`aq`), and slices of an immediate (`imm[12|10:5]`). Immediates named
`imm`/`nzimm` are sign-extended from their highest bit, others zero-extended.

Invariants: two patterns that overlap are refused at import unless one fixes a strict superset of
the other's bits (the more specific one wins) or a `where` tells them apart; a decoded instruction
fits `Decoded`'s fields (a 32-bit immediate, four register numbers, a rounding mode), because a
record of the engine holds exactly these.

Read next: `language.py` (what bodies may say), `rv_i.py` (the declarations, by example).
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol.riscv.identity import isa_hash as isa_hash
from protocol.riscv.language import Function, function

EXTENSION_MODULES = ("rv_i", "rv_m", "rv_a", "rv_f", "rv_d", "rv_zb", "zicsr", "privileged", "rv_c")

REGISTER_BITS = {"rd": 5, "rs1": 5, "rs2": 5, "rs3": 5, "zimm": 5, "rm": 3, "aq": 1, "rl": 1}
_SIGN_EXTENDED = ("imm", "nzimm")
# Where a field is kept in a record (`Decoded`).
SLOT = {"rd": "rd", "rs1": "rs1", "zimm": "rs1", "rs2": "rs2", "rs3": "rs3", "rm": "rm"}


@dataclass(frozen=True, slots=True)
class Piece:
    """`width` bits of the word from `shift` are bits `at`.. of field `name`."""

    name: str
    shift: int
    width: int
    at: int


@dataclass(frozen=True, slots=True)
class Pattern:
    """An encoding: fixed bits, and the pieces of its fields."""

    text: str
    bits: int
    mask: int
    match: int
    pieces: tuple[Piece, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p.name for p in self.pieces))

    def width(self, name: str) -> int:
        """Bits of the field, counted from bit 0."""
        return max(p.at + p.width for p in self.pieces if p.name == name)

    def extract(self, raw: int) -> dict[str, int]:
        """Every field's value in `raw`; primed registers are x8..x15, immediates extended."""
        values: dict[str, int] = {}
        for p in self.pieces:
            part = (raw >> p.shift) & ((1 << p.width) - 1)
            values[p.name] = values.get(p.name, 0) | part << p.at
        for name in values:
            if name.endswith("'"):
                values[name] += 8
            elif name in _SIGN_EXTENDED:
                width = self.width(name)
                if values[name] >> (width - 1):
                    values[name] -= 1 << width
        return values

    def insert(self, values: dict[str, int]) -> int:
        """The word with these field values; the inverse of `extract`.

        Raises ValueError when a value does not fit its field.
        """
        raw = self.match
        for p in self.pieces:
            value = values.get(p.name, 0)
            if p.name.endswith("'"):
                value -= 8
            raw |= ((value >> p.at) & ((1 << p.width) - 1)) << p.shift
        back = self.extract(raw)
        for name, value in values.items():
            if name in back and back[name] != value:
                raise ValueError(f"{name} = {value} does not fit {self.text!r}")
        return raw


def parse_pattern(text: str) -> Pattern:
    """Raises ValueError naming the token that is wrong."""
    tokens: list[tuple[str, int, list[tuple[int, int]]]] = []  # name, width, slices (high, low)
    for token in text.split():
        if re.fullmatch("[01]+", token):
            tokens.append((token, len(token), []))
        elif token in REGISTER_BITS or token == "csr":
            width = REGISTER_BITS.get(token, 12)
            tokens.append((token, width, [(width - 1, 0)]))
        elif re.fullmatch("(rd|rs1|rs2)'", token):
            tokens.append((token, 3, [(2, 0)]))
        elif found := re.fullmatch(r"(\w+)\[([\d:|]+)\]", token):
            slices = []
            for part in found[2].split("|"):
                high, _, low = part.partition(":")
                slices.append((int(high), int(low or high)))
            tokens.append((found[1], sum(h - low + 1 for h, low in slices), slices))
        else:
            raise ValueError(f"pattern {text!r}: unknown token {token!r}")
    bits = sum(width for _, width, _ in tokens)
    if bits not in (16, 32):
        raise ValueError(f"pattern {text!r} has {bits} bits, not 16 or 32")
    mask = match = 0
    pieces: list[Piece] = []
    shift = bits
    for name, width, slices in tokens:
        if not slices:
            shift -= width
            mask |= ((1 << width) - 1) << shift
            match |= int(name, 2) << shift
        for high, low in slices:
            shift -= high - low + 1
            pieces.append(Piece(name, shift, high - low + 1, low))
    return Pattern(text, bits, mask, match, tuple(pieces))


@dataclass(frozen=True, eq=False)
class Instruction:
    """One instruction: 32-bit encoding, assembly text and semantics."""

    name: str  # as in assembly: "amoadd.w"
    pattern: Pattern
    text: str
    semantics: Function
    where: str

    @property
    def params(self) -> tuple[str, ...]:
        return self.semantics.params


@dataclass(frozen=True, eq=False)
class Encoding:
    """One way to write an instruction: its own pattern, or a compressed one that expands to it.

    `operands` maps each parameter of the semantics to a field's name or a fixed value.
    """

    name: str
    pattern: Pattern
    text: str
    instruction: Instruction
    operands: dict[str, str | int]
    where: str

    @property
    def length(self) -> int:
        return self.pattern.bits // 8

    @functools.cached_property
    def _where(self) -> Any:
        names = re.sub(r"\b(rd|rs1|rs2)'", r"\1_", self.where)
        return compile(names, f"<where of {self.name}>", "eval")

    def holds(self, fields: dict[str, int]) -> bool:
        """Whether the `where` clause accepts these field values."""
        if not self.where:
            return True
        scope = {name.replace("'", "_"): value for name, value in fields.items()}
        return bool(eval(self._where, {}, scope))


@dataclass(frozen=True, slots=True)
class Decoded:
    """An instruction with its operands: all that a record or the lifter needs."""

    encoding: Encoding
    raw: int
    operands: dict[str, int]  # parameter -> value; immediates signed

    @property
    def instruction(self) -> Instruction:
        return self.encoding.instruction

    @property
    def length(self) -> int:
        return self.encoding.length

    def arguments(self) -> tuple[int, ...]:
        """The operands as words, in the order of the semantics' parameters."""
        return tuple(self.operands[p] & (2**64 - 1) for p in self.instruction.params)


INSTRUCTIONS: dict[str, Instruction] = {}
ENCODINGS: dict[str, Encoding] = {}


def _register(encoding: Encoding) -> None:
    if encoding.name in ENCODINGS:
        raise ValueError(f"{encoding.name} is declared twice")
    new = encoding.pattern
    for old in ENCODINGS.values():
        if old.pattern.bits != new.bits:
            continue
        common = old.pattern.mask & new.mask
        if (old.pattern.match ^ new.match) & common:
            continue
        nested = common in (old.pattern.mask, new.mask) and old.pattern.mask != new.mask
        if not (nested or old.where or encoding.where):
            raise ValueError(
                f"patterns overlap: {encoding.name} {new.text!r}"
                f" and {old.name} {old.pattern.text!r}"
            )
    ENCODINGS[encoding.name] = encoding
    _table.cache_clear()


def instruction(
    pattern: str, text: str, where: str = "", name: str = ""
) -> Callable[[Callable[..., Any]], Instruction]:
    """Declare a 32-bit (or, for `c.ebreak` and its like, 16-bit) instruction.

    `name` defaults to the first word of the text.
    """

    def declare(body: Callable[..., Any]) -> Instruction:
        parsed = parse_pattern(pattern)
        semantics = function(body)
        mnemonic = name or text.split()[0]
        code = body.__code__
        params = code.co_varnames[: code.co_argcount]
        operands: dict[str, str | int] = {}
        for param in params:
            if param not in parsed.fields:
                raise ValueError(f"{mnemonic}: no field {param!r} in {pattern!r}")
            operands[param] = param
        found = Instruction(mnemonic, parsed, text, semantics, where)
        INSTRUCTIONS[mnemonic] = found
        _register(Encoding(mnemonic, parsed, text, found, operands, where))
        return found

    return declare


def compressed(
    pattern: str, text: str, expands: str, where: str = "", **operands: str | int
) -> Encoding:
    """Declare a 16-bit encoding as `expands` with these operands (field names or numbers)."""
    target = INSTRUCTIONS[expands]
    parsed = parse_pattern(pattern)
    name = text.split()[0]
    if set(operands) != set(target.params):
        raise ValueError(f"{name}: {expands} takes {', '.join(target.params)}")
    for value in operands.values():
        if isinstance(value, str) and value not in parsed.fields:
            raise ValueError(f"{name}: no field {value!r} in {pattern!r}")
    encoding = Encoding(name, parsed, text, target, dict(operands), where)
    _register(encoding)
    return encoding


def routine(body: Callable[..., Any] | None = None, *, pure: bool = False) -> Any:
    """Declare a subroutine that semantics functions may call.

    `pure=True` states that it never traps; the statement is checked when it is compiled.
    """
    if body is None:
        return functools.partial(routine, pure=pure)
    found = function(body)
    found.must_not_trap = pure
    return found


@functools.cache
def load_all() -> None:
    """Import every extension, so that the registries are complete."""
    for module in EXTENSION_MODULES:
        importlib.import_module(f"protocol.riscv.{module}")


@functools.cache
def _table() -> dict[tuple[int, int], list[Encoding]]:
    """(bits, opcode bits) -> candidates, most specific first."""
    table: dict[tuple[int, int], list[Encoding]] = {}
    for encoding in ENCODINGS.values():
        pattern = encoding.pattern
        if pattern.bits == 32:
            keys = [pattern.match & 0x7F]
        else:  # quadrant and funct3
            keys = [
                k
                for k in range(32)
                if not ((k & 3 | (k >> 2) << 13) ^ pattern.match) & pattern.mask & 0xE003
            ]
        for key in keys:
            table.setdefault((pattern.bits, key), []).append(encoding)
    for candidates in table.values():
        candidates.sort(key=lambda e: (-e.pattern.mask.bit_count(), not e.where))
    return table


def decode(raw: int) -> Decoded | None:
    """Decode the instruction in the low bits of `raw`; None when it is illegal.

    Bits above a 16-bit instruction are ignored.
    """
    if raw & 3 == 3:
        raw &= 0xFFFFFFFF
        candidates = _table().get((32, raw & 0x7F), ())
    else:
        raw &= 0xFFFF
        candidates = _table().get((16, raw & 3 | (raw >> 13) << 2), ())
    for encoding in candidates:
        pattern = encoding.pattern
        if raw & pattern.mask == pattern.match:
            fields = pattern.extract(raw)
            if encoding.holds(fields):
                operands = {
                    p: fields[v] if isinstance(v, str) else v for p, v in encoding.operands.items()
                }
                return Decoded(encoding, raw, operands)
    return None
