"""Generations: the counters that decide whether a translation may still be used.

Problem: code is made from guest bytes by another process, later, and used for a long time. Nothing
may run it once the guest state it was made from has changed. Instead of hunting for stale code,
every input of a translation has a counter; a request carries their values (its `Stamp`), the reply
repeats them, and the machine publishes only if none has moved.

Invariants:
- Every counter has one writer, the machine, and is 64 bits wide.
- A translation is published only if `stale_reason` finds nothing, evaluated with the harts unable
  to move a counter between the check and the store (a safe point).
- Equality decides use. Order is asked of epochs alone ("older than"), by serial arithmetic over
  half the range: right through a wrap, because after each retirement nothing older than the new
  epoch is alive.
- A map or page generation that would wrap bumps the epoch instead (`bump` says so): a value is
  never met twice within one epoch.

Read next: `protocol/SPEC.md`, sections on validity; `protocol.contract`, the tables;
`protocol.session_machine`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple

from protocol.layout import LINE_SIZE
from protocol.mutants import armed

Epoch = int
"""Counts retirements of everything. 64 bits."""

MapGeneration = int
"""Counts commits to the memory map: which backing a guest-physical address has. 64 bits."""

PageGeneration = int
"""Counts, for one backing page, the writes to lines of it that hold records or regions. 64 bits."""

WIDTH = 64
MASK = (1 << WIDTH) - 1
HALF = 1 << (WIDTH - 1)

BURST = 4
"""What a list of written pages would hold, were there one (`burst`)."""

IDENTITY_SIZE = 16
"""Bytes of an identity."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """The guest state a translation is made from: carried by the request, repeated by the reply.

    `page` is a backing page index (byte offset in the RAM segment divided by 4096), not an address.
    `state_word` is compared by the guard at the region's entry, so it never makes a stamp stale; it
    must be repeated all the same.
    """

    epoch: Epoch
    map_generation: MapGeneration
    page: int
    page_generation: PageGeneration
    state_word: int


@dataclass(frozen=True, slots=True)
class Now:
    """The counters as they are, read at a safe point: `page_generation` is that of the page in
    question.
    """

    epoch: Epoch
    map_generation: MapGeneration
    page_generation: PageGeneration


class FirstGenerations(NamedTuple):
    """Where a machine's counters begin. A test has them begin just before their wrap."""

    epoch: Epoch = 1
    map_generation: MapGeneration = 0
    page_generation: PageGeneration = 0


def bump(value: int) -> tuple[int, bool]:
    """The counter's next value, and whether it wrapped to 0 (then the caller bumps the epoch as
    well).
    """
    following = (value + 1) & MASK
    return following, following == 0


def is_older(one: Epoch, other: Epoch) -> bool:
    """Whether epoch `one` came before `other`: serial arithmetic modulo 2**64 (RFC 1982, section
    3.2).

    Two epochs exactly half the range apart are taken as "older" both ways, so that neither is
    trusted.
    """
    return 0 < ((other - one) & MASK) <= HALF


def stale_reason(stamp: Stamp, now: Now) -> str | None:
    """Which counter moved since the stamp was made ("epoch", "map_generation", "page_generation"),
    or None.
    """
    if _moved(stamp.epoch, now.epoch):
        return "epoch"
    if _moved(stamp.map_generation, now.map_generation):
        return "map_generation"
    if _moved(stamp.page_generation, now.page_generation):
        return "page_generation"
    return None


def _moved(then: int, now: int) -> bool:
    if armed("M35"):  # counters so narrow that they wrap, and nobody who notices
        return (then ^ now) & 3 != 0
    return then != now


def burst(pages: range) -> range:
    """The pages of one write whose generations must move: all of them, however many there are."""
    return pages[:BURST] if armed("M48") else pages


def is_current(stamp: Stamp, now: Now) -> bool:
    """The publish rule: true only if no counter moved. Ask and store at one safe point."""
    return stale_reason(stamp, now) is None


def lines_of(spans: Iterable[tuple[int, int]]) -> int:
    """The bitmap of 64-byte lines (bit n: bytes 64n..64n+63 of the page) that the spans touch."""
    lines = 0
    for offset, length in spans:
        if length:
            first, last = offset // LINE_SIZE, (offset + length - 1) // LINE_SIZE
            lines |= ((1 << (last - first + 1)) - 1) << first
    return lines


def identity_of(page: bytes | bytearray | memoryview, spans: Iterable[tuple[int, int]]) -> bytes:
    """The identity of the code bytes of a page: 16 bytes of BLAKE2b over places, lengths and bytes
    of the spans.

    Both sides use it: the translator over the bytes it lifted, the machine over its RAM before it
    publishes.
    """
    digest = blake2b(digest_size=IDENTITY_SIZE, person=b"coldboot code")
    for offset, length in spans:
        digest.update(offset.to_bytes(2, "little") + length.to_bytes(2, "little"))
        digest.update(page[offset : offset + length])
    return digest.digest()
