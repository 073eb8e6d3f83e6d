"""The guest code that checks ask for: pages of plain integer instructions.

The problem: a check must know what depends on what without knowing the backend. So these are
programs in which every instruction counts for what is in the registers at the end, with no branch
but the last `ret`; a backend may translate any part of them.

Invariant: a page is a function of its arguments; `salt` makes one that no store has seen before.

Read next: `content.py`.
"""

from __future__ import annotations

import functools
import struct

from protocol.layout import PAGE_SIZE

RET = 0x0000_8067
A0, A1, A2, A3, A4 = range(10, 15)


def addi(rd: int, rs1: int, value: int) -> int:
    """The word of `addi`; `value` from -2048 to 2047."""
    return (value & 0xFFF) << 20 | rs1 << 15 | rd << 7 | 0x13


def add(rd: int, rs1: int, rs2: int) -> int:
    """The word of `add`."""
    return rs2 << 20 | rs1 << 15 | rd << 7 | 0x33


def xor(rd: int, rs1: int, rs2: int) -> int:
    """The word of `xor`."""
    return add(rd, rs1, rs2) | 4 << 12


def slli(rd: int, rs1: int, amount: int) -> int:
    """The word of `slli`."""
    return amount << 20 | rs1 << 15 | 1 << 12 | rd << 7 | 0x13


def branch_if_zero(rs1: int, offset: int) -> int:
    """The word of `beqz`, forwards, less than 2048 bytes."""
    return (
        (offset >> 11 & 1) << 7
        | (offset >> 5 & 0x3F) << 25
        | (offset >> 1 & 0xF) << 8
        | (rs1 << 15 | 0x63)
    )


def page(*words: int) -> bytes:
    """A page that begins with these instructions."""
    return struct.pack(f"<{len(words)}I", *words).ljust(PAGE_SIZE, b"\0")


@functools.cache
def small(number: int) -> bytes:
    """A few instructions, another function for each number of 0 to 2047."""
    return page(addi(A0, A0, number), xor(A1, A1, A0), slli(A2, A1, 3), add(A3, A3, A2), RET)


@functools.cache
def alike(number: int) -> bytes:
    """As `small`, but what differs lies a line behind where it begins."""
    same = (xor(A1, A1, A0), slli(A2, A1, 3), add(A3, A3, A2), add(A0, A0, A3)) * 6
    return page(*same, addi(A0, A0, number), xor(A1, A1, A0), RET)


@functools.cache
def parted(number: int) -> bytes:
    """Two runs of instructions, a branch between them, and data in the gap."""
    first = (addi(A0, A0, number), xor(A1, A1, A0), branch_if_zero(A1, 200), add(A3, A3, A1), RET)
    gap = (0xFFFF_FFFF,) * 47
    return page(*first, *gap, addi(A4, A4, number), add(A0, A0, A4), RET)


def heavy(salt: int, length: int = 900) -> bytes:
    """Much to translate: a long run, no two alike for different salts."""
    words = [addi(A0, A0, salt >> shift & 0x7FF) for shift in (0, 11, 22)]
    turn = (add(A0, A0, A1), xor(A1, A1, A0), slli(A2, A1, 3), add(A1, A2, A0))
    while len(words) < length:
        words += turn
    return page(*words, RET)


HEAVY_ENTRIES = tuple(range(0, 1800, 120))
