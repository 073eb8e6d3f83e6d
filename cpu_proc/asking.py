"""What a machine asks its translator for, and in which order.

The problem: few requests may wait for a worker, so that the hottest page comes next whenever one is
done. But what lies in the content store is answered in a millisecond, and must not wait behind what
has to be made: with a store that knows nearly all of a boot, six pages it did not know kept the
others from being asked for until workers had started.

So while that window is full, other pages are asked for with heat 0: *probes*. Those the store
knows are answered at once. The others a worker would take last; the translator answers in order
what is known, so an answer from the store to a later request says that they are not known there,
and they are withdrawn. So are, while others wait, those that have been under way for longer than
answers from the store take: nothing may come after them, and a boot's whole store stayed unasked
behind two dozen pages it did not know. A page stays in the backlog until it was answered, and is
probed once; before it is asked for with its heat, its probe is withdrawn.

A page whose bytes move under each request rests before it is asked for again (`Backlog`).

Invariants: about a page there are requests with heat, or one probe. At most `WINDOW` requests with
heat are under way. Where nothing is answered from the store, as with an empty one, probes end
after `CREDIT` of them; once something was, `TRUSTED` may always be under way. All of it happens in
the I/O thread.

Read next: `protocol/backlog.py`, `translator.py`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING

from cpu_proc.publisher import WORKED
from cpu_proc.upgrades import Upgrades, Wanted
from protocol import mutants
from protocol.generations import Stamp
from protocol.layout import STATE_EXACT, STATE_FLAT, STATE_LOOKS
from protocol.messages import Rejected, Translated

if TYPE_CHECKING:
    from cpu_proc.machine import Machine
    from cpu_proc.publisher import Publisher
    from protocol.backlog import Backlog
    from protocol.session import MachineAction
    from protocol.session_machine import MachineSession

WINDOW = 6  # requests under way: workers are kept busy, and yet the hottest comes next
PROBES = 24
CREDIT = 16  # probes that may be in vain; each that is not gives a few more
GAIN = 4
TRUSTED = 4
PATIENCE = 0.03  # seconds for a probe, and twice as long as answers took lately
UNKNOWN = 0.1  # how long that may be, before there was one
MOST_MERGES = 3  # of a page, in an epoch
LEAST = 1  # heat of what has a region already


class Asker:
    """Takes from the backlog, and has a session ask."""

    def __init__(
        self, machine: Machine, backlog: Backlog, publisher: Publisher, forced: bool
    ) -> None:
        """`forced`: harts wait for each answer."""
        self._machine = machine
        self._backlog = backlog
        self._publisher = publisher
        self._forced = forced
        self._merges: Counter[int] = Counter()  # by page: how often its regions were to be one
        self.upgrades = Upgrades(machine, publisher.counts)
        publisher.told = self.upgrades.published
        self._probes: dict[int, list[int]] = {}  # under way, the first that was asked for first
        self._probed: dict[int, float] = {}  # when
        self._took = UNKNOWN  # seconds from a probe to the store's answer, of late
        self._credit, self._trusted = CREDIT, 0

    def clear(self) -> None:
        """Everything is retired."""
        self._backlog.clear()
        self._merges.clear()
        self.upgrades.clear()
        self._probes.clear()
        self._probed.clear()
        self._took, self._credit, self._trusted = UNKNOWN, CREDIT, 0

    def report(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """Harts found these hot. Where they wait for answers, no page rests."""
        if self._forced:
            self._backlog.add(wanted)
        else:
            self._backlog.report(wanted, time.monotonic())

    def late(self, page: int, slots: Iterable[int]) -> None:
        """An answer was about bytes that are there no more."""
        self._backlog.again(page, slots, time.monotonic())

    def wake(self) -> float | None:
        """Seconds until a page that rests is to be asked for; None if none does."""
        if self._forced:
            return None
        now = time.monotonic()
        due = self._backlog.wake(now)
        return None if due is None else max(0.0, due - now)

    def asks(self, session: MachineSession) -> Iterator[list[MachineAction]]:
        """What is to be done to ask for the hottest, as much as may be under way."""
        backlog, records = self._backlog, self._machine.records
        self.upgrades.settle(session.is_asked)
        while session.state == "attached" and self._room(session) and backlog:
            page, slots, heat = backlog.take()
            covered = records.entry_slots(page)
            wanted = [slot for slot in slots if slot not in covered]
            if self._publisher.shortcuts is not None:
                wanted = self._publisher.shorten(session.epoch, page, wanted)
            if wanted:
                if page in self._probes:
                    yield session.cancel_page(page)
                if session.asks_of_old(page, self._stamp(page)):  # which this one is instead of
                    self._backlog.moved(page, time.monotonic())
                yield self._ask(session, page, wanted, covered, heat)
            elif self._may_merge(page):
                self.upgrades.crossed(page)
        while session.state == "attached" and (anew := self.upgrades.take(session.asks_about)):
            yield self._ask_anew(session, anew)
        if self._forced or self._publisher.shortcuts is not None:
            return
        while session.state == "attached" and backlog.fresh:
            if len(self._probes) >= min(PROBES, self._credit):
                first = next(iter(self._probes), None)
                if first is None or not self._overdue(first):
                    return
                yield session.cancel_page(first)
                self.withdrawn(first)  # if it had been given up before
                continue
            found = backlog.probe()
            if found is None:
                return
            page, slots = found
            covered = records.entry_slots(page)
            wanted = [slot for slot in slots if slot not in covered]
            if wanted and not session.asks_about(page):
                self._probes[page] = wanted
                self._probed[page] = time.monotonic()
                yield self._ask(session, page, wanted, covered, 0)

    def answered(self, message: Translated | Rejected) -> list[int]:
        """An answer came; the pages whose probes are to be withdrawn."""
        page = message.page
        self.upgrades.answered(message)
        probe = self._probes.get(page)
        if probe is None:
            return []
        began = self._probed.pop(page)
        if isinstance(message, Rejected):
            del self._probes[page]
            self._backlog.drop(page, probe)
            return []
        earlier = list(takewhile(lambda other: other != page, self._probes))
        del self._probes[page]
        self._backlog.drop(page, probe)
        if any(getattr(message.timings, name) for name in WORKED):
            return []  # a worker had nothing else to do
        self._credit, self._trusted = min(PROBES + CREDIT, self._credit + GAIN), TRUSTED
        self._took = max(time.monotonic() - began, 0.75 * self._took)
        return earlier

    def withdrawn(self, page: int) -> bool:
        """Whether a probe was under way there; it is no longer."""
        if self._probes.pop(page, None) is None:
            return False
        del self._probed[page]
        self._credit = max(self._trusted, self._credit - 1)
        return True

    def _overdue(self, page: int) -> bool:
        """Whether the store would have answered a probe by now."""
        return time.monotonic() - self._probed[page] > PATIENCE + 2 * self._took

    def _room(self, session: MachineSession) -> bool:
        return session.outstanding - len(self._probes) - self.upgrades.under_way < WINDOW

    def _ask(
        self, session: MachineSession, page: int, wanted: list[int], covered: set[int], heat: int
    ) -> list[MachineAction]:
        known = tuple(sorted(covered))
        # M27 needs a region with lines that nobody executed: it gets no advice.
        blind = self._forced or mutants.armed("M27")
        seen = b"" if blind else self._machine.records.seen_slots(page)
        return session.request(self._stamp(page), wanted, heat, 0, known, seen)

    def _ask_anew(self, session: MachineSession, anew: Wanted) -> list[MachineAction]:
        records = self._machine.records
        known = tuple(sorted(records.entry_slots(anew.page).difference(anew.slots)))
        seen = records.seen_slots(anew.page)
        actions = session.request(self._stamp(anew.page), anew.slots, LEAST, 1, known, seen)
        self.upgrades.asked(anew, actions)
        return actions

    def _may_merge(self, page: int) -> bool:
        """Whether the regions of a page shall be made one, for control changes between them often.

        Not over and over: what is too large for one region stays several.
        """
        if self._forced or len(self._machine.records.regions.get(page, ())) < 2:
            return False
        self._merges[page] += 1
        return self._merges[page] <= MOST_MERGES

    def _stamp(self, page: int) -> Stamp:
        words = self._machine.control.words
        generation = self._machine.records.generation(page)
        state = STATE_EXACT * (self._machine.options.icount is not None)
        state |= STATE_LOOKS * self.upgrades.looks(page)
        state |= STATE_FLAT * all(hart.state.satp >> 60 == 0 for hart in self._machine.harts)
        return Stamp(int(words.epoch), int(words.map_generation), page, generation, state)
