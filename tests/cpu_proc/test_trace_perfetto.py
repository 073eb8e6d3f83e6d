"""`coldboot run -trace FILE.pftrace`: Perfetto's own format, read by the classes of its package.

Its query program is in no package: the Python one fetches it when it is first used. What that would
do with slices (lay them into tracks by time, and close the innermost one) is done here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace as Message

from tests.cpu_proc.test_trace_file import GUEST
from tests.system import programs

MONOTONIC = 3


@dataclass
class Slice:
    name: str
    start: int
    end: int = -1
    about: dict[str, Any] = field(default_factory=dict)
    inside: list[Slice] = field(default_factory=list)


@dataclass
class Trace:
    """What stands in a file. A track is known by its process' name and its own."""

    slices: dict[tuple[str, str], list[Slice]]
    instants: list[str]
    clocks: dict[int, int]


def read(path: Path) -> Trace:
    """As Perfetto would: packets sorted by time, tracks by their descriptors."""
    data = path.read_bytes()
    message = Message.FromString(data)
    message.DiscardUnknownFields()
    assert len(data) == message.ByteSize(), "all that stands there is of the format"
    tracks: dict[int, Any] = {}
    trace = Trace(defaultdict(list), [], {})
    events = []
    for packet in message.packet:
        kind = packet.WhichOneof("data")
        assert packet.trusted_packet_sequence_id == 1
        if kind == "clock_snapshot":
            assert packet.clock_snapshot.primary_trace_clock == MONOTONIC
            trace.clocks = {c.clock_id: c.timestamp for c in packet.clock_snapshot.clocks}
        elif kind == "track_descriptor":
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        else:
            assert kind == "track_event"
            assert packet.timestamp_clock_id == MONOTONIC
            assert packet.track_event.track_uuid in tracks, "described before it is used"
            events.append((packet.timestamp, packet.track_event))
    open_slices: dict[int, list[Slice]] = defaultdict(list)
    for when, event in sorted(events, key=lambda one: one[0]):
        track = tracks[event.track_uuid]
        process = tracks[track.parent_uuid].process
        key = process.process_name.replace(str(process.pid), "").strip(), track.name
        stack = open_slices[event.track_uuid]
        about = {one.name: getattr(one, one.WhichOneof("value")) for one in event.debug_annotations}
        if event.type == event.TYPE_SLICE_BEGIN:
            one = Slice(event.name, when, about=about)
            (stack[-1].inside if stack else trace.slices[key]).append(one)
            stack.append(one)
        elif event.type == event.TYPE_SLICE_END:
            stack[-1].about |= about
            stack.pop().end = when
        else:
            assert event.type == event.TYPE_INSTANT
            trace.instants.append(event.name)
    assert not any(open_slices.values())
    return trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    folder = tmp_path_factory.mktemp("perfetto")
    done = programs.run(GUEST, folder, "-threshold", "1", "-trace", folder / "one.pftrace")
    assert 0 == done.returncode, done.stderr
    return read(folder / "one.pftrace")


def test_both_processes_are_on_it_by_one_clock(trace: Trace):
    assert {MONOTONIC, 6} == set(trace.clocks)
    assert set(trace.slices) == {
        ("machine", "hart 0"),
        ("machine", "retirements of everything"),
        ("machine", "request"),
        ("translator", "translation"),
    }
    times = [one.start for slices in trace.slices.values() for one in slices]
    assert trace.clocks[MONOTONIC] <= min(times)
    assert max(times) < trace.clocks[MONOTONIC] + 3600 * 10**9
    assert "end" in trace.instants


def test_the_translators_work_lies_in_the_request_for_it(trace: Trace):
    requests = {one.start: one for one in trace.slices["machine", "request"]}
    published = [one for one in requests.values() if one.about["how"] == "published"]
    assert published
    made = trace.slices["translator", "translation"]
    for one in published:
        assert "publish" in [part.name for part in one.inside]
        assert any(
            one.start <= work.start <= work.end and work.about["page"] == one.about["page"]
            for work in made
        )
    for work in made:
        assert work.name == "translate"
        parts = work.inside
        assert {"queue", "select", "lift", "parse", "passes", "codegen", "link", "publish"} >= {
            part.name for part in parts
        }
        assert all(before.end == after.start for before, after in pairwise(parts))


def test_the_reset_is_a_span_with_its_parts(trace: Trace):
    [reset] = [
        one
        for one in trace.slices["machine", "retirements of everything"]
        if one.name == "system_reset"
    ]
    assert reset.about["epoch"] > 0
    names = {part.name for part in reset.inside}
    assert "records" in names or "harts out" in names
    hart = trace.slices["machine", "hart 0"]
    assert {"native", "sleeps"} == {one.name for one in hart}
    assert all(one.end >= one.start and one.about["times"] > 0 for one in hart)
    assert any(one.name == "native" and one.start > reset.start for one in hart)
