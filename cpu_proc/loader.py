"""What stands in RAM when the first instruction runs: a plan of images, made once, copied at every
reset.

Problem: firmware, kernel, initrd and device tree must land where QEMU puts them, because guests
count on it, and a system reset must put them there again. So the work is divided: `plan` looks at
files and decides addresses, without a machine; `LoadPlan.copy` writes the bytes through whatever
function the machine gives it.

Invariants:
- A plan is checked before anything is written: each image lies in RAM, no two overlap, none reaches
  into the space kept for the device tree.
- Image data are views of memory-mapped files: the only copy made is the one into RAM. The plan
  holds the maps, so a file that is *replaced* on the host does not change a running machine (one
  rewritten in place does, at a reset).
- Only an ELF makes pyelftools be imported, and only its program headers and four symbols are read.
- Whatever is wrong with a file ends as a `UserError` that names the option.

Placement (QEMU `virt`, hw/riscv/boot.c): firmware at the start of RAM; the kernel at the next 2 MiB
boundary after it (RAM + 0x200000 for OpenSBI); the initrd min(RAM / 2, 128 MiB) above the kernel;
the device tree in the last 2 MiB of RAM, or of RAM's first GiB. ELF files go to their physical
addresses.

With a file in flash bank 0 that bank holds what the firmware starts (edk2, say), and nothing of
`-kernel` and `-initrd` stands in RAM: the program in flash asks for them by fw_cfg. With
`-bios none` the harts themselves begin in flash. (As on QEMU from 8.1 on.)

Read next: `memory_map` (what `copy` writes through), `options` (where the names come from).
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cpu_proc.option_values import MIB
from cpu_proc.run_options import RunOptions
from protocol.errors import UserError

RAM_BASE = 0x8000_0000
ROM_SIZE = 0x1000
FLASH_BASE = 0x2000_0000
PAGE = 4096
BIG_PAGE = 2 * MIB
"""Alignment of kernel and device tree: a megapage, which a kernel maps with one entry."""
DTB_CEILING = 0xC000_0000
"""32-bit firmware must reach the device tree: it lies below 3 GiB."""
DTB_SPACE = 64 << 10
"""Bytes kept free for the device tree."""

PRIV_S, PRIV_M = 1, 3
"""Values of `next_mode` in OpenSBI's fw_dynamic_info."""

WANTED_SYMBOLS = ("tohost", "fromhost", "begin_signature", "end_signature")

_EM_RISCV = 243
_MACHINES = {2: "SPARC", 3: "x86", 8: "MIPS", 20: "PowerPC", 21: "PowerPC", 22: "S390", 40: "Arm"}
_MACHINES |= {62: "x86-64", 183: "AArch64", 258: "LoongArch"}
_PACKED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}
_ZEROS = bytes(64 << 10)


@dataclass(frozen=True)
class Image:
    """`data` at guest-physical `address`, then `zero_bytes` of zeros (an ELF's .bss)."""

    name: str
    address: int
    data: memoryview
    zero_bytes: int = 0

    @property
    def end(self) -> int:
        """First address after the image and its zeros."""
        return self.address + len(self.data) + self.zero_bytes


@dataclass(frozen=True)
class Payload:
    """What a program in flash fetches for itself, by fw_cfg."""

    kernel: memoryview | bytes = b""
    initrd: memoryview | bytes = b""
    command_line: str = ""


@dataclass(frozen=True)
class LoadPlan:
    """Where everything goes, and where the harts begin.

    `entry`: address that the reset ROM jumps to, in M-mode. `next_address`, `next_mode`: what
    fw_dynamic_info tells the firmware to start (0: nothing). `dtb_address`: where the device tree
    goes, with `DTB_SPACE` bytes free. `initrd`: its start and end, for /chosen. `symbols`: those of
    `WANTED_SYMBOLS` that the entered program has. `payload`: what is not in RAM yet.
    """

    images: tuple[Image, ...]
    entry: int
    dtb_address: int
    next_address: int = 0
    next_mode: int = PRIV_S
    initrd: tuple[int, int] | None = None
    symbols: Mapping[str, int] = field(default_factory=dict)
    payload: Payload = Payload()

    def copy(
        self, write: Callable[[int, memoryview | bytes], None], *, fresh: bool = False
    ) -> None:
        """`write(address, data)` for every image; zeros too, unless RAM is `fresh`, all zeros."""
        for image in self.images:
            write(image.address, image.data)
            if fresh:
                continue
            for address in range(image.address + len(image.data), image.end, len(_ZEROS)):
                write(address, _ZEROS[: image.end - address])


