"""What `perf` needs to name translated code: a jitdump file.

Problem: the code segment is anonymous memory to perf; its samples say `memfd:coldboot-code`. perf
reads a file of records, each with a name, an address, a moment and the code's bytes, and puts the
names where its samples are: `perf inject --jit`. Code that took the place of retired code is told
apart by the moment.

Invariants: a region stands in the file before its first instruction runs (`region` is called at the
safe point that publishes it). The file's one page that perf must see mapped executable is unmapped
again at once: what this process can write is never executable.

Source: linux/tools/perf/Documentation/jitdump-specification.txt, version 1.

Read next: `profile.py` (what the guest does), `translator.py` (`_publish`).
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from cpu_proc import native
from cpu_proc.explain import physical_pages
from cpu_proc.loader import RAM_BASE
from cpu_proc.symbols import Symbols
from protocol.errors import UserError
from protocol.layout import FETCH_ENTRY, FETCH_SETS, FETCH_TLB_ENTRIES, HART, NO_PAGE, PAGE

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

MAGIC, VERSION, EM_X86_64 = 0x4A695444, 1, 62
HEADER = struct.Struct("<IIIIIIQQ")  # magic, version, size, machine, 0, pid, time, flags
PREFIX = struct.Struct("<IIQ")  # kind, size, time
LOAD = struct.Struct("<IIQQQQ")  # pid, tid, virtual address, address, size, index
CODE_LOAD = 0
SHOWN = 3  # functions in a region's name


def fetched_at(hart: Hart, descriptor: int) -> int | None:
    """A virtual page that a hart's fetch TLBs lead to a page's descriptor by."""
    count = FETCH_SETS * FETCH_TLB_ENTRIES
    width = FETCH_ENTRY.size // 8
    table = native.words(hart.address + HART.offset("fetch_tlbs"), count * width)
    at = FETCH_ENTRY.offset("page") // 8
    for first in range(0, count * width, width):
        if table[first + at] == descriptor and table[first] != NO_PAGE:
            return int(table[first])
    return None


class JitDump:
    """Writes `jit-PID.dump` in a folder. perf has to run with `-k mono`."""

    def __init__(self, folder: str, machine: Machine) -> None:
        """Raises UserError if the file cannot be made."""
        self._machine = machine
        options = machine.options
        self._symbols = Symbols([*options.symbols, *options.image_files], RAM_BASE)
        self.path = os.path.join(folder, f"jit-{os.getpid()}.dump")
        self._count = 0
        head = HEADER.pack(
            MAGIC, VERSION, HEADER.size, EM_X86_64, 0, os.getpid(), time.monotonic_ns(), 0
        )
        try:
            self._file = open(self.path, "wb+")  # noqa: SIM115
            self._file.write(head)
            self._file.flush()
            # perf finds the file by this mapping; the event is all it takes.
            mmap.mmap(
                self._file.fileno(),
                HEADER.size,
                mmap.MAP_PRIVATE,
                mmap.PROT_READ | mmap.PROT_EXEC,
            ).close()
        except OSError as error:
            raise UserError(f"-jitdump {folder}: {error.strerror}") from error
        self._load("tier 0", machine.engine.base, machine.engine.size)

    def region(
        self, page: int, entries: Collection[tuple[int, int]], start: int, size: int
    ) -> None:
        """A region of a backing page is about to be published, harts stopped.

        `entries`: slot, address. `start`, `size`: where its code is. It is named by the functions
        it is entered in: at virtual addresses where a hart's fetch TLB leads to the page.
        """
        machine = self._machine
        found = physical_pages(machine.memory.slots, page)
        base = found[0] if found else 0
        for hart in machine.harts:
            virtual = fetched_at(hart, machine.control.pages_address + page * PAGE.size)
            if virtual is not None:
                base = virtual
        places = sorted(base + 2 * slot for slot, _ in entries)
        functions = dict.fromkeys(filter(None, map(self._symbols.function, places)))
        name = ",".join([*functions][:SHOWN]) or f"guest:{places[0]:#x}"
        self._load(name, start, size)

    def _load(self, name: str, address: int, size: int) -> None:
        text = name.encode("utf-8", "replace") + b"\0"
        code = bytes(native.view(address, size))
        total = PREFIX.size + LOAD.size + len(text) + size
        self._file.write(
            PREFIX.pack(CODE_LOAD, total, time.monotonic_ns())
            + LOAD.pack(os.getpid(), threading.get_native_id(), address, address, size, self._count)
            + text
            + code
        )
        self._count += 1

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
