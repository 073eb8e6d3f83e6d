"""What is said between who has two translations to compare and the process that runs them.

Problem: a translation is compared by running it, and the process that made it must not: nobody here
executes what he can write. So a process of its own, without access to anything, is handed both
translations as sealed descriptors and one starting state after another, and says whether the two
can be told apart. It may crash or hang over a wrong translation, so each answer has a deadline.

The conversation goes over a SOCK_SEQPACKET pair, a msgpack array a packet: `["load", ...]` with the
descriptors of both sides, then `["run", ...]` for each state. The answers are `["ready"]` once,
then for each state `["at", side]` whenever another side begins, and in the end `["found", ...]`.

Invariants: a `State` is all that a run depends on, next to the page and the code, so that it may be
written down and replayed; who answers is believed nothing but the lines it gives for people.

Read next: `cpu_proc/comparison.py` (runs), `jit_proc/comparing.py` (asks).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]

RAM = 0x8000_0000
RAM_SIZE = 1 << 17
CODE = RAM + 0x1000  # where the page stands
TRAP = RAM + 0x4000  # where traps go: a wfi, where a run ends
DATA = RAM + 0x1_0000
DATA_SIZE = 1 << 16
PATTERN_WORDS = 512  # of data memory, one page; repeated
MAX_PACKET = 1 << 17
SIDES = ("A", "B", "tier 0")


@dataclass(frozen=True, slots=True)
class State:
    """Where a run begins. `slot`: halfword of the page at which it is entered. `x`, `f`: all 32.

    `words`: the contents of each page of data. `count`: instructions to execute, about.
    """

    slot: int
    x: tuple[int, ...]
    f: tuple[int, ...]
    frm: int
    fflags: int
    words: tuple[int, ...]
    count: int

    def check(self) -> None:
        """Raise ValueError when it is no state."""
        lengths = (len(self.x), len(self.f), len(self.words))
        values = (*self.x, *self.f, *self.words)
        if lengths != (32, 32, PATTERN_WORDS) or not all(0 <= v < 1 << 64 for v in values):
            raise ValueError("registers or memory of a state are not whole")
        if not (0 <= self.slot < 2048 and 0 <= self.frm < 8 and 0 <= self.fflags < 32):
            raise ValueError("slot, frm or fflags of a state are out of range")
        if not 0 < self.count <= 100_000:
            raise ValueError(f"{self.count} instructions are out of range")


@dataclass(frozen=True, slots=True)
class Side:
    """A translation to run: its code comes as a descriptor, `size` bytes of it."""

    size: int
    entries: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]
    lines: int


@dataclass(frozen=True, slots=True)
class Load:
    """The page, and its two translations. `exact`: guest time is counted."""

    content: bytes
    exact: bool
    sides: tuple[Side, Side]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a state. `lines`: what differs between A and B, for people; none if nothing.

    `blamed`: which sides differ from tier 0. `covered`: a bit for each slot executed.
    """

    lines: tuple[str, ...]
    blamed: tuple[str, ...]
    covered: bytes
    instructions: int


def pack(*parts: Any) -> bytes:
    """A packet."""
    plain = [asdict(p) if isinstance(p, State | Load | Found) else p for p in parts]
    data: bytes = msgpack.packb(plain)
    return data


def unpack(packet: bytes) -> list[Any]:
    """The parts of a packet, its tag first. Raises ValueError for nonsense."""
    try:
        parts = msgpack.unpackb(packet, use_list=False)
        tag, *rest = parts
        if tag == "run":
            state = State(**rest[0])
            state.check()
            return [tag, state]
        if tag == "load":
            first, second = (Side(**side) for side in rest[0]["sides"])
            return [tag, Load(rest[0]["content"], rest[0]["exact"], (first, second))]
        if tag == "found":
            return [tag, Found(**rest[0])]
        return [tag, *rest]
    except (ValueError, TypeError, KeyError, IndexError, msgpack.UnpackException) as error:
        raise ValueError(f"a packet of {len(packet)} bytes makes no sense: {error!r}") from error
