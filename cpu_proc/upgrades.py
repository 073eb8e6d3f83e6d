"""Regions asked for anew: those that prove hot, and those that assume what does not hold.

The problem: when code is first found hot little is known of it, and most of it will not run for
long. A region that does run for long is worth a dearer translation (`TRANSLATE.level` 1), made of
all that was executed by then: of ways too that no one had taken. Where control goes between regions
of a page very often, they had better be one. And a region whose assumption about the hart's state
does not hold is left at its entry each time: it had better be made without.

How heat is found: nothing is counted in native code. Now and then each running hart is called out
of it, and the time since the last call is booked to the region where it is (`sample`). As long as
no region is new, calls become rarer; all of it is in the I/O thread but for a look at pc. What
fails is counted by the engine, on its way out (`jit_proc/ways_out.py`).

Invariants:
- A region is asked for anew once for each reason, whatever the answer, and what that made is not
  asked for because it is hot: so regions are asked for anew no oftener than new code is found hot.
- At most `UNDER_WAY` such requests are under way. They come last: what has no region gains more.
- They are requests like any other: stamped when sent, published by the publish rule, retired by
  counters. Until then the old region is in use.
- Nothing here decides what code does. Forgotten with the epoch.

Read next: `asking.py`, `docs/anew.md`.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from cpu_proc import native
from protocol import session
from protocol.layout import FETCH_ENTRY, FETCH_TLB_ENTRIES, LINE_SIZE, PAGE_SIZE
from protocol.messages import Rejected, Translate, Translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine
    from cpu_proc.records import Region

Reason = Literal["hot", "crossed", "assumed"]

UNDER_WAY: Final = 2
PERIOD: Final = 0.01  # seconds between two samples, at first
LONGEST: Final = 0.32
PATIENCE: Final = 16  # samples with nothing new before they become half as frequent
HOT: Final = 0.02  # seconds in a region, at least
PAYBACK: Final = 0.012  # seconds for each of its instructions: some twenty times what one will cost
CROSSED: Final = 0.0012  # the same of regions that had better be one


class Wanted(NamedTuple):
    """A region to be asked for anew: in place of some of the page's."""

    page: int
    slots: tuple[int, ...]
    reason: Reason


