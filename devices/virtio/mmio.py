"""Virtio over MMIO: the registers of one slot, in both versions, in front of any backend.

Problem: a driver finds a slot, agrees on features, places queues in its memory, and from then on
notifies and is interrupted. Old firmware speaks the legacy version of this, others the modern one.

Invariants:
- A slot without a backend answers with magic, version and DeviceID 0, and ignores everything else.
- A driver's mistake with a queue, whatever it is, breaks the device and not the emulator:
  DEVICE_NEEDS_RESET is set, a running driver gets a configuration interrupt, and no queue is
  touched until the driver resets the device.
- A modern driver gets FEATURES_OK only for a subset of what was offered, VERSION_1 included, and no
  buffer is used before DRIVER_OK. Legacy drivers may begin before (section 3.1.2).
- The interrupt line is high exactly while InterruptStatus is not 0.

Source: VIRTIO Version 1.2, sections 2.1 to 2.3, 3.1 and 4.2 (4.2.4 for the legacy interface).
Read next: `queue` for the rings, `rng` and `blk` for backends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from devices.device import AccessFault, GuestMemory, Irq, NodeContext, check_access
from devices.virtio.queue import (
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    QueueError,
    QueueState,
    VirtQueue,
)
from protocol.logs import get_logger

MAGIC_VALUE = 0x000
VERSION = 0x004
DEVICE_ID = 0x008
VENDOR_ID = 0x00C
DEVICE_FEATURES = 0x010
DEVICE_FEATURES_SEL = 0x014
DRIVER_FEATURES = 0x020
DRIVER_FEATURES_SEL = 0x024
GUEST_PAGE_SIZE = 0x028  # legacy
QUEUE_SEL = 0x030
QUEUE_NUM_MAX = 0x034
QUEUE_NUM = 0x038
QUEUE_ALIGN = 0x03C  # legacy
QUEUE_PFN = 0x040  # legacy
QUEUE_READY = 0x044
QUEUE_NOTIFY = 0x050
INTERRUPT_STATUS = 0x060
INTERRUPT_ACK = 0x064
STATUS = 0x070
QUEUE_DESC_LOW = 0x080
QUEUE_DESC_HIGH = 0x084
QUEUE_DRIVER_LOW = 0x090
QUEUE_DRIVER_HIGH = 0x094
QUEUE_DEVICE_LOW = 0x0A0
QUEUE_DEVICE_HIGH = 0x0A4
SHM_REGISTERS = range(0x0B0, 0x0C0, 4)  # length and base of a region: -1, there is none
CONFIG_GENERATION = 0x0FC
CONFIG = 0x100

MAGIC = 0x74726976  # "virt"
VENDOR = 0x554D4551  # "QEMU": some tools show it, none decides by it

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
DEVICE_NEEDS_RESET, FAILED = 0x40, 0x80

USED_BUFFER, CONFIG_CHANGE = 1, 2
"""Bits of InterruptStatus."""

F_ANY_LAYOUT = 1 << 27  # legacy: no device here cares how a buffer is cut into descriptors
F_VERSION_1 = 1 << 32

_LOW = 0xFFFFFFFF
_ADDRESSES = {
    QUEUE_DESC_LOW: ("descriptors", 0),
    QUEUE_DESC_HIGH: ("descriptors", 32),
    QUEUE_DRIVER_LOW: ("available", 0),
    QUEUE_DRIVER_HIGH: ("available", 32),
    QUEUE_DEVICE_LOW: ("used", 0),
    QUEUE_DEVICE_HIGH: ("used", 32),
}

log = get_logger("virtio")


class Backend(Protocol):
    """What a device type is, behind any transport."""

    @property
    def name(self) -> str:
        """For logs: ``virtio-blk``."""
        ...

    @property
    def device_id(self) -> int:
        """Its number in section 5 of the specification."""
        ...

    @property
    def features(self) -> int:
        """The feature bits of its own that it offers (0 to 23)."""
        ...

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """For each queue, the most descriptors it can have."""
        ...

    @property
    def config(self) -> bytes:
        """Its configuration space, as it is now."""
        ...

    @property
    def state(self) -> Any:
        """Its plain dataclass; `restore` puts another in place."""
        ...

    def attach(self, serve: Callable[[int], None], config_changed: Callable[[], None]) -> None:
        """Called once by the transport, with what the backend calls when something happens.

        `serve(index)` has `process` called for a queue (input has arrived for it);
        `config_changed()` tells the driver that `config` differs.
        """
        ...

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to the configuration space, inside it."""
        ...

    def process(self, index: int, queue: VirtQueue) -> None:
        """Serve what is in a queue. May raise `QueueError` and `AccessFault`."""
        ...

    def reset(self) -> None:
        """The driver, or the machine, resets the device."""
        ...

    def restore(self, state: Any) -> None:
        """Continue from a saved state."""
        ...


