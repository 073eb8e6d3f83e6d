"""Workers' time is shared evenly, whatever the jobs take."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from protocol.shares import Shares


def serve(shares: Shares, wanting: dict[int, float], rounds: int) -> list[int]:
    """Sessions that always want something, each with what its jobs take: who was served."""
    order = []
    for _ in range(rounds):
        session = shares.order(wanting)[0]
        shares.done(session, shares.taken(session), wanting[session])
        order.append(session)
    return order


def entered(*sessions: int) -> Shares:
    shares = Shares()
    for session in sessions:
        shares.enter(session)
    return shares


def test_equal_jobs_are_served_in_turn():
    assert serve(entered(1, 2, 3), {1: 5.0, 2: 5.0, 3: 5.0}, 6) == [1, 2, 3, 1, 2, 3]


def test_long_jobs_are_served_less_often():
    served = Counter(serve(entered(1, 2), {1: 100_000.0, 2: 1000.0}, 1010))
    assert 9 <= served[1] <= 12


def test_who_was_silent_saved_nothing_up_and_waits_for_nobody():
    shares = entered(1, 2)
    assert set(serve(shares, {1: 1000.0}, 50)) == {1}
    served = serve(shares, {1: 1000.0, 2: 1000.0}, 20)
    assert served[0] == 2
    assert Counter(served) == {1: 10, 2: 10}


def test_a_newcomer_is_next():
    shares = entered(1)
    serve(shares, {1: 1000.0}, 50)
    shares.enter(2)
    assert serve(shares, {1: 1000.0, 2: 1000.0}, 1) == [2]
    shares.leave(2)
    shares.done(2, 5.0, 5.0)  # of a job that was under way
    assert serve(shares, {1: 1000.0}, 1) == [1]


@given(st.dictionaries(st.integers(1, 9), st.floats(10, 1e6), min_size=2), st.integers(50, 500))
def test_nobody_gets_more_than_a_job_ahead(wanting: dict[int, float], rounds: int):
    shares = entered(*wanting)
    served: Counter[int] = Counter()
    got = dict.fromkeys(wanting, 0.0)
    for session in serve(shares, wanting, rounds):
        served[session] += 1
        got[session] += wanting[session]
        assert max(got.values()) - min(got.values()) <= 2 * max(wanting.values())
