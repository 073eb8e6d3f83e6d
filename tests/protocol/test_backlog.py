"""The backlog: the hottest page first, of equals the one that came first, each once."""

from __future__ import annotations

import random
from collections import Counter

from protocol.backlog import Backlog


def test_the_hottest_comes_first_with_all_its_slots():
    backlog = Backlog()
    backlog.add({1: [4], 2: [8]})
    backlog.add({2: [6, 8]})
    assert [backlog.take() for _ in range(len(backlog))] == [(2, [6, 8], 3), (1, [4], 1)]
    backlog.add({1: [2], 3: [1]})
    assert [backlog.take() for _ in range(len(backlog))] == [(1, [2], 1), (3, [1], 1)]


def test_what_was_cleared_is_not_taken():
    backlog = Backlog()
    backlog.add({1: [4, 5, 6]})
    backlog.clear()
    assert not len(backlog)
    backlog.add({1: [4], 2: [7, 8]})
    assert [backlog.take() for _ in range(2)] == [(2, [7, 8], 2), (1, [4], 1)]


def test_any_order_of_reports_and_asks():
    chance = random.Random(1)
    backlog, known = Backlog(), dict[int, Counter[int]]()
    for _ in range(2000):
        if known and chance.random() < 0.4:
            page = max(known, key=lambda p: known[p].total())
            slots = known.pop(page)
            assert backlog.take() == (page, sorted(slots), slots.total())
        else:
            page, slot = chance.randrange(20), chance.randrange(4)
            backlog.add({page: [slot]})
            known.setdefault(page, Counter()).update([slot])
        assert len(backlog) == len(known)
