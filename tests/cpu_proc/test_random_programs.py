"""Random programs: what the oracle says is what every tier does, whatever happens outside."""

from __future__ import annotations

import pytest

from cpu_proc.stress import job, oracle, random_program
from cpu_proc.stress.scenario import MODES

CHAOS = {
    "retired": {"retire": 0.05},
    "killed": {"kill": 0.3},
    "swapped": {"swap": 0.1},
    "all": {"retire": 0.05, "kill": 0.5, "stop": 0.3, "worker": 0.5, "swap": 0.2},
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", MODES)
def test_every_tier_agrees_with_the_reference(mode: str, seed: int):
    result = job.run_job({"random": seed, "mode": mode})

    assert "passed" == result["kind"], result


@pytest.mark.parametrize("chaos", CHAOS)
def test_a_guest_notices_nothing_of_what_happens_outside(chaos: str):
    result = job.run_job({"random": 11, "mode": "regions", "chaos": CHAOS[chaos], "seed": 5})

    assert "passed" == result["kind"], result
    assert set(result["disturbed"]) <= set(CHAOS[chaos])


def test_a_program_is_a_function_of_its_seed():
    assert random_program.write(7) == random_program.write(7)
    assert random_program.write(7) != random_program.write(8)


def test_the_oracle_gives_up_on_what_does_not_end():
    with pytest.raises(oracle.OutOfSteps):
        oracle.expect(bytes.fromhex("6f000000"), steps=1000)  # j .


def test_a_wrong_final_state_is_noticed(monkeypatch: pytest.MonkeyPatch):
    made, expectation = random_program.scenario(1)
    other = oracle.Expectation(expectation.values, expectation.instructions, "0" * 32)
    monkeypatch.setattr(random_program, "scenario", lambda *_: (made, other))

    result = job.perform({"random": 1, "mode": "tier0"})

    assert "stale" == result["kind"]
