"""The options that say what machine it is: board, images, drives and devices.

Read next: `option_table.py` (what a row is), `option_values.py` (how one value is read).
"""

from __future__ import annotations

import os
from dataclasses import replace

from cpu_proc import option_values as values
from cpu_proc.option_table import Draft, option_row
from cpu_proc.option_values import GIB, MIB
from cpu_proc.run_options import FLASH_BANKS, Drive, ExtraImage, Serial

MIN_RAM = MIB
MAX_RAM = 64 * GIB
MAX_HARTS = 8

FLASH_BANK_SIZE = 32 * MIB

# --- the machine ---------------------------------------------------------------------------------


@option_row(
    "machine",
    "virt[,boot-remap=on|keep|off][,dumpdtb=FILE]",
    "the board; dumpdtb writes its device tree and exits",
)
def _machine(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "type")
    values.only(option, text, found, ("type", "dumpdtb", "boot-remap"))
    if found.get("type", "virt") != "virt":
        raise values.complain(option, text, "the only machine is virt")
    remap = found.get("boot-remap", draft.options.boot_remap)
    if remap not in ("on", "keep", "off"):
        raise values.complain(option, text, f"boot-remap=on, keep or off expected, not {remap!r}")
    draft.options = replace(draft.options, boot_remap=remap)
    if "dumpdtb" in found:
        path = values.writable(option, found["dumpdtb"])
        draft.options = replace(draft.options, dump_dtb=path)


@option_row(
    "cpu", "rv64[,svadu=on|off][,sstc=on|off]", "the harts; both extensions are on by default"
)
def _cpu(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "model")
    values.only(option, text, found, ("model", "svadu", "sstc"))
    if found.get("model") != "rv64":
        raise values.complain(option, text, "the only CPU model is rv64")
    draft.options = replace(
        draft.options,
        svadu=values.on_off(option, text, found.get("svadu", "on")),
        sstc=values.on_off(option, text, found.get("sstc", "on")),
    )


