"""How a time line stands in a file: Chrome's JSON, or Perfetto's own trace.

Problem: both say the same - processes, tracks, spans, instants - and which one is wanted is told by
the file's name. Everybody reads JSON; Perfetto's is smaller, has nanoseconds, and says of which
clock they are.

Invariants:
- Times are nanoseconds of `CLOCK_MONOTONIC`; spans of one track nest.
- An asynchronous span belongs to a number (`id`) of a category of a process; those of one number
  nest. In a Perfetto trace each number has a track while a span of it is open, and all of a
  category have one name, by which its viewer draws them as one.
- Nothing is kept but which spans are open. Each call gives the bytes that follow in the file.

Perfetto's trace is a protobuf message: `Trace` with a `TracePacket` for each thing. Fields have a
number and a wire type (0: varint, 2: length and bytes); those used here are named beside their
numbers. (perfetto.dev, "Writing TrackEvent Protos Synthetically" and "Synchronization of multiple
clock domains"; protobuf.dev, "Encoding".)

Read next: `trace_file.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Protocol

PERFETTO = (".pftrace", ".perfetto-trace")
"""Names of files that end so get Perfetto's format."""

_MONOTONIC, _BOOTTIME = 3, 6  # BuiltinClock
_BEGIN, _END, _INSTANT = 1, 2, 3  # TrackEvent.Type

Arguments = Mapping[str, Any]


class Format(Protocol):
    """What a file's kind can say."""

    def start(self) -> bytes: ...
    def process(self, pid: int, name: str) -> bytes: ...
    def track(self, pid: int, number: int, name: str) -> bytes: ...
    def span(
        self, pid: int, track: int, name: str, start: int, took: int, about: Arguments
    ) -> bytes: ...
    def instant(self, pid: int, track: int, name: str, when: int, about: Arguments) -> bytes: ...
    def begin(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes: ...
    def end(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes: ...
    def finish(self) -> bytes: ...


def of(path: str) -> Format:
    """The format that a file of this name is to have."""
    return Perfetto() if path.endswith(PERFETTO) else Chrome()


class Chrome:
    """An array of JSON events, microseconds."""

    def __init__(self) -> None:
        self._first = True

    def start(self) -> bytes:
        return b"["

    def process(self, pid: int, name: str) -> bytes:
        return self._event("M", pid, 0, "process_name", {"args": {"name": name}})

    def track(self, pid: int, number: int, name: str) -> bytes:
        return self._event("M", pid, number, "thread_name", {"args": {"name": name}})

    def span(
        self, pid: int, track: int, name: str, start: int, took: int, about: Arguments
    ) -> bytes:
        more = {"cat": "machine", "ts": start / 1e3, "dur": took / 1e3, "args": about}
        return self._event("X", pid, track, name, more)

    def instant(self, pid: int, track: int, name: str, when: int, about: Arguments) -> bytes:
        more = {"cat": "machine", "s": "t", "ts": when / 1e3, "args": about}
        return self._event("i", pid, track, name, more)

    def begin(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes:
        more = {"cat": category, "id": hex(id), "ts": when / 1e3, "args": about}
        return self._event("b", pid, 0, name, more)

    def end(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes:
        more = {"cat": category, "id": hex(id), "ts": when / 1e3, "args": about}
        return self._event("e", pid, 0, name, more)

    def finish(self) -> bytes:
        return b"\n]\n"

    def _event(self, kind: str, pid: int, track: int, name: str, more: Arguments) -> bytes:
        event = {"ph": kind, "name": name, "pid": pid, "tid": track, **more}
        before, self._first = "\n" if self._first else ",\n", False
        return (before + json.dumps(event, separators=(",", ":"))).encode("ascii")


class Perfetto:
    """A protobuf `Trace`, nanoseconds of the monotonic clock."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}  # tracks of asynchronous spans: how deep

    def start(self) -> bytes:
        """Both clocks at this moment: so a trace of the system's can be laid beside it."""
        clocks = {_MONOTONIC: time.CLOCK_MONOTONIC, _BOOTTIME: time.CLOCK_BOOTTIME}
        snapshot = _field(2, _MONOTONIC)  # primary_trace_clock
        for clock, which in clocks.items():
            now = time.clock_gettime_ns(which)
            snapshot += _field(1, _field(1, clock) + _field(2, now))  # clocks: clock_id, timestamp
        return _packet(_field(6, snapshot))  # clock_snapshot

    def process(self, pid: int, name: str) -> bytes:
        process = _field(1, pid) + _field(6, name)  # pid, process_name
        return _packet(_field(60, _field(1, _uuid(pid)) + _field(3, process)))

    def track(self, pid: int, number: int, name: str) -> bytes:
        return self._track(_uuid(pid, number), pid, name)

    def span(
        self, pid: int, track: int, name: str, start: int, took: int, about: Arguments
    ) -> bytes:
        uuid = _uuid(pid, track)
        return self._event(uuid, _BEGIN, start, name, about) + self._event(uuid, _END, start + took)

    def instant(self, pid: int, track: int, name: str, when: int, about: Arguments) -> bytes:
        return self._event(_uuid(pid, track), _INSTANT, when, name, about)

    def begin(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes:
        uuid = _uuid(pid, category, id)
        depth = self._open.get(uuid, 0)
        self._open[uuid] = depth + 1
        head = b"" if depth else self._track(uuid, pid, category)
        return head + self._event(uuid, _BEGIN, when, name, about)

    def end(
        self, pid: int, category: str, id: int, name: str, when: int, about: Arguments
    ) -> bytes:
        uuid = _uuid(pid, category, id)
        self._open[uuid] -= 1
        if not self._open[uuid]:
            del self._open[uuid]
        return self._event(uuid, _END, when, "", about)

    def finish(self) -> bytes:
        return b""

    def _track(self, uuid: int, pid: int, name: str) -> bytes:
        track = _field(1, uuid) + _field(2, name) + _field(5, _uuid(pid))  # uuid, name, parent_uuid
        return _packet(_field(60, track))  # track_descriptor

    def _event(
        self, uuid: int, kind: int, when: int, name: str = "", about: Arguments | None = None
    ) -> bytes:
        event = _field(9, kind) + _field(11, uuid)  # type, track_uuid
        if name:
            event += _field(23, name)
        for key, value in (about or {}).items():
            number = {bool: 2, int: 3, str: 6}[type(value)]  # bool_, uint_, string_value
            event += _field(4, _field(10, key) + _field(number, value))  # debug_annotations
        head = _field(8, when) + _field(58, _MONOTONIC)  # timestamp, timestamp_clock_id
        return _packet(head + _field(11, event))  # track_event


def _packet(fields: bytes) -> bytes:
    return _field(1, fields + _field(10, 1))  # trusted_packet_sequence_id: all are of one writer


def _field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _uuid(*of: int | str) -> int:
    """A track's number in the file, which needs to be another one for each."""
    return int.from_bytes(blake2b(repr(of).encode(), digest_size=8).digest(), "little")
