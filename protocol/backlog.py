"""Hot slots that were not asked for yet.

Problem: harts find more code hot than may be asked for at once; the hottest page shall come first,
with everything that is hot in it. A page that changes
whenever it was asked for is not asked for over and over.

Read next: `cpu_proc/translator.py` and the simulator, its users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

PATIENT_ASKS = 3
"""Times in a row that a page may change under requests before it must heat up again."""


class Backlog:
    """Hot slots not asked for yet, by page; hotter the more often they were reported."""

    def __init__(self) -> None:
        self._pages: dict[int, Counter[int]] = {}
        self._moved: Counter[int] = Counter()  # answers in a row that came too late, by page

    def __len__(self) -> int:
        return len(self._pages)

    def add(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """These slots were found hot."""
        for page, slots in wanted.items():
            self._pages.setdefault(page, Counter()).update(slots)

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
        """Remove the hottest page: (page, its slots, heat)."""
        page = max(self._pages, key=lambda p: self._pages[p].total())
        slots = self._pages.pop(page)
        return page, sorted(slots), slots.total()

    def clear(self) -> None:
        """Forget all."""
        self._pages.clear()
        self._moved.clear()