@option_row("m", "N[K|M|G]", "RAM, in MiB without a suffix (default 512M)")
def _memory(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "size")
    values.only(option, text, found, ("size",))
    size = values.size(option, text, found["size"])
    if not MIN_RAM <= size <= MAX_RAM:
        limits = f"{MIN_RAM // MIB}M to {MAX_RAM // GIB}G"
        raise values.complain(option, text, f"RAM must be from {limits}")
    draft.options = replace(draft.options, ram_size=-(-size // 4096) * 4096)


@option_row("smp", "N", f"number of harts, 1 to {MAX_HARTS} (default 1)")
def _smp(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "cpus")
    values.only(option, text, found, ("cpus",))
    harts = values.integer(option, text, found["cpus"], 1, MAX_HARTS, "number of harts")
    draft.options = replace(draft.options, harts=harts)


# --- images --------------------------------------------------------------------------------------


@option_row(
    "bios", "FILE|default|none", "firmware, entered in M-mode (default: OpenSBI's fw_dynamic)"
)
def _bios(draft: Draft, option: str, text: str) -> None:
    if text not in ("default", "none"):
        values.readable(option, text)
    draft.options = replace(draft.options, bios=text)


@option_row("kernel", "FILE", "Linux Image, ELF or raw S-mode program that the firmware starts")
def _kernel(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, kernel=values.readable(option, text))


@option_row("initrd", "FILE", "initial RAM disk for the kernel")
def _initrd(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, initrd=values.readable(option, text))


@option_row("append", "TEXT", "the kernel's command line")
def _append(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, append=text)


# --- devices -------------------------------------------------------------------------------------


@option_row(
    "drive",
    "file=F[,format=raw][,if=virtio|none|pflash][,id=ID][,readonly=on][,unit=N]",
    "a raw disk image, or the contents of flash bank N (if=pflash, 32 MiB)",
)
def _drive(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text)
    values.only(option, text, found, ("file", "format", "if", "id", "readonly", "unit"))
    if "file" not in found:
        raise values.complain(option, text, "file= is missing")
    if found.get("format", "raw") != "raw":
        raise values.complain(
            option, text, "the only format is raw; qemu-img convert -O raw makes one"
        )
    interface = found.get("if", "virtio")
    if interface not in ("virtio", "none", "pflash"):
        problem = f"if=virtio, if=none or if=pflash expected, not if={interface}"
        raise values.complain(option, text, problem)
    if "unit" in found and interface != "pflash":
        raise values.complain(option, text, "unit= is for if=pflash")
    readonly = values.on_off(option, text, found.get("readonly", "off"))
    path = values.readable(f"{option} file", found["file"], block_device=True)
    if not readonly:
        try:  # os.access does not see what refuses even root, as a running program's file does
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            problem = (
                f"is not writable ({values.reason(error)}); readonly=on makes it a read-only disk"
            )
            raise values.complain(f"{option} file", path, problem) from None
    drive = Drive(path, readonly, found.get("id", ""))
    if drive.id in draft.drives:
        raise values.complain(option, text, f"id={drive.id} is taken by another drive")
    if drive.id:
        draft.drives[drive.id] = drive
    if interface == "pflash":
        _pflash(draft, option, text, drive, found.get("unit"))
    elif interface == "virtio":
        draft.virtio.append((option, drive))
    elif not drive.id:
        raise values.complain(option, text, "if=none needs an id= that a -device names")


def _pflash(draft: Draft, option: str, text: str, drive: Drive, unit: str | None) -> None:
    """Put a file into a flash bank: the one named, or the first that is free."""
    banks = list(draft.options.pflash)
    size = os.stat(drive.path).st_size
    if size != FLASH_BANK_SIZE:
        problem = f"a flash bank holds {FLASH_BANK_SIZE} bytes, this file {size}"
        raise values.complain(f"{option} file", drive.path, f"{problem} (truncate -s 32M pads it)")
    if unit is not None:
        number = values.integer(option, text, unit, 0, FLASH_BANKS - 1, "unit")
    elif None in banks:
        number = banks.index(None)
    else:
        raise values.complain(option, text, "the board has two flash banks, both are taken")
    if banks[number] is not None:
        raise values.complain(option, text, f"flash bank {number} is taken by another drive")
    banks[number] = drive
    draft.options = replace(draft.options, pflash=tuple(banks))


@option_row("device", "KIND[,key=value...]", "loader | virtio-blk-device, -rng-device | watchdog")
def _device(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "driver")
    kind = found.get("driver", "")
    if kind == "loader":
        values.only(option, text, found, ("driver", "file", "addr", "force-raw"))
        if "file" not in found:
            raise values.complain(option, text, "file= is missing")
        address = None
        if "addr" in found:
            address = values.integer(option, text, found["addr"], 0, (1 << 56) - 1, "addr=ADDRESS")
        raw = values.on_off(option, text, found.get("force-raw", "off"))
        if raw and address is None:
            raise values.complain(option, text, "force-raw=on needs addr=")
        image = ExtraImage(values.readable(f"{option} loader,file", found["file"]), address, raw)
        draft.options = replace(draft.options, images=(*draft.options.images, image))
    elif kind == "watchdog":
        values.only(option, text, found, ("driver",))
        draft.options = replace(draft.options, watchdog=True)
    elif kind == "virtio-rng-device":
        values.only(option, text, found, ("driver",))
        draft.virtio.append((option, "rng"))
    elif kind == "virtio-blk-device":
        values.only(option, text, found, ("driver", "drive"))
        if not found.get("drive"):
            raise values.complain(option, text, "drive=ID is missing")
        draft.virtio.append((option, f"blk:{found['drive']}"))
    else:
        known = "loader, virtio-blk-device, virtio-rng-device, watchdog"
        raise values.complain(option, text, f"unknown device {kind!r} (known: {known})")


@option_row("global", "virtio-mmio.force-legacy=on|off", "virtio-mmio version 1 (on, default) or 2")
def _global(draft: Draft, option: str, text: str) -> None:
    name = "virtio-mmio.force-legacy"
    key, equals, value = text.partition("=")
    if key != name or not equals:
        raise values.complain(option, text, f"the only property is {name}=on|off")
    legacy = values.on_off(option, text, value)
    draft.options = replace(draft.options, virtio_legacy=legacy)


@option_row("nographic", "", "no display: the default here, taken for QEMU's sake")
def _nographic(draft: Draft, option: str, text: str) -> None:
    pass


@option_row("serial", "mon:stdio|stdio|null|file:PATH", "the serial port (default mon:stdio)")
def _serial(draft: Draft, option: str, text: str) -> None:
    if text.startswith("file:"):
        serial = Serial("file", values.writable(option, text.removeprefix("file:")))
    elif text in ("mon:stdio", "stdio", "null"):
        serial = Serial(text.removesuffix(":stdio"))
    else:
        raise values.complain(option, text, "mon:stdio, stdio, null or file:PATH is expected")
    draft.options = replace(draft.options, serial=serial)
