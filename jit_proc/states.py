"""States from which two translations of a region are compared.

The problem: a wrong instruction shows only where its operands are, a wrong branch only where it is
taken, and a wrong access only where a page's edge or a fault is. Registers of random bits would
take every branch one way, and fault at the first access. So a state has few different values, so
that comparisons come out both ways: edges of the number ranges, constants that the code itself
mentions, a live hart's registers if they are known, and pointers into memory that holds more of the
same. Most pointers are aligned and well inside; some are odd, some at an edge, some lead nowhere.

Invariants: `states` is a function of its arguments: a comparison can be repeated. The first states
are tame (all pointers good), so that long ways are taken; the later ones are wilder.

Read next: `protocol/comparison.py` (`State`), `comparing.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from protocol.comparison import CODE, DATA, DATA_SIZE, PATTERN_WORDS, State
from protocol.layout import PAGE_SIZE
from protocol.riscv import isa

M64 = 2**64 - 1
EDGES = (
    *(0, 1, 2, 3, 7, 8, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF),
    *(0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 1 << 32, 1 << 63, M64 >> 1),
    *(M64, M64 - 1, M64 << 31 & M64, M64 << 32 & M64),
)
SINGLES = (0, 0x3F800000, 0xBF800000, 0x7F800000, 0x7FC00000, 0x7F800001, 1, 0x80000000, 0x4B000001)
DOUBLES = (
    *(0, 0x3FF << 52, 0xBFF << 52, 0x7FF << 52, 0x7FF8 << 48, 0x7FF0 << 48 | 1, 1, 1 << 63),
    *(0x400921FB54442D18, 0x43E0000000000000, 0xC1E0000000000000, 0x47EFFFFFE0000000),
)
BOX = 0xFFFF_FFFF << 32
COUNTS = (40, 150, 400)


def states(
    content: bytes,
    spans: Sequence[tuple[int, int]],
    slots: Sequence[int],
    seed: int,
    hints: Sequence[int] = (),
) -> Iterator[State]:
    """One state after another, for a region of these spans that is entered at these slots.

    `hints`: values that a hart's integer registers really had.
    """
    pick = random.Random(f"{seed} {spans} {slots}")
    constants = _constants(content, spans)
    number = 0
    while True:
        wildness = min(number / 12, 1.0)
        pool = _pool(pick, constants, hints, wildness)
        x = [0, *(pick.choice(pool) for _ in range(31))]
        x[1] = CODE + 2 * pick.choice(slots) if pick.random() < 0.2 else pick.choice(pool)
        x[2] = x[8] = _pointer(pick, 0.0)
        yield State(
            slot=slots[number % len(slots)],
            x=tuple(x),
            f=tuple(_float(pick) for _ in range(32)),
            frm=0 if pick.random() < 0.7 else pick.randrange(8 if wildness == 1 else 5),
            fflags=pick.getrandbits(5) if pick.random() < 0.3 else 0,
            words=tuple(pick.choice(pool) for _ in range(PATTERN_WORDS)),
            count=pick.choice(COUNTS),
        )
        number += 1


def _pool(
    pick: random.Random, constants: Sequence[int], hints: Sequence[int], wildness: float
) -> list[int]:
    """The values of one state; about half of them are pointers."""
    pool = [_pointer(pick, wildness) for _ in range(pick.randrange(3, 12))]
    for _ in range(pick.randrange(3, 12)):
        kind = pick.random()
        if kind < 0.3:
            pool.append(pick.randrange(16))
        elif kind < 0.55:
            pool.append(pick.choice(EDGES))
        elif kind < 0.75 and constants:
            pool.append((pick.choice(constants) + pick.randrange(-1, 2)) & M64)
        elif kind < 0.85 and hints:
            pool.append(pick.choice(hints))
        elif kind < 0.93:
            pool.append(pick.randrange(-4096, 4096) & M64)
        else:
            pool.append(pick.getrandbits(64))
    return pool


def _pointer(pick: random.Random, wildness: float) -> int:
    """An address: of data as a rule."""
    inside = DATA + PAGE_SIZE + pick.randrange(0, DATA_SIZE - 2 * PAGE_SIZE, 8)
    if pick.random() >= 0.4 * wildness:
        return inside
    kind = pick.randrange(5)
    if kind == 0:
        return inside | pick.randrange(1, 8)
    if kind == 1:  # the edge of a page
        return (inside & -PAGE_SIZE) - pick.randrange(1, 16)
    if kind == 2:  # the edge of memory
        return DATA + DATA_SIZE - pick.randrange(1, 64)
    if kind == 3:  # beside the code, or on it
        return CODE + pick.randrange(0, PAGE_SIZE, 4)
    return pick.choice((0, 0x4000_0000, 1 << 39, M64 - 7, 1 << 63))


def _float(pick: random.Random) -> int:
    kind = pick.random()
    if kind < 0.2:
        return BOX | pick.choice(SINGLES)
    if kind < 0.4:
        return BOX | pick.randrange(0x3E000000, 0x41000000) | pick.getrandbits(1) << 31
    if kind < 0.65:
        return pick.choice(DOUBLES)
    if kind < 0.9:
        return pick.randrange(0x3FB << 52, 0x403 << 52) | pick.getrandbits(1) << 63
    return pick.getrandbits(64)


def _constants(content: bytes, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Immediate operands of the region's instructions, and what `lui` makes of them."""
    isa.load_all()
    found: set[int] = set()
    for start, size in spans:
        at = start
        while at < start + size:
            raw = int.from_bytes(content[at : at + 4], "little")
            decoded = isa.decode(raw if raw & 3 == 3 else raw & 0xFFFF)
            if decoded is not None and "imm" in decoded.operands:
                found.add(decoded.operands["imm"] & M64)
            at += 4 if raw & 3 == 3 else 2
    return sorted(found)
