"""The board: which devices there are, where, and how they are wired. QEMU's `virt`.

The memory map stands in one table (`PLACES`); devices know neither their address nor each other.
Adding a device is its file, a row here and a line in `Board.__init__`.

Invariants: every access to a device, and every input to one from a thread, happens under the
machine's lock; what a device wants of the machine it only asks for (`Machine.request`).

Read next: `machine.py`.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from cpu_proc.alarm import Alarm
from cpu_proc.boot_window import WINDOW_BASE, BootWindow
from cpu_proc.flash_bank import FlashBank
from cpu_proc.hart import MEIP, MSIP, NEVER, SEIP, TICK_NS
from cpu_proc.loader import FLASH_BASE, RAM_BASE
from devices import device_tree
from devices.boot_remap import BootRemap
from devices.cfi_flash import CfiFlash
from devices.clint import Clint
from devices.device import Device
from devices.fw_cfg import FwCfg
from devices.fw_cfg import items as fw_cfg_items
from devices.goldfish_rtc import GoldfishRtc
from devices.plic import Plic
from devices.reset_rom import reset_rom
from devices.test_finisher import TestFinisher
from devices.uart16550 import Uart16550
from devices.virtio.mmio import VirtioMmio
from devices.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.hart import Hart
    from cpu_proc.loader import LoadPlan
    from cpu_proc.machine import Machine
    from cpu_proc.run_options import Drive, RunOptions, VirtioDevice
    from devices.virtio.mmio import Backend

ROM_BASE = 0x1000
RESET_VECTOR = ROM_BASE
VIRTIO_SLOTS = 8


class Place(NamedTuple):
    base: int
    irq: int | None = None


PLACES = {
    "test_finisher": Place(0x10_0000),
    "rtc": Place(0x10_1000, 11),
    "boot_remap": Place(0x10_2000),
    "watchdog": Place(0x10_3000, 12),
    "clint": Place(0x200_0000),
    "plic": Place(0xC00_0000),
    "uart": Place(0x1000_0000, 10),
    **{f"virtio{i}": Place(0x1000_1000 + 0x1000 * i, 1 + i) for i in range(VIRTIO_SLOTS)},
    "fw_cfg": Place(0x1010_0000),
    "flash0": Place(FLASH_BASE),
    "flash1": Place(0x2200_0000),
}


class ClintPorts:
    """The CLINT's wires to the harts."""

    def __init__(self, harts: list[Hart], moved: Callable[[], None]) -> None:
        """`moved` is called when mtime was set."""
        self._harts = harts
        self._moved = moved

    def set_msip(self, hart: int, level: bool) -> None:
        self._harts[hart].set_line(MSIP, level)

    def get_mtimecmp(self, hart: int) -> int:
        return int(self._harts[hart].state.mtimecmp)

    def set_mtimecmp(self, hart: int, value: int) -> None:
        target = self._harts[hart]
        target.state.mtimecmp = value
        target.state.quiet_until = 0
        target.state.limit = 0
        target.wake.set()

    def mtime(self) -> int:
        return self._harts[0].now()

    def set_mtime(self, value: int) -> None:
        for hart in self._harts:
            hart.state.time_offset = (hart.state.time_offset + value - hart.now()) & NEVER
            hart.state.quiet_until = 0
            hart.state.limit = 0
            hart.wake.set()
        self._moved()


