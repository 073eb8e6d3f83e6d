"""The CLINT as firmware uses it: msip, mtimecmp and mtime, whole and by halves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from devices.clint import Clint, ClintState
from devices.device import AccessFault


@dataclass
class Harts:
    """The harts' side."""

    time: int = 0
    msip: dict[int, bool] = field(default_factory=dict)
    mtimecmp: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(8), 0))

    def set_msip(self, hart: int, level: bool) -> None:
        self.msip[hart] = level

    def get_mtimecmp(self, hart: int) -> int:
        return self.mtimecmp[hart]

    def set_mtimecmp(self, hart: int, value: int) -> None:
        self.mtimecmp[hart] = value

    def mtime(self) -> int:
        return self.time

    def set_mtime(self, value: int) -> None:
        self.time = value


@pytest.fixture
def harts() -> Harts:
    return Harts()


def test_a_hart_interrupts_another(harts: Harts) -> None:
    clint = Clint(8, harts)
    clint.write(4 * 3, 4, 1)
    assert harts.msip == {3: True}
    assert [clint.read(4 * hart, 4) for hart in range(8)] == [0, 0, 0, 1, 0, 0, 0, 0]
    clint.write(4 * 3, 4, 0xFFFF_FFFE)
    assert harts.msip == {3: False}
    assert clint.read(4 * 3, 4) == 0


def test_mtimecmp_whole_and_by_halves(harts: Harts) -> None:
    clint = Clint(8, harts)
    clint.write(0x4000 + 8 * 7, 8, 0x1122_3344_5566_7788)
    assert harts.mtimecmp[7] == 0x1122_3344_5566_7788
    assert clint.read(0x4038, 4) == 0x5566_7788
    assert clint.read(0x403C, 4) == 0x1122_3344
    # As 32-bit firmware does: high half out of the way first.
    clint.write(0x403C, 4, 0xFFFF_FFFF)
    clint.write(0x4038, 4, 0xABCD)
    clint.write(0x403C, 4, 0x12)
    assert clint.read(0x4038, 8) == 0x12_0000_ABCD
    assert harts.mtimecmp[6] == 0


def test_mtime_is_the_clock_of_all_harts(harts: Harts) -> None:
    clint = Clint(2, harts)
    harts.time = 0x1_0000_0002
    assert clint.read(0xBFF8, 8) == 0x1_0000_0002
    assert (clint.read(0xBFFC, 4), clint.read(0xBFF8, 4)) == (1, 2)
    clint.write(0xBFF8, 4, 0)
    assert harts.time == 0x1_0000_0000
    clint.write(0xBFF8, 8, 77)
    assert harts.time == 77


def test_harts_that_do_not_exist_read_zero_and_ignore_writes(harts: Harts) -> None:
    clint = Clint(2, harts)
    clint.write(8, 4, 1)
    clint.write(0x4010, 8, 5)
    assert (clint.read(8, 4), clint.read(0x4010, 8), clint.read(0xC000, 4)) == (0, 0, 0)
    assert harts.msip == {}
    assert harts.mtimecmp[2] == 0


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 8), (0, 1), (0, 2), (0x4000, 2), (0x4004, 8), (0xBFF8, 1), (2, 4)]
)
def test_other_accesses_fault(harts: Harts, offset: int, size: int) -> None:
    clint = Clint(2, harts)
    with pytest.raises(AccessFault):
        clint.read(offset, size)
    with pytest.raises(AccessFault):
        clint.write(offset, size, 1)


def test_reset_stops_timers_and_interrupts(harts: Harts) -> None:
    clint = Clint(2, harts)
    clint.write(4, 4, 1)
    clint.write(0x4000, 8, 5)
    harts.time = 99
    clint.reset()
    assert harts.msip == {0: False, 1: False}
    assert (harts.mtimecmp[0], harts.mtimecmp[1]) == ((1 << 64) - 1, (1 << 64) - 1)
    assert harts.time == 0
    assert clint.read(4, 4) == 0


def test_a_restored_state_drives_the_lines(harts: Harts) -> None:
    clint = Clint(2, harts)
    clint.restore(ClintState([False, True]))
    assert harts.msip == {0: False, 1: True}
    assert clint.read(4, 4) == 1


def test_the_number_of_harts_is_checked(harts: Harts) -> None:
    with pytest.raises(ValueError, match="harts"):
        Clint(0, harts)
