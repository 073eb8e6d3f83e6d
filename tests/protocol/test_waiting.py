"""What ends an I/O loop's wait."""

from __future__ import annotations

import select
import signal
from collections.abc import Iterator

import pytest

from protocol.waiting import Bell


@pytest.fixture
def bell() -> Iterator[Bell]:
    one = Bell()
    yield one
    one.close()


def rings(bell: Bell) -> bool:
    return bool(select.select([bell], [], [], 0)[0])


def test_a_bell_rings_until_it_is_told_to_be_quiet(bell: Bell):
    assert not rings(bell)
    bell.ring()
    bell.ring()
    assert rings(bell)
    assert rings(bell)
    bell.quiet()
    assert not rings(bell)
    bell.quiet()


def test_a_signal_rings_whatever_its_handler_does(bell: Bell):
    old = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        signal.raise_signal(signal.SIGUSR1)
        assert not rings(bell)
        bell.hear_signals()
        signal.raise_signal(signal.SIGUSR1)
        assert rings(bell)
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_a_closed_bell_hears_no_signal():
    first, second = Bell(), Bell()
    first.hear_signals()
    second.close()
    first.close()
    assert signal.set_wakeup_fd(-1) == -1