def default_firmware() -> str | None:
    """The path that `-bios default` means: OpenSBI's fw_dynamic.bin, or None if it is nowhere."""
    for path in firmware_candidates():
        if os.path.isfile(path):
            return path
    return None


def firmware_candidates() -> list[str]:
    """Where `-bios default` looks, in this order."""
    return [
        os.path.join(guests_folder(), "fw_dynamic.bin"),
        "/usr/share/opensbi/lp64/generic/firmware/fw_dynamic.bin",
        "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
        "/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin",
    ]


def guests_folder() -> str:
    """Where `coldboot guests fetch` leaves its files by default (see `guests.default_folder`)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = cache if cache.startswith("/") else os.path.expanduser("~/.cache")
    return os.path.join(base, "coldboot", "guests")


def plan(options: RunOptions, ram_base: int = RAM_BASE, ram_size: int | None = None) -> LoadPlan:
    """Decide what is loaded where for `options`; RAM is [`ram_base`, `ram_base` + `ram_size`).

    Raises `UserError` if a file is unusable or does not fit.
    """
    size = options.ram_size if ram_size is None else ram_size
    return _Planner(options, ram_base, size).plan()


# --- files ---------------------------------------------------------------------------------------


def map_file(option: str, path: str) -> memoryview:
    """The file's bytes, mapped read-only."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{option} {path}: is not a regular file")
            if status.st_size == 0:
                raise UserError(f"{option} {path}: is empty")
            return memoryview(mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror}") from None


def is_elf(data: memoryview) -> bool:
    """Whether `data` begins with an ELF's magic number."""
    return _holds(data, 0, b"\x7fELF")


def _holds(data: memoryview, offset: int, magic: bytes) -> bool:
    return data[offset : offset + len(magic)].tobytes() == magic


class _Elf(NamedTuple):
    images: list[Image]
    entry: int
    symbols: dict[str, int]


def _read_elf(title: str, path: str, data: memoryview, ram: range, *, want_symbols: bool) -> _Elf:
    """Segments at their physical addresses, the entry as a physical address, and the wanted
    symbols.

    A position-independent file linked at 0 (static PIE firmware) is moved to the start of RAM.
    """
    _check_elf_header(title, data)
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with open(path, "rb") as stream:
            elf = ELFFile(stream)
            loads = [
                segment.header
                for segment in elf.iter_segments()
                if segment["p_type"] == "PT_LOAD" and segment["p_memsz"]
            ]
            entry = elf["e_entry"]
            movable = elf["e_type"] == "ET_DYN"
            table = elf.get_section_by_name(".symtab") if want_symbols else None
            symbols: dict[str, int] = {}
            if isinstance(table, SymbolTableSection):
                for name in WANTED_SYMBOLS:
                    for symbol in table.get_symbol_by_name(name) or ():
                        symbols[name] = symbol["st_value"]
    except Exception as error:  # damage shows as ELFError, KeyError, UnicodeError, ...
        raise UserError(f"{title}: is a damaged ELF ({error})") from None
    if not loads:
        raise UserError(f"{title}: is an ELF without anything to load (an object file?)")
    bias = 0
    if movable and min(load["p_paddr"] for load in loads) not in ram:
        bias = ram.start
    images = []
    start = None
    for load in loads:
        offset, filled, total = load["p_offset"], load["p_filesz"], load["p_memsz"]
        if offset + filled > len(data):
            needed = offset + filled
            raise UserError(f"{title}: is a truncated ELF ({len(data)} bytes, needs {needed})")
        if filled > total:
            raise UserError(f"{title}: is a damaged ELF (a segment's file size exceeds its size)")
        address = load["p_paddr"] + bias
        images.append(Image(title, address, data[offset : offset + filled], total - filled))
        for base in (
            load["p_paddr"],
            load["p_vaddr"],
        ):  # vmlinux gives its entry as a virtual address
            if start is None and 0 <= entry - base < total:
                start = address + entry - base
    if start is None:
        raise UserError(f"{title}: its entry {entry:#x} lies in none of its segments")
    return _Elf(images, start, {name: value + bias for name, value in symbols.items()})


