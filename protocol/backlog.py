"""Hot slots that were not asked for yet.

Problem: harts find more code hot than may be asked for at once; the hottest page shall come first,
with everything that is hot in it. A page that changes whenever it was asked for is not asked for
over and over: it rests, each time twice as long, and is asked for when it wakes. So what is
rewritten all the time costs the translator little, and has its region a second after it is not.

What is hot for the first time was taken some thousand times, and nine such slots in ten never come
to tens of thousands (a boot of Linux, its modules loaded); a counter that fires again says that the
code is executed still. So a report that is repeated weighs `AGAIN` times as much, of equals the
latest comes first, and when there are more than `LIMIT` pages the coldest of the oldest is dropped:
if it is hot, it will be reported again.

Read next: `cpu_proc/translator.py` and the simulator, its users.
"""

from __future__ import annotations

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


class Backlog:
    """Hot slots not asked for yet, by page; hotter the more often they were reported."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[int, Counter[int]]] = {}  # when it came, and its slots
        self._heap: list[tuple[int, int, int]] = []  # (-heat, -when it came, page); may be outdated
        self._numbers = count()
        self._fresh: dict[int, None] = {}  # pages with slots that were not probed yet
        self._moved: Counter[int] = Counter()  # requests in a row that were for nothing, by page
        self._resting: dict[int, tuple[float, set[int]]] = {}  # until when, and what was hot since

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """These slots were found hot."""
        for page, slots in wanted.items():
            if page not in self._pages:
                self._pages[page] = next(self._numbers), Counter()
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
                self.add({page: slots})

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
            self.add({page: slots})
        else:
            self._resting[page][1].update(slots)

    def wake(self, now: float) -> float | None:
        """What rested long enough is asked for, if it was hot meanwhile; when the next is due."""
        for page, (until, since) in list(self._resting.items()):
            if now >= until:
                del self._resting[page]
                if since:
                    self.add({page: sorted(since)})
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
                del self._pages[page]
                self._fresh.pop(page, None)
                return page, sorted(known[1]), -heat

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
                del self._pages[page]
                self._fresh.pop(page, None)

    def _drop_coldest(self) -> None:
        """Go down to half the limit, and let go of what the heap holds beside."""
        order = sorted(
            ((-known.total(), -number, page) for page, (number, known) in self._pages.items())
        )
        self._heap = order[: LIMIT // 2]
        for _, _, page in order[LIMIT // 2 :]:
            del self._pages[page]
            self._fresh.pop(page, None)

    def clear(self) -> None:
        """Forget all."""
        self._pages.clear()
        self._heap.clear()
        self._fresh.clear()
        self._moved.clear()
        self._resting.clear()
