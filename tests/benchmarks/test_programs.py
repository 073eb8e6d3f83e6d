"""Every benchmark program computes the same on coldboot as on the host, and the suite works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import contenders, figures, processes, programs, suite, whole
from benchmarks.processes import descendants, end, state, watch
from protocol.errors import UserError
from tests.oracle import QEMU, require

CHUNKS = 1
KNOWN = {"syscalls": ["cec1568a6fd90f7f"]}  # QEMU 7.2.22's, for what has no form for the host


@pytest.fixture(autouse=True)
def _compilers() -> None:
    require("riscv64-unknown-elf-gcc")
    require("gcc")


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_it_computes_what_the_host_computes(name: str, tmp_path: Path):
    built = programs.build(programs.PROGRAMS[name])
    if built.native is None:
        expected = KNOWN[name]
    else:
        text = subprocess.check_output([built.native, str(CHUNKS)], text=True)
        expected = text.split()
    run = contenders.coldboot().run(built.limited(CHUNKS, tmp_path))

    trace = watch(run.command, deadline=240, environment=run.environment)

    assert (0, expected) == (trace.status, trace.checksums), trace.said


def test_the_suite_compares_and_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    require(QEMU)
    saved, drawn = tmp_path / "all.json", tmp_path / "all.svg"
    words = ["--only", "calls", "--rounds", "1", "--seconds", "0.05", "--warm", "0"]
    words += ["--peers", "qemu,native", "--json", str(saved), "--plot", str(drawn)]

    assert 0 == suite.main(words)

    (found,) = json.loads(saved.read_text())["rows"]
    assert ["coldboot", "native"] == [n for n in found["rounds"] if not n.startswith("QEMU")]
    assert all(costs != [None] for costs in found["rounds"].values()), found["problems"]
    assert "<svg" in drawn.read_text()
    assert "calls" in capsys.readouterr().out


def test_a_wrong_result_gives_no_figure(tmp_path: Path):
    options = suite.arguments().parse_args(["--warm", "0", "--seconds", "0.01"])
    built = programs.build(programs.PROGRAMS["calls"])
    sieve = programs.build(programs.PROGRAMS["sieve"])
    row = figures.Row("calls", "integer", 1e6)
    mistaken = programs.Built(built.program, sieve.image, sieve.elf, built.native)

    suite.one_round(mistaken, row, [contenders.coldboot()], options, tmp_path)

    assert {"coldboot": [None]} == row.rounds
    assert {"coldboot": "wrong result in chunk 0"} == row.problems


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch):
    """Nobody waits long for processes that never end by themselves."""
    monkeypatch.setattr(processes, "LEAVING", 0.5)


@pytest.mark.usefixtures("hurried")
def test_a_process_and_its_children_are_told_apart():
    child = "sum(range(10**7)); print('done', flush=True); import time; time.sleep(600)"
    parent = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
while True:
    print("a chunk", flush=True)
"""
    trace = watch([sys.executable, "-c", parent], deadline=240, seconds=0.01)

    assert trace.steady is not None
    assert trace.samples[-1].others > trace.samples[-1].own > trace.steady.own >= 0.01
    assert descendants(1 << 22) == []


@pytest.mark.usefixtures("hurried")
def test_what_is_watched_ends_with_its_children():
    child = "print('here', flush=True); import time; time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    family = descendants(process.pid)

    end(process)

    process.stdout.close()
    assert 1 == len(family)
    assert "Z" == state(family[0])  # its new parent may not have looked yet


@pytest.mark.parametrize(
    "words",
    [["--only", "nothing"], ["--peers", "nobody"], ["--rounds", "0"], ["--beside", "/nowhere"]],
)
def test_mistakes_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert 2 == suite.main([*words, "--quick"])
    assert 1 == len(capsys.readouterr().err.strip().splitlines())


def test_without_a_compiler_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", "/nowhere")

    assert 2 == suite.main(["--quick", "--only", "calls", "--peers", "none"])
    assert "gcc-riscv64-unknown-elf" in capsys.readouterr().err
    with pytest.raises(UserError):
        programs.compilers()


def test_whole_runs_beside_qemu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    require(QEMU)
    saved, document = tmp_path / "whole.json", tmp_path / "document.md"
    document.write_text("\n".join(("before", *whole.MARKS, "after")))
    words = ["--whole", "--only", "calls", "--rounds", "1", "--last", "0.05"]

    assert 0 == suite.main([*words, "--json", str(saved), "--markdown", str(document)])

    (found,) = json.loads(saved.read_text())["rows"]
    assert {} == found["problems"]
    assert {"cold", "warm", "qemu"} == found["rounds"].keys()
    costs = [one for (one,) in found["rounds"].values()]
    assert all(one["cpu"] > 0 and one["wall"] > 0 for one in costs)
    table = capsys.readouterr().out.strip()
    assert f"before\n{whole.MARKS[0]}\n\n{table}\n\n{whole.MARKS[1]}\nafter" == document.read_text()
    assert 0 == suite.main(["--whole", "--seen", str(saved)])
    assert table == capsys.readouterr().out.strip()
