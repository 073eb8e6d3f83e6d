"""The entropy device fills what the driver gives it."""

from __future__ import annotations

from collections.abc import Callable

from devices.virtio import mmio
from devices.virtio.rng import MAX_REQUEST, VirtioRng
from tests.devices.guest import Buffer, Driver, Slot


def test_buffers_are_filled_and_given_back(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(VirtioRng(lambda count: bytes(range(count))))
    driver = Driver(slot)
    driver.start()
    head = driver.add([Buffer(room=10), Buffer(room=22)])
    driver.kick()
    assert slot.line.level
    assert driver.take_interrupt() == mmio.USED_BUFFER
    assert not slot.line.level
    assert driver.take_used() == [(head, 32)]
    assert driver.result(head, 0, 10) + driver.result(head, 1, 22) == bytes(range(32))


def test_a_large_buffer_is_filled_in_part(make_slot: Callable[..., Slot]) -> None:
    driver = Driver(make_slot(VirtioRng(lambda count: b"r" * count)))
    driver.start()
    head = driver.add([Buffer(room=MAX_REQUEST + 5)])
    driver.kick()
    assert driver.take_used() == [(head, MAX_REQUEST)]
    assert driver.result(head, 0, MAX_REQUEST + 5) == b"r" * MAX_REQUEST + b"\xee" * 5


def test_the_default_source_is_the_hosts(make_slot: Callable[..., Slot]) -> None:
    driver = Driver(make_slot(VirtioRng()))
    driver.start()
    head = driver.add([Buffer(room=32)])
    driver.kick()
    assert driver.take_used() == [(head, 32)]
    assert driver.result(head, 0, 32) != b"\xee" * 32
