"""What `coldboot run` is asked to do: QEMU's spelling, read into one frozen `RunOptions`.

Problem: people bring command lines that work with `qemu-system-riscv64 -machine virt`; they should
work here, and a mistake should name the option that holds it. Nothing else in the machine process
reads arguments.

Invariants:
- An option is one row: a function under `@_option`, with its value's notation and its help line.
  Parsing, the help text and the suggestion for a misspelt name follow from the rows.
- Every mistake that can be seen without reading an image is a `UserError` that begins with the
  option, raised before anything is started. What is inside an image is the loader's to judge.
- Values follow QEMU: `key=value` pairs separated by commas, a comma doubled when it belongs to a
  value, sizes with K, M or G; the last of several equal options wins, except that `-drive` and
  `-device` add up.

Read next: `option_values` (how one value is read), `loader` (what becomes of the files), `cli`
(who calls `parse`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from cpu_proc import option_values as values
from cpu_proc.option_values import GIB, MIB
from cpu_proc.run_options import (
    FLASH_BANKS,
    Drive,
    ExtraImage,
    RunOptions,
    Serial,
    VirtioDevice,
)
from protocol.errors import UserError

MIN_RAM = MIB
MAX_RAM = 64 * GIB
MAX_HARTS = 8
MAX_VIRTIO = 8
"""The board has eight virtio-mmio slots."""

FLASH_BANK_SIZE = 32 * MIB

ICOUNT_SHIFT = 3
"""2**3 ns of guest time an instruction when `-icount` names no shift: a 125 MIPS machine, near what
tier 0 does.
"""

LOG_ITEMS = {
    "in_asm": "guest code, disassembled when a region of it is published",
    "int": "traps and interrupts taken",
    "retire": "translated code retired, and why",
    "guest_errors": "accesses and values no device understands",
}


class _Draft:
    """The options while the command line is read: drives are named before or after the devices that
    use them.
    """

    def __init__(self) -> None:
        self.options = RunOptions()
        self.drives: dict[str, Drive] = {}
        self.virtio: list[tuple[str, str | Drive]] = []


class _Row(NamedTuple):
    name: str
    notation: str
    help: str
    apply: Callable[[_Draft, str, str], None]


_ROWS: dict[str, _Row] = {}
_ALIASES = {"M": "machine"}


def _option(
    name: str, notation: str, text: str
) -> Callable[[Callable[[_Draft, str, str], None]], Callable[[_Draft, str, str], None]]:
    """Declare the option `-name NOTATION`; without a notation it takes no value.

    The function gets the draft, the option as the user should read it, and the value.
    """

    def declare(apply: Callable[[_Draft, str, str], None]) -> Callable[[_Draft, str, str], None]:
        _ROWS[name] = _Row(name, notation, text, apply)
        return apply

    return declare


# --- the machine ---------------------------------------------------------------------------------


@_option(
    "machine",
    "virt[,boot-remap=on|keep|off][,dumpdtb=FILE]",
    "the board; dumpdtb writes its device tree and exits",
)
def _machine(draft: _Draft, option: str, text: str) -> None:
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


@_option("cpu", "rv64[,svadu=on|off][,sstc=on|off]", "the harts; both extensions are on by default")
def _cpu(draft: _Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "model")
    values.only(option, text, found, ("model", "svadu", "sstc"))
    if found.get("model") != "rv64":
        raise values.complain(option, text, "the only CPU model is rv64")
    draft.options = replace(
        draft.options,
        svadu=values.on_off(option, text, found.get("svadu", "on")),
        sstc=values.on_off(option, text, found.get("sstc", "on")),
    )


@_option("m", "N[K|M|G]", "RAM, in MiB without a suffix (default 512M)")
def _memory(draft: _Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "size")
    values.only(option, text, found, ("size",))
    size = values.size(option, text, found["size"])
    if not MIN_RAM <= size <= MAX_RAM:
        limits = f"{MIN_RAM // MIB}M to {MAX_RAM // GIB}G"
        raise values.complain(option, text, f"RAM must be from {limits}")
    draft.options = replace(draft.options, ram_size=-(-size // 4096) * 4096)


@_option("smp", "N", f"number of harts, 1 to {MAX_HARTS} (default 1)")
def _smp(draft: _Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "cpus")
    values.only(option, text, found, ("cpus",))
    harts = values.integer(option, text, found["cpus"], 1, MAX_HARTS, "number of harts")
    draft.options = replace(draft.options, harts=harts)


# --- images --------------------------------------------------------------------------------------


@_option("bios", "FILE|default|none", "firmware, entered in M-mode (default: OpenSBI's fw_dynamic)")
def _bios(draft: _Draft, option: str, text: str) -> None:
    if text not in ("default", "none"):
        values.readable(option, text)
    draft.options = replace(draft.options, bios=text)


@_option("kernel", "FILE", "Linux Image, ELF or raw S-mode program that the firmware starts")
def _kernel(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, kernel=values.readable(option, text))


@_option("initrd", "FILE", "initial RAM disk for the kernel")
def _initrd(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, initrd=values.readable(option, text))


@_option("append", "TEXT", "the kernel's command line")
def _append(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, append=text)


# --- devices -------------------------------------------------------------------------------------


@_option(
    "drive",
    "file=F[,format=raw][,if=virtio|none|pflash][,id=ID][,readonly=on][,unit=N]",
    "a raw disk image, or the contents of flash bank N (if=pflash, 32 MiB)",
)
def _drive(draft: _Draft, option: str, text: str) -> None:
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


def _pflash(draft: _Draft, option: str, text: str, drive: Drive, unit: str | None) -> None:
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


@_option("device", "KIND[,key=value...]", "loader | virtio-blk-device, -rng-device | watchdog")
def _device(draft: _Draft, option: str, text: str) -> None:
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


@_option("global", "virtio-mmio.force-legacy=on|off", "virtio-mmio version 1 (on, default) or 2")
def _global(draft: _Draft, option: str, text: str) -> None:
    name = "virtio-mmio.force-legacy"
    key, equals, value = text.partition("=")
    if key != name or not equals:
        raise values.complain(option, text, f"the only property is {name}=on|off")
    legacy = values.on_off(option, text, value)
    draft.options = replace(draft.options, virtio_legacy=legacy)


@_option("nographic", "", "no display: the default here, taken for QEMU's sake")
def _nographic(draft: _Draft, option: str, text: str) -> None:
    pass


@_option("serial", "mon:stdio|stdio|null|file:PATH", "the serial port (default mon:stdio)")
def _serial(draft: _Draft, option: str, text: str) -> None:
    if text.startswith("file:"):
        serial = Serial("file", values.writable(option, text.removeprefix("file:")))
    elif text in ("mon:stdio", "stdio", "null"):
        serial = Serial(text.removesuffix(":stdio"))
    else:
        raise values.complain(option, text, "mon:stdio, stdio, null or file:PATH is expected")
    draft.options = replace(draft.options, serial=serial)


# --- the run -------------------------------------------------------------------------------------


@_option("no-reboot", "", "a guest's reset ends the run")
def _no_reboot(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, reboot=False)


@_option(
    "action",
    "fatal=none|report|reset|halt",
    "what to do when a hart's trap handler traps at its first instruction (default none)",
)
def _action(draft: _Draft, option: str, text: str) -> None:
    found = values.keys(option, text)
    values.only(option, text, found, ("fatal",))
    fatal = found.get("fatal", "")
    if fatal not in ("none", "report", "reset", "halt"):
        raise values.complain(option, text, f"none, report, reset or halt expected, not {fatal!r}")
    draft.options = replace(draft.options, fatal=fatal)


@_option("icount", "[shift=]N|auto", "deterministic time: 2^N ns an instruction")
def _icount(draft: _Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "shift")
    values.only(option, text, found, ("shift",))
    shift = ICOUNT_SHIFT
    if found["shift"] != "auto":
        shift = values.integer(option, text, found["shift"], 0, 10, "shift")
    draft.options = replace(draft.options, icount=shift)


@_option("max-instructions", "N", "stop after N instructions")
def _max_instructions(draft: _Draft, option: str, text: str) -> None:
    count = values.integer(option, text, text, 1, (1 << 63) - 1, "number of instructions")
    draft.options = replace(draft.options, max_instructions=count)


@_option("d", "ITEM[,ITEM...]", "log " + ", ".join(LOG_ITEMS))
def _log_items(draft: _Draft, option: str, text: str) -> None:
    items = frozenset(text.split(","))
    unknown = sorted(items - LOG_ITEMS.keys())
    if unknown:
        known = ", ".join(LOG_ITEMS)
        raise values.complain(option, text, f"unknown log item {unknown[0]!r} (known: {known})")
    draft.options = replace(draft.options, log_items=draft.options.log_items | items)


@_option("D", "FILE", "write the log there (default stderr)")
def _log_file(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, log_file=values.writable(option, text))


@_option("log-json", "", "log one JSON object a line")
def _log_json(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, log_json=True)


@_option(
    "translator", "embedded|none|ENDPOINT", "who translates (default embedded, a child process)"
)
def _translator(draft: _Draft, option: str, text: str) -> None:
    if text not in ("embedded", "none") and not re.fullmatch(r"(ipc|tcp)://.+", text):
        problem = "embedded, none, or an endpoint such as ipc:///run/coldboot/translator.sock"
        raise values.complain(option, text, f"{problem} is expected")
    draft.options = replace(draft.options, translator=text)


@_option("backend", "NAME[,OPTION=VALUE...]", "what translates: see coldboot backends")
def _backend(draft: _Draft, option: str, text: str) -> None:
    from protocol.backends import parse

    try:
        parse(text)
    except ValueError as error:
        raise values.complain(option, text, str(error)) from error
    draft.options = replace(draft.options, backend=text)


@_option("threshold", "N", "executions before code is translated (default 1024; 1: at once)")
def _threshold(draft: _Draft, option: str, text: str) -> None:
    count = values.integer(option, text, text, 1, (1 << 31) - 1, "number of executions")
    draft.options = replace(draft.options, threshold=count)


@_option("cold", "", "do not use translations kept from earlier")
def _cold(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, cold=True)


@_option("loadvm", "FILE", "go on from a snapshot (monitor: snapshot save FILE)")
def _loadvm(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, load_snapshot=values.readable(option, text))


@_option(
    "qmp",
    "unix:PATH,server=on,wait=off|none",
    "speak QMP there (default: a socket of the user's own, for coldboot ctl)",
)
def _qmp(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, qmp=values.server_socket(option, text))


@_option("stats", "", "tell at the end what was executed, translated and retired")
def _stats(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, stats=True)


@_option("explain", "FILE", "write every retirement there: when, who, what (coldboot explain FILE)")
def _explain(draft: _Draft, option: str, text: str) -> None:
    if text == "-":
        raise values.complain(option, text, "a file is expected: the terminal is the guest's")
    draft.options = replace(draft.options, explain=values.writable(option, text))


@_option("trace", "FILE", "write a time line there, for ui.perfetto.dev")
def _trace(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, trace=values.writable(option, text))


@_option("profile", "NAME", "write the guest's hot functions: NAME.txt, .folded, .svg")
def _profile(draft: _Draft, option: str, text: str) -> None:
    for suffix in (".txt", ".folded", ".svg"):
        values.writable(option, text + suffix)
    draft.options = replace(draft.options, profile=text)


@_option("jitdump", "FOLDER", "write jit-PID.dump there, for perf inject --jit")
def _jitdump(draft: _Draft, option: str, text: str) -> None:
    values.writable(option, os.path.join(text, "jit-0.dump"))
    draft.options = replace(draft.options, jitdump=text)


@_option("symbols", "FILE", "name addresses by this ELF, System.map or kallsyms too")
def _symbols(draft: _Draft, option: str, text: str) -> None:
    path = values.readable(option, text)
    draft.options = replace(draft.options, symbols=(*draft.options.symbols, path))


@_option("signature", "FILE", "write the test signature there at the end")
def _signature(draft: _Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, signature=values.writable(option, text))


@_option("signature-granularity", "N", "bytes to a line of the signature (default 4)")
def _signature_granularity(draft: _Draft, option: str, text: str) -> None:
    if text not in ("1", "2", "4", "8", "16", "32"):
        raise values.complain(option, text, "1, 2, 4, 8, 16 or 32 is expected")
    draft.options = replace(draft.options, signature_granularity=int(text))


# --- the whole -----------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> RunOptions:
    """The options in `arguments` (those after `coldboot run`). `-name` and `--name` are the same.

    Raises `UserError` for anything that cannot be meant.
    """
    draft = _Draft()
    queue = list(reversed(arguments))
    while queue:
        word = queue.pop()
        if not word.startswith("-"):
            if draft.options.program is not None:
                raise UserError(f"{word}: only one program can be run; -device loader adds more")
            draft.options = replace(draft.options, program=values.readable("program", word))
            continue
        row = _row(word)
        value = ""
        if row.notation:
            if not queue:
                raise UserError(f"{word}: a value is expected ({row.notation})")
            value = queue.pop()
        row.apply(draft, word, value)
    return _consistent(draft)


def usage() -> str:
    """The help text of `coldboot run`."""
    lines = ["usage: coldboot run [options] [program.elf]", ""]
    for row in _ROWS.values():
        left = f"  -{row.name} {row.notation}".rstrip()
        gap = "\n" + " " * 32 if len(left) > 30 else " " * (32 - len(left))
        lines.append(left + gap + row.help)
    lines += ["", "Without arguments a bundled demonstration runs.", ""]
    return "\n".join(lines)


def _row(word: str) -> _Row:
    name = word[2:] if word.startswith("--") else word[1:]
    name = _ALIASES.get(name, name)
    if name in _ROWS:
        return _ROWS[name]
    from difflib import get_close_matches

    near = get_close_matches(name, _ROWS, 1)
    hint = f"; did you mean -{near[0]}?" if near else "; coldboot run -help lists them"
    raise UserError(f"{word}: unknown option{hint}")


def _consistent(draft: _Draft) -> RunOptions:
    """The finished options, once those that need one another are there."""
    options = draft.options
    if options.program is not None and options.bios != "default":
        raise UserError(f"-bios {options.bios}: not together with the program {options.program}")
    if options.kernel is None:
        for name, given in (("-initrd", options.initrd), ("-append", options.append)):
            if given:
                raise UserError(f"{name}: only together with -kernel")
    something = options.kernel or options.images or options.pflash[0]
    if options.bios == "none" and not something:
        raise UserError(
            "-bios none: nothing to run; give a -kernel, a -device loader or a -drive if=pflash"
        )
    if options.backend and options.translator == "none":
        raise UserError(f"-backend {options.backend}: not together with -translator none")
    if options.cold and options.translator not in ("embedded", "none"):
        raise UserError(
            f"-cold: not together with -translator {options.translator}: what a service keeps is"
            " for all its machines; one that keeps nothing: coldboot translator --store off"
        )
    if len(draft.virtio) > MAX_VIRTIO:
        option = draft.virtio[MAX_VIRTIO][0]
        raise UserError(f"{option}: the board has {MAX_VIRTIO} virtio slots, all are taken")
    devices: list[VirtioDevice] = []
    used = {drive.id for drive in options.pflash if drive is not None}
    for option, what in draft.virtio:
        if isinstance(what, Drive):
            devices.append(VirtioDevice("blk", what))
            used.add(what.id)
        elif what == "rng":
            devices.append(VirtioDevice("rng"))
        else:
            name = what.removeprefix("blk:")
            if name not in draft.drives:
                raise UserError(f"{option} virtio-blk-device: there is no -drive with id={name}")
            if name in used:
                raise UserError(f"{option} virtio-blk-device: the drive {name} is in use already")
            used.add(name)
            devices.append(VirtioDevice("blk", draft.drives[name]))
    return replace(options, virtio=tuple(devices))
