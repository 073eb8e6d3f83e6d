"""Safe points: work is done with every hart out of native code, in order, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cpu_proc.safe_point import SafePoint

DEADLINE = 240.0


class FakeHart:
    """A hart whose native code is: come out when `attention` is set."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(attention=0, limit=1)
        self.wake = threading.Event()
        self.native = False
        self.rounds = 0
        self.calls = 0

    def call(self) -> None:
        self.calls += 1
        self.state.attention = 1
        self.wake.set()

    def run(self) -> None:
        """Native code, until called."""
        self.native = True
        while not self.state.attention:
            self.wake.wait(DEADLINE)
            self.wake.clear()
        self.native = False
        self.rounds += 1


class World:
    """Harts in threads of their own."""

    def __init__(self, count: int) -> None:
        self.point = SafePoint()
        self.harts = [FakeHart() for _ in range(count)]
        self.point.harts = self.harts  # type: ignore[assignment]
        self.ended = False
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self._loop, args=(h,)) for h in self.harts]

    def _loop(self, hart: Any) -> None:
        try:
            while not self.ended:
                self.point.enter(hart)
                if not self.ended:
                    hart.run()
                self.point.leave()
        except BaseException as error:
            self.errors.append(error)

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.ended = True
        self.point.call_all()
        for thread in self.threads:
            if thread.ident is not None:
                thread.join(DEADLINE)
                assert not thread.is_alive(), "a hart does not come to its safe point"
        assert self.errors == []


@pytest.fixture
def world() -> Iterator[Callable[[int], World]]:
    made: list[World] = []

    def make(count: int) -> World:
        made.append(World(count))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_work_is_done_with_no_hart_in_native_code(world):
    here = world(4)
    here.start()
    seen: list[list[bool]] = []
    done = threading.Semaphore(0)

    def look() -> None:
        seen.append([h.native for h in here.harts])
        done.release()

    for _ in range(200):
        here.point.post(look)
        assert done.acquire(timeout=DEADLINE)
    assert seen == [[False] * 4] * 200


def test_work_posted_from_many_threads_is_all_done_and_in_each_one_s_order(world):
    here = world(3)
    here.start()
    order: list[tuple[int, int]] = []
    overlapping: list[bool] = []
    busy = threading.Lock()

    def work(who: int, number: int) -> None:
        overlapping.append(not busy.acquire(blocking=False))
        assert not any(h.native for h in here.harts)
        order.append((who, number))
        busy.release()

    def poster(who: int) -> None:
        for number in range(100):
            here.point.post(lambda n=number: work(who, n))

    posters = [threading.Thread(target=poster, args=(i,)) for i in range(4)]
    for thread in posters:
        thread.start()
    for thread in posters:
        thread.join(DEADLINE)
    last = threading.Event()
    here.point.post(last.set)
    assert last.wait(DEADLINE)
    assert not any(overlapping)
    assert len(order) == 400
    for who in range(4):
        assert [n for w, n in order if w == who] == list(range(100))


def test_work_is_done_in_the_order_of_posting(world):
    here = world(1)
    order: list[int] = []
    for number in range(5):
        here.point.post(lambda n=number: order.append(n))
    assert order == []  # posting never blocks and never works
    here.point.enter(here.harts[0])
    assert order == [0, 1, 2, 3, 4]
    here.point.leave()


def test_work_may_post_work_which_is_done_before_a_hart_runs(world):
    here = world(2)
    order: list[str] = []

    def first() -> None:
        order.append("first")
        here.point.post(lambda: order.append("second"))

    here.point.post(first)
    here.point.enter(here.harts[0])
    assert order == ["first", "second"]
    here.point.leave()


def test_posting_calls_every_hart(world):
    here = world(3)
    here.point.post(lambda: None)
    assert [h.calls for h in here.harts] == [1, 1, 1]
    assert [h.state.attention for h in here.harts] == [1, 1, 1]


def test_a_call_between_the_look_and_native_code_is_not_lost(world):
    here = world(1)
    hart = here.harts[0]
    here.point.enter(hart)
    assert hart.state.attention == 0
    done: list[int] = []
    here.point.post(lambda: done.append(1))  # the hart is about to run
    assert hart.state.attention == 1
    hart.run()  # so it comes out at once
    here.point.leave()
    here.point.enter(hart)
    assert done == [1]
    here.point.leave()


def test_work_posted_by_work_s_hart_while_it_clears_attention_is_seen(world):
    """Attention is cleared before the queue is looked at: never the other way round."""
    here = world(1)
    hart = here.harts[0]
    cleared: list[int] = []

    class Watching(SimpleNamespace):
        def __setattr__(self, name: str, value: int) -> None:
            super().__setattr__(name, value)
            if name == "attention" and value == 0 and len(cleared) < 3:
                cleared.append(1)
                here.point.post(lambda: None)

    hart.state = Watching(attention=1, limit=0)
    here.point.enter(hart)
    assert len(cleared) >= 3
    assert not here.point._work
    here.point.leave()


def test_a_hart_that_sleeps_or_is_served_in_python_holds_nothing_up(world):
    here = world(2)
    done = threading.Event()
    # The second hart never enters: it is out.
    here.threads = here.threads[:1]
    here.start()
    here.point.post(done.set)
    assert done.wait(DEADLINE)


def test_a_hart_in_native_code_is_waited_for(world):
    here = world(2)
    stubborn, other = here.harts
    here.threads = []
    here.point.enter(stubborn)
    done = threading.Event()
    here.point.post(done.set)
    thread = threading.Thread(target=lambda: (here.point.enter(other), here.point.leave()))
    thread.start()
    assert not done.wait(0.05)  # it waits at the gate; only the other's leaving lets it go on
    here.point.leave()
    assert done.wait(DEADLINE)
    thread.join(DEADLINE)


def test_an_error_in_work_reaches_the_hart_s_thread_and_the_gate_stays_usable(world):
    here = world(1)

    def wrong() -> None:
        raise RuntimeError("a bug")

    here.point.post(wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        here.point.enter(here.harts[0])
    here.point.enter(here.harts[0])
    here.point.leave()


def test_calling_all_brings_every_hart_out(world):
    here = world(3)
    here.start()
    before = [h.rounds for h in here.harts]
    give_up = threading.Event()
    for _ in range(20_000):
        here.point.call_all()
        if all(h.rounds > b for h, b in zip(here.harts, before, strict=True)):
            break
        give_up.wait(0.01)
    assert all(h.rounds > b for h, b in zip(here.harts, before, strict=True))
