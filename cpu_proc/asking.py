"""What a machine asks its translator for, and in which order.

The problem: what lies in the content store is answered in a millisecond, what has to be made takes
a worker as long as a hundred thousand guest instructions take tier 0. Most of what is found hot in
a boot is not worth that; and with a store that knows nearly all of it, six pages it did not know
kept the others from being asked for until workers had started.

So a page is asked for with heat 0 as soon as anything is hot in it, a *probe*: what the store knows
comes at once, else `not_kept`. With its heat it is asked for when harts have spent as much time in
its code as a worker will (`Backlog.take_ripe`), which is found by calling them now and then
(`Upgrades`); or when it has waited for long and a worker has nothing better to do. A page stays in
the backlog until then, and is probed once for all that was hot in it.

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
from typing import TYPE_CHECKING

from cpu_proc.upgrades import PERIOD, Upgrades, Wanted
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
MOST_MERGES = 3  # of a page, in an epoch
SOME = 32  # hot records that a hart keeps until it is called, in hundredths of a second
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
        self._met: set[int] = set()  # pages where anything was hot
        self._merges: Counter[int] = Counter()  # by page: how often its regions were to be one
        self.upgrades = Upgrades(machine, publisher.counts, backlog.spent)
        publisher.told = self.upgrades.published
        self._probes: dict[int, list[int]] = {}  # under way, the first that was asked for first
        self._credit, self._trusted = CREDIT, 0

    def clear(self) -> None:
        """Everything is retired."""
        self._backlog.clear()
        self._merges.clear()
        self._met.clear()
        self.upgrades.clear()
        self._probes.clear()
        self._credit, self._trusted = CREDIT, 0

    def report(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """Harts found these hot. Where they wait for answers, no page rests."""
        self._met.update(wanted)
        if self._forced:
            self._backlog.add(wanted)  # long ago
        else:
            self._backlog.report(wanted, time.monotonic())

    def tick(self) -> float:
        """Look where harts are; the seconds until that is to be done again."""
        period = self.upgrades.tick(len(self._met))
        waits = period <= PERIOD and self._machine.options.threshold is None
        for hart in self._machine.harts:  # the next call brings what is hot by then
            hart.state.hot_least = SOME if waits else 1
        return period

    def late(self, page: int, slots: Iterable[int]) -> None:
        """An answer was about bytes that are there no more."""
        self._backlog.again(page, slots, time.monotonic())

    def again(self, page: int, slots: Iterable[int]) -> None:
        """A request for these came to nothing."""
        self._backlog.add({page: slots}, time.monotonic())

    def wake(self, session: MachineSession) -> float | None:
        """Seconds until something is to be asked for; None if nothing is."""
        if self._forced:
            return None
        now = time.monotonic()
        rested = self._backlog.wake(now)
        due = [] if rested is None else [max(0.0, rested - now)]
        if self._backlog and session.state == "attached" and self._room(session):
            due.append(max(0.0, self._backlog.due(now)))
        return min(due, default=None)

    def asks(self, session: MachineSession, hurry: bool) -> Iterator[list[MachineAction]]:
        """What is to be done to ask for the hottest, as much as may be under way.

        `hurry`: for all there is, were it but lukewarm.
        """
        backlog, records = self._backlog, self._machine.records
        self.upgrades.settle(session.is_asked)
        now = time.monotonic()
        backlog.wake(now)
        while session.state == "attached" and self._room(session) and backlog:
            found = backlog.take() if hurry else backlog.take_ripe(now)
            if found is None:
                break
            page, slots, heat = found
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
                return
            fresh = backlog.probe()
            if fresh is None:
                return
            page, slots = fresh
            covered = records.entry_slots(page)
            wanted = [slot for slot in slots if slot not in covered]
            if wanted and not session.asks_about(page):
                self._probes[page] = wanted
                yield self._ask(session, page, wanted, covered, 0)

    def answered(self, message: Translated | Rejected) -> None:
        """An answer came."""
        page = message.page
        self.upgrades.answered(message)
        if isinstance(message, Rejected) and message.reason == "not_kept":
            self.withdrawn(page)
        elif (probe := self._probes.pop(page, None)) is not None:
            self._backlog.drop(page, probe)
            if isinstance(message, Translated):
                self._credit, self._trusted = min(PROBES + CREDIT, self._credit + GAIN), TRUSTED

    def withdrawn(self, page: int) -> bool:
        """Whether a probe was under way there; it is no longer, and was in vain."""
        if self._probes.pop(page, None) is None:
            return False
        self._credit = max(self._trusted, self._credit - 1)
        return True

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
        regions = self._machine.records.regions.get(page, ())
        if self._forced or len(regions) < 2 or not self.upgrades.pays(regions):
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