def _check_elf_header(title: str, data: memoryview) -> None:
    if len(data) < 64:
        raise UserError(f"{title}: is a truncated ELF ({len(data)} bytes, its header has 64)")
    if data[4] != 2:
        raise UserError(f"{title}: is a 32-bit ELF; only 64-bit RISC-V runs here")
    if data[5] != 1:
        raise UserError(f"{title}: is a big-endian ELF; RISC-V is little-endian here")
    machine, section_offset = struct.unpack_from("<H20xQ", data, 18)
    if machine != _EM_RISCV:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise UserError(f"{title}: is an ELF for {name}, not for RISC-V")
    program_offset = struct.unpack_from("<Q", data, 32)[0]
    entry_size, count, section_size, sections = struct.unpack_from("<HHHH", data, 54)
    ends = (program_offset + entry_size * count, section_offset + section_size * sections)
    if max(ends) > len(data):
        raise UserError(
            f"{title}: is a truncated ELF ({len(data)} bytes, its tables end at {max(ends)})"
        )


def _refuse_foreign(title: str, path: str, data: memoryview) -> None:
    """Complain about what cannot be meant as a raw image: packed files, other machines' kernels."""
    for magic, name in _PACKED.items():
        if _holds(data, 0, magic):
            raise UserError(f"{title}: is packed with {name}; unpack it first")
    if _holds(data, 0, b"MZ") and _holds(data, 4, b"zimg"):
        raise UserError(f"{title}: is a compressed EFI kernel; unpack the Image inside it first")
    if _holds(data, 0x38, b"ARM\x64"):
        raise UserError(f"{title}: is an AArch64 kernel, not for RISC-V")
    if _holds(data, 0x202, b"HdrS"):
        raise UserError(f"{title}: is an x86 kernel, not for RISC-V")
    if path.endswith(".elf"):
        raise UserError(f"{title}: is not an ELF")


def linux_image_size(data: memoryview) -> int | None:
    """Memory a Linux Image occupies, its .bss included; None if it is no Image.

    Source: Documentation/arch/riscv/boot-image-header.rst.
    """
    if len(data) < 64 or not (_holds(data, 0x38, b"RSC\x05") or _holds(data, 0x30, b"RISCV")):
        return None
    size: int = struct.unpack_from("<Q", data, 16)[0]
    return max(size, len(data))


# --- addresses -----------------------------------------------------------------------------------


