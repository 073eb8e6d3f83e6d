"""The monitor's commands, on a machine that runs a small guest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_proc.machine import Machine
from cpu_proc.monitor import Commands
from cpu_proc.options import parse
from tests.system import programs

RAM = 0x8000_0000
SOURCE = """
main:
    li s5, 0x1234
    la s6, word
1:
    addi s4, s4, 1
    j 1b
    .align 3
word:
    .dword 0x6f6c6c6568
"""
DEADLINE = 240.0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    path: Path = programs.elf(SOURCE, tmp_path_factory.mktemp("monitor"))
    words = ["-serial", "null", "-m", "1M", "-smp", "2", "-translator", "none", str(path)]
    made = Machine(parse(words))
    made.power_on()
    end = time.monotonic() + DEADLINE
    while 0x1234 not in made.host.at_safe_point(lambda: [int(h.state.x[21]) for h in made.harts]):
        assert time.monotonic() < end
    yield made
    made.close()


def test_help_names_every_command(machine: Machine):
    said = machine.command("help")

    for word in ("info registers", "info mtree", "swap NAME", "xp /N ADDRESS", "system_reset"):
        assert word in said


def test_registers_of_all_harts_are_shown(machine: Machine):
    said = machine.command("info registers")

    assert "CPU#0" in said
    assert "CPU#1" in said
    assert "x21/s5   0000000000001234" in said
    assert " pc       000000008000" in said


def test_the_memory_map_is_shown(machine: Machine):
    said = machine.command("info mtree")

    assert "0000000080000000-00000000800fffff ram ram = ram+0x0" in said
    assert "0000000010000000-" in said


def test_lookups_are_shown(machine: Machine):
    assert "0000000080000000 x   ram+0x0 at 0x80000000" in machine.command("info tlb")


def test_generations_and_translations_are_shown(machine: Machine):
    assert "epoch 1\nmap generation" in machine.command("info generations")
    assert "0 regions in 0 pages, backend none, epoch 1" in machine.command("info jit")
    assert "no translator" in machine.command("info translator")


def test_memory_is_dumped(machine: Machine):
    where = machine.host.at_safe_point(lambda: int(machine.harts[0].state.x[22]))

    said = machine.command(f"xp /8 {where:#x}")

    assert f"{where:016x}: 68 65 6c 6c 6f 00 00 00" in said
    assert "hello..." in said
    assert said == machine.command(f"x/8 {where:#x}")
    assert "no memory there" in machine.command("xp /8 0x10")
    assert "/N ADDRESS is expected" in machine.command("xp /9999999 0x10")


def test_a_stopped_machine_stands_still_and_so_does_its_time(machine: Machine):
    machine.command("stop")
    before = [int(hart.state.count) for hart in machine.harts]
    offset = int(machine.harts[0].state.time_offset)
    machine.command("stop")
    assert "paused, 2 hart(s)" in machine.command("info status")
    assert before == [int(hart.state.count) for hart in machine.harts]
    machine.command("cont")
    assert int(machine.harts[0].state.time_offset) < offset, "the time it stood is taken off"
    machine.command("c")
    assert "running, 2 hart(s)" in machine.command("info status")


def test_mistakes_are_told_in_a_line(machine: Machine):
    assert "unknown command 'frob'" in machine.command("frob")
    assert "unknown command 'quit now'" in machine.command("quit now")
    assert "swap: NAME[,OPTION=VALUE] is expected\n" == machine.command("swap")
    assert "this machine has no translator" in machine.command("swap reference")
    assert "no power button" in machine.command("system_powerdown")
    assert "" == machine.command("  ")


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_no_line_upsets_it(text: str):
    assert "unknown" in Commands(cast("Machine", None)).execute(f"zz{text}")
