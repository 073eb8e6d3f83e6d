"""Counters that begin just before their end: a wrap is a retirement of everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc.machine import Machine
from cpu_proc.options import parse
from protocol.generations import MASK, FirstGenerations
from tests.system import programs
from tests.system.runner import until
from tests.system.test_flash import SIX_BODIES
from tests.system.test_retirement import NEXT

MODES = {"tier 0": ["-translator", "none"], "regions": ["-threshold", "1"]}


@pytest.fixture(params=MODES)
def words(request: pytest.FixtureRequest) -> list[str]:
    return MODES[request.param]


@pytest.fixture
def made() -> Iterator[list[Machine]]:
    machines: list[Machine] = []
    yield machines
    for one in machines:
        one.close()


def run(
    text: str, first: FirstGenerations, words: list[str], folder: Path, made: list[Machine]
) -> Machine:
    path = programs.elf(text, folder)
    options = parse(["-m", "32M", "-serial", f"file:{folder / 'said'}", *words, str(path)])
    machine = Machine(options, first_generations=first)
    made.append(machine)
    machine.power_on()
    until(lambda: machine.exit_code is not None, "the guest's end")
    assert machine.wait() == 0
    machine.console.flush()
    return machine


PATCH = f".equ ROUNDS, 3\n{NEXT.format(between='fence.i')}"


def test_a_page_s_generation_wraps_under_a_guest_that_patches(
    words: list[str], tmp_path: Path, made: list[Machine]
):
    first = FirstGenerations(page_generation=MASK - 7)
    machine = run(PATCH, first, words, tmp_path, made)
    assert machine.retirement.counts["counter_wrap"] >= 1
    assert machine.retirement.epoch > 1


def test_the_map_s_generation_wraps_under_a_flash_that_changes_modes(
    words: list[str], tmp_path: Path, made: list[Machine]
):
    first = FirstGenerations(map_generation=MASK - 3)
    machine = run(SIX_BODIES, first, words, tmp_path, made)
    assert (tmp_path / "said").read_bytes() == b"123456"
    assert machine.retirement.counts["counter_wrap"] == 1


def test_the_epoch_wraps_and_the_translator_goes_along(
    words: list[str], tmp_path: Path, made: list[Machine]
):
    text = """
    .equ BOOTS, 0x81000000
main:
    li t1, BOOTS
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 6
    beq t0, t2, PASS
    li s2, 3
1:
    la s0, victim
    jalr ra, 0(s0)
    li s11, 1
    li t0, 1
    bne a0, t0, FAIL
    addi s2, s2, -1
    bnez s2, 1b
    la t0, patched
    li t1, 0x00200513           # li a0, 2
    sw t1, 0(t0)
    fence.i
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .
    .align 12
victim:
    li t6, 2
patched:
    li a0, 1
    addi t6, t6, -1
    bnez t6, patched
    ret
    """
    first = FirstGenerations(epoch=MASK - 2, map_generation=MASK, page_generation=MASK)
    machine = run(text, first, words, tmp_path, made)
    assert machine.retirement.counts["system_reset"] == 5
    assert machine.retirement.epoch < 100
    if machine.translator is not None:
        assert machine.translator.counts["lost"] == 0
        assert machine.translator.counts["published"] > 5
