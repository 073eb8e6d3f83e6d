"""Who is at it: the hart, device or person on whose behalf something is retired.

The problem: by the time code is retired the one who caused it may be far away. A device's register
is written by a hart, the device has memory written, or asks for a remap that another hart's thread
carries out at a safe point. So whoever posts work is noted with it (`SafePoint.post`), and whoever
writes memory is told from the thread that does so and the device being served.

Invariants: asking costs no more than a look at the thread and a few words, and changes nothing; an
access to a device costs one assignment more. A hart's `pc` is exact: during a device's access its
structure holds that of the instruction (`jit_proc/cold.py`).

Read next: `retirement.py` (who asks), `explain.py` (who tells).
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.placement import Window
    from cpu_proc.safe_point import SafePoint

THREADS = {"console": "monitor", "qmp-client": "monitor", "translator": "translator"}
"""Threads by name; what is neither one of these nor a hart's is the host: a script, a debugger."""

WATCHDOG = "watchdog"  # a device with a thread of its own (`alarm.py`)


class Who(NamedTuple):
    """`by`: "hart", "device", "monitor", "translator", "host" or "machine" (its own start and end).

    `device` and `did`: which, and what it did. `hart` and `pc`: the instruction behind it, also
    behind a device's action; None if there is none.
    """

    by: str
    device: str = ""
    did: str = ""
    hart: int | None = None
    pc: int | None = None


NOBODY = Who("machine")


class Map(Protocol):
    """What of a memory map is looked at."""

    serving: Window | None


class Culprits:
    """Knows the threads of one machine."""

    def __init__(self, memory: Map, safe_point: SafePoint) -> None:
        self._memory = memory
        self._safe_point = safe_point
        self._harts: dict[int, Hart] = {}

    def join(self, hart: Hart) -> None:
        """The calling thread is this hart's."""
        self._harts[threading.get_ident()] = hart

    def current(self, did: str = "") -> Who:
        """On whose behalf the calling thread acts; `did`: what is being done."""
        thread = threading.get_ident()
        device = self._memory.serving
        if self._safe_point.worker == thread:
            asked = self._safe_point.asked
            who = asked if isinstance(asked, Who) else NOBODY
            if device is not None:  # a single step, of an instruction that accesses it
                who = who._replace(device=name_of(device))
            return who._replace(did=did) if did else who
        hart = self._harts.get(thread)
        if hart is None:
            name = threading.current_thread().name
            if name == WATCHDOG:
                return Who("device", WATCHDOG, did)
            return Who(THREADS.get(name, "host"), did=did)
        state = hart.state
        served = device is not None and not state.idle
        return Who(
            by="device" if served else "hart",
            device=name_of(device) if served else "",
            did=did,
            hart=hart.index,
            pc=int(state.pc),
        )


def name_of(device: Any) -> str:
    """What a device is called: a virtio slot by what is in it."""
    return str((getattr(device, "backend", None) or device).name)


def store_pc(state: Any) -> int | None:
    """The store that a hart has just left native code for (EXIT_RETIRE); None if it went on.

    Such a store is carried out by the engine's cold handler, which leaves behind it at once.
    """
    after = int(state.next_pc)
    return after - int(state.length) if after == int(state.pc) else None


def store_pages(state: Any, descriptor: int) -> list[int]:
    """The virtual pages by which a hart's TLB knows a page as one to write to."""
    from cpu_proc import native
    from protocol.layout import DATA_SET_ENTRIES, NO_PAGE, TLB_ENTRY

    words = native.words(int(state.data_tlb), DATA_SET_ENTRIES * TLB_ENTRY.size // 8)
    step = TLB_ENTRY.size // 8
    tags = list(words[TLB_ENTRY.offset("write_tag") // 8 :: step])
    pages = list(words[TLB_ENTRY.offset("page") // 8 :: step])
    found = {
        tag & ~4095
        for tag, page in zip(tags, pages, strict=True)
        if page == descriptor and tag != NO_PAGE
    }
    return sorted(found)
