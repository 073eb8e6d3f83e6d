"""A machine with one page that has been executed, and a translator link whose thread never runs."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cpu_proc import native
from cpu_proc.records import Records
from cpu_proc.segments import ControlSegment, GuestMemory
from cpu_proc.translator import TranslatorLink
from protocol import session
from protocol.generations import identity_of
from protocol.layout import PAGE, PAGE_SIZE, RECORD_ARRAY_PAGE, RECORD_ARRAY_STRIDE
from protocol.messages import Segment, Timings, Translated

PAGES = 8
HERE = 3
DECODE = 0x1000
OFFSET = 0x240  # of the region in the code segment


class SafePoint:
    """Work is kept until the test says that the harts are out."""

    def __init__(self) -> None:
        self.work: list[Any] = []

    def post(self, work: Any) -> None:
        self.work.append(work)

    def reach(self) -> None:
        while self.work:
            self.work.pop(0)()


class World:
    """The machine, the link and all that it is made of."""

    def __init__(self, **options: Any) -> None:
        self.lock = threading.RLock()
        self.guest = GuestMemory({"ram": PAGES * PAGE_SIZE})
        self.control = ControlSegment(1, self.guest.page_count)
        self.control.words.epoch = 5
        self.control.words.map_generation = 2
        self.records = Records(self.control, arrays=4)
        self.records.decode = DECODE
        self.safe_point = SafePoint()
        self.retirement = SimpleNamespace(epoch=5, everything=self._retired)
        self.retirements: list[str] = []
        self.failures: list[BaseException] = []
        self.fail = self.failures.append
        self.harts = [SimpleNamespace(state=SimpleNamespace(satp=8 << 60))]  # Sv39
        self.jitdump = None
        self.trace = None
        words = native.words(self.records.start, RECORD_ARRAY_STRIDE // 8)
        words[RECORD_ARRAY_PAGE // 8] = self.control.pages_address + HERE * PAGE.size
        self.set("records", self.records.start)
        self.set("lines", 0b1)
        self.set("generation", 9)
        self.guest.page_bytes(HERE)[:8] = bytes.fromhex("1305150067800000")  # addi a0, a0, 1; ret
        settings = {"translator": "ipc://nowhere", "threshold": None, "icount": None}
        self.options = SimpleNamespace(log_items=(), **(settings | options))
        self.link = TranslatorLink(self, self.options)  # type: ignore[arg-type]
        self.link._session = SimpleNamespace(  # type: ignore[assignment]
            incarnation=7, translator_pid=1, backend="llvm", epoch=5
        )
        self.segment = native.SharedSegment("code", 1 << 16)
        self.attach(5)
        assert self.link._code.mapped is not None
        self.address = self.link._code.mapped[0]

    def _retired(self, cause: str) -> None:
        self.retirement.epoch += 1
        self.retirements.append(cause)

    def set(self, name: str, value: int) -> None:
        self.control.pages[(HERE * PAGE.size + PAGE.offset(name)) // 8] = value

    def word(self, name: str) -> int:
        return int(self.control.pages[(HERE * PAGE.size + PAGE.offset(name)) // 8])

    def attach(self, epoch: int) -> None:
        self.act(session.AttachCode(Segment(self.segment.path, self.segment.size), epoch))

    def act(self, *actions: Any) -> None:
        self.link._act(list(actions))

    def mappings(self) -> list[int]:
        """Where the code segment is mapped, wherever that is."""
        inode = f" {os.fstat(self.segment.fd).st_ino} "
        maps = Path("/proc/self/maps").read_text().splitlines()
        return [int(m.split("-")[0], 16) for m in maps if "r-xs" in m and inode in m]

    def code_is_mapped(self) -> bool:
        """Whether it is where records may point."""
        return self.address in self.mappings()

    def message(self, **changes: Any) -> Translated:
        """A translation of the page as it is now."""
        spans = ((0, 8),)
        fields: dict[str, Any] = {
            "session": 11,
            "id": 1,
            "epoch": 5,
            "map_generation": 2,
            "page": HERE,
            "page_generation": 9,
            "state_word": 0,
            "identity": identity_of(self.guest.page_bytes(HERE), spans),
            "code_offset": OFFSET,
            "code_size": 64,
            "entries": ((0, OFFSET), (2, OFFSET + 16)),
            "lines": 0b1,
            "spans": spans,
            "instructions": 2,
            "timings": Timings(1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000),
        }
        return Translated(**(fields | changes))

    def deliver(self, message: Translated) -> None:
        """The reply comes in, then the harts come out."""
        self.act(session.Publish(message))
        assert self.handler(0) == 0, "nothing is published but at a safe point"
        self.safe_point.reach()

    def handler(self, slot: int) -> int:
        return int(native.words(self.records.start, 4096)[2 * slot])
