"""One instruction from its name and the texts of its operands: the disassembler's inverse.

The problem: an encoding's text says which operands it takes and its pattern where they go; here the
texts people write are matched against that, and what does not fit is refused with the reason.

Invariant: knows no instruction by name. Values come from the `value` function given (symbols are
the assembler's business), and every field is checked against its width, sign and alignment.

Read next: `operands.py`; `assembler.py`, which calls this.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from protocol.riscv.expression import wrap
from protocol.riscv.isa import ENCODINGS, Encoding
from protocol.riscv.operands import (
    F_NUMBERS,
    ORDERINGS,
    ROUNDING_MODES,
    X_NUMBERS,
    Operand,
    csr_number,
    default_rounding,
    fence_value,
    is_signed,
    low_bit,
    operands,
)

_MEMORY = re.compile(r"(.*)\(\s*(\w+)\s*\)", re.DOTALL)
_SHAPES = {"x": "register", "f": "FP register", "fixed": "sp", "csr": "csr", "rm": "rounding mode"}


class EncodeError(ValueError):
    """Operands do not fit the instruction; the message says why, without a place."""


def split_memory(text: str) -> tuple[str, int] | None:
    """`offset(base)` as the offset's text, "0" when absent, and the register; else None."""
    found = _MEMORY.fullmatch(text)
    if found is None or found[2] not in X_NUMBERS:
        return None
    return found[1].strip() or "0", X_NUMBERS[found[2]]


def find(name: str) -> tuple[Encoding, int] | None:
    """The encoding of a mnemonic, with its ordering (`aq << 1 | rl`); None when there is none."""
    if name in ENCODINGS:
        return ENCODINGS[name], 0
    for ordering, suffix in enumerate(ORDERINGS):
        if suffix and name.endswith(suffix):
            encoding = ENCODINGS.get(name.removesuffix(suffix))
            if encoding is not None and "aq" in encoding.pattern.fields:
                return encoding, ordering
    return None


def takes(encoding: Encoding, count: int) -> bool:
    """Whether the instruction can be written with `count` operands."""
    shape = operands(encoding)
    optional = bool(shape) and shape[-1].kind == "rm"
    return count == len(shape) or (optional and count == len(shape) - 1)


def describe(encoding: Encoding) -> str:
    """The instruction's form, for errors: "sw rs2, imm(rs1)"."""
    return re.sub(r"'", "", encoding.text)


def encode(
    encoding: Encoding, ordering: int, texts: list[str], value: Callable[[str], int], pc: int
) -> bytes:
    """The instruction's bytes.

    Raises EncodeError, or what `value` (a text to a number) raises.
    """
    shape = operands(encoding)
    if not takes(encoding, len(texts)):
        raise EncodeError(f"{len(texts)} operands given: write {describe(encoding)!r}")
    fields = dict.fromkeys(encoding.pattern.fields, 0)
    if "aq" in fields:
        fields["aq"], fields["rl"] = ordering >> 1, ordering & 1
    if "rm" in fields:
        fields["rm"] = default_rounding(encoding)
    for operand, text in zip(shape, texts, strict=False):
        _operand(encoding, operand, text.strip(), value, pc, fields)
    if not encoding.holds(fields):
        raise EncodeError(
            f"this encoding of {encoding.name} is reserved: it needs {encoding.where}"
        )
    return encoding.pattern.insert(fields).to_bytes(encoding.length, "little")


def _operand(
    encoding: Encoding,
    operand: Operand,
    text: str,
    value: Callable[[str], int],
    pc: int,
    fields: dict[str, int],
) -> None:
    match operand.kind:
        case "x":
            fields[operand.field] = _register(encoding, X_NUMBERS, operand, text)
        case "f":
            fields[operand.field] = _register(encoding, F_NUMBERS, operand, text)
        case "fixed":
            if _register(encoding, X_NUMBERS, operand, text) != operand.base:
                raise EncodeError(f"{encoding.name} works on sp only, not {text}")
        case "rm":
            if text not in ROUNDING_MODES:
                raise EncodeError(f"{text!r} is no rounding mode: {' '.join(ROUNDING_MODES)}")
            fields["rm"] = ROUNDING_MODES[text]
        case "fence":
            ordered = fence_value(text)
            if ordered is None:
                raise EncodeError(f"{text!r} is no set of the letters i, o, r, w")
            fields[operand.field] = ordered
        case "csr":
            number = csr_number(text)
            fields["csr"] = _fit(encoding, "csr", value(text) if number is None else number)
        case "target":
            offset = wrap(value(text) - pc)
            fields["imm"] = _fit(encoding, "imm", offset, f"{text} is {offset:+} bytes away; ")
        case "memory":
            _memory(encoding, operand, text, value, fields)
        case "upper":
            upper = value(text)
            if not 0 <= upper < 1 << 20:
                raise EncodeError(f"{upper:#x} is outside 0 to 0xfffff, the upper 20 bits")
            signed = ((upper << 12) + (1 << 31)) % (1 << 32) - (1 << 31)
            fields[operand.field] = _fit(encoding, operand.field, signed)
        case _:
            fields[operand.field] = _fit(encoding, operand.field, value(text))


def _register(encoding: Encoding, numbers: dict[str, int], operand: Operand, text: str) -> int:
    number = numbers.get(text)
    if number is None:
        kind = "an integer" if numbers is X_NUMBERS else "a floating-point"
        raise EncodeError(f"{text!r} is not {kind} register: write {describe(encoding)!r}")
    if operand.field.endswith("'") and not 8 <= number < 16:
        raise EncodeError(
            f"{encoding.name} reaches registers 8 to 15 only (s0 s1 a0-a5), not {text}"
        )
    return number


def _memory(
    encoding: Encoding,
    operand: Operand,
    text: str,
    value: Callable[[str], int],
    fields: dict[str, int],
) -> None:
    parts = split_memory(text)
    if parts is None:
        raise EncodeError(f"{text!r} is no offset(register): write {describe(encoding)!r}")
    offset = value(parts[0])
    if operand.field:
        fields[operand.field] = _fit(encoding, operand.field, offset)
    elif offset:
        raise EncodeError(f"{encoding.name} takes no offset: add it to the register first")
    if isinstance(operand.base, str):
        name = text[text.rindex("(") + 1 : -1].strip()
        fields[operand.base] = _register(encoding, X_NUMBERS, Operand("x", operand.base), name)
    elif operand.base != parts[1]:
        raise EncodeError(f"{encoding.name} addresses by sp only")


def _fit(encoding: Encoding, name: str, number: int, prefix: str = "") -> int:
    """`number` if the field can hold it."""
    bits, step = encoding.pattern.width(name), 1 << low_bit(encoding, name)
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - step) if is_signed(name) else (0, (1 << bits) - step)
    )
    if number % step or not low <= number <= high:
        unit = f" in steps of {step}" if step > 1 else ""
        raise EncodeError(f"{prefix}{encoding.name} takes {low} to {high}{unit}, not {number}")
    return number
