"""`coldboot run -trace FILE`: both processes on one time line, for Perfetto or chrome://tracing.

Problem: why is it slow *now*? Counts say how much, not in which order: a region that came late, a
hart that slept, a retirement that everybody waited for. So what happens is written as it happens,
in one of two formats that <https://ui.perfetto.dev> opens (`trace_formats.py`).

What is in it, by the host's monotonic clock:
- process `machine`: a track a hart (`native`, `sleeps`; what lies between is Python), a track of
  retirements of everything with their parts, an instant for each other retirement, and an
  asynchronous span for each request from TRANSLATE sent to what became of it;
- process `translator`: for each region its phases, by the durations that TRANSLATED brings. When
  they began is not told; they are laid in the middle between request and answer, in order.

Invariants:
- Nothing is formatted or written by a hart's thread: it appends a tuple, and a thread of its own
  does the rest. Past `LIMIT` entries are counted and dropped, and the last event says how many.
- Spans of a hart closer than `GAP` are one, with a count: a guest may leave native code 20,000
  times a second.

Read next: docs/profiling.md (how to read it), `explain_file.py` (its sibling for retirements).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from typing import IO, TYPE_CHECKING, Any

from cpu_proc import explain, trace_formats
from protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine
    from cpu_proc.retirement import Event
    from protocol.messages import Translate, Translated

GAP = 50_000  # nanoseconds
LIMIT = 1 << 18  # entries that wait to be written
PERIOD = 0.2  # seconds between two writes
CLOSE_PATIENCE = 10.0
RETIREMENTS, EVENTS = 100, 101  # tracks of the machine, beside its harts'
PHASES = ("queue", "select", "lift", "parse", "passes", "codegen", "link", "publish")


class _Track:
    """A hart's span that is not written yet: more of the same may follow."""

    def __init__(self) -> None:
        self.name = ""
        self.start = self.end = self.count = 0


