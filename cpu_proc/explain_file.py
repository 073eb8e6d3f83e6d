"""The file of `coldboot run --explain FILE`: every retirement of a run, one JSON object a line.

The problem: a run retires seldom or a million times a second, and must not be slowed by being
written down; and whoever reads the file must be able to trust that nothing is missing from it.

- What the machine's book enters (`retirement.py`) is put into a bounded queue; a thread of its own
  writes it, `PERIOD` seconds later at most. An event that finds the queue full, or a file that
  takes no more, is counted, and a line `lost` says how many; the numbers of events tell which.
- Stores that retire records alone are native code's, and never seen one by one. Their number is
  exact all the same: each moves its page's generation, so what it moved by in a period, less what
  the book entered for devices and the host, is the number of stores (a line `stores`).
- The last line, `end`, repeats the machine's counters. A file without it was cut short.

Invariants: nothing is written under the machine's lock, and no hart waits for the file. The sum of
all lines is what the counters moved by (`end` has both sides).

Read next: docs/retirement.md (the format), `explain_view.py` (the reader).
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter, deque
from typing import IO, TYPE_CHECKING, Any

from cpu_proc import explain, native
from cpu_proc.loader import RAM_BASE
from cpu_proc.symbols import Symbols
from protocol.errors import UserError
from protocol.layout import PAGE, RECORD_ARRAY_PAGE, RECORD_ARRAY_STRIDE

if TYPE_CHECKING:
    from cpu_proc.culprit import Who
    from cpu_proc.machine import Machine
    from cpu_proc.retirement import Event

KIND, VERSION = "retirements", 1
PERIOD = 0.1  # seconds between two looks at the stores of native code, and two writes
LOOK = 0.002  # seconds between two looks whether the harts are out, while that is waited for
PATIENCE = 2.0  # seconds for a hart to let go of a region; then the event says that it had not
LIMIT = 1 << 16  # events that wait to be written
SHOWN = 64  # pages listed in a line `stores`; those written to less are summed up
CLOSE_PATIENCE = 10.0


class ExplainFile:
    """Writes one machine's file, from its making to `close`."""

    def __init__(self, machine: Machine, path: str) -> None:
        """Raises UserError if the file cannot be made."""
        self._machine = machine
        self._path = path
        try:
            self._file: IO[str] = open(path, "w", encoding="ascii", buffering=1 << 16)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"-explain {path}: {error.strerror}") from error
        options = machine.options
        images = options.image_files
        self._symbols = Symbols([*options.symbols, *images], RAM_BASE)
        self._queue: deque[tuple[Event, bool] | dict[str, Any]] = deque()
        self._counting = threading.Lock()
        self._wake = threading.Event()
        self._problem = ""  # why the file takes no more
        self.lost = 0
        self._lost_told = 0
        self._written: Counter[str] = Counter()
        first = machine.records.generation(0)
        self._first = first
        self._known: dict[int, int] = {}  # page -> generation at the last look
        self._entered: Counter[int] = Counter()  # page -> writes entered since the last look
        self._seen = [start for start, _ in machine.pools]  # arrays looked at, a hart
        self._stores = [0] * len(machine.harts)
        self._since = machine.retirement.now()
        self._total = {"stores": 0, "memory_writes": 0}
        self._line(
            {
                "file": KIND,
                "version": VERSION,
                "harts": options.harts,
                "translator": options.translator,
                "images": images,
            }
        )
        machine.retirement.told.append(self._enter)
        machine.retirement.dropping = self._scan
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="explain", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left and the end; tell on standard error if events are missing."""
        machine = self._machine
        if self._ended.is_set():
            return
        self._ended.set()
        self._wake.set()
        self._thread.join(CLOSE_PATIENCE)
        machine.retirement.told.remove(self._enter)
        machine.retirement.dropping = None
        with machine.lock:
            self._scan()
        self._drain(wait=False)
        self._line(
            {
                "cause": "end",
                "t": self._time(machine.retirement.now()),
                "events": machine.retirement.number,
                "causes": dict(machine.retirement.counts),
                "epoch": machine.retirement.epoch,
                "map_generation": int(machine.control.words.map_generation),
                "page_generations_moved": self._moved(),
                "lost": self.lost,
                **self._total,
            }
        )
        with contextlib.suppress(OSError, ValueError):
            self._file.close()
        if self.lost or self._problem:
            why = self._problem or "more than could be written"
            print(f"coldboot: -explain {self._path}: {why}; {self.lost} events are not in it",
                  file=sys.stderr)  # fmt: skip

    # --- from the machine's threads ------------------------------------------------------------

    def _enter(self, event: Event) -> None:
        """The book has an event: from any thread, under any lock."""
        if event.cause == "memory_write":
            page = event.details["page"]
            self._entered[page] += 1
            self._known.setdefault(page, self._first)
        out = self._harts_out(event)
        self._put((event, out))
        if not out:
            self._wake.set()

    def _put(self, item: tuple[Event, bool] | dict[str, Any]) -> None:
        if len(self._queue) >= LIMIT:
            with self._counting:
                self.lost += 1
        else:
            self._queue.append(item)

    def _scan(self) -> None:
        """Enter what native code's stores moved since the last look. Under the machine's lock."""
        machine, records = self._machine, self._machine.records
        stores = [int(hart.state.stat_stores) for hart in machine.harts]
        self._find_pages()
        moved: list[tuple[int, int]] = []
        devices = 0
        for page, before in self._known.items():
            now = records.generation(page)
            entered = self._entered[page] if self._entered else 0
            devices += entered
            if now != before:
                self._known[page] = now
                count = (now - before & 2**64 - 1) - entered
                if count:
                    moved.append((page, count))
        self._entered.clear()
        since, self._since = self._since, machine.retirement.now()
        before_stores, self._stores = self._stores, stores
        self._total["memory_writes"] += devices
        if not moved:
            return
        moved.sort(key=lambda item: -item[1])
        count = sum(n for _, n in moved)
        self._total["stores"] += count
        harts = [now - before for now, before in zip(stores, before_stores, strict=True)]
        harts[0] = max(0, harts[0] - devices)  # `Records.note_write` is called in its name
        rest = moved[SHOWN:]
        self._put(
            {
                "t": self._time(self._since),
                "cause": "stores",
                "since": self._time(since),
                "count": count,
                "by_hart": harts,
                "pages": [
                    {"page": page, "physical": self._physical(page), "count": n}
                    for page, n in moved[:SHOWN]
                ],
                "rest": {"pages": len(rest), "count": sum(n for _, n in rest)},
            }
        )

    def _find_pages(self) -> None:
        """Pages that got records since the last look: only these, and watched ones, are tracked."""
        machine = self._machine
        for index, hart in enumerate(machine.harts):
            start, end = machine.pools[index][0], int(hart.state.pool_next)
            at = self._seen[index] if self._seen[index] <= end else start
            while at < end:
                place = native.words(at + RECORD_ARRAY_PAGE, 1)[0]
                page = machine.records.page_of(place)
                if page is not None:
                    self._known.setdefault(page, self._first)
                at += RECORD_ARRAY_STRIDE
            self._seen[index] = at
        for page in machine.records.watched:
            self._known.setdefault(page, self._first)

    def _moved(self) -> int:
        """By how much all pages' generations moved, by the machine's own words."""
        generations = self._machine.control.pages[PAGE.offset("generation") // 8 :: PAGE.size // 8]
        pages = range(len(generations)) if len(generations) < 1 << 20 else self._known
        return sum((int(generations[page]) - self._first) & 2**64 - 1 for page in pages)

    # --- the thread ----------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._ended.is_set():
                self._ended.wait(LOOK) if self._queue else self._wake.wait(PERIOD)
                self._wake.clear()
                if self._machine.retirement.now() - self._since >= PERIOD:
                    with self._machine.lock:
                        self._scan()
                self._drain()
                with contextlib.suppress(ValueError):
                    self._flush()
        except BaseException as error:
            self._machine.fail(error)

    def _drain(self, wait: bool = True) -> None:
        """Write what waits, but no event whose region a hart may still be in."""
        while self._queue:
            item = self._queue[0]
            if isinstance(item, dict):
                self._line(item)
            else:
                event, at_once = item
                waited = self._machine.retirement.now() - event.when
                out = at_once or self._harts_out(event)
                if not out and wait and waited < PATIENCE:
                    return
                self._line(self._words(event, 0.0 if at_once else waited * 1e3 if out else None))
            self._queue.popleft()
            if self.lost != self._lost_told:
                self._line({"cause": "lost", "count": self.lost - self._lost_told})
                self._lost_told = self.lost

    def _harts_out(self, event: Event) -> bool:
        """Whether no hart can be in a region any more that this event took back."""
        tick = event.more.get("tick", 0)
        return all(
            hart.index == event.who.hart or hart.state.idle or hart.state.tick >= tick
            for hart in self._machine.harts
        )

    def _line(self, line: dict[str, Any]) -> None:
        if not self._problem:
            try:
                self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
                if "cause" in line:
                    self._written[line["cause"]] += 1
                return
            except OSError as error:
                self._problem = str(error.strerror)
        with self._counting:
            self.lost += line.get("cause") not in ("lost", "end")

    def _flush(self) -> None:
        if not self._problem:
            try:
                self._file.flush()
            except OSError as error:
                self._problem = str(error.strerror)

    # --- words ---------------------------------------------------------------------------------

    @staticmethod
    def _time(seconds: float) -> float:
        return round(seconds, 6)

    def _physical(self, page: int) -> list[str]:
        return [hex(a) for a in explain.physical_pages(self._machine.memory.slots, page)]

    def _who(self, who: Who) -> dict[str, Any]:
        said: dict[str, Any] = {"by": who.by}
        if who.device:
            said["device"] = who.device
        if who.did:
            said["did"] = who.did
        if who.hart is not None:
            said["hart"] = who.hart
        if who.pc is not None:
            said["pc"] = hex(who.pc)
            symbol = self._symbols.name(who.pc)
            if symbol:
                said["symbol"] = symbol
        return said

    def _words(self, event: Event, out_ms: float | None) -> dict[str, Any]:
        """One event as it stands in the file. `out_ms`: when the last hart was seen out."""
        details, more = event.details, event.more
        line: dict[str, Any] = {
            "n": event.number,
            "t": self._time(event.when),
            "cause": event.cause,
            "who": self._who(event.who),
        }
        counters: dict[str, Any] = {"epoch": more.get("epoch", (event.epoch, event.epoch))}
        if "map_generation" in more:
            counters["map_generation"] = more["map_generation"]
            line["went"] = [_range(one) for one in more["gone"]]
            line["came"] = [_range(one) for one in more["come"]]
            line["retired"] = {"lookups": "all harts"}
        elif event.cause == "hart_reset":
            line["retired"] = {"lookups": f"hart {details['hart']}"}
        elif "pages" in details:
            kept = ("pages", "regions")
            line["retired"] = {"everything": True, **{name: details[name] for name in kept}}
            line["translator_dropped"] = {n: v for n, v in details.items() if n not in kept}
        else:
            line["retired"] = self._regions(line, event)
        if "generation" in more:
            counters["page_generation"] = more["generation"]
        line["counters"] = counters
        if "epoch" in more:
            line["took_ms"] = {
                "harts_out": round(event.waited_ms, 4),
                "records": round(event.records_ms, 4),
                "translator": round(event.translator_ms, 4),
            }
        elif details.get("regions"):
            line["took_ms"] = {"harts_out": out_ms if out_ms is None else round(out_ms, 4)}
        return line

    def _regions(self, line: dict[str, Any], event: Event) -> dict[str, Any]:
        more, details = event.more, event.details
        if "page" not in details:  # every region, for a store to two pages
            return {"regions": details.get("regions", 0)}
        base = more.get("physical", [])[:1]
        line["where"] = {
            "page": details["page"],
            "memory": more["memory"][0],
            "offset": hex(more["memory"][1]),
            "physical": [hex(address) for address in more.get("physical", ())],
            "virtual": [hex(address) for address in more.get("virtual", ())],
            "lines": explain.lines_in(more.get("lines", 0)),
        }
        return {
            "regions": details["regions"],
            "records": "those of the bytes written",
            "published": [
                {"id": number, "entries": [hex((base[0] if base else 0) + o) for o in offsets]}
                for number, offsets in more.get("regions", ())
            ],
        }


def _range(one: tuple[str, int, int]) -> dict[str, Any]:
    name, base, size = one
    return {"name": name, "base": hex(base), "size": size}
