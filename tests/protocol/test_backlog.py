"""The backlog: the hottest page first, of equals the latest, each once; its size is bounded."""

from __future__ import annotations

import random
from collections import Counter

from protocol.backlog import AGAIN, LIMIT, Backlog


def test_the_hottest_comes_first_with_all_its_slots():
    backlog = Backlog()
    backlog.add({1: [4], 2: [8]})
    backlog.add({2: [6, 8]})
    assert [backlog.take() for _ in range(len(backlog))] == [
        (2, [6, 8], 2 + AGAIN),
        (1, [4], 1),
    ]
    backlog.add({1: [2], 3: [1]})
    assert [backlog.take() for _ in range(len(backlog))] == [(3, [1], 1), (1, [2], 1)]


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
    came: dict[int, int] = {}
    for step in range(2000):
        if known and chance.random() < 0.4:
            page = max(known, key=lambda p: (known[p].total(), came[p]))
            slots = known.pop(page)
            assert backlog.take() == (page, sorted(slots), slots.total())
        else:
            page, slot = chance.randrange(20), chance.randrange(4)
            backlog.add({page: [slot]})
            if page not in known:
                known[page], came[page] = Counter(), step
            known[page][slot] += AGAIN if slot in known[page] else 1
        assert len(backlog) == len(known)


def test_of_more_than_the_limit_the_coldest_and_oldest_go():
    backlog = Backlog()
    backlog.add({1: [4]})
    backlog.add({1: [4]})
    for page in range(2, LIMIT + 2):
        backlog.add({page: [0]})
    assert len(backlog) == LIMIT // 2
    taken = [backlog.take()[0] for _ in range(LIMIT // 2)]
    assert taken == [1, *range(LIMIT + 1, LIMIT + 2 - LIMIT // 2, -1)]
