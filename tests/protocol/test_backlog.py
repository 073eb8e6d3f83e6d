"""The backlog: the hottest page first, of equals the latest, each once; its size is bounded."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

from protocol.backlog import (
    AGAIN,
    LIMIT,
    LONGEST_REST,
    PATIENCE,
    PATIENT_ASKS,
    REST,
    WORTH,
    Backlog,
)


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


def test_a_page_that_changes_under_each_request_rests_ever_longer_and_is_not_forgotten():
    backlog = Backlog()
    now, asks = 0.0, list[float]()
    while now < 10.0:  # it is found hot every 10 ms, and has changed whenever it was asked for
        backlog.wake(now)
        backlog.report({7: [1], 8: [2]}, now)
        asked = {backlog.take()[0] for _ in range(len(backlog))}
        assert 8 in asked
        backlog.served(8)
        if 7 in asked:
            asks.append(now)
            backlog.moved(7, now)
        now += 0.01
    rests = [round(after - before, 2) for before, after in pairwise(asks)]
    assert len(asks) < PATIENT_ASKS + 16
    assert rests == sorted(rests)
    assert REST <= rests[PATIENT_ASKS] < rests[-1] <= LONGEST_REST + 0.02
    backlog.report({7: [1, 3]}, now)
    due = backlog.wake(now)
    assert due is not None
    assert due <= now + LONGEST_REST
    assert backlog.wake(due) is None
    assert backlog.take()[:2] == (7, [1, 3])
    backlog.served(7)
    backlog.again(7, [5])
    assert backlog.take()[:2] == (7, [5])


def test_what_took_time_is_ripe_the_most_of_it_first():
    backlog = Backlog()
    backlog.spent(1, WORTH)
    backlog.add({1: [4], 2: [8], 3: [2, 6]}, 0.0)
    assert backlog.due(0.0) == PATIENCE
    assert backlog.take_ripe(0.0) is None, "1 was not hot when that was spent"
    for page, times in ((1, 2), (2, 3), (3, 1)):
        for _ in range(times):
            backlog.spent(page, WORTH / 2)
    assert backlog.due(0.0) == 0.0
    assert backlog.take_ripe(0.0) == (2, [8], 1)
    assert backlog.take_ripe(0.0) == (1, [4], 1)
    assert backlog.take_ripe(0.0) is None
    assert backlog.due(0.25) == PATIENCE - 0.25
    assert backlog.take_ripe(PATIENCE) == (3, [2, 6], 2)
    assert backlog.due(PATIENCE) == math.inf


def test_what_has_waited_for_long_lets_the_hottest_go_first():
    backlog = Backlog()
    backlog.add({1: [4]}, 0.0)
    backlog.add({2: [1, 2, 3]}, 0.5)
    assert backlog.take_ripe(0.9) is None
    assert backlog.take_ripe(1.0) == (2, [1, 2, 3], 3)
    assert backlog.take_ripe(1.0) == (1, [4], 1)
    backlog.add({1: [4]}, 2.0)
    assert backlog.take_ripe(2.5) is None, "it waits anew"


def test_what_was_taken_or_answered_is_ripe_no_longer():
    backlog = Backlog()
    backlog.add({1: [4], 2: [1, 5]})
    backlog.spent(1, WORTH)
    backlog.spent(2, WORTH)
    backlog.drop(1, [4])
    backlog.drop(2, [1])
    assert backlog.take_ripe(0.0) == (2, [5], 1)
    backlog.add({1: [4], 2: [5]}, 0.0)
    assert backlog.take_ripe(0.0) is None
