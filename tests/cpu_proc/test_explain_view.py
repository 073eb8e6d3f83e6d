"""The reader of --explain's files: whole ones, cut ones, damaged ones, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_proc import cli
from cpu_proc.explain_view import Reading, Thinner

HEAD = {"file": "retirements", "version": 1, "harts": 2}
STORE = {
    "n": 1,
    "t": 0.5,
    "cause": "guest_store",
    "who": {"by": "hart", "did": "store", "hart": 1, "pc": "0x80000010", "symbol": "patch"},
    "where": {
        "page": 1, "memory": "ram", "offset": "0x1000", "physical": ["0x80001000"],
        "virtual": [], "lines": [3],
    },
    "retired": {"regions": 2, "published": []},
    "counters": {"epoch": [1, 1], "page_generation": [4, 5]},
    "took_ms": {"harts_out": 0.25},
}  # fmt: skip
RESET = {
    "n": 2,
    "t": 1.5,
    "cause": "system_reset",
    "who": {"by": "device", "device": "test-finisher", "hart": 0, "pc": "0x80000020"},
    "retired": {"everything": True, "pages": 3, "regions": 4},
    "counters": {"epoch": [1, 2]},
    "took_ms": {"harts_out": 0.1, "records": 0.1, "translator": 1.0},
}
STORES = {
    "t": 2.0,
    "cause": "stores",
    "since": 1.9,
    "count": 7,
    "by_hart": [5, 2],
    "pages": [{"page": 2, "physical": ["0x80002000"], "count": 7}],
    "rest": {"pages": 0, "count": 0},
}
END = {"cause": "end", "t": 2.5, "events": 2, "stores": 7, "epoch": 2, "map_generation": 17}
WHOLE = [HEAD, STORE, RESET, STORES, END]


def written(folder: Path, lines: list[Any]) -> Path:
    path = folder / "e"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def shown(path: Path, capsys: Any, *words: str) -> str:
    assert 0 == cli.main(["explain", str(path), *words])
    return str(capsys.readouterr().out)


def test_a_table_a_timeline_and_the_events(tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setenv("COLUMNS", "120")
    out = shown(written(tmp_path, WHOLE), capsys)

    assert "system_reset" in out
    assert "hart 1 at patch store: 0x80001000 line 3, 2 region(s), page_generation 4 to 5" in out
    assert "test-finisher, hart 0 at 0x80000020: 4 region(s), epoch 1 to 2" in out
    assert "2 events and 7 stores to tracked lines in 2.500 s" in out
    assert "note" not in out


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("cause", {"guest_store": 1, "system_reset": 1, "stores": 7}),
        ("page", {"0x80001000": 1, "everywhere": 1, "0x80002000": 7}),
        ("hart", {"hart 0": 6, "hart 1": 3}),
    ],
)
def test_rows(by: str, rows: dict[str, int]):
    reading = Reading()
    lines = [json.dumps(line).encode() + b"\n" for line in WHOLE]
    reading.take(iter(lines), by, 0, 10, 5)
    assert rows == {name: row.count for name, row in reading.shown.items()}
    assert 9 == sum(count for _, count in reading.times)


def test_a_stretch_of_time(tmp_path: Path, capsys: Any):
    out = shown(written(tmp_path, WHOLE), capsys, "--since", "1", "--until", "1.9")
    assert "system_reset" in out
    assert "guest_store" not in out
    assert "0x80002000" not in out


def test_a_file_cut_short_is_shown_as_far_as_it_goes(tmp_path: Path, capsys: Any):
    path = written(tmp_path, [HEAD, STORE, RESET])
    path.write_bytes(path.read_bytes()[:-20])
    out = shown(path, capsys)
    assert "guest_store" in out
    assert "1 line(s) are damaged" in out
    assert "the end is missing" in out


def test_missing_events_are_noticed(tmp_path: Path, capsys: Any):
    lost = {"cause": "lost", "count": 3}
    late = {**RESET, "n": 5}
    out = shown(written(tmp_path, [HEAD, STORE, lost, late, {**END, "events": 5}]), capsys)
    assert "3 event(s) are missing" in out


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "an empty file tells nothing"),
        (b"hello\n", "this is no file of retirements"),
        (b"{}\n", "this is no file of retirements"),
        (b'{"file":"retirements","version":9}\n', "the file has version 9, this program reads 1"),
    ],
)
def test_what_is_none_is_one_line(tmp_path: Path, capsys: Any, content: bytes, why: str):
    path = tmp_path / "e"
    path.write_bytes(content)
    assert 2 == cli.main(["explain", str(path)])
    said = capsys.readouterr()
    assert [f"coldboot: explain {path}: {why}"] == [
        line.split(" (coldboot")[0] for line in said.err.splitlines()
    ]


def test_no_file_at_all(tmp_path: Path, capsys: Any):
    assert 2 == cli.main(["explain", str(tmp_path / "none")])
    assert "No such file" in capsys.readouterr().err


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    st.sampled_from(WHOLE[1:]),
    st.sampled_from(sorted({name for line in WHOLE for name in line})),
    VALUES,
    st.sampled_from(["cause", "page", "hart"]),
)
def test_a_strange_value_harms_nothing_else(tmp_path_factory, line, name, value, by):
    path = written(tmp_path_factory.mktemp("e"), [HEAD, STORE, {**line, name: value}, END])
    assert 0 == cli.main(["explain", str(path), "--by", by])


def test_a_long_run_has_a_short_timeline():
    thin = Thinner()
    for tenth in range(100_000):
        thin.add(tenth / 10, 1)
    times = thin.times()
    assert len(times) <= 120
    assert 100_000 == sum(count for _, count in times)