class Board:
    """All devices of one machine, at their places in its memory map."""

    def __init__(
        self, machine: Machine, options: RunOptions, transmit: Callable[[bytes], None]
    ) -> None:
        self._machine = machine
        self._options = options
        harts = machine.harts
        self.plic = plic = Plic(len(harts), self._set_external)
        self.uart = Uart16550(plic.line(PLACES["uart"].irq or 0), transmit)
        self._alarm: threading.Timer | None = None
        self._dog_alarm: Alarm | None = None
        self.devices: dict[str, Device] = {
            "test_finisher": TestFinisher(machine.request),
            "rtc": GoldfishRtc(
                plic.line(PLACES["rtc"].irq or 0), self._wall_clock, self._set_alarm
            ),
            "clint": Clint(len(harts), ClintPorts(harts, self.clock_moved)),
            "plic": plic,
            "uart": self.uart,
            "fw_cfg": self._make_fw_cfg(),
        }
        backends = self._backends(options)
        for i in range(VIRTIO_SLOTS):
            name = f"virtio{i}"
            self.devices[name] = VirtioMmio(
                plic.line(PLACES[name].irq or 0),
                machine.memory,
                backends.get(i),
                legacy=options.virtio_legacy,
            )
        for name, device in self.devices.items():
            machine.memory.add_device(PLACES[name].base, device)
        self.banks = [self._add_flash(i, drive) for i, drive in enumerate(options.pflash)]
        if options.boot_remap != "off":
            self._add_boot_remap(options)
        if options.watchdog:
            self._add_watchdog()

    def _make_fw_cfg(self) -> FwCfg:
        payload = self._machine.plan.payload
        numbered = fw_cfg_items(
            len(self._machine.harts),
            kernel=payload.kernel,
            initrd=payload.initrd,
            command_line=payload.command_line,
        )
        return FwCfg(self._machine.memory, numbered)

    def _add_flash(self, unit: int, drive: Drive | None) -> FlashBank:
        """A flash bank: memory or a device, by turns."""
        machine, name = self._machine, f"flash{unit}"
        store = None
        if drive is not None:
            from devices.virtio.blk import RawDisk

            store = RawDisk(drive.path, readonly=drive.readonly)
        bank = FlashBank(
            machine.memory,
            machine.safe_point.post,
            machine.guest.backings[name],
            store=store,
            path=drive.path if drive is not None else "",
            readonly=drive is not None and drive.readonly,
        )
        readonly = drive is not None and drive.readonly
        banks = len(self._options.pflash) if unit == 0 else 0
        device = CfiFlash(bank, bank.remap, readonly=readonly, banks=banks)
        self.devices[name] = device
        bank.attach(PLACES[name].base, device)
        return bank

    def _add_boot_remap(self, options: RunOptions) -> None:
        machine = self._machine
        window = BootWindow(
            machine.memory,
            machine.safe_point.post,
            self.banks[0],
            machine.memory.placement(machine.ram),
            options.ram_size,
        )
        keep = options.boot_remap == "keep"
        device = BootRemap(window.show, (WINDOW_BASE, window.size), keep=keep)
        self.devices["boot_remap"] = device
        machine.memory.add_device(PLACES["boot_remap"].base, device)

    def _add_watchdog(self) -> None:
        machine, place = self._machine, PLACES["watchdog"]
        self._dog_alarm = alarm = Alarm(machine, lambda: device.poll())
        device = Watchdog(
            self.plic.line(place.irq or 0), machine.harts[0].now, alarm.set, machine.request
        )
        self.devices["watchdog"] = device
        machine.memory.add_device(place.base, device)

    def clock_moved(self) -> None:
        """mtime got somewhere, or was set: see who waits for it."""
        if self._dog_alarm is not None:
            self._dog_alarm.look()

    @staticmethod
    def _backends(options: RunOptions) -> dict[int, Backend]:
        """Virtio devices by slot: the highest slot first, as QEMU does."""
        return {
            VIRTIO_SLOTS - 1 - i: _virtio_backend(device, i)
            for i, device in enumerate(options.virtio)
        }

    def device_tree(self, plan: LoadPlan) -> bytes:
        """The blob that describes this board and what is loaded on it."""
        options = self._options
        update = "svadu" if options.svadu else "svade"
        extensions = [e for e in device_tree.ISA_EXTENSIONS if options.sstc or e != "sstc"]
        seed = bytes(range(32)) if options.icount is not None else os.urandom(32)
        description = device_tree.MachineDescription(
            ram_base=RAM_BASE,
            ram_size=options.ram_size,
            harts=options.harts,
            extensions=(*extensions, update),
            bootargs=options.append or None,
            initrd=plan.initrd,
            rng_seed=seed,
        )
        placed = [
            device_tree.Placed(device, *PLACES[name]) for name, device in self.devices.items()
        ]
        return device_tree.build_device_tree(placed, description)

    @staticmethod
    def rom(plan: LoadPlan) -> bytes:
        """The reset ROM's contents."""
        return reset_rom(
            plan.entry,
            plan.dtb_address,
            next_address=plan.next_address,
            next_mode=plan.next_mode,
        )

    def reset(self) -> None:
        """Reset every device."""
        for device in self.devices.values():
            device.reset()

    def close(self) -> None:
        """Let go of threads and files."""
        self._set_alarm(None)
        if self._dog_alarm is not None:
            self._dog_alarm.close()
        for bank in self.banks:
            bank.close()

    # --- wires -----------------------------------------------------------------------------

    def _set_external(self, context: int, level: bool) -> None:
        self._machine.harts[context >> 1].set_line(SEIP if context & 1 else MEIP, level)

    def _wall_clock(self) -> int:
        """Nanoseconds since 1970; counted from a fixed day under -icount."""
        if self._options.icount is not None:
            return 1_735_689_600_000_000_000 + self._machine.harts[0].now() * TICK_NS
        return time.time_ns()

    def _set_alarm(self, when: int | None) -> None:
        """Call the clock again at `when`, nanoseconds since 1970."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if when is not None:
            self._alarm = threading.Timer(max(0.0, (when - self._wall_clock()) / 1e9), self._ring)
            self._alarm.daemon = True
            self._alarm.start()

    def _ring(self) -> None:
        clock = self.devices["rtc"]
        assert isinstance(clock, GoldfishRtc)
        with self._machine.lock:
            clock.poll()


def _virtio_backend(device: VirtioDevice, number: int) -> Backend:
    if device.kind == "blk":
        from devices.virtio.blk import RawDisk, VirtioBlk

        assert device.drive is not None
        disk = RawDisk(device.drive.path, readonly=device.drive.readonly)
        return VirtioBlk(disk, identity=f"coldboot-{number}")
    from devices.virtio.rng import VirtioRng

    return VirtioRng()
