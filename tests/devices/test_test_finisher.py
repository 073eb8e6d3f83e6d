"""The test finisher ends or resets the machine as firmware and kernels write it."""

from __future__ import annotations

import pytest

from devices.device import AccessFault, Fail, PowerOff, Request, Reset
from devices.test_finisher import TestFinisher


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    ("value", "request_"), [(0x5555, PowerOff(0)), (0x7777, Reset()), (0x3333, Fail(0))]
)
def test_orders(size: int, value: int, request_: Request) -> None:
    asked: list[Request] = []
    TestFinisher(asked.append).write(0, size, value)
    assert asked == [request_]


def test_a_failure_carries_the_code_of_the_guest() -> None:
    asked: list[Request] = []
    TestFinisher(asked.append).write(0, 4, 42 << 16 | 0x3333)
    assert asked == [Fail(42)]


def test_what_is_no_order_is_ignored() -> None:
    asked: list[Request] = []
    device = TestFinisher(asked.append)
    device.write(0, 4, 0)
    device.write(0, 4, 0x1234)
    device.write(4, 4, 0x5555)
    assert asked == []
    assert device.read(0, 4) == 0


@pytest.mark.parametrize("size", [1, 8])
def test_other_sizes_fault(size: int) -> None:
    device = TestFinisher(lambda _request: None)
    with pytest.raises(AccessFault):
        device.write(0, size, 0x55)
    with pytest.raises(AccessFault):
        device.read(0, size)
