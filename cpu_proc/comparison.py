"""`python -m cpu_proc.comparison FD`: run two translations from the same states, and compare.

The problem: whether two backends mean the same by a page's code is seen by running what they made.
Where the two leave a region may differ, how many instructions they make into one may differ, and
both may be right. So each side runs as a published region does, on a hart with records, TLBs, a
page of code and some of data, and no devices. It goes about as many instructions as asked, and the
one that stopped first is taken on by tier 0, one instruction at a time, to the count of the other.
At equal counts two right translations stand at equal states: registers, CSRs, flags, pc, and every
byte of memory.

Invariants:
- This process maps code that others wrote, sealed, and can write none (`native.map_sealed`); before
  the first state it has given up everything but its memory and the socket (`sandbox.py`).
- It says which side it runs before it does: if it does not come back, that side is known.
- Nothing is left from one run to the next: records, TLBs, memory, CSRs are made anew.
- Time is counted, so what a guest reads of it depends on the count alone.

Read next: `protocol/comparison.py` (the conversation), `lone_hart.py`, `jit_proc/comparing.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cpu_proc import native
from cpu_proc.hart import float_operation
from cpu_proc.lone_hart import LoneHart, Stopped
from cpu_proc.sandbox import enter
from protocol import layout
from protocol.comparison import (
    CODE,
    DATA,
    DATA_SIZE,
    MAX_PACKET,
    RAM,
    RAM_SIZE,
    SIDES,
    TRAP,
    Found,
    Side,
    State,
    pack,
    unpack,
)
from protocol.layout import CSRS, PAGE_SIZE, SLOTS_PER_PAGE

PAGE = (CODE - RAM) // PAGE_SIZE
FS_DIRTY = 3 << 13
ROUNDING = (0, 3, 1, 2, 0, 0, 0, 0)  # of MXCSR, by frm
WAIT = bytes.fromhex("730050106ff0dfff")  # 1: wfi; j 1b
LOOP = bytes.fromhex("01a0")  # c.j .
SHOWN = 24  # lines of a difference
MANY = 1 << 20  # exits of native code in one run: no region needs so many
NO_TRAP = 2**64 - 1


@dataclass(frozen=True)
class Outcome:
    """All that a guest could see. `ended`: it took a trap, or sleeps in `wfi`."""

    words: dict[str, int]
    memory: bytes
    ended: bool

    @property
    def count(self) -> int:
        return self.words["count"]


@dataclass(frozen=True)
class Code:
    """A mapped translation."""

    side: Side
    base: int

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(slot, self.base + place) for slot, place in self.side.entries]


class Bench(LoneHart):
    """Runs one page's code from given states, with a translation of it or without."""

    def __init__(self) -> None:
        super().__init__(RAM_SIZE)
        self._image = bytearray(RAM_SIZE)
        self._undecoded = self.records.decode.to_bytes(16, "little") * SLOTS_PER_PAGE

    def put(self, content: bytes) -> None:
        """Another page of code."""
        self._image = bytearray(RAM_SIZE)
        self._image[CODE - RAM : CODE - RAM + PAGE_SIZE] = content
        self._image[TRAP - RAM : TRAP - RAM + len(WAIT)] = WAIT

    def begin(self, state: State, code: Code | None) -> None:
        """Put `state` into place, with nothing decoded; records of `code`'s entries enter it."""
        words = b"".join(word.to_bytes(8, "little") for word in state.words)
        self._image[DATA - RAM :] = words * (DATA_SIZE // len(words))
        self.ram[:] = self._image
        self.reset(CODE + 2 * state.slot, clear=False)
        self.state.trace, self.state.trap_pc = 1, NO_TRAP
        if code is not None:
            # Tier 0 gives the page its records, going round in it; then nothing of that is left.
            at = CODE - RAM + 2 * state.slot
            self.ram[at : at + 2] = LOOP
            self.run(1)
            array = self.control.pages[PAGE * layout.PAGE.size // 8]
            ctypes.memmove(array, self._undecoded, len(self._undecoded))
            self.ram[:] = self._image
            self.hart.reset(CODE + 2 * state.slot)
            self.records.publish(PAGE, code.side.lines, code.entries)
        hart = self.state
        hart.mtvec, hart.count, hart.attention, hart.time_offset = TRAP, 0, 0, 0
        hart.mstatus |= FS_DIRTY
        hart.frm, hart.fflags = state.frm, state.fflags
        hart.mxcsr = hart.mxcsr & ~0x6000 | ROUNDING[state.frm] << 13
        for number in range(1, 32):
            hart.x[number] = state.x[number]
        for number, value in enumerate(state.f):
            hart.f[number] = value

    def run(self, count: int) -> bool:
        """Go on until so many instructions are done and control is transferred; whether it ended.

        Raises RuntimeError when native code comes back again and again.
        """
        self.state.stop_count = count
        self.state.limit = 0
        for _ in range(MANY):
            reason = self.hart.run()
            if self.error is not None:
                raise Stopped from self.error
            if self.state.exit_lines:
                self._retire()
            self.state.hot_count = 0
            if reason == layout.EXIT_POOL:
                self.forget()
            elif reason == layout.EXIT_ATTENTION:
                self.state.attention = 0
            elif reason == layout.EXIT_STOP:
                return self.trapped
            elif reason in (layout.EXIT_WAIT, layout.EXIT_TRAP):
                return True
        raise RuntimeError("native code comes back without an end")

    @property
    def trapped(self) -> bool:
        """Whether a trap was taken since the beginning."""
        return bool(self.state.trap_pc != NO_TRAP)

    def step_on(self) -> bool:
        """One instruction in tier 0; whether it ended."""
        return self.step() == layout.EXIT_WAIT or self.trapped

    def _retire(self) -> None:
        """What a machine does when a store hit a region's line."""
        page = self.records.page_of(self.state.exit_page) if self.state.exit_page else PAGE
        lines = self.state.exit_lines if self.state.exit_page else 2**64 - 1
        if page is not None:
            self.records.retire_regions(page, lines)
        self.state.exit_lines = 0

    def trace(self, count: int) -> bytes:
        """So many instructions in tier 0, one by one; a bit for each slot of the page executed."""
        seen = bytearray(SLOTS_PER_PAGE // 8)
        while self.state.count < count:
            slot = int(self.state.pc) - CODE >> 1
            if 0 <= slot < SLOTS_PER_PAGE:
                seen[slot >> 3] |= 1 << (slot & 7)
            if self.step_on():
                break
        return bytes(seen)

    def outcome(self, ended: bool) -> Outcome:
        """All that there is to see."""
        state = self.state
        words = {name: int(getattr(state, name)) for name in ("pc", "count", "priv", *CSRS)}
        words["fflags"] = self.fflags
        words.update((f"x{number}", int(state.x[number])) for number in range(1, 32))
        words.update((f"f{number}", int(state.f[number])) for number in range(32))
        return Outcome(words, bytes(self.ram), ended)


class Comparison:
    """One page's two translations; `say` tells whose turn it is."""

    def __init__(self, bench: Bench, codes: tuple[Code, Code], say: Callable[[str], None]) -> None:
        self._bench = bench
        self._codes: tuple[Code | None, ...] = (*codes, None)
        self._say = say

    def _go(self, side: int, state: State, meet: Outcome | None = None) -> Outcome:
        """One side from the start for about `state.count`; then in tier 0 to where `meet` is.

        A trap is no instruction that counts: who stands before one has the count of who took it.
        """
        self._say(SIDES[side])
        bench = self._bench
        bench.begin(state, self._codes[side])
        ended = bench.run(state.count)
        if meet is not None:
            last = meet.count + meet.ended
            while not ended and bench.state.count < last:
                ended = bench.step_on()
        return bench.outcome(ended)

    def meet(self, first: int, second: int, state: State) -> tuple[Outcome, Outcome]:
        """Two sides at the same count, if they ever are."""
        one = self._go(first, state)
        other = self._go(second, state, one)
        if not one.ended and (other.count > one.count or other.ended):
            one = self._go(first, state, other)
        return one, other

    def found(self, state: State) -> Found:
        """Both sides from `state`."""
        one, other = self.meet(0, 1, state)
        lines = differences(one, other)
        blamed: list[str] = []
        for side in (0, 1) if lines else ():
            if differences(*self.meet(side, 2, state)):
                blamed.append(SIDES[side])
        self._say(SIDES[2])
        self._bench.begin(state, None)
        covered = self._bench.trace(one.count)
        return Found(tuple(lines[:SHOWN]), tuple(blamed), covered, one.count)


def differences(one: Outcome, other: Outcome) -> list[str]:
    """What is not the same, a line each."""
    lines = [
        f"{name}: {one.words[name]:#x} and {other.words[name]:#x}"
        for name in one.words
        if one.words[name] != other.words[name]
    ]
    if one.ended != other.ended:
        lines.append(f"a trap, or asleep in wfi: {one.ended} and {other.ended}")
    if one.memory != other.memory:
        for at in range(0, RAM_SIZE, 8):
            a, b = one.memory[at : at + 8], other.memory[at : at + 8]
            if a != b:
                words = (int.from_bytes(piece, "little") for piece in (a, b))
                lines.append("{:#x}: {:#x} and {:#x}".format(RAM + at, *words))
    return lines


def serve(link: socket.socket) -> None:
    """Answer until the other end is closed."""
    bench = Bench()
    float_operation(0)  # imported now: later nothing can be
    native.refuse_writable_code()
    enter()
    link.send(pack("ready"))

    def say(side: str) -> None:
        link.send(pack("at", side))

    comparison: Comparison | None = None
    mapped: list[Code] = []
    while True:
        packet, fds, _, _ = socket.recv_fds(link, MAX_PACKET, 2)
        if not packet:
            return
        tag, what = unpack(packet)
        if tag == "load":
            for code in mapped:
                native.unmap(code.base, code.side.size)
            mapped = []
            for side, fd in zip(what.sides, fds, strict=True):
                mapped.append(Code(side, native.map_sealed(fd, side.size)))
                os.close(fd)
            bench.put(what.content)
            comparison = Comparison(bench, (mapped[0], mapped[1]), say)
        elif tag == "run" and comparison is not None:
            link.send(pack("found", comparison.found(what)))
        else:
            raise ValueError(f"a packet {tag!r} is not expected")


def main(arguments: list[str]) -> int:
    """Entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(arguments[0])) as link:
        serve(link)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