@dataclass
class VirtioMmioState:
    """Registers, the queues' states, and the backend's."""

    status: int = 0
    interrupt_status: int = 0
    device_features_sel: int = 0
    driver_features_sel: int = 0
    driver_features: int = 0
    guest_page_size: int = 0
    queue_sel: int = 0
    config_generation: int = 0
    queues: list[QueueState] = field(default_factory=list)
    backend: Any = None


class VirtioMmio:
    """One slot. `legacy`: version 1 of the interface, else version 2."""

    name = "virtio-mmio"
    size = 0x1000

    def __init__(
        self,
        irq: Irq,
        memory: GuestMemory,
        backend: Backend | None = None,
        *,
        legacy: bool = False,
    ) -> None:
        self.backend = backend
        self.legacy = legacy
        self._irq = irq
        self._queues: list[VirtQueue] = []
        self._offered = 0
        if backend is not None:
            self._queues = [VirtQueue(memory, size) for size in backend.queue_sizes]
            self._offered = backend.features | F_INDIRECT_DESC | F_EVENT_IDX
            self._offered |= F_ANY_LAYOUT if legacy else F_VERSION_1
            backend.attach(self._serve, self._config_changed)
        self._registers = self._fresh()

    @property
    def state(self) -> VirtioMmioState:
        """Everything, the backend's state included."""
        self._registers.backend = None if self.backend is None else self.backend.state
        return self._registers

    def reset(self) -> None:
        """As after power-on."""
        self._registers = self._fresh()
        if self.backend is not None:
            self.backend.reset()
        self._update()

    def restore(self, state: VirtioMmioState) -> None:
        """Continue from `state`, which must come from a slot with the same backend."""
        self._registers = state
        for queue, queue_state in zip(self._queues, state.queues, strict=True):
            queue.state = queue_state
            queue.features = state.driver_features
        if self.backend is not None:
            self.backend.restore(state.backend)
        self._update()

    def read(self, offset: int, size: int) -> int:
        """Registers: 4 bytes; configuration space: 1, 2, 4 bytes, and 0 beyond its end."""
        backend = self.backend
        if offset >= CONFIG:
            check_access(offset, size, (1, 2, 4), write=False)
            if backend is None:
                return 0
            at = offset - CONFIG
            return int.from_bytes(backend.config[at : at + size], "little")
        check_access(offset, size, (4,), write=False)
        if offset == MAGIC_VALUE:
            return MAGIC
        if offset == VERSION:
            return 1 if self.legacy else 2
        if backend is None:
            return 0
        registers = self._registers
        if offset == INTERRUPT_STATUS:
            return registers.interrupt_status
        if offset == DEVICE_ID:
            return backend.device_id
        if offset == VENDOR_ID:
            return VENDOR
        if offset == DEVICE_FEATURES:
            sel = registers.device_features_sel
            return self._offered >> 32 * sel & _LOW if sel < 2 else 0
        if offset == STATUS:
            return registers.status
        if offset == QUEUE_NUM_MAX:
            queue = self._selected()
            return queue.maximum if queue is not None else 0
        if offset == QUEUE_PFN and self.legacy:
            queue = self._selected()
            return queue.state.page if queue is not None else 0
        if self.legacy:
            return 0
        if offset == QUEUE_READY:
            queue = self._selected()
            return int(queue is not None and queue.state.ready)
        if offset == CONFIG_GENERATION:
            return registers.config_generation
        return _LOW if offset in SHM_REGISTERS else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Registers: 4 bytes; configuration space: 1, 2, 4 bytes, ignored beyond its end."""
        backend = self.backend
        if offset >= CONFIG:
            check_access(offset, size, (1, 2, 4), write=True)
            at = offset - CONFIG
            if backend is not None and at + size <= len(backend.config):
                data = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
                backend.write_config(at, data)
            return
        check_access(offset, size, (4,), write=True)
        if backend is None:
            return
        registers = self._registers
        value &= _LOW
        if offset == QUEUE_NOTIFY:
            self._serve(value)
        elif offset == INTERRUPT_ACK:
            registers.interrupt_status &= ~value
            self._update()
        elif offset == STATUS:
            self._set_status(value & 0xFF)
        elif offset == DEVICE_FEATURES_SEL:
            registers.device_features_sel = value
        elif offset == DRIVER_FEATURES_SEL:
            registers.driver_features_sel = value
        elif offset == DRIVER_FEATURES:
            self._accept_features(value)
        elif offset == QUEUE_SEL:
            registers.queue_sel = value
        elif offset == GUEST_PAGE_SIZE:
            registers.guest_page_size = value
        else:
            queue = self._selected()
            if queue is not None:
                self._write_queue(queue, offset, value)

    def describe(self, context: NodeContext) -> None:
        """``virtio,mmio``; drivers find out what is behind it, empty slots included."""
        context.node("virtio_mmio").string("compatible", "virtio,mmio")

    def _fresh(self) -> VirtioMmioState:
        for queue in self._queues:
            queue.state = QueueState()
            queue.features = 0
        return VirtioMmioState(queues=[queue.state for queue in self._queues])

    def _selected(self) -> VirtQueue | None:
        sel = self._registers.queue_sel
        return self._queues[sel] if sel < len(self._queues) else None

    def _accept_features(self, value: int) -> None:
        registers = self._registers
        if registers.driver_features_sel > 1 or registers.status & FEATURES_OK:
            return
        shift = 32 * registers.driver_features_sel
        registers.driver_features &= ~(_LOW << shift)
        registers.driver_features |= value << shift
        if self.legacy:  # nobody answers a legacy driver that it asked for too much
            registers.driver_features &= self._offered
        for queue in self._queues:
            queue.features = registers.driver_features

    def _set_status(self, value: int) -> None:
        if value == 0:
            # A driver tells its page size once for all its resets: Linux does before the first.
            page_size = self._registers.guest_page_size
            self.reset()
            self._registers.guest_page_size = page_size
            return
        registers = self._registers
        started = value & ~registers.status & DRIVER_OK
        if not self.legacy and value & ~registers.status & FEATURES_OK:
            features = registers.driver_features
            if features & ~self._offered or not features & F_VERSION_1:
                value &= ~FEATURES_OK
        registers.status = value | registers.status & DEVICE_NEEDS_RESET
        if started:
            for index in range(len(self._queues)):
                self._serve(index)

    def _write_queue(self, queue: VirtQueue, offset: int, value: int) -> None:
        """The registers of the selected queue; a queue in use keeps its size and its place."""
        state = queue.state
        if offset == QUEUE_PFN and self.legacy:
            page_size = self._registers.guest_page_size
            align = state.align or page_size
            self._guarded(lambda: queue.set_legacy_ring(value, page_size, align))
        elif offset == QUEUE_READY and not self.legacy:
            if not value & 1:
                state.ready = False
            elif not state.ready:
                self._guarded(queue.enable)
        elif state.ready:
            return
        elif offset == QUEUE_NUM:
            state.size = value
        elif self.legacy:
            if offset == QUEUE_ALIGN:
                state.align = value
        elif offset in _ADDRESSES:
            part, shift = _ADDRESSES[offset]
            others = getattr(state, part) & ~(_LOW << shift)
            setattr(state, part, others | value << shift)

    def _serve(self, index: int) -> None:
        """Let the backend work on a queue, then interrupt the driver if it wants that."""
        backend, status = self.backend, self._registers.status
        if backend is None or index >= len(self._queues) or status & DEVICE_NEEDS_RESET:
            return
        queue = self._queues[index]
        if not queue.state.ready or not (self.legacy or status & DRIVER_OK):
            return

        def work() -> None:
            backend.process(index, queue)
            if queue.take_signal():
                self._registers.interrupt_status |= USED_BUFFER
                self._update()

        self._guarded(work)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work` on a queue; a driver's mistake breaks the device (section 2.1.2)."""
        try:
            work()
        except (QueueError, AccessFault) as error:
            name = self.backend.name if self.backend is not None else self.name
            log.warning("virtio_device_broken", device=name, reason=str(error))
            registers = self._registers
            registers.status |= DEVICE_NEEDS_RESET
            if registers.status & DRIVER_OK:
                registers.interrupt_status |= CONFIG_CHANGE
            self._update()

    def _config_changed(self) -> None:
        registers = self._registers
        registers.config_generation = (registers.config_generation + 1) & _LOW
        if registers.status & DRIVER_OK:
            registers.interrupt_status |= CONFIG_CHANGE
            self._update()

    def _update(self) -> None:
        self._irq(self._registers.interrupt_status != 0)
