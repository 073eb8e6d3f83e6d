"""The watchdog: periods, the interrupt before the reset, and what survives in its state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devices.device import AccessFault, Request, Reset
from devices.watchdog import CCVR, COMP_TYPE, CR, CRR, EOI, STAT, TORR, Watchdog


class Bench:
    def __init__(self) -> None:
        self.time = 1000
        self.alarm: int | None = None
        self.level = False
        self.asked: list[Request] = []
        self.dog = Watchdog(self.irq, lambda: self.time, self.set_alarm, self.asked.append)

    def irq(self, level: bool) -> None:
        self.level = level

    def set_alarm(self, when: int | None) -> None:
        self.alarm = when

    def pass_time(self, ticks: int) -> None:
        self.time += ticks
        if self.alarm is not None and self.time >= self.alarm:
            self.dog.poll()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_period_without_a_restart_resets(bench: Bench):
    bench.dog.write(TORR, 4, 2)
    bench.dog.write(CR, 4, 1)
    assert bench.alarm == 1000 + (1 << 18)
    bench.pass_time((1 << 18) - 1)
    assert bench.dog.read(CCVR, 4) == 1
    assert bench.asked == []
    bench.pass_time(1)
    assert bench.asked == [Reset()]
    assert bench.alarm is None


def test_a_restart_in_time_holds_it_off(bench: Bench):
    bench.dog.write(CR, 4, 1)
    for _ in range(10):
        bench.pass_time(60_000)
        bench.dog.write(CRR, 4, 0x76)
    bench.dog.write(CRR, 4, 0x75)  # not the word
    bench.pass_time(65_536)
    assert bench.asked == [Reset()]


def test_the_interrupt_comes_first_if_asked_for(bench: Bench):
    bench.dog.write(CR, 4, 3)
    bench.pass_time(65_536)
    assert (bench.level, bench.asked, bench.dog.read(STAT, 4)) == (True, [], 1)
    assert bench.dog.read(EOI, 4) == 0
    assert not bench.level
    bench.pass_time(65_536)
    assert (bench.level, bench.asked) == (True, [])
    bench.pass_time(65_536)
    assert bench.asked == [Reset()]


def test_it_cannot_be_disabled_but_by_reset(bench: Bench):
    bench.dog.write(CR, 4, 1)
    bench.dog.write(CR, 4, 0)
    assert bench.dog.read(CR, 4) == 1
    bench.dog.reset()
    assert (bench.dog.read(CR, 4), bench.alarm, bench.level) == (0, None, False)
    bench.dog.poll()
    assert bench.asked == []


def test_a_saved_state_goes_on(bench: Bench):
    bench.dog.write(CR, 4, 3)
    bench.pass_time(65_536)
    other = Bench()
    other.time = bench.time + 5
    other.dog.restore(replace(bench.dog.state))
    assert (other.level, other.alarm) == (True, bench.alarm)


def test_an_early_alarm_waits_for_the_rest(bench: Bench):
    bench.dog.write(CR, 4, 1)
    bench.dog.poll()
    assert (bench.asked, bench.alarm) == ([], 1000 + (1 << 16))


def test_its_identity_and_its_sizes(bench: Bench):
    assert bench.dog.read(COMP_TYPE, 4) == 0x4457_0120
    assert bench.dog.read(0x80, 4) == 0
    for size in (1, 2, 8):
        with pytest.raises(AccessFault):
            bench.dog.read(0, size)
