"""The throughput benchmark: which pages and entries, what it prints, and bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import throughput
from protocol.errors import USER_ERROR_EXIT
from protocol.riscv.assembler import assemble

LOOP = """
    nop
head:
    addi a0, a0, -1
    bnez a0, head
    ret
"""


@pytest.fixture
def guests(tmp_path: Path) -> Path:
    """Sources of zeros (illegal instructions) but for a page each."""
    for name, start, end in throughput.SOURCES:
        with open(tmp_path / name, "wb") as file:
            file.truncate(end)
            file.seek(start)
            file.write(assemble(LOOP, 0).data)
    return tmp_path


def test_pages_with_loops_are_entered_at_their_heads(guests: Path) -> None:
    jobs = throughput.corpus(guests, 4, "llvm")
    assert [(job.entries, len(job.content)) for job in jobs] == [((2,), 4096)] * 2


def test_a_round_is_counted_and_shown(
    guests: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = tmp_path / "found.json"
    words = ["--rounds", "2", "--pages", "4", "--guests", str(guests), "--json", str(found)]
    assert throughput.run(words) == 0
    rounds = json.loads(found.read_text())["rounds"]
    assert len(rounds) == 2
    assert all(one["regions"] == 2 and one["instructions"] == 6 for one in rounds)
    assert min(rounds[0][phase] for phase in ("codegen", "parse", "cpu")) > 0
    shown = capsys.readouterr().out
    assert shown.startswith("2 regions, 6 guest instructions")
    assert "regions a second" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guests", "/nowhere"], "coldboot guests fetch"),
        (["--backend", "magic"], "magic is unknown"),
        (["--rounds", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["throughput", *words])
    assert throughput.main() == USER_ERROR_EXIT
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
