"""Retirement of everything: the epoch, and the book of what was retired when and why.

The problem this project exists for: after a reset, a backend swap or a lost translator, nobody may
run code made before. One place does it, in one order, with every hart out of native code:

1. bump the epoch (whatever is under way for an older one will be dropped on arrival);
2. drop all records - the only pointers to translated code - and with them every region;
3. clear what was looked up (TLBs, hot rings, reservations);
4. take the code segment away from its address - executing there is a fault of the host - and tell
   the translator to forget (RETIRE).

Only then does a hart run, and in tier 0 alone: nothing is asked of the translator, and nothing of
it published, before it has answered that it forgot (RETIRED, with a deadline; after it the
translator is dead). Harts need not wait for that: there is nothing left that they could run. The
next retirement of everything does, so that a slow translator has one to answer at any time. The
book has the retirement when it is answered.

Read next: `protocol/SPEC.md` (the contract), `translator.py` (step 4).
"""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    `records_ms` for records and lookups, within; `translator_ms` until the translator had let go,
    while harts run again.
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


class Retiring:
    """A retirement of everything under way: over when harts run again, and the translator, if
    there is one, has answered or is given up. From any thread.
    """

    def __init__(self, ended: Callable[[Event, dict[str, Any]], None]) -> None:
        """`ended` is called once, with the event and what the translator says it dropped."""
        self._ended = ended
        self._event: Event | None = None
        self._dropped: dict[str, Any] | None = None
        self._gate = threading.Lock()
        self._over = threading.Event()

    def harts_go_on(self, event: Event) -> None:
        """What the machine has to do is done."""
        with self._gate:
            self._event = event
            dropped = self._dropped
        if dropped is not None:
            self._end(event, dropped)

    def answered(self, dropped: dict[str, Any]) -> None:
        """The translator has answered, or is given up: the first word counts."""
        with self._gate:
            if self._dropped is not None:
                return
            self._dropped = dropped
            event = self._event
        if event is not None:
            self._end(event, dropped)

    def _end(self, event: Event, dropped: dict[str, Any]) -> None:
        try:
            self._ended(event, dropped)
        finally:
            self._over.set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether that came."""
        return self._over.wait(seconds)


class Retirement:
    """The epoch of one machine and its history."""

    def __init__(self, machine: Machine, first_epoch: int = 1) -> None:
        self._machine = machine
        self._logged = "retire" in machine.options.log_items
        self._start = time.monotonic()
        self.epoch = first_epoch
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self.counts: Counter[str] = Counter()
        self.latency = Latencies()
        self.number = 0  # of the last event
        self._numbering = threading.Lock()
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

        `meanwhile` is done when all records are gone, before a hart runs.
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
        machine, link = self._machine, self._machine.translator
        if link is not None:
            link.await_retirement()
        began = time.monotonic()
        who, before = who or machine.culprits.current(), self.epoch
        with machine.lock:
            if self.dropping is not None:
                self.dropping()
            self.epoch = (self.epoch + 1) & MASK
            machine.control.words.epoch = self.epoch
            log.info("epoch_bumped", epoch=self.epoch, cause=cause)
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
        dropped = time.monotonic()
        try:
            if meanwhile is not None:
                meanwhile()
        finally:
            retiring = Retiring(self._ended)
            if link is not None:  # last: its thread wants the interpreter's lock from here on
                link.retire(self.epoch, cause, retiring)
            now = time.monotonic()
            event = Event(
                when=now - self._start,
                cause=cause,
                epoch=self.epoch,
                ms=(now - began) * 1e3,
                waited_ms=(began - machine.safe_point.called) * 1e3,
                records_ms=(dropped - began) * 1e3,
                details={"pages": arrays, "regions": regions},
                who=who,
                more={"epoch": (before, self.epoch)},
            )
            retiring.harts_go_on(event)
            if link is None:
                retiring.answered({})

    def _ended(self, event: Event, dropped: dict[str, Any]) -> None:
        """Everything is retired, and the translator, if there is one, has let go."""
        answered = 0.0
        if self._machine.translator is not None:
            answered = max(0.0, self.now() - event.when) * 1e3 + event.ms
        event = replace(
            event,
            translator_ms=answered,
            details=event.details | dropped,
            number=self._next(),
        )
        self._enter(event)
        self.latency.add(
            event.cause,
            harts_out=event.waited_ms,
            records=event.records_ms,
            translator=event.translator_ms,
            whole=event.waited_ms + event.ms,
        )
        log.info(
            "everything_retired",
            cause=event.cause,
            epoch=event.epoch,
            ms=event.ms,
            **event.details,
        )

    def _enter(self, event: Event) -> None:
        self.counts[event.cause] += 1
        self.history.append(event)
        for told in self.told:
            told(event)

    def _next(self) -> int:
        with self._numbering:  # not the machine's lock: who waits for an answer may hold that
            self.number += 1
            return self.number

    def note(
        self,
        cause: str,
        who: Who | None = None,
        more: dict[str, Any] | None = None,
        *,
        began: float,
        **details: Any,
    ) -> None:
        """Enter a retirement of some bytes, or of lookups, into the book. `began`: monotonic."""
        self.latency.add(cause, whole=(time.monotonic() - began) * 1e3)
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
