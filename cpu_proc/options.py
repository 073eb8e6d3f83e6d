"""What `coldboot run` is asked to do: QEMU's spelling, read into one frozen `RunOptions`.

Problem: people bring command lines that work with `qemu-system-riscv64 -machine virt`; they should
work here, and a mistake should name the option that holds it. Nothing else in the machine process
reads arguments.

Invariants:
- An option is one row (`option_table.py`), in `option_board.py` or `option_run.py`.
- Every mistake that can be seen without reading an image is a `UserError` that begins with the
  option, raised before anything is started. What is inside an image is the loader's to judge.
- Values follow QEMU: `key=value` pairs separated by commas, a comma doubled when it belongs to a
  value, sizes with K, M or G; the last of several equal options wins, except that `-drive` and
  `-device` add up.

Read next: `option_values` (how one value is read), `loader` (what becomes of the files), `cli`
(who calls `parse`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cpu_proc import option_values as values
from cpu_proc.option_board import FLASH_BANK_SIZE as FLASH_BANK_SIZE
from cpu_proc.option_board import MAX_HARTS as MAX_HARTS
from cpu_proc.option_run import ICOUNT_SHIFT as ICOUNT_SHIFT
from cpu_proc.option_table import ROWS, Draft, Row
from cpu_proc.run_options import Drive, RunOptions, VirtioDevice
from protocol.errors import UserError

MAX_VIRTIO = 8
"""The board has eight virtio-mmio slots."""

_ALIASES = {"M": "machine"}


def parse(arguments: Sequence[str]) -> RunOptions:
    """The options in `arguments` (those after `coldboot run`). `-name` and `--name` are the same.

    Raises `UserError` for anything that cannot be meant.
    """
    draft = Draft()
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
    for row in ROWS.values():
        left = f"  -{row.name} {row.notation}".rstrip()
        gap = "\n" + " " * 32 if len(left) > 30 else " " * (32 - len(left))
        lines.append(left + gap + row.help)
    lines += ["", "Without arguments a bundled demonstration runs.", ""]
    return "\n".join(lines)


def _row(word: str) -> Row:
    name = word[2:] if word.startswith("--") else word[1:]
    name = _ALIASES.get(name, name)
    if name in ROWS:
        return ROWS[name]
    from difflib import get_close_matches

    near = get_close_matches(name, ROWS, 1)
    hint = f"; did you mean -{near[0]}?" if near else "; coldboot run -help lists them"
    raise UserError(f"{word}: unknown option{hint}")


def _consistent(draft: Draft) -> RunOptions:
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