class Upgrades:
    """Of one machine. In the I/O thread, but for `sample` and `published`."""

    def __init__(
        self,
        machine: Machine,
        counts: Counter[str],
        spent: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """`counts`: where to count what is asked for, by reason, and what became of it. `spent`:
        hears of seconds in code of a page that has no region.
        """
        self._spent = spent
        self._machine = machine
        self._counts = counts
        self._samples: deque[tuple[int, int]] = deque(maxlen=64)  # page, slot
        self._sizes: dict[int, int] = {}  # instructions of a region, by its id
        self.clear()

    def clear(self) -> None:
        """Everything is retired."""
        self._wanted: list[Wanted] = []
        self._under_way: dict[int, Wanted] = {}  # by the request's id
        self._reasons: dict[int, Reason] = {}  # of those not published
        self._done: set[tuple[int, Reason]] = set()  # id of a region
        self._looks: dict[int, int] = {}  # page -> its generation
        self._times: Counter[int] = Counter()  # microseconds in a region, by its id
        self._known = (0, 0)  # regions published, and hot pages, when the last sample was taken
        self._period, self._rounds = PERIOD, 0
        self._samples.clear()
        self._sizes.clear()

    # --- from harts' threads -------------------------------------------------------------------

    def sample(self, hart: Hart) -> None:
        """A hart that was called is out of native code: note where it is."""
        state = hart.state
        pc = int(state.pc)
        place = pc // PAGE_SIZE % FETCH_TLB_ENTRIES * FETCH_ENTRY.size
        entry = native.words(int(state.fetch_tlb) + place, FETCH_ENTRY.size // 8)
        if entry[0] == pc & -PAGE_SIZE & (1 << 64) - 1:
            page = self._machine.records.page_of(int(entry[FETCH_ENTRY.offset("page") // 8]))
            if page is not None:
                self._samples.append((page, pc % PAGE_SIZE // 2))

    def published(self, message: Translated) -> None:
        """A region is in use, at a safe point."""
        self._sizes[message.id] = message.instructions
        if (reason := self._reasons.pop(message.id, None)) is not None:
            self._counts[f"anew_{reason}_published"] += 1

    # --- what is to be asked -------------------------------------------------------------------

    def looks(self, page: int) -> bool:
        """Whether regions of a page had better assume nothing."""
        return self._looks.get(page) == self._machine.records.generation(page)

    def failing(self, page: int, slots: Iterable[int]) -> None:
        """What the regions that are entered there assume often does not hold."""
        self._looks[page] = self._machine.records.generation(page)
        for slot in slots:
            region = self._region(page, slot)
            if region is not None:
                self._want(region, "assumed")

    def crossed(self, page: int) -> None:
        """Control changes between regions of a page very often: they had better be one."""
        if not any(one.page == page and one.reason == "crossed" for one in self._wanted):
            slots = self._machine.records.entry_slots(page)
            self._wanted.append(Wanted(page, tuple(sorted(slots)), "crossed"))

    def pays(self, regions: Iterable[Region]) -> bool:
        """Whether harts were in these for so long that it pays to make them one."""
        spent = sum(self._times[region.id] for region in regions)
        return spent >= 1e6 * CROSSED * sum(self._sizes.get(region.id, 0) for region in regions)

    def settle(self, is_asked: Callable[[int], bool]) -> None:
        """Forget what is under way no longer; `is_asked` tells, by a request's id."""
        for number in [n for n in self._under_way if not is_asked(n)]:
            del self._under_way[number]

    @property
    def under_way(self) -> int:
        """How many such requests are."""
        return len(self._under_way)

    def take(self, is_busy: Callable[[int], bool]) -> Wanted | None:
        """What is to be asked for next, as far as it may be.

        `is_busy`: whether a request about a page is under way, whose slots would be left out.
        """
        for one in list(self._wanted):
            if len(self._under_way) >= UNDER_WAY:
                return None
            if not is_busy(one.page):
                self._wanted.remove(one)
                slots = self._machine.records.entry_slots(one.page).intersection(one.slots)
                if slots:  # else they are retired by now
                    return one._replace(slots=tuple(sorted(slots)))
        return None

    def asked(self, wanted: Wanted, actions: Iterable[object]) -> None:
        """It was: `actions` hold the request."""
        for action in actions:
            if isinstance(action, session.Send) and isinstance(action.message, Translate):
                number = action.message.id
                self._under_way[number] = wanted
                self._reasons[number] = wanted.reason
                self._done.add((number, "hot"))
                self._counts[f"anew_{wanted.reason}"] += 1

    def answered(self, message: Translated | Rejected) -> None:
        """An answer came. What is refused is not asked for again while these regions live."""
        if isinstance(message, Rejected) and message.id in self._reasons:
            self._counts[f"anew_{self._reasons.pop(message.id)}_refused"] += 1

    # --- time ----------------------------------------------------------------------------------

    def tick(self, hot: int) -> float:
        """Book the last samples, call harts for the next; the seconds until then. `hot`: how many
        pages with hot code there were.
        """
        while self._samples:
            self._book(*self._samples.popleft())
        self._rounds += 1
        if self._known != (known := (len(self._sizes), hot)):
            self._known, self._period, self._rounds = known, PERIOD, 0
        elif self._rounds >= PATIENCE:
            self._period, self._rounds = min(2 * self._period, LONGEST), 0
        if known[1]:
            for hart in self._machine.harts:
                if not hart.state.waiting:
                    hart.sampled = True
                    hart.call()
        return self._period

    def _book(self, page: int, slot: int) -> None:
        region = self._region(page, slot)
        if region is None:
            self._spent(page, self._period)
            return
        self._times[region.id] += int(self._period * 1e6)
        size = self._sizes.get(region.id, 0)
        if self._times[region.id] >= 1e6 * max(HOT, PAYBACK * size):
            self._want(region, "hot")

    def _region(self, page: int, slot: int) -> Region | None:
        """The region in which a hart is that is to go on at a slot."""
        found = self._machine.records.regions.get(page, ())
        bit = 1 << 2 * slot // LINE_SIZE
        within = None
        for region in reversed(found):
            if any(slot == one for one, _ in region.entries):
                return region
            if within is None and region.lines & bit:
                within = region
        return within

    def _want(self, region: Region, reason: Reason) -> None:
        if (region.id, reason) in self._done:
            return
        self._done.add((region.id, reason))
        slots = tuple(sorted(slot for slot, _ in region.entries))
        self._wanted.append(Wanted(region.page, slots, reason))
