"""Retirement of everything: the epoch, and the book of what was retired when and why.

The problem this project exists for: after a reset, a backend swap or a lost translator, nobody may
run code made before. One place does it, in one order, with every hart out of native code:

1. bump the epoch (whatever is under way for an older one will be dropped on arrival);
2. drop all records - the only pointers to translated code - and with them every region;
3. clear what was looked up (TLBs, hot rings, reservations);
4. have the translator forget (RETIRE, RETIRED with a deadline; after it the translator is dead and
   the machine runs on in tier 0); the old code segment is unmapped. The new one, empty, is mapped
   when harts run again: nothing is published before.

The translator is told right after 1, and works while 2 and 3 are done, and whatever else whoever
retires has to do before a hart runs (a reset: images and devices); nothing of its answer can be
used before all four are. Only then does a hart run.

Read next: `protocol/SPEC.md` (the contract), `translator.py` (step 4).
"""

from __future__ import annotations

import gc
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cpu_proc.culprit import NOBODY, Who
from cpu_proc.latency import Latencies
from protocol import mutants
from protocol.generations import MASK
from protocol.logs import get_logger

if TYPE_CHECKING:
    from cpu_proc.machine import Machine

log = get_logger("retirement")
HISTORY = 4096  # events kept


@dataclass(frozen=True)
class Event:
    """One retirement. `when`: seconds since the machine was made; `ms`: how long it took.

    Of everything: `waited_ms` from the call to the last hart out of native code, before that;
    `records_ms` for records and lookups, `translator_ms` until the translator had let go, within;
    the two overlap.
    `number` counts a machine's events from 1; `who` is behind it. `details` says what was retired;
    `more` where, and what else there is to tell (docs/retirement.md).
    """

    when: float
    cause: str
    epoch: int
    ms: float
    waited_ms: float = 0.0
    records_ms: float = 0.0
    translator_ms: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)
    number: int = 0
    who: Who = NOBODY
    more: dict[str, Any] = field(default_factory=dict)


class Retirement:
    """The epoch of one machine and its history."""

    def __init__(self, machine: Machine, first_epoch: int = 1) -> None:
        self._machine = machine
        self._logged = "retire" in machine.options.log_items
        self._start = time.monotonic()
        self.epoch = first_epoch
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.counts: Counter[str] = Counter()
        self.latency = Latencies()  # of everything
        self.number = 0  # of the last event
        self.told: list[Callable[[Event], None]] = []  # are called with each event
        self.dropping: Callable[[], None] | None = None  # before records are dropped, locked
        machine.control.words.epoch = self.epoch

    def now(self) -> float:
        """Seconds since the machine was made: the clock of the book."""
        return time.monotonic() - self._start

    def everything(
        self, cause: str, who: Who | None = None, meanwhile: Callable[[], None] | None = None
    ) -> None:
        """Retire every translation. Call it at a safe point only. `who`: if not who posted it.

        `meanwhile` is done when all records are gone, while the translator's answer is awaited.
        """
        # All harts wait: no time to look through what may be 100,000 regions for garbage.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._everything(cause, who, meanwhile)
        finally:
            if collecting:
                gc.enable()

    def _everything(
        self, cause: str, who: Who | None, meanwhile: Callable[[], None] | None
    ) -> None:
        machine = self._machine
        began = time.monotonic()
        who, before = who or machine.culprits.current(), self.epoch
        with machine.lock:
            if self.dropping is not None:
                self.dropping()
            self.epoch = (self.epoch + 1) & MASK
            machine.control.words.epoch = self.epoch
            log.info("epoch_bumped", epoch=self.epoch, cause=cause)
            link = machine.translator
            told = link.begin_retirement(self.epoch, cause) if link is not None else None
            used = [
                (start, int(hart.state.pool_next))
                for hart, (start, _) in zip(machine.harts, machine.pools, strict=True)
            ]
            regions = machine.records.region_count
            leave = cause == "backend_swap" and mutants.armed("M46")
            arrays = machine.records.forget() if leave else machine.records.drop_all(used)
            for hart, (start, _) in zip(machine.harts, machine.pools, strict=True):
                if not leave:
                    hart.state.pool_next = start
                hart.state.hot_count = 0
                hart.state.exit_lines = 0
                hart.state.reserved = 2**64 - 1
                hart.flush()
            if machine.mistakes is not None:
                machine.mistakes.everything()
        details: dict[str, Any] = {"pages": arrays, "regions": regions}
        dropped = time.monotonic()
        try:
            if meanwhile is not None:
                meanwhile()
        finally:  # whatever went wrong, nothing older is mapped when a hart runs
            if link is not None and told is not None:
                details |= link.end_retirement(self.epoch, told)
        ended = time.monotonic()
        event = Event(
            when=ended - self._start,
            cause=cause,
            epoch=self.epoch,
            ms=(ended - began) * 1e3,
            waited_ms=(began - machine.safe_point.called) * 1e3,
            records_ms=(dropped - began) * 1e3,
            translator_ms=(ended - began) * 1e3 if link is not None else 0.0,
            details=details,
            number=self._next(),
            who=who,
            more={"epoch": (before, self.epoch)},
        )
        self._enter(event)
        self.latency.add(
            harts_out=event.waited_ms,
            records=event.records_ms,
            translator=event.translator_ms,
            whole=event.waited_ms + event.ms,
        )
        log.info("everything_retired", cause=cause, epoch=self.epoch, ms=event.ms, **details)

    def _enter(self, event: Event) -> None:
        self.counts[event.cause] += 1
        self.history.append(event)
        for told in self.told:
            told(event)

    def _next(self) -> int:
        with self._machine.lock:
            self.number += 1
            return self.number

    def note(
        self, cause: str, who: Who | None = None, more: dict[str, Any] | None = None, **details: Any
    ) -> None:
        """Enter a retirement of some bytes, or of lookups, into the book."""
        event = Event(
            self.now(),
            cause,
            self.epoch,
            0.0,
            details=details,
            number=self._next(),
            who=who or self._machine.culprits.current(),
            more=more or {},
        )
        self._enter(event)
        if self._logged and "page" in details:
            log.info("code_retired", cause=cause, epoch=self.epoch, **details)

    def summary(self) -> list[str]:
        """Lines for --stats."""
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.counts.items()))
        return [f"retirements (epoch {self.epoch}): {causes or 'none'}"]
