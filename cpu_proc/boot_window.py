"""The window of the boot-remap controller: flash bank 0 or RAM, at one address.

Problem: the window must follow three things at once: the controller's choice, the flash's mode
(array or registers), and resets; and a hart that changes the view by a store in the window itself
must not execute one instruction of the old view behind it.

Invariants:
- Three layers of the map: flash registers, the flash's array over them, RAM over both; the first
  two follow the bank because they are aliases. The controller switches the third, in a transaction
  at a safe point. Where RAM is smaller than the window, flash is seen behind its end.
- Nothing is retired by it: code belongs to the pages, and lookups are flushed by the commit.

Read next: `devices/boot_remap.py`, `placement.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from cpu_proc.flash_bank import FlashBank
from cpu_proc.memory_map import MemoryMap
from cpu_proc.placement import Placement

WINDOW_BASE = 0x2400_0000
NAME = "boot window"


class BootWindow:
    """The window; `show` is the controller's."""

    def __init__(
        self,
        memory: MemoryMap,
        post: Callable[[Callable[[], None]], None],
        bank: FlashBank,
        ram: Placement,
        ram_size: int,
    ) -> None:
        """`post` has work done at the next safe point; `ram_size`: bytes of `ram`."""
        self._memory = memory
        self._post = post
        self._wanted = False
        self._mapped = False
        self.size = bank.size
        with memory.change() as change:
            bank.shown_at(change, NAME, WINDOW_BASE)
            shown = min(ram_size, self.size)
            self._ram = change.alias(NAME, WINDOW_BASE, shown, ram, priority=2, enabled=False)

    def show(self, ram: bool) -> None:
        """Ask for RAM or flash, before the next instruction."""
        self._wanted = ram
        if self._wanted != self._mapped:
            self._post(self._settle)

    def _settle(self) -> None:
        if self._wanted != self._mapped:
            self._mapped = self._wanted
            with self._memory.change() as change:
                change.enable(self._ram, self._mapped)
