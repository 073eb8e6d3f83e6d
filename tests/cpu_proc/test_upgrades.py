"""Regions asked for anew: a guest that changes what it does gets back to speed, by the counters.

Read next: `cpu_proc/upgrades.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpu_proc.machine import Machine
from cpu_proc.options import parse
from protocol.riscv.assembler import assemble
from tests.system.runner import until

RAM = 0x8000_0000
MAILBOX = RAM + 0x10_0000
COUNTER = MAILBOX + 8
START = f"""
    li t0, 0x6000               # FS: dirty
    csrs mstatus, t0
    li s0, {MAILBOX:#x}
    j outer
    .align 12
outer:
    sd s1, 8(s0)
    addi s1, s1, 1
    li t6, 3000
    ld t0, 0(s0)
"""
ROUNDED = f"""{START}
    csrw frm, t0
1:  andi t1, t6, 255
    bnez t1, 2f
    fadd.d fa0, fa0, fa1
2:  addi t6, t6, -1
    bnez t6, 1b
    j outer
"""
CHOOSING = f"""{START}
1:  bnez t0, other
    addi s2, s2, 1
2:  addi t6, t6, -1
    bnez t6, 1b
    j outer
other:
    addi s3, s3, 3
    xori s3, s3, 1
    j 2b
"""

Maker = Callable[[str], Machine]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Maker]:
    made: list[Machine] = []

    def make(text: str) -> Machine:
        image = tmp_path / "program.bin"
        image.write_bytes(assemble(text, RAM).data)
        words = ["-m", "4M", "-serial", "null", "-cold", "-threshold", "100", "-bios", str(image)]
        made.append(Machine(parse(words)))
        made[-1].power_on()
        return made[-1]

    yield make
    for one in made:
        one.close()


def counts(machine: Machine) -> dict[str, int]:
    assert machine.translator is not None
    return machine.translator.counts


def goes_on(machine: Machine, rounds: int = 100) -> None:
    """Until the guest has gone round so often."""

    def counter() -> int:
        return int.from_bytes(machine.host.read(COUNTER, 8), "little")

    end = counter() + rounds
    until(lambda: counter() >= end, f"round {end}")


def test_a_region_that_assumes_what_no_longer_holds_is_made_without(running: Maker):
    machine = running(ROUNDED)
    state = machine.harts[0].state
    until(lambda: counts(machine)["published"] > 0, "a region")
    goes_on(machine)
    assert state.stat_assumed == 0
    machine.host.write(MAILBOX, (4).to_bytes(8, "little"))  # RMM, which the host's unit lacks
    until(lambda: counts(machine)["anew_assumed_published"] > 0, "one that assumes nothing")
    assert state.stat_assumed > 0

    def holds() -> bool:
        failed = int(state.stat_assumed)
        goes_on(machine)
        return int(state.stat_assumed) == failed

    until(holds, "no region left at its entry")
    asked = counts(machine)["anew_assumed"]
    for mode in (0, 4):
        machine.host.write(MAILBOX, mode.to_bytes(8, "little"))
        assert holds()
    assert counts(machine)["anew_assumed"] == asked, "it does for every mode"


def test_a_way_that_nobody_took_becomes_part_of_the_region_that_runs(running: Maker):
    machine = running(CHOOSING)
    page = 1
    until(lambda: counts(machine)["anew_hot_published"] == 1, "what proved hot, made anew")
    (first,) = machine.records.regions[page]
    machine.host.write(MAILBOX, (1).to_bytes(8, "little"))

    def one_again() -> bool:
        regions = machine.records.regions[page]
        return len(regions) == 1 and regions[0].id > first.id

    until(one_again, "one region for both ways")
    assert counts(machine)["anew_hot"] + counts(machine)["anew_crossed"] >= 2
