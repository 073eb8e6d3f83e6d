"""The error of an address behind which nothing answers.

Problem: devices, their DMA and the memory map meet the same case, and none of them may import the
other. So the exception stands here.

Invariant: only for what a guest can cause. The hart turns it into an access-fault exception
(privileged architecture, section 3.1.15), a device into an error of its own.

Read next: `protocol.errors`, for what is told to people.
"""

from __future__ import annotations


class AccessFault(Exception):
    """Nothing answers here, or not in this size: a guest's access, or a device's by DMA."""

    def __init__(self, where: int, size: int, *, write: bool) -> None:
        """`where`: offset in a device's window, or guest-physical address; `size`: bytes."""
        self.where = where
        self.size = size
        self.write = write
        super().__init__(f"{'write' if write else 'read'} of {size} bytes at {where:#x}")