class TraceFile:
    """One machine's, from its making to `close`."""

    def __init__(self, machine: Machine, path: str) -> None:
        """Raises UserError if the file cannot be made."""
        self._machine = machine
        self._path = path
        try:
            self._file: IO[bytes] = open(path, "wb", buffering=1 << 16)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"-trace {path}: {error.strerror}") from error
        self._format = trace_formats.of(path)
        self._queue: deque[tuple[Any, ...]] = deque()
        self._problem = ""
        self.lost = 0
        self._tracks = [_Track() for _ in machine.harts]
        self._requests: dict[int, tuple[int, int]] = {}  # id -> when it was sent, page
        self._answers: dict[int, int] = {}  # id -> when it was answered
        self._translator = 0
        self._origin = time.monotonic_ns() - int(machine.retirement.now() * 1e9)
        self._pid = os.getpid()
        self._write(self._format.start())
        self._write(self._format.process(self._pid, f"machine {self._pid}"))
        names = {number: f"hart {number}" for number in range(len(machine.harts))}
        names |= {RETIREMENTS: "retirements of everything", EVENTS: "retirements"}
        for number, name in names.items():
            self._write(self._format.track(self._pid, number, name))
        machine.retirement.told.append(self._retired)
        for hart in machine.harts:
            self._watch(hart)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._main, name="trace", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and the file's end. Harmless when called again."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join(CLOSE_PATIENCE)
        self._machine.retirement.told.remove(self._retired)
        self._drain()
        for number in range(len(self._tracks)):
            self._span(number)
        for id in list(self._requests):
            self._end(id, time.monotonic_ns(), "the machine ended")
        self._instant(time.monotonic_ns(), "end", {"lost": self.lost})
        self._write(self._format.finish())
        try:
            self._file.close()
        except OSError as error:
            self._problem = self._problem or str(error.strerror)
        if self._problem:
            print(f"coldboot: -trace {self._path}: {self._problem}; it is cut short",
                  file=sys.stderr)  # fmt: skip
        elif self.lost:
            print(f"coldboot: -trace {self._path}: {self.lost} events too many are not in it",
                  file=sys.stderr)  # fmt: skip

    # --- from the machine's threads: one tuple each ----------------------------------------------

    def _watch(self, hart: Hart) -> None:
        """Have a hart's `run` and `sleep` tell when they began and ended; it pays only if asked."""

        def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any) -> Any:
                start = time.monotonic_ns()
                result = call(*arguments)
                self._put(("hart", hart.index, name, start, time.monotonic_ns()))
                return result

            return wrapped

        for method, name in (("run", "native"), ("sleep", "sleeps")):
            setattr(hart, method, timed(name, getattr(hart, method)))

    def requested(self, message: Translate, translator: int) -> None:
        """TRANSLATE goes to the translator, a process."""
        self._put(("requested", time.monotonic_ns(), message.id, message.page, translator))

    def answered(self, message: Translated) -> None:
        """TRANSLATED is here."""
        self._put(("answered", time.monotonic_ns(), message.id, message))

    def ended(self, id: int, how: str) -> None:
        """What became of a request."""
        self._put(("ended", time.monotonic_ns(), id, how))

    def _retired(self, event: Event) -> None:
        self._put(("retired", event))

    def _put(self, item: tuple[Any, ...]) -> None:
        if len(self._queue) < LIMIT:
            self._queue.append(item)
        else:
            self.lost += 1

    # --- the thread ------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self._ended.wait(PERIOD):
            self._drain()

    def _drain(self) -> None:
        while self._queue:
            match self._queue.popleft():
                case ("hart", number, name, start, end):
                    track = self._tracks[number]
                    if track.name != name or start - track.end > GAP:
                        self._span(number)
                        track.name, track.start, track.count = name, start, 0
                    track.end = end
                    track.count += 1
                case ("requested", when, id, page, translator):
                    if translator != self._translator:
                        self._translator = translator
                        name = f"translator {translator}"
                        self._write(self._format.process(translator, name))
                    self._requests[id] = (when, page)
                    whose = (self._pid, "request", id)
                    self._write(self._format.begin(*whose, "request", when, {"page": page}))
                case ("answered", when, id, message):
                    self._phases(when, id, message)
                case ("ended", when, id, how):
                    self._end(id, when, how)
                case ("retired", event):
                    self._retirement(event)
        if not self._problem:
            try:
                self._file.flush()
            except OSError as error:
                self._problem = str(error.strerror)

    def _span(self, number: int) -> None:
        track = self._tracks[number]
        if track.name:
            duration = track.end - track.start
            self._span_of(number, track.name, track.start, duration, {"times": track.count})
            track.name = ""

    def _end(self, id: int, when: int, how: str) -> None:
        if self._requests.pop(id, None) is not None:
            answered = self._answers.pop(id, None)
            whose = (self._pid, "request", id)
            if answered is not None:
                self._write(self._format.begin(*whose, "publish", answered, {}))
                self._write(self._format.end(*whose, "publish", when, {"how": how}))
            self._write(self._format.end(*whose, "request", when, {"how": how}))

    def _phases(self, when: int, id: int, message: Translated) -> None:
        if id not in self._requests:
            return
        self._answers[id] = when
        sent, page = self._requests[id]
        times = message.timings._asdict()
        took = sum(times[name] for name in PHASES) * 1000
        at = sent + max(0, when - sent - took) // 2
        about = {
            "page": page,
            "instructions": message.instructions,
            "bytes": message.code_size,
            "from_store": not any(times[name] for name in PHASES[1:-1]),
        }
        whose = (self._translator, "translation", id)
        self._write(self._format.begin(*whose, "translate", at, about))
        for name in PHASES:
            if times[name]:
                self._write(self._format.begin(*whose, name, at, {}))
                at += times[name] * 1000
                self._write(self._format.end(*whose, name, at, {}))
        self._write(self._format.end(*whose, "translate", at, {}))

    def _retirement(self, event: Event) -> None:
        end = self._origin + int(event.when * 1e9)
        about = {"number": event.number, "epoch": event.epoch, "text": explain.line(event)}
        if not event.ms:
            self._instant(end, event.cause, about)
            return
        waited, rest = int(event.waited_ms * 1e6), int(event.ms * 1e6)
        start = end - rest - waited
        awaited = max(0, int(event.translator_ms * 1e6) - rest)  # harts run again by then
        self._span_of(RETIREMENTS, event.cause, start, waited + rest + awaited, about)
        self._span_of(RETIREMENTS, "harts out", start, waited)
        if awaited:
            self._span_of(RETIREMENTS, "translator", end, awaited)
        for id in list(self._requests):  # all were of an older epoch
            self._end(id, end, "retired")
        self._span_of(RETIREMENTS, "records", end - rest, int(event.records_ms * 1e6))

    # --- the file --------------------------------------------------------------------------------

    def _span_of(
        self, track: int, name: str, start: int, took: int, about: dict[str, Any] | None = None
    ) -> None:
        self._write(self._format.span(self._pid, track, name, start, took, about or {}))

    def _instant(self, when: int, name: str, about: dict[str, Any]) -> None:
        self._write(self._format.instant(self._pid, EVENTS, name, when, about))

    def _write(self, data: bytes) -> None:
        if self._problem:
            return
        try:
            self._file.write(data)
        except OSError as error:
            self._problem = str(error.strerror)
