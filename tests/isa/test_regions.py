"""The same sequences, tables and programs through translated regions, in the real machine.

With ``-threshold 1`` what is jumped to is translated before it goes on, so all that follows a taken
jump runs as a region; several rounds take the way through records, regions and back. Each test asks
for enough regions to know that it is not tier 0 that is tested again.
"""

from __future__ import annotations

import pytest

from tests.isa.batch import Batch, differences, run_reference
from tests.isa.generate import Generator, Profile
from tests.isa.machine_runner import MachineRunner
from tests.isa.test_instructions import float_batches, integer_batch
from tests.isa.test_translation import check

LOOPING = Profile(items=(3, 8), iterations=(10, 40), loops=1.0, faults=0.05)


@pytest.fixture
def translated() -> MachineRunner:
    return MachineRunner("-threshold", "1", "-cold")


def compare(batch: Batch, runner: MachineRunner) -> None:
    found = batch.results(runner(batch.image))
    wrong = differences(batch, run_reference(batch), found)
    if wrong:
        pytest.fail(f"{len(wrong)} sequences differ\n{wrong[0]}", pytrace=False)


@pytest.mark.parametrize("further", [(), ("-icount", "3")], ids=["free", "counted"])
def test_random_sequences(further):
    runner = MachineRunner("-threshold", "1", "-cold", *further)
    compare(Batch(Generator(77).sequences(60), rounds=3), runner)
    assert runner.regions > 20


def test_loops(translated):
    compare(Batch(Generator(78, LOOPING).sequences(40), rounds=2), translated)
    assert translated.regions > 10


def test_code_that_changes(translated):
    compare(Batch(Generator(79, Profile(patches=1.0)).sequences(30), rounds=3), translated)


@pytest.mark.parametrize("name", ["integers", "singles", "doubles"])
def test_edge_values(translated, name):
    batch = {
        "integers": lambda: integer_batch(False),
        "singles": lambda: float_batches(False)[0],
        "doubles": lambda: float_batches(False)[1],
    }[name]()
    compare(Batch(batch.sequences[::40], rounds=2), translated)
    assert translated.regions > 10


@pytest.mark.parametrize("seed", range(3))
def test_programs_that_change_translation(translated, seed):
    check(seed, 30, translated, rounds=3)
    assert translated.regions > 5
