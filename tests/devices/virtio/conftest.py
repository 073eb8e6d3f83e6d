"""Slots with a backend, in both versions of the interface."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from devices.virtio.mmio import Backend, VirtioMmio
from tests.devices.guest import Line, Memory, Slot

MakeSlot = Callable[[Backend | None], Slot]


@pytest.fixture(params=[False, True], ids=["modern", "legacy"])
def legacy(request: pytest.FixtureRequest) -> bool:
    """Which version of the interface."""
    return bool(request.param)


@pytest.fixture
def make_slot(legacy: bool) -> MakeSlot:
    """Put a backend into a slot."""

    def make(backend: Backend | None) -> Slot:
        line, memory = Line(), Memory()
        return Slot(VirtioMmio(line, memory, backend, legacy=legacy), line, memory)

    return make
