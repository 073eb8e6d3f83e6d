"""What the assembler's directives make: strings, numbers, filling, alignment.

The problem: a directive's bytes depend on its operands alone, the assembler's layout on how many
there are. So this module turns operands into bytes and knows nothing of sections or passes.

Invariant: values come from the `value` function given (a text to a number), which may raise;
what does not fit raises DirectiveError without a place.

Read next: `assembler.py`, which has the directives about symbols and sections.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from protocol.riscv.expression import unescape
from protocol.riscv.statements import STRING

INTEGERS = {
    **{".byte": 1, ".half": 2, ".short": 2, ".2byte": 2, ".word": 4, ".long": 4, ".4byte": 4},
    **{".dword": 8, ".quad": 8, ".8byte": 8},
}
ALIGNMENTS = (".align", ".p2align", ".balign")
FILLINGS = (
    *(".ascii", ".asciz", ".string", ".float", ".double", ".space", ".skip", ".zero", ".fill"),
    ".insn",
)
LARGEST = 1 << 28  # bytes one directive may make
_Value = Callable[[str], int]


class DirectiveError(ValueError):
    """The operands do not fit the directive; the message says why and what to do."""


def integer(value: int, size: int) -> bytes:
    """`size` bytes, of a value that fits them with or without a sign."""
    if not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
        raise DirectiveError(f"{value:#x} does not fit {size} bytes")
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def fill_byte(texts: list[str], value: _Value) -> bytes:
    """The byte that `texts` names, or 0 when it names none."""
    return bytes([value(texts[0]) & 0xFF]) if texts else b"\0"


def filling(name: str, texts: list[str], value: _Value) -> bytes:
    """The bytes of one of `FILLINGS`."""
    match name:
        case ".ascii" | ".asciz" | ".string":
            return b"".join(_string(t) + b"\0" * (name != ".ascii") for t in texts)
        case ".float" | ".double":
            return b"".join(_real("<f" if name == ".float" else "<d", t) for t in texts)
        case ".space" | ".skip" | ".zero" if 1 <= len(texts) <= 2:
            return fill_byte(texts[1:], value) * _count(value(texts[0]))
        case ".fill" if 1 <= len(texts) <= 3:
            count, size, unit = (value(t) for t in [*texts, *("1", "0")[len(texts) - 1 :]])
            if not 0 <= size <= 8:
                raise DirectiveError(f".fill repeats 0 to 8 bytes, not {size}")
            return (unit % (1 << 8 * size)).to_bytes(size, "little") * _count(count)
        case ".insn" if 1 <= len(texts) <= 2:
            raw = value(texts[-1])
            size = 4 if raw & 3 == 3 else 2
            if not 0 <= raw < 1 << 8 * size or value([str(size), *texts][-2]) != size:
                raise DirectiveError(
                    f"{raw:#x} is no {size}-byte instruction: its low two bits say the length"
                )
            return raw.to_bytes(size, "little")
    raise DirectiveError(f"{name} does not take {len(texts)} operands")


def alignment(name: str, value: int) -> int:
    """What one of `ALIGNMENTS` asks for, in bytes."""
    if name != ".balign":
        if not 0 <= value <= 28:
            raise DirectiveError(f"{name} takes the power of two, 0 to 28, not {value}")
        return 1 << value
    if not 1 <= value <= LARGEST or value & (value - 1):
        raise DirectiveError(f".balign takes a power of two in bytes, not {value}")
    return value


def nops(size: int) -> bytes:
    """As GNU as pads code: an odd byte, then at most one c.nop, then nops."""
    return b"\0" * (size % 2) + b"\x01\x00" * (size % 4 >= 2) + b"\x13\0\0\0" * (size // 4)


def _string(text: str) -> bytes:
    if not re.fullmatch(STRING, text):
        raise DirectiveError(f'{text} is no string: write "text"')
    return unescape(text[1:-1])


def _real(code: str, text: str) -> bytes:
    try:
        return struct.pack(code, float(text))
    except (ValueError, OverflowError):
        raise DirectiveError(f"{text!r} is no number that fits") from None


def _count(count: int) -> int:
    if not 0 <= count <= LARGEST:
        raise DirectiveError(f"a count of {count} is outside 0 to 2^28")
    return count
