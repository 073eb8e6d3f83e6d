"""Retirement of everything: one order, with nothing left that points to older code."""

from __future__ import annotations

import functools
import gc
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from cpu_proc import engine
from cpu_proc.culprit import NOBODY
from cpu_proc.records import Records
from cpu_proc.retirement import HISTORY, Retirement, Retiring
from cpu_proc.safe_point import SafePoint
from cpu_proc.segments import ControlSegment
from protocol.layout import PAGE, RECORD_ARRAY_PAGE, RECORD_ARRAY_STRIDE

ALL = 2**64 - 1
DECODE, CODE = 0x1000, 0x7000_0000


class FakeHart:
    """What retirement clears of a hart; `flush` says what it found."""

    def __init__(self, pool: int, world: World) -> None:
        self.state = SimpleNamespace(
            pool_next=pool, hot_count=3, exit_lines=5, reserved=0x8000_0000
        )
        self._world = world

    def flush(self) -> None:
        self._world.log.append("flush")


class FakeLink:
    """The translator's end: looks at what is left when it is told, and answers when it is asked."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.asked: list[tuple[int, str]] = []
        self.retiring: Retiring | None = None

    def await_retirement(self) -> None:
        self._world.log.append("await")
        assert not self._world.lock_is_held(), "the machine's lock is never held while waiting"
        self.answer()

    def retire(self, epoch: int, cause: str, retiring: Retiring) -> None:
        assert self._world.control.words.epoch == epoch
        self._world.log.append("told")
        self.asked.append((epoch, cause))
        self.retiring = retiring

    def answer(self) -> None:
        if self.retiring is not None:
            self.retiring.answered({"queued": 1, "modules": 2})


class World:
    """A machine, as far as retirement sees it: real records, two harts."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.lock = threading.RLock()
        self.control = ControlSegment(2, 8)
        self.records = Records(self.control, arrays=8)
        self.records.decode = DECODE
        drop_arrays = engine.load().drop_arrays()
        self.records.drop_arrays = functools.partial(drop_arrays, self.control.hart_addresses[0])
        self.safe_point = SafePoint()
        start = self.records.start
        half = 4 * RECORD_ARRAY_STRIDE
        self.pools = [(start, half), (start + half, half)]
        self.harts = [FakeHart(pool, self) for pool, _ in self.pools]
        self.options = SimpleNamespace(log_items=())
        self.translator: FakeLink | None = None
        self.mistakes = None
        self.culprits = SimpleNamespace(current=lambda: NOBODY)
        self.retirement = Retirement(self)  # type: ignore[arg-type]
        drop = self.records.drop_all

        def drop_all(used: Any) -> int:
            self.log.append("records")
            assert self.control.words.epoch == self.retirement.epoch
            return drop(used)

        self.records.drop_all = drop_all  # type: ignore[method-assign]

    def lock_is_held(self) -> bool:
        taken: list[bool] = []

        def attempt() -> None:
            taken.append(self.lock.acquire(blocking=False))
            if taken[0]:
                self.lock.release()

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join(240)
        return not taken[0]

    def fill(self, hart: int, page: int) -> None:
        """The hart executes the page."""
        from cpu_proc import native

        state = self.harts[hart].state
        words = native.words(state.pool_next, RECORD_ARRAY_STRIDE // 8)
        words[RECORD_ARRAY_PAGE // 8] = self.control.pages_address + page * PAGE.size
        base = page * PAGE.size // 8
        self.control.pages[base + PAGE.offset("records") // 8] = state.pool_next
        self.control.pages[base + PAGE.offset("lines") // 8] = 1
        state.pool_next += RECORD_ARRAY_STRIDE

    def word(self, page: int, name: str) -> int:
        return int(self.control.pages[(page * PAGE.size + PAGE.offset(name)) // 8])


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_epoch_is_in_the_shared_page(world):
    assert world.retirement.epoch == world.control.words.epoch == 1


def test_the_order_is_epoch_records_lookups_translator(world):
    world.translator = FakeLink(world)
    world.fill(0, 3)
    world.retirement.everything("system_reset")
    assert world.log == ["await", "records", "flush", "flush", "told"]
    assert world.translator.asked == [(2, "system_reset")]
    assert world.control.words.epoch == 2


def test_harts_go_on_before_the_translator_answers_and_the_next_waits(world):
    world.translator = FakeLink(world)
    world.retirement.everything("system_reset")
    assert not world.retirement.history
    assert not world.translator.retiring.wait(0)
    world.retirement.everything("overflow")
    assert [e.cause for e in world.retirement.history] == ["system_reset"]
    world.translator.answer()
    world.translator.answer()  # the first word counts
    assert [e.cause for e in world.retirement.history] == ["system_reset", "overflow"]
    assert world.translator.retiring.wait(0)
    assert world.control.words.epoch == 3


def test_nobody_looks_for_garbage_while_all_harts_wait(world):
    seen = []
    world.retirement.dropping = lambda: seen.append(gc.isenabled())
    world.retirement.everything("system_reset")
    assert (seen, gc.isenabled()) == ([False], True)
    gc.disable()
    try:
        world.retirement.everything("system_reset")
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_nothing_that_points_to_code_is_left(world):
    world.fill(0, 3)
    world.fill(1, 5)
    world.records.publish(5, 1, [(0, CODE)])
    world.retirement.everything("overflow")
    for page in (3, 5):
        assert [world.word(page, n) for n in ("records", "lines", "region_lines")] == [0, 0, 0]
    assert world.records.regions == {}
    for hart, (start, _) in zip(world.harts, world.pools, strict=True):
        state = hart.state
        assert (state.pool_next, state.hot_count, state.exit_lines) == (start, 0, 0)
        assert state.reserved == ALL


def test_it_is_entered_into_the_book(world):
    world.translator = FakeLink(world)
    world.fill(0, 3)
    world.records.publish(3, 1, [(0, CODE)])
    world.retirement.everything("backend_swap")
    world.translator.answer()
    event = world.retirement.history[-1]
    assert (event.cause, event.epoch) == ("backend_swap", 2)
    assert event.details == {"pages": 1, "regions": 1, "queued": 1, "modules": 2}
    assert event.when >= 0
    assert event.ms >= 0
    assert event.waited_ms >= 0
    assert 0 <= event.records_ms <= event.ms <= event.translator_ms * 1.001


def test_without_a_translator_it_ends_here(world):
    world.retirement.everything("system_reset")
    world.retirement.everything("system_reset")
    world.retirement.note("guest_store", began=0.0, page=3, regions=1)
    assert world.retirement.epoch == world.control.words.epoch == 3
    assert world.retirement.summary() == ["retirements (epoch 3): guest_store 1, system_reset 2"]


def test_the_book_is_bounded_but_counts_go_on(world):
    for number in range(HISTORY + 10):
        world.retirement.note("guest_store", began=0.0, page=number)
    assert len(world.retirement.history) == HISTORY
    assert world.retirement.counts["guest_store"] == HISTORY + 10
    assert world.retirement.history[-1].details == {"page": HISTORY + 9}


def test_an_empty_book_says_so(world):
    assert world.retirement.summary() == ["retirements (epoch 1): none"]
