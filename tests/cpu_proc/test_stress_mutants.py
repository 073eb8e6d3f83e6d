"""Each mistake, switched on, makes a guest report a wrong value; docs/stale-code.md says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cpu_proc.stress import job, scenario
from cpu_proc.stress.witnesses import WITNESSES
from protocol.mutants import MUTANTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", WITNESSES)
def test_a_mistake_is_found(mutant: str):
    witness = WITNESSES[mutant]
    trial = {"scenario": witness.scenario, "mode": witness.mode, "harts": witness.harts}

    for _ in range(witness.attempts):
        result = job.run_job({**trial, "mutants": [mutant]})
        if result["kind"] == "stale":
            break

    assert "stale" == result["kind"], result


def test_a_scenario_bears_the_witness_of_its_own_class():
    scenarios = scenario.load_all()
    assert {name: name for name in WITNESSES} == {
        name: scenarios[witness.scenario].mutant for name, witness in WITNESSES.items()
    }


def test_the_document_has_a_row_for_each_class():
    text = (ROOT / "docs" / "stale-code.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (M\d+) \|(.*)\|$", text, re.MULTILINE))

    assert sorted(rows, key=lambda name: int(name[1:])) == list(rows)
    assert set(WITNESSES) <= set(rows) <= set(MUTANTS)
    for made in scenario.load_all().values():
        if made.mutant in rows:
            assert f"`{made.name}`" in rows[made.mutant], made.name
