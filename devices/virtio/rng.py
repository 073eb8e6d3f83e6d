"""Virtio entropy device: random bytes for the guest.

Problem: a guest that has just booted has no entropy of its own.

Invariants: every byte said to be written is random; a deterministic run injects its own source. The
device has no state.

Source: VIRTIO Version 1.2, section 5.4.
Read next: `blk` for a device that does more.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from devices.virtio.queue import VirtQueue

MAX_REQUEST = 64 << 10
"""Bytes given for one buffer; the specification lets a device fill less than it could."""


@dataclass
class VirtioRngState:
    """Nothing."""


class VirtioRng:
    """The backend. `entropy(n)` gives n random bytes."""

    name = "virtio-rng"
    device_id = 4
    features = 0
    queue_sizes = (8,)
    config = b""

    def __init__(self, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self.state = VirtioRngState()
        self._entropy = entropy

    def attach(self, serve: Callable[[int], None], config_changed: Callable[[], None]) -> None:
        """Nothing ever happens here without the driver."""

    def write_config(self, offset: int, data: bytes) -> None:
        """There is no configuration space."""

    def process(self, index: int, queue: VirtQueue) -> None:
        """Fill each buffer."""
        for chain in queue.chains():
            data = self._entropy(min(chain.writable_length, MAX_REQUEST))
            chain.write(0, data)
            queue.push(chain, len(data))

    def reset(self) -> None:
        """Nothing to do."""

    def restore(self, state: VirtioRngState) -> None:
        """Nothing to do but to keep the object."""
        self.state = state
