"""The machine's device tree: what firmware and kernels are told about the board.

Problem: OpenSBI, U-Boot and Linux learn everything from one blob: harts and what they can do, RAM,
what to boot with, and where each device stands. QEMU's ``virt`` is the board they know.

Invariants:
- Devices describe themselves (`Device.describe`), in the board's order; here stands only what is no
  device: harts, memory, ``/chosen``, the bus.
- The interrupt controller's phandle is reserved first: the order of devices does not matter.
- The ISA is told twice, as ``riscv,isa`` for older readers and as ``riscv,isa-base`` with
  ``riscv,isa-extensions`` for newer ones; both are made from one list.

Source: Devicetree Specification v0.4; Linux's bindings ``riscv/cpus.yaml``,
``riscv/extensions.yaml``.
Read next: `reset_rom`, which hands the blob's address to the firmware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from devices.device import Device, NodeContext
from protocol.fdt import DeviceTree, Node

TIMEBASE_HZ = 10_000_000

ISA_BASE = "rv64i"
ISA_EXTENSIONS = (
    *("i", "m", "a", "f", "d", "c"),
    *("zicntr", "zicsr", "zifencei", "zba", "zbb", "zbs", "sstc"),
)
"""What every hart has, in canonical order; `MachineDescription.extensions` adds Svade or Svadu."""

MMU_TYPES = ("riscv,sv39", "riscv,sv48", "riscv,sv57")


@dataclass(frozen=True)
class Placed:
    """A device at its place on the board."""

    device: Device
    base: int
    """Guest-physical address of its window."""
    irq: int | None = None
    """Its source at the PLIC, if it interrupts."""


@dataclass(frozen=True)
class MachineDescription:
    """What the device tree says besides the devices. Addresses are guest-physical, sizes bytes."""

    ram_base: int
    ram_size: int
    harts: int = 1
    extensions: tuple[str, ...] = (*ISA_EXTENSIONS, "svade")
    """In canonical order: single letters first. For hardware updating of A and D, "svadu"."""
    mmu_type: str = "riscv,sv57"
    """The largest translation mode, one of `MMU_TYPES`."""
    bootargs: str | None = None
    """The kernel's command line."""
    initrd: tuple[int, int] | None = None
    """Start and end (exclusive) of the initial ramdisk."""
    rng_seed: bytes = b""
    """Seed for the kernel's random numbers, 32 bytes or more; without it, none is given."""
    model: str = "riscv-virtio,coldboot"
    timebase_hz: int = TIMEBASE_HZ

    @property
    def isa(self) -> str:
        """The ISA string: ``rv64imafdc_zicntr_...``."""
        letters = "".join(name for name in self.extensions if len(name) == 1)
        return "_".join(["rv64" + letters, *(name for name in self.extensions if len(name) > 1)])


def build_device_tree(devices: Sequence[Placed], machine: MachineDescription) -> bytes:
    """The blob. The first UART in `devices` becomes the console."""
    tree = DeviceTree()
    root = tree.root
    root.u32("#address-cells", 2)
    root.u32("#size-cells", 2)
    root.string("compatible", "riscv-virtio")
    root.string("model", machine.model)
    _describe_chosen(root.node("chosen"), machine)
    memory = root.node(f"memory@{machine.ram_base:x}")
    memory.string("device_type", "memory")
    memory.u64("reg", machine.ram_base, machine.ram_size)
    hart_controllers = _describe_harts(root.node("cpus"), machine)
    soc = root.node("soc")
    soc.u32("#address-cells", 2)
    soc.u32("#size-cells", 2)
    soc.string("compatible", "simple-bus")
    soc.empty("ranges")
    controller = tree.reserve_phandle()
    for placed in devices:
        placed.device.describe(
            NodeContext(
                root=root,
                soc=soc,
                base=placed.base,
                size=placed.device.size,
                irq=placed.irq,
                controller=controller,
                hart_controllers=hart_controllers,
            )
        )
    return tree.to_bytes()


def _describe_chosen(chosen: Node, machine: MachineDescription) -> None:
    if machine.bootargs is not None:
        chosen.string("bootargs", machine.bootargs)
    if machine.initrd is not None:
        start, end = machine.initrd
        chosen.u64("linux,initrd-start", start)
        chosen.u64("linux,initrd-end", end)
    if machine.rng_seed:
        chosen.raw("rng-seed", machine.rng_seed)


def _describe_harts(cpus: Node, machine: MachineDescription) -> tuple[int, ...]:
    """Fill ``/cpus``; the phandles of the harts' interrupt controllers."""
    if machine.mmu_type not in MMU_TYPES:
        raise ValueError(f"mmu-type {machine.mmu_type!r} is none of {', '.join(MMU_TYPES)}")
    cpus.u32("#address-cells", 1)
    cpus.u32("#size-cells", 0)
    cpus.u32("timebase-frequency", machine.timebase_hz)
    controllers = []
    for hart in range(machine.harts):
        cpu = cpus.node(f"cpu@{hart:x}")
        cpu.string("device_type", "cpu")
        cpu.u32("reg", hart)
        cpu.string("status", "okay")
        cpu.string("compatible", "riscv")
        cpu.string("riscv,isa", machine.isa)
        cpu.string("riscv,isa-base", ISA_BASE)
        cpu.string("riscv,isa-extensions", *machine.extensions)
        cpu.string("mmu-type", machine.mmu_type)
        controller = cpu.node("interrupt-controller")
        controller.string("compatible", "riscv,cpu-intc")
        controller.empty("interrupt-controller")
        controller.u32("#interrupt-cells", 1)
        controller.u32("#address-cells", 0)
        controllers.append(controller.phandle)
    cluster = cpus.node("cpu-map").node("cluster0")
    for hart in range(machine.harts):
        cluster.node(f"core{hart}").u32("cpu", cpus.node(f"cpu@{hart:x}").phandle)
    return tuple(controllers)