def _up(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment


def _down(address: int, alignment: int) -> int:
    return address // alignment * alignment


def dtb_address(ram_base: int, ram_size: int) -> int:
    """Where the device tree goes: as high as 32-bit firmware can reach, on a 2 MiB boundary."""
    top = ram_base + ram_size
    if ram_base < DTB_CEILING < top:
        top = DTB_CEILING
    address = _down(top - DTB_SPACE, BIG_PAGE)
    if address < (ram_base + top) // 2:  # too little RAM to waste 2 MiB
        address = _down(top - DTB_SPACE, PAGE)
    return address


class _Planner:
    """Collects images and the space they claim; one use."""

    def __init__(self, options: RunOptions, ram_base: int, ram_size: int) -> None:
        self.options = options
        self.ram = range(ram_base, ram_base + ram_size)
        self.dtb = dtb_address(ram_base, ram_size)
        self.images: list[Image] = []
        self.claims: list[tuple[int, int, str]] = []
        self.symbols: dict[str, int] = {}

    def plan(self) -> LoadPlan:
        options = self.options
        self._claim(self.dtb, self.dtb + DTB_SPACE, "the device tree")
        firmware = self._firmware()
        entry = self.ram.start if firmware is None else firmware
        in_flash = options.pflash[0] is not None
        kernel = None
        if in_flash:
            kernel = FLASH_BASE
        elif options.kernel is not None:
            kernel = self._kernel(options.kernel)
        next_address = 0
        if kernel is not None:
            if firmware is None:
                entry = kernel
            else:
                next_address = kernel
        for image in options.images:
            title = f"-device loader,file={image.path}"
            data = map_file("-device loader,file", image.path)
            if is_elf(data) and not image.force_raw:
                self._elf(title, image.path, data, want_symbols=True)
            elif image.address is None:
                raise UserError(f"{title}: is not an ELF, so it needs addr=")
            else:
                self._add(Image(title, image.address, data))
        initrd = None
        if options.initrd is not None and not in_flash:
            initrd = self._initrd(options.initrd, kernel)
        return LoadPlan(
            tuple(self.images),
            entry,
            self.dtb,
            next_address,
            initrd=initrd,
            symbols=self.symbols,
            payload=self._payload() if in_flash else Payload(),
        )

    def _payload(self) -> Payload:
        """Kernel, initrd and command line for the program in flash."""
        options = self.options
        kernel = initrd = memoryview(b"")
        if options.kernel is not None:
            kernel = map_file("-kernel", options.kernel)
        if options.initrd is not None:
            initrd = map_file("-initrd", options.initrd)
        return Payload(kernel, initrd, options.append)

    def _firmware(self) -> int | None:
        """Load what runs first in M-mode; its entry, or None for `-bios none`."""
        options = self.options
        option, path = ("program", options.program) if options.program else ("-bios", options.bios)
        if option == "-bios" and path == "none":
            return None
        if option == "-bios" and path == "default":
            path = default_firmware() or ""
            if not path:
                looked = ", ".join(firmware_candidates())
                raise UserError(
                    f"-bios default: OpenSBI is not installed (looked for {looked}); "
                    "install the package opensbi, or name a file"
                )
        title = f"{option} {path}"
        data = map_file(option, path)
        if is_elf(data):
            return self._elf(title, path, data, want_symbols=True)
        _refuse_foreign(title, path, data)
        if options.program and not path.endswith((".bin", ".img", ".raw")):
            hint = "a Linux kernel: use -kernel" if linux_image_size(data) else "not an ELF"
            raise UserError(f"{title}: is {hint} (-bios takes raw code under any name)")
        self._add(Image(title, self.ram.start, data))
        return self.ram.start

    def _kernel(self, path: str) -> int:
        """Load the kernel after the firmware; its entry."""
        title = f"-kernel {path}"
        data = map_file("-kernel", path)
        if is_elf(data):
            bare = self.options.bios == "none" and self.options.program is None
            return self._elf(title, path, data, want_symbols=bare)
        _refuse_foreign(title, path, data)
        end = max((image.end for image in self.images), default=self.ram.start)
        address = _up(end, BIG_PAGE)
        self._add(Image(title, address, data), linux_image_size(data) or len(data))
        return address

    def _initrd(self, path: str, kernel: int | None) -> tuple[int, int]:
        """Load the initrd well above the kernel, or at least right below the device tree."""
        title = f"-initrd {path}"
        data = map_file("-initrd", path)
        base = self.ram.start if kernel is None else kernel
        address = _up(base + min(len(self.ram) // 2, 128 * MIB), PAGE)
        if self._obstacle(address, address + len(data)):
            address = _down(self.dtb - len(data), PAGE)
        self._add(Image(title, address, data))
        return address, address + len(data)

    def _elf(self, title: str, path: str, data: memoryview, *, want_symbols: bool) -> int:
        elf = _read_elf(title, path, data, self.ram, want_symbols=want_symbols)
        for image in elf.images:
            self._add(image)
        self.symbols = {**elf.symbols, **self.symbols}
        return elf.entry

    def _add(self, image: Image, occupied: int = 0) -> None:
        """Accept an image that will fill `occupied` bytes once it runs (at least its own size)."""
        end = max(image.end, image.address + occupied)
        if end - image.address > len(self.ram):
            sizes = f"{_mib(end - image.address)} into {_mib(len(self.ram))}"
            raise UserError(f"{image.name}: does not fit RAM ({sizes}); enlarge -m")
        self._claim(image.address, end, image.name)
        self.images.append(image)

    def _claim(self, start: int, end: int, name: str) -> None:
        obstacle = self._obstacle(start, end)
        if obstacle:
            raise UserError(f"{name}: its place {start:#x}..{end:#x} {obstacle}; change -m or addr")
        self.claims.append((start, end, name))

    def _obstacle(self, start: int, end: int) -> str:
        """Why nothing can be put there; empty if something can."""
        if start < self.ram.start or end > self.ram.stop:
            return f"lies outside RAM ({self.ram.start:#x}..{self.ram.stop:#x})"
        for other_start, other_end, other in self.claims:
            if start < other_end and other_start < end:
                return f"overlaps {other} ({other_start:#x}..{other_end:#x})"
        return ""


def _mib(size: int) -> str:
    return f"{size / MIB:.4g} MiB"
