"""What -stats says: how often native code was left, and what for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cpu_proc.stats import rates
from tests.system import programs

LOOP = """
main:
    li s0, {rounds}
    addi sp, sp, -64
1:  sd s0, 0(sp)
    ld a0, 0(sp)
    call add
    addi s0, s0, -1
    bnez s0, 1b
    j PASS
add:
    add s1, s1, a0
    ret
"""


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({}, "never"),
        ({"hot": 0}, "never"),
        ({"hot": 3, "wait": 7, "stop": 0, "pool": 3}, "wait 7, hot 3, pool 3 (26 a second)"),
    ],
)
def test_counts_with_what_they_come_to_in_a_second(counts, text):
    assert text == rates(counts, 0.5)


def left(rounds: int, folder: Path) -> tuple[str, int]:
    """The causes that a computing guest comes back to Python for, and its instructions."""
    words = ("--stats", "--translator", "none")
    result = programs.run(LOOP.format(rounds=rounds), folder, *words)
    assert result.returncode == 0, result.stderr
    said = re.search(rb"^hart 0: (\d+) instr.*left native code: (.*) \(", result.stderr, re.M)
    assert said, result.stderr
    return said[2].decode(), int(said[1])


def test_a_guest_that_computes_stays_in_native_code(tmp_path: Path):
    short, few = left(20_000, tmp_path)
    long, many = left(2_000_000, tmp_path)
    assert many > 50 * few
    assert "attention" in short  # its end
    assert short == long, "a hundred times the work, and not once more back in Python"


def test_devices_that_called_python_are_named(tmp_path: Path):
    text = """
    main:
        li t0, UART
        li t1, 10
    1:  lbu t2, 5(t0)
        addi t1, t1, -1
        bnez t1, 1b
        j PASS
    """
    result = programs.run(text, tmp_path, "--stats", "--translator", "none")
    assert b"Python called for devices: uart16550 10, test-finisher 1 (" in result.stderr
