"""`coldboot run -trace FILE`: a time line that a viewer of Chrome's trace format can show.

What is checked is what the format demands, and what a person should find. Perfetto's own format:
`test_trace_perfetto.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.system import programs, runner

GUEST = """
main:
    li s6, 3000
1:
    addi s6, s6, -1
    bnez s6, 1b
    li t0, 0x80800000       # beyond the image: it stays through a reset
    ld t1, 0(t0)
    bnez t1, asleep
    li t1, 1
    sd t1, 0(t0)
    li t2, 0x7777
    li t3, FINISHER
    sw t2, 0(t3)
    j .
asleep:
    li s5, 6                # the first time, translating may take longer than the sleep
again:
    li t0, 0x80             # MTIE: wake after 20 ms
    csrs mie, t0
    li t0, 0x0200bff8
    ld t1, 0(t0)
    li t2, 200000
    add t1, t1, t2
    li t0, 0x02004000
    sd t1, 0(t0)
2:
    wfi                     # which may end early
    csrr t0, mip
    andi t0, t0, 0x80
    beqz t0, 2b
    addi s5, s5, -1
    bnez s5, again
    j PASS
"""
"""Computes, resets the system, computes again, sleeps some times, ends."""


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trace")
    path = folder / "trace.json"
    done = programs.run(GUEST, folder, "-threshold", "1", "-trace", path)
    assert 0 == done.returncode, done.stderr
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def test_every_event_is_one_of_the_format(events: list[dict[str, Any]]):
    needed = {"M": {"name", "args"}, "X": {"ts", "dur"}, "i": {"ts", "s"}}
    for event in events:
        keys = needed.get(event["ph"], {"ts", "id", "cat"})
        assert event["ph"] in "MXibe"
        assert keys | {"pid", "tid", "name"} <= set(event), event
        assert event.get("dur", 0) >= 0


def test_spans_of_a_track_nest(events: list[dict[str, Any]]):
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    assert tracks
    for spans in tracks.values():
        open_until: list[float] = []
        for start, minus in sorted(spans):
            while open_until and open_until[-1] <= start + 1e-3:
                open_until.pop()
            assert not open_until or start - minus <= open_until[-1] + 1e-3
            open_until.append(start - minus)


def test_asynchronous_spans_begin_and_end(events: list[dict[str, Any]]):
    stacks: dict[tuple[int, str, str], list[str]] = defaultdict(list)
    for event in events:
        key = (event["pid"], event.get("cat", ""), event.get("id", ""))
        if event["ph"] == "b":
            stacks[key].append(event["name"])
        elif event["ph"] == "e":
            assert event["name"] == stacks[key].pop(), event
    assert not any(stacks.values())


def test_both_processes_are_on_it(events: list[dict[str, Any]]):
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert {"machine", "translator"} == {name.split()[0] for name in names.values()}
    assert all(name.split()[1] == str(pid) for pid, name in names.items())


def test_a_region_is_found_from_its_request_to_its_end(events: list[dict[str, Any]]):
    ended = [e for e in events if e["ph"] == "e" and e["name"] == "request"]
    published = [e for e in ended if e["args"]["how"] == "published"]
    assert published
    for end in published:
        of = [e for e in events if e.get("id") == end["id"]]
        begin = next(e for e in of if e["ph"] == "b" and e["name"] == "request")
        made = {(e["name"], e["ph"]): e["ts"] for e in of if e["cat"] == "translation"}
        assert begin["ts"] <= made["translate", "b"] <= made["translate", "e"]
        assert {e["name"] for e in of} >= {"request", "translate", "publish"}
        assert begin["ts"] < end["ts"]


def test_the_reset_and_the_sleep_are_there(events: list[dict[str, Any]]):
    spans = [e for e in events if e["ph"] == "X"]
    reset = [e for e in spans if e["name"] == "system_reset"]
    assert 1 == len(reset)
    inside = [
        e for e in spans
        if e["tid"] == reset[0]["tid"] and e is not reset[0]
        and reset[0]["ts"] - 1 <= e["ts"] <= reset[0]["ts"] + reset[0]["dur"] + 1
    ]  # fmt: skip
    assert {"harts out", "records", "translator"} == {e["name"] for e in inside}
    native = [e for e in spans if e["name"] == "native"]
    asleep = [e for e in spans if e["name"] == "sleeps"]
    assert any(e["ts"] > reset[0]["ts"] for e in native)
    assert any(e["dur"] > 1000 for e in asleep)


@pytest.mark.parametrize("name", ["no/file", "-"])
def test_a_file_that_cannot_be_made(name: str, tmp_path: Path):
    done = programs.run("main: j PASS", tmp_path, "-trace", name)
    assert 2 == done.returncode
    assert b"-trace" in done.stderr
    assert 1 == done.stderr.count(b"\n")


def test_a_disk_that_is_full(tmp_path: Path):
    """The guest ends as it would; the user is told that the file is not whole."""
    done = runner.run("-m", "32M", "-trace", "/dev/full", programs.elf(GUEST, tmp_path))
    assert 0 == done.returncode
    assert b"-trace /dev/full" in done.stderr
