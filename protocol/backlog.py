"""Hot slots that were not asked for yet.

Problem: harts find more code hot than may be asked for at once; the hottest page shall come first,
with everything that is hot in it. A page that changes
whenever it was asked for is not asked for over and over.

Read next: `cpu_proc/translator.py` and the simulator, its users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import count

PATIENT_ASKS = 3
"""Times in a row that a page may change under requests before it must heat up again."""


class Backlog:
    """Hot slots not asked for yet, by page; hotter the more often they were reported."""

    def __init__(self) -> None:
        self._pages: dict[int, tuple[int, Counter[int]]] = {}  # when it came, and its slots
        self._heap: list[tuple[int, int, int]] = []  # (-heat, when it came, page); may be outdated
        self._numbers = count()
        self._moved: Counter[int] = Counter()  # answers in a row that came too late, by page

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """These slots were found hot."""
        for page, slots in wanted.items():
            if page not in self._pages:
                self._pages[page] = next(self._numbers), Counter()
            number, known = self._pages[page]
            known.update(slots)
            heappush(self._heap, (-known.total(), number, page))

    def again(self, page: int, slots: Iterable[int]) -> None:
        """The page changed under a request. Ask again, unless that is what it always does.

        What is given up here is asked for when it is found hot again, which takes longer.
        """
        self._moved[page] += 1
        if self._moved[page] <= PATIENT_ASKS:
            self.add({page: slots})

    def served(self, page: int) -> None:
        """An answer about the page could be used."""
        self._moved.pop(page, None)

    def take(self) -> tuple[int, list[int], int]:
        """Remove the hottest page, of equals the first: (page, its slots, heat)."""
        while True:
            heat, number, page = heappop(self._heap)
            known = self._pages.get(page)
            if known is not None and known[0] == number and known[1].total() == -heat:
                del self._pages[page]
                return page, sorted(known[1]), -heat

    def clear(self) -> None:
        """Forget all."""
        self._pages.clear()
        self._heap.clear()
        self._moved.clear()
