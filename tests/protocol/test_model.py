"""The models of the protocol: no error in a clean one, an error for each mistake.

The quick ones here; `make model` has all of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.model import check
from protocol.model.check import CASES, HERE, Case
from protocol.mutants import MUTANTS
from tests.oracle import require

QUICK = [case for case in CASES if case.quick]
# What stands in the session, the records or the safe points; the rest are mistakes within one side.
PROTOCOL_CLASSES = (9, 15, 16, 17, 20, 21, 22, *range(26, 36), 37, *range(40, 45), 46, 47, 48)


def name(case: Case) -> str:
    return f"{case.model}-{case.mutant or 'clean'}-{case.what.replace(' ', '-')}"


@pytest.mark.parametrize("case", QUICK, ids=name)
def test_the_model(case: Case, tmp_path: Path):
    require("spin", "gcc")
    good, found = check.check(case, tmp_path)

    assert good, found


def test_each_mistake_of_the_protocol_has_a_search():
    searched = {case.mutant for case in CASES}

    assert {f"M{n}" for n in PROTOCOL_CLASSES} <= searched
    assert searched <= {"", "TORN", "NOWAIT", "M35E", *MUTANTS}


def test_each_switch_changes_its_model():
    for case in CASES:
        text = (HERE / f"{case.model}.pml").read_text()
        for switch in f"{case.switches} {case.mutant}".split():
            assert switch.split("=")[0] in text, (case, switch)


def test_a_wrong_result_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    require("spin", "gcc")
    harmless = Case("session", "nothing happens", "REQS=1 RUNS=1", "M9")
    monkeypatch.setattr(check, "CASES", (harmless,))

    assert 1 == check.main([])
    assert "WRONG: no error" in capsys.readouterr().out


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]):
    require("spin", "gcc")

    assert 2 == check.main(["M99"])
    assert "M99" in capsys.readouterr().err
