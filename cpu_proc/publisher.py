"""Translations put into force: the code segment, and the one check and store behind each region.

The problem: an answer was made from what the translator saw a while ago; the guest has run on. So
code is published at a safe point, where every counter of its stamp is compared with what it is now,
and the bytes with the identity of those it was made from; then it is one store a record.

Invariants:
- No record points into a segment that is not mapped: `CodeSegment.drop` is called when the records
  that did are gone, or while every hart waits for just that.
- A dropped segment is gone from its place at once, so that whoever still executed there would be
  caught; to give its pages back takes a thousand times as long, and no hart waits for it (`tidy`).
- No segment of an older epoch is mapped while a hart runs: whoever retires everything drops it, and
  `attach` refuses one that comes late.
- What was dropped as late is asked for again.

Read next: `protocol/publication.py` (the rule), `records.py` (the store), `translator.py`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from cpu_proc import native
from protocol.generations import Now
from protocol.logs import get_logger
from protocol.publication import Shortcuts, why_late

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.machine import Machine
    from protocol.backlog import Backlog
    from protocol.messages import Segment, Translated

log = get_logger("translator_link")

WORKED = ("select", "lift", "parse", "passes", "codegen", "link")  # a worker's phases


class CodeSegment:
    """The code segment in force, mapped to be read and executed. From any thread."""

    def __init__(self) -> None:
        self.mapped: tuple[int, int, int] | None = None  # address, size, epoch
        self._epoch: int | None = None  # the least that may be attached, once one was retired
        self._gate = threading.Lock()
        self._places: list[int] = []  # reserved, for the one in force to be moved to
        self._moved: list[tuple[int, int]] = []  # address, size of what was dropped

    def attach(self, code: Segment, epoch: int) -> bool:
        """Map a new one; whether that could be done, and it is still wanted."""
        try:
            address = native.map_code(code.path, code.size)
        except OSError as error:
            log.warning("code_segment_refused", path=code.path, error=str(error))
            return False
        with self._gate:
            wanted = self._epoch in (None, epoch)
            if wanted:
                try:
                    self._places = [native.reserve(code.size)]
                except OSError:  # no address space: it will be given back page by page
                    self._places = []
                self.mapped = (address, code.size, epoch)
        if not wanted:
            native.unmap(address, code.size)
        return wanted

    def retire(self, epoch: int, keep: bool = False) -> None:
        """Nothing older than `epoch` is where it was any more, before any of that epoch may come.
        `keep`: M46, it stays mapped.
        """
        with self._gate:
            self._epoch = epoch
            if keep:
                self.mapped = None
        self.drop()

    def drop(self) -> None:
        """Have nothing mapped at its place, if there is one."""
        with self._gate:
            code, self.mapped = self.mapped, None
            if code is None:
                return
            address, size, _ = code
            try:
                place = self._places.pop()
                native.move(address, size, place)
            except (IndexError, OSError):
                native.unmap(address, size)
            else:
                self._moved.append((place, size))

    def tidy(self) -> None:
        """While no hart waits: give back what was dropped."""
        with self._gate:
            moved, self._moved = self._moved, []
        for address, size in moved:
            native.unmap(address, size)

    def holds(self, address: int) -> bool:
        """Whether an address lies in it."""
        code = self.mapped
        return code is not None and code[0] <= address < code[0] + code[1]


class Publisher:
    """Publishes for one link to a translator, and keeps its counts."""

    def __init__(
        self,
        machine: Machine,
        code: CodeSegment,
        backlog: Backlog,
        put: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._machine = machine
        self._code = code
        self._backlog = backlog
        self._put = put
        self.shortcuts = Shortcuts.made()
        self.counts: Counter[str] = Counter()
        self.times: Counter[str] = Counter()
        self.told: Callable[[Translated], None] = lambda _: None
        """Hears of each region put into force, at a safe point."""

    def shorten(self, epoch: int, page: int, wanted: list[int]) -> list[int]:
        """Serve slots from what is remembered beyond its time; those that are left."""
        if self.shortcuts is None:
            return wanted
        content = self._machine.guest.page_bytes(page)
        places = self.shortcuts.places(epoch, page, wanted, content)
        refused = [slot for slot in wanted if self.shortcuts.is_refused(page, slot)]

        def install() -> None:
            illegal = self._machine.engine.address("h_illegal_2")
            entries = [(slot, illegal) for slot in refused]
            if self._code.mapped is not None:
                entries += [(slot, self._code.mapped[0] + offset) for slot, offset in places]
            with self._machine.lock:
                self._machine.records.publish(page, 2**64 - 1, entries)

        self._machine.safe_point.post(install)
        served = {*refused, *(slot for slot, _ in places)}
        return [slot for slot in wanted if slot not in served]

    def publish(self, message: Translated) -> None:
        """Check and store, at a safe point."""
        began = time.perf_counter_ns()
        machine = self._machine
        records = machine.records
        words = machine.control.words
        page = message.page
        now = Now(int(words.epoch), int(words.map_generation), records.generation(page))
        code = self._code.mapped
        with machine.lock:
            content = machine.guest.page_bytes(page)
            why = why_late(message, now, None if code is None else code[2], content)
            if why is not None:
                self.counts[f"late_{why}"] += 1
                self._end(message, f"late: {why}")
                _log_dropped(message, why, now)
                slots = [slot for slot, _ in message.entries]
                self._put(("again", message.epoch, page, slots))
                return
            self._backlog.served(page)
            assert code is not None
            entries = [(slot, code[0] + offset) for slot, offset in message.entries]
            if machine.jitdump is not None:
                start = code[0] + message.code_offset
                machine.jitdump.region(page, entries, start, message.code_size)
            if records.publish(page, message.lines, entries, message.id) is None:
                self.counts["late_records"] += 1
                self._end(message, "late: records")
                _log_dropped(message, "records", now)
                return
        if self.shortcuts is not None:
            self.shortcuts.published(message)
            self._put(("leftovers", self.shortcuts))
        self.counts["published"] += 1
        self.told(message)
        self._end(message, "published")
        if any(getattr(message.timings, name) for name in WORKED):
            self.counts["instructions"] += message.instructions
        else:
            self.counts["from_store"] += 1
        for name, microseconds in message.timings._asdict().items():
            self.times[name] += microseconds
        self.times["install"] += (time.perf_counter_ns() - began) // 1000
        log.info(
            "region_published",
            id=message.id,
            page=page,
            entries=len(entries),
            epoch=now.epoch,
            page_generation=now.page_generation,
        )
        if "in_asm" in self._machine.options.log_items:
            _log_code(message, bytes(content))

    def _end(self, message: Translated, how: str) -> None:
        trace = self._machine.trace
        if trace is not None:
            trace.ended(message.id, how)

    def summary(self) -> list[str]:
        """Lines for --stats."""
        counts = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        lines = [f"translator: {counts or 'nothing'}"]
        done, instructions = self.counts["published"], self.counts["instructions"]
        fresh = done - self.counts["from_store"]
        if fresh and instructions:
            times = ", ".join(f"{name} {us / done / 1e3:.2f}" for name, us in self.times.items())
            lines.append(f"  mean milliseconds a region: {times}")
            worked = max(1, sum(self.times[name] for name in WORKED))
            lines.append(
                f"  {fresh / worked * 1e6:.1f} regions a second of a worker's time, "
                f"{worked / instructions:.0f} microseconds a guest instruction"
                f" ({self.times['cpu'] / instructions:.0f} of its processor)"
            )
        return lines


def _log_dropped(message: Translated, reason: str, now: Now) -> None:
    log.info(
        "publication_dropped",
        id=message.id,
        page=message.page,
        reason=reason,
        epoch=now.epoch,
        page_generation=now.page_generation,
    )


def _log_code(message: Translated, content: bytes) -> None:
    from protocol.riscv.disassembler import disassemble, length

    for start, size in message.spans:
        at = start
        while at < start + size:
            raw = int.from_bytes(content[at : at + 4], "little")
            text = disassemble(raw, at)
            log.info("guest_code", id=message.id, page=message.page, offset=at, code=text)
            at += length(raw)
