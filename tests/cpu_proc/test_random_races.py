"""Programs of several harts that patch and call: no call returns a value nobody may see."""

from __future__ import annotations

import pytest

from cpu_proc.stress import job, random_program, random_race
from cpu_proc.stress.scenario import MODES


@pytest.mark.parametrize("harts", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_no_call_returns_what_it_must_not(mode: str, harts: int):
    result = job.run_job({"race": harts, "operations": 12, "mode": mode, "harts": harts})

    assert "passed" == result["kind"], result
    assert [0] * 5 == result["values"][:5]
    assert (result["values"][5] > 0) == (harts > 1)


def test_it_goes_on_while_the_translator_dies_and_messages_are_late():
    chaos = {"kill": 0.3, "retire": 0.05, "messages": 0.05}
    result = job.run_job(
        {"race": 3, "operations": 12, "mode": "mixed", "harts": 2, "chaos": chaos, "seed": 1}
    )

    assert "passed" == result["kind"], result


def test_a_mistake_is_seen_by_the_program_itself():
    result = job.run_job(
        {"race": 5, "operations": 40, "mode": "tier0", "harts": 1, "mutants": ["M6"]}
    )

    assert "stale" == result["kind"], result


def test_a_program_without_some_patches_is_otherwise_the_same():
    whole = random_race.scenario(4, 2, 20).text
    some = random_race.scenario(4, 2, 20, frozenset(range(10))).text

    assert random_race.scenario(4, 2, 20, frozenset(range(20))).text == whole
    assert len(some) < len(whole)
    assert some.split("j finish")[-1] == whole.split("j finish")[-1]


def test_a_random_program_can_be_cut():
    whole = random_program.write(7, 24)
    cut = random_program.Cut(frozenset({3, 4}), frozenset({0}))
    _, expectation = random_program.scenario(7, 24, cut)

    assert whole == random_program.write(7, 24, random_program.Cut(frozenset(range(24))))
    assert len(random_program.write(7, 24, cut)) < len(whole)
    assert 1 == len(expectation.values)


@pytest.mark.parametrize("seed", range(4))
def test_a_program_is_the_same_image_in_every_mode(seed: int):
    made, _ = random_program.scenario(seed, 12)
    images = {made.assemble(mode).data for mode in MODES.values()}

    assert 1 == len(images)
