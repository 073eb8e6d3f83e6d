"""What a machine is asked to be and do: one frozen `RunOptions`, however it was said.

Problem: the command line, the stress tool and tests all make machines; none may leave out a word of
what the others say. Everything here is plain data with a default.

Read next: `options.py` (the command line), `machine.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from cpu_proc.option_values import MIB

FLASH_BANKS = 2


@dataclass(frozen=True)
class Serial:
    """Where the guest's first serial port leads.

    `kind`: "mon" (terminal, with Ctrl-A keys and monitor), "stdio" (terminal without them: Ctrl-C
    ends the emulator), "file" (output to `path`, no input) or "null".
    """

    kind: str = "mon"
    path: str = ""


@dataclass(frozen=True)
class Drive:
    """A raw disk image on the host."""

    path: str
    readonly: bool = False
    id: str = ""


@dataclass(frozen=True)
class VirtioDevice:
    """A virtio-mmio device, `kind` "blk" (with its `drive`) or "rng"."""

    kind: str
    drive: Drive | None = None


@dataclass(frozen=True)
class ExtraImage:
    """`-device loader`: a file copied into memory at each reset.

    `address`: guest-physical; None only for an ELF, which has its own. `force_raw`: copy even an
    ELF byte by byte.
    """

    path: str
    address: int | None = None
    force_raw: bool = False


@dataclass(frozen=True)
class RunOptions:
    """All that a machine is told at its start. Sizes are bytes, paths as the user gave them."""

    program: str | None = None
    """The positional file: firmware entered in M-mode, in place of `bios`."""
    svadu: bool = True
    """Hardware sets the A and D bits of page-table entries (Svadu); otherwise it faults (Svade)."""
    sstc: bool = True
    """The guest has `stimecmp`."""
    boot_remap: str = "off"
    """"on": the board has a boot-remap controller, and a reset shows flash in its window; "keep":
    a reset leaves the view.
    """
    dump_dtb: str | None = None
    """Write the device tree there and exit."""
    ram_size: int = 512 * MIB
    harts: int = 1
    bios: str = "default"
    """A path, "default" (OpenSBI's fw_dynamic, searched) or "none"."""
    kernel: str | None = None
    initrd: str | None = None
    append: str = ""
    """The kernel's command line."""
    images: tuple[ExtraImage, ...] = ()
    virtio: tuple[VirtioDevice, ...] = ()
    """In the order of the command line. QEMU fills the highest virtio-mmio slot first."""
    virtio_legacy: bool = True
    """The virtio-mmio slots speak version 1, QEMU's default; otherwise version 2."""
    watchdog: bool = False
    """The board has a watchdog."""
    pflash: tuple[Drive | None, ...] = (None,) * FLASH_BANKS
    """The file of each flash bank; without one, a bank begins erased."""
    serial: Serial = Serial()
    fatal: str = "none"
    """What a trap that cannot be taken does: "none" (the hart goes on trapping, as hardware does),
    "report" it, "reset" the system or "halt" with status 1.
    """
    reboot: bool = True
    """False (`-no-reboot`): a guest's reset ends the run."""
    log_items: frozenset[str] = frozenset()
    """A subset of `LOG_ITEMS`."""
    log_file: str | None = None
    log_json: bool = False
    icount: int | None = None
    """Guest time is counted: 2**icount ns an instruction. None: guest time is the host's."""
    translator: str = "embedded"
    """"embedded" (a child of this process), "none" (tier 0 only), or the endpoint of a running
    service.
    """
    backend: str = ""
    """What translates, `NAME` or `NAME,OPTION=VALUE,...`; empty for the translator's default."""
    threshold: int | None = None
    """Executions of a record after which its region is asked for; 1: from the first execution on.
    None: when it ran for so long that a region is worth a worker's time.
    """
    cold: bool = False
    """Neither read nor write the content store of translations."""
    load_snapshot: str | None = None
    """A snapshot's file to go on from, instead of starting at the reset vector."""
    explain: str | None = None
    """Write every retirement there, a line of JSON each."""
    trace: str | None = None
    """Write a time line of machine and translator there, in Chrome's trace format."""
    profile: str | None = None
    """Write the guest's hot functions to this name with .txt, .folded and .svg."""
    jitdump: str | None = None
    """A folder; write there what perf needs to name translated code."""
    symbols: tuple[str, ...] = ()
    """Files that name the guest's addresses, besides those loaded."""
    qmp: str = ""
    """The socket on which QMP is spoken; empty: one in the runtime folder; "none": nowhere."""
    stats: bool = False
    """Tell at the end what was executed, translated and retired."""
    max_instructions: int | None = None
    """Stop after so many retired instructions."""
    signature: str | None = None
    """Write the words between begin_signature and end_signature there at the end."""
    signature_granularity: int = 4
    """Bytes to a line of the signature."""

    @property
    def image_files(self) -> list[str]:
        """The files that may hold the guest's code."""
        bios = "" if self.bios in ("default", "none") else self.bios
        named = [self.program, bios, self.kernel, *(image.path for image in self.images)]
        return [path for path in named if path]
