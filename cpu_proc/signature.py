"""The test signature: what an architectural test leaves in memory, written as RISCOF and Spike
write it.

Problem: RISC-V's architectural tests store their results between the symbols `begin_signature` and
`end_signature`; a test passes if the dump equals that of a reference model, so the format must
agree to the character.

Invariant: one line per `granularity` bytes, lowest address first; a line holds them as one
little-endian number in lowercase hexadecimal, padded with zeros where the signature ends inside it
(Spike, riscv-isa-sim fesvr/htif.cc, `+signature` and `+signature-granularity`).

Read next: `loader` (finds the symbols), `htif` (how such a test ends).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from protocol.errors import UserError


def bounds(symbols: Mapping[str, int]) -> tuple[int, int]:
    """Start and end of the signature. Raises `UserError` if the program has none."""
    for name in ("begin_signature", "end_signature"):
        if name not in symbols:
            raise UserError(
                f"--signature: the program has no symbol {name} (an ELF with a .symtab?)"
            )
    begin, end = symbols["begin_signature"], symbols["end_signature"]
    if end < begin:
        raise UserError(
            f"--signature: end_signature ({end:#x}) lies before begin_signature ({begin:#x})"
        )
    return begin, end


def render(data: bytes, granularity: int) -> str:
    """The dump of the signature's bytes, `granularity` bytes to a line."""
    padded = data + bytes(-len(data) % granularity)
    return "".join(
        padded[at : at + granularity][::-1].hex() + "\n"
        for at in range(0, len(padded), granularity)
    )


def write(
    path: str,
    read: Callable[[int, int], bytes],
    symbols: Mapping[str, int],
    granularity: int = 4,
) -> None:
    """Dump to `path` what `read(address, length)` finds between the symbols. Raises `UserError`."""
    begin, end = bounds(symbols)
    text = render(read(begin, end - begin), granularity)
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--signature {path}: {error.strerror}") from None
