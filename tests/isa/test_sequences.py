"""Random instruction sequences: tier 0, the reference interpreter and QEMU do the same."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.riscv.isa import ENCODINGS
from protocol.riscv.reference import Memory, ReferenceHart
from tests.engine_harness import FINISHER
from tests.isa.batch import (
    RAM,
    RAM_MIB,
    Batch,
    Runner,
    differences,
    run_in_engine,
    run_in_qemu,
    run_reference,
    shrink,
)
from tests.isa.generate import LEFT_OUT, Generator, Profile, classes

LOOPING = Profile(items=(3, 8), iterations=(10, 40), loops=1.0, faults=0.05)
LONG = Profile(items=(30, 60), faults=0.05)
PORTABLE = Profile(portable=True)


def check(runner: Runner, seed: int, count: int, profile: Profile, rounds: int = 1) -> None:
    """Run sequences and compare them with the reference; the first that differs is made small."""
    counted = not profile.portable
    batch = Batch(Generator(seed, profile).sequences(count), rounds, counted=counted)
    expected = run_reference(batch)
    found = batch.results(runner(batch.image))
    for number, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a != b:
            shown = differences(batch, expected, found)
            small = shrink(batch.sequences[number], runner, rounds, counted=counted)
            pytest.fail(
                f"seed {seed}: {len(shown)} of {count} sequences differ\n{shown[0]}\n\n{small}",
                pytrace=False,
            )


@pytest.mark.parametrize("seed", range(10))
def test_tier_0_does_what_the_reference_does(seed):
    check(run_in_engine, seed, 2000, Profile())


@pytest.mark.parametrize("seed", range(2))
def test_tier_0_does_so_in_loops(seed):
    check(run_in_engine, 1000 + seed, 500, LOOPING)


@pytest.mark.parametrize("seed", range(2))
def test_tier_0_does_so_over_long_stretches(seed):
    check(run_in_engine, 2000 + seed, 500, LONG)


def test_tier_0_does_the_same_again():
    check(run_in_engine, 3000, 500, Profile(patches=0.3), rounds=4)


@pytest.mark.parametrize("seed", range(3))
def test_qemu_does_what_the_reference_does(seed):
    check(run_in_qemu, seed, 4000, PORTABLE)


def test_qemu_does_so_over_long_stretches():
    check(run_in_qemu, 10, 1000, dataclasses.replace(LONG, portable=True))


def test_every_encoding_is_generated():
    generator = Generator(0)
    generator.sequences(3000)
    known = {e.name for group in vars(classes()).values() for e in group}
    assert known - generator.generated == set()
    assert set(ENCODINGS) - known == {*LEFT_OUT, "c.ebreak"}


def test_a_seed_makes_the_same_sequences_each_time():
    assert Generator(5).sequences(50) == Generator(5).sequences(50)


class _Finisher:
    def __init__(self) -> None:
        self.done = False

    def read(self, offset: int, size: int) -> int:
        raise AssertionError

    def write(self, offset: int, size: int, value: int) -> None:
        self.done = True


def test_the_driver_does_what_the_reference_runner_does_from_outside():
    batch = Batch(Generator(4, Profile(patches=0.3)).sequences(30), rounds=2)
    memory = Memory()
    ram = memory.add_ram(RAM, RAM_MIB << 20)
    ram[: len(batch.image)] = batch.image
    finisher = _Finisher()
    memory.devices.append((FINISHER, 4096, finisher))
    hart = ReferenceHart(memory, RAM)
    hart.run(100_000, until=lambda: finisher.done)
    assert finisher.done
    assert batch.results(bytes(ram)) == run_reference(batch)
