"""The RTC as Linux's rtc-goldfish drives it, on a clock that the test turns."""

from __future__ import annotations

import copy

import pytest

from devices.device import AccessFault
from devices.goldfish_rtc import GoldfishRtc
from tests.devices.guest import Line

TIME_LOW, TIME_HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
IRQ_ENABLED, CLEAR_ALARM, ALARM_STATUS, CLEAR_INTERRUPT = 0x10, 0x14, 0x18, 0x1C

START = 1_700_000_000_123_456_789


class Bench:
    """A device, its line, its clock and what it asked to be scheduled."""

    def __init__(self) -> None:
        self.now = START
        self.deadline: int | None = None
        self.line = Line()
        self.rtc = GoldfishRtc(self.line, lambda: self.now, self.schedule)

    def schedule(self, deadline: int | None) -> None:
        self.deadline = deadline

    def advance(self, nanoseconds: int) -> None:
        """Time passes; the owner polls when it was told to."""
        self.now += nanoseconds
        if self.deadline is not None and self.now >= self.deadline:
            self.rtc.poll()

    def time(self) -> int:
        low = self.rtc.read(TIME_LOW, 4)
        return self.rtc.read(TIME_HIGH, 4) << 32 | low

    def set_alarm(self, when: int) -> None:
        self.rtc.write(ALARM_HIGH, 4, when >> 32)
        self.rtc.write(ALARM_LOW, 4, when & 0xFFFFFFFF)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_time_is_the_clock(bench: Bench) -> None:
    assert bench.time() == START


def test_the_halves_belong_together(bench: Bench) -> None:
    bench.now = 0x1_FFFF_FFFF
    low = bench.rtc.read(TIME_LOW, 4)
    bench.now = 0x2_0000_0000
    assert bench.rtc.read(TIME_HIGH, 4) << 32 | low == 0x1_FFFF_FFFF


def test_setting_the_time_moves_it_and_survives_a_reset(bench: Bench) -> None:
    when = 946_684_800_000_000_000
    bench.rtc.write(TIME_HIGH, 4, when >> 32)
    bench.rtc.write(TIME_LOW, 4, when & 0xFFFFFFFF)
    assert bench.time() == when
    bench.advance(1000)
    bench.rtc.reset()
    assert bench.time() == when + 1000


def test_an_alarm_fires_once_when_it_is_due(bench: Bench) -> None:
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.set_alarm(START + 5000)
    assert bench.deadline == START + 5000
    assert bench.rtc.read(ALARM_STATUS, 4) == 1
    bench.advance(4999)
    assert not bench.line.level
    bench.advance(1)
    assert bench.line.level
    assert bench.deadline is None
    assert bench.rtc.read(ALARM_STATUS, 4) == 0
    bench.rtc.write(CLEAR_INTERRUPT, 4, 1)
    assert not bench.line.level
    bench.advance(10_000)
    assert bench.line.rises == 1


def test_the_alarm_reads_back(bench: Bench) -> None:
    bench.set_alarm(START + 5000)
    assert bench.rtc.read(ALARM_HIGH, 4) << 32 | bench.rtc.read(ALARM_LOW, 4) == START + 5000


def test_an_alarm_in_the_past_fires_at_once(bench: Bench) -> None:
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.set_alarm(START - 1)
    assert bench.line.level


def test_an_alarm_waits_until_interrupts_are_enabled(bench: Bench) -> None:
    bench.set_alarm(START + 1)
    bench.advance(1)
    assert not bench.line.level
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    assert bench.line.level
    bench.rtc.write(IRQ_ENABLED, 4, 0)
    assert not bench.line.level


def test_a_cleared_alarm_does_not_fire(bench: Bench) -> None:
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.set_alarm(START + 10)
    bench.rtc.write(CLEAR_ALARM, 4, 1)
    assert bench.deadline is None
    bench.advance(100)
    bench.rtc.poll()
    assert not bench.line.level


def test_setting_the_time_moves_the_deadline(bench: Bench) -> None:
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.set_alarm((START & ~0xFFFFFFFF) + 0xFFFF_FFFF)
    bench.rtc.write(TIME_LOW, 4, 0xFFFF_FF00)
    assert bench.deadline == bench.now + 0xFF
    bench.advance(0xFF)
    assert bench.line.level


def test_a_restored_alarm_still_fires(bench: Bench) -> None:
    bench.rtc.write(IRQ_ENABLED, 4, 1)
    bench.set_alarm(START + 10)
    other = Bench()
    other.rtc.restore(copy.deepcopy(bench.rtc.state))
    other.advance(10)
    assert other.line.level


@pytest.mark.parametrize("size", [1, 2, 8])
def test_only_words_are_decoded(bench: Bench, size: int) -> None:
    with pytest.raises(AccessFault):
        bench.rtc.read(TIME_LOW, size)
    with pytest.raises(AccessFault):
        bench.rtc.write(TIME_LOW, size, 0)
