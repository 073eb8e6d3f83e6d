"""Hot slots that were not asked for yet.

Problem: harts find more code hot than may be asked for at once, and nine in ten such slots never
run for as long as a worker needs for their region (a boot of Linux, its modules loaded). So a page
is *ripe* once harts have spent `WORTH` in what has no region there, and the one that took most time
is first. What waits for `PATIENCE` is asked for then, the hottest first, with everything that is
hot in the page: a report that is repeated says that the code is executed still and weighs `AGAIN`
times as much, and of equals the latest comes first.

A page that changes whenever it was asked for is not asked for over and over: it rests, each time
twice as long, and is asked for when it wakes. So what is rewritten all the time costs the
translator little, and has its region a second after it is not. When there are more than `LIMIT`
pages the coldest of the oldest is dropped: if it is hot, it will be reported again.

Read next: `cpu_proc/asking.py` and the simulator, its users.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import count

PATIENT_ASKS = 3
"""Times in a row that a page may change under requests before it rests."""

REST, LONGEST_REST = 0.04, 1.0
"""Seconds of the first rest, and of those after many."""

AGAIN = 64
"""How much more often code was taken between two reports than before the first."""

LIMIT = 128

WORTH = 0.03
"""Seconds that harts spend in a page's code until it is worth a worker's time, which is as long."""

PATIENCE = 1.0
"""Seconds that anything may wait until it is."""


class Backlog:
    """Hot slots not asked for yet, by page; hotter the more often they were reported."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[int, Counter[int]]] = {}  # its number, and its slots
        self._since: dict[int, float] = {}  # when pages came, the first one first
        self._spent: Counter[int] = Counter()  # microseconds that harts were seen there
        self._ripe: set[int] = set()  # pages where that is much
        self._heap: list[tuple[int, int, int]] = []  # (-heat, -when it came, page); may be outdated
        self._numbers = count()
        self._fresh: dict[int, None] = {}  # pages with slots that were not probed yet
        self._moved: Counter[int] = Counter()  # requests in a row that were for nothing, by page
        self._resting: dict[int, tuple[float, set[int]]] = {}  # until when, and what was hot since

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, wanted: Mapping[int, Iterable[int]], now: float = 0.0) -> None:
        """These slots were found hot. `now`: seconds, as for `ripe`."""
        for page, slots in wanted.items():
            if page not in self._pages:
                self._pages[page] = next(self._numbers), Counter()
                self._since[page] = now
            number, known = self._pages[page]
            for slot in slots:
                if slot not in known:
                    self._fresh[page] = None
                known[slot] += AGAIN if slot in known else 1
            heappush(self._heap, (-known.total(), -number, page))
        if len(self._pages) > LIMIT:
            self._drop_coldest()

    def report(self, wanted: Mapping[int, Iterable[int]], now: float) -> None:
        """Harts found these hot. `now`: seconds, as for `wake`."""
        for page, slots in wanted.items():
            until, since = self._resting.get(page, (now, set()))
            if now < until:
                since.update(slots)
            else:
                self.add({page: slots}, now)

    def moved(self, page: int, now: float) -> bool:
        """The page changed under a request. Whether it may be asked for at once; else it rests."""
        self._moved[page] += 1
        over = self._moved[page] - PATIENT_ASKS
        if over <= 0:
            return True
        _, since = self._resting.get(page, (now, set()))
        rest = min(LONGEST_REST, REST * 2.0 ** min(over - 1, 16))
        self._resting[page] = now + rest, since
        return False

    def again(self, page: int, slots: Iterable[int], now: float = 0.0) -> None:
        """The page changed under a request. Ask again, unless that is what it always does."""
        if self.moved(page, now):
            self.add({page: slots}, now)
        else:
            self._resting[page][1].update(slots)

    def wake(self, now: float) -> float | None:
        """What rested long enough is asked for, if it was hot meanwhile; when the next is due."""
        for page, (until, since) in list(self._resting.items()):
            if now >= until:
                del self._resting[page]
                if since:
                    self.add({page: sorted(since)}, now)
        return min((until for until, _ in self._resting.values()), default=None)

    def served(self, page: int) -> None:
        """An answer about the page could be used."""
        self._moved.pop(page, None)

    def take(self) -> tuple[int, list[int], int]:
        """Remove the hottest page, of equals the latest: (page, its slots, heat)."""
        while True:
            heat, number, page = heappop(self._heap)
            known = self._pages.get(page)
            if known is not None and known[0] == -number and known[1].total() == -heat:
                self._forget(page)
                return page, sorted(known[1]), -heat

    def spent(self, page: int, seconds: float) -> None:
        """A hart was so long in code of the page that has no region."""
        if page in self._pages:
            self._spent[page] += int(seconds * 1e6)
            if self._spent[page] >= WORTH * 1e6:
                self._ripe.add(page)

    def take_ripe(self, now: float) -> tuple[int, list[int], int] | None:
        """The same of what is worth to be made: that which took most time, or the hottest once
        anything has waited for `PATIENCE`.
        """
        if self._ripe:
            page = max(self._ripe, key=lambda one: (self._spent[one], -one))
            known = self._pages[page][1]
            self._forget(page)
            return page, sorted(known), known.total()
        return self.take() if self._pages and self.due(now) <= 0 else None

    def due(self, now: float) -> float:
        """Seconds until `take_ripe` has something at the latest; infinity without anything."""
        if self._ripe:
            return 0.0
        return next(iter(self._since.values()), math.inf) + PATIENCE - now

    @property
    def fresh(self) -> bool:
        """Whether `probe` may have one."""
        return bool(self._fresh)

    def probe(self) -> tuple[int, list[int]] | None:
        """A page with slots that this has not told of yet, the latest first; it stays here."""
        if not self._fresh:
            return None
        page, _ = self._fresh.popitem()
        return page, sorted(self._pages[page][1])

    def drop(self, page: int, slots: Iterable[int]) -> None:
        """These are answered."""
        if page in self._pages:
            number, known = self._pages[page]
            for slot in slots:
                known.pop(slot, None)
            if known:
                heappush(self._heap, (-known.total(), -number, page))
            else:
                self._forget(page)

    def _drop_coldest(self) -> None:
        """Go down to half the limit, and let go of what the heap holds beside."""
        order = sorted(
            ((-known.total(), -number, page) for page, (number, known) in self._pages.items())
        )
        self._heap = order[: LIMIT // 2]
        for _, _, page in order[LIMIT // 2 :]:
            self._forget(page)

    def _forget(self, page: int) -> None:
        del self._pages[page]
        del self._since[page]
        self._fresh.pop(page, None)
        self._spent.pop(page, None)
        self._ripe.discard(page)

    def clear(self) -> None:
        """Forget all."""
        self._pages.clear()
        self._since.clear()
        self._spent.clear()
        self._ripe.clear()
        self._heap.clear()
        self._fresh.clear()
        self._moved.clear()
        self._resting.clear()
