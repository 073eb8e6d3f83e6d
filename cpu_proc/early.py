"""What of a machine begins before its modules are imported: its translator, and its images' memory.

The problem: from process start to the first instruction, imports take longest, and they leave the
second processor idle. Meanwhile the translator's process starts, and a thread has the kernel make
the pages that the images will fill: a first touch of each takes ten times as long as the copy.

Read next: `translator_child.py`, `loader.py`, `machine.py`.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from cpu_proc import loader, native, translator_child
from cpu_proc.loader import RAM_BASE, ROM_SIZE, LoadPlan
from cpu_proc.option_board import FLASH_BANK_SIZE
from cpu_proc.run_options import RunOptions
from cpu_proc.translator_child import TranslatorChild

PART = 256 << 10  # bytes; meanwhile nobody else of this process can map anything


class Early(NamedTuple):
    """`memory`: for all of `backing_sizes`, one after the other. `child`: if there is to be one."""

    plan: LoadPlan
    memory: native.SharedSegment
    child: TranslatorChild | None = None


def begin(options: RunOptions) -> Early:
    """For a machine that is yet to be made. Raises UserError."""
    plan = loader.plan(options)
    child = translator_child.early(options)
    memory = make_memory(options)
    ram = range(RAM_BASE, RAM_BASE + options.ram_size)
    images = [image for image in plan.images if image.address in ram and image.end <= ram.stop]

    def populate() -> None:
        for image in images:
            start = memory.address + image.address - RAM_BASE
            for offset in range(0, len(image.data), PART):
                native.populate(start + offset, min(PART, len(image.data) - offset))

    threading.Thread(target=populate, name="populate", daemon=True).start()
    return Early(plan, memory, child)


def backing_sizes(options: RunOptions) -> dict[str, int]:
    """Guest memory, by backing: bytes."""
    return {
        "ram": options.ram_size,
        "rom": ROM_SIZE,
        "flash0": FLASH_BANK_SIZE,
        "flash1": FLASH_BANK_SIZE,
    }


def make_memory(options: RunOptions) -> native.SharedSegment:
    """The segment of guest memory."""
    return native.SharedSegment("ram", sum(backing_sizes(options).values()))
