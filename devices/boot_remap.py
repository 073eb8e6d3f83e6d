"""The boot-remap controller: one register decides whether a window shows flash or RAM.

Problem: boards start in flash at an address where, once firmware has set itself up, RAM is wanted;
one store changes what stands behind an address that code is running from, and a reset changes it
back. It is the shortest way to run stale code, so a machine that promises not to must have it.

Registers, 4 bytes each, little endian; the rest of the window reads 0 and ignores writes:

| offset | name | access | |
| --- | --- | --- | --- |
| 0 | ID | read | 0x504d5242, "BRMP" |
| 4 | VIEW | read, write | bit 0: 0 flash bank 0, 1 RAM from its first byte; others are 0 |

Invariants: the view changes before the next instruction of the hart that wrote VIEW. After
power-on the window shows flash. A reset shows flash again, unless the board was told to `keep` the
view. Bytes never move: what was written by one view is there by every other way to the same memory.

Read next: `cpu_proc/boot_window.py` (the window), `cfi_flash` (what is in it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.device import NodeContext, check_access

ID, VIEW = 0, 4
IDENTITY = 0x504D5242
FLASH, RAM = 0, 1


@dataclass
class BootRemapState:
    """`view`: FLASH or RAM."""

    view: int = FLASH


class BootRemap:
    """The controller. `show(ram)` has the window show RAM or flash, before the next instruction.

    `window`: its base and size, for the device tree. `keep`: a reset leaves the view as it is.
    """

    name = "boot-remap"
    size = 0x1000

    def __init__(
        self, show: Callable[[bool], None], window: tuple[int, int], *, keep: bool = False
    ) -> None:
        self.state = BootRemapState()
        self._show = show
        self._window = window
        self._keep = keep

    def reset(self) -> None:
        """Back to flash, unless the view is kept."""
        if not self._keep:
            self.restore(BootRemapState())

    def restore(self, state: BootRemapState) -> None:
        """Continue from `state`; the window follows."""
        self.state = state
        self._show(state.view == RAM)

    def read(self, offset: int, size: int) -> int:
        """4 bytes."""
        check_access(offset, size, (4,), write=False)
        return {ID: IDENTITY, VIEW: self.state.view}.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """4 bytes."""
        check_access(offset, size, (4,), write=True)
        if offset == VIEW:
            self.state.view = value & 1
            self._show(self.state.view == RAM)

    def describe(self, context: NodeContext) -> None:
        """``boot-remap``: the registers, then the window."""
        node = context.node("boot-remap")
        node.string("compatible", "coldboot,boot-remap")
        node.u64("reg", context.base, context.size, *self._window)
