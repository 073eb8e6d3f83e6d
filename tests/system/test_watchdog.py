"""The watchdog under guests: a reset that nobody asked for, and code patched before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import programs
from tests.system.test_flash import TIERS

DOG = """
    .equ DOG, 0x103000
    .equ BOOTS, 0x81000000
main:
    li t1, BOOTS
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 4
    beq t0, t2, PASS
    la s0, victim
    li s1, 40
    li s2, 1                    # as in the image
    li s3, 1
    call check
    la t0, patched
    li t1, 0x00200513           # li a0, 2
    sw t1, 0(t0)
    fence.i
    la s0, victim
    li s1, 40
    li s2, 2
    li s3, 2
    call check
    li t1, DOG
    li t0, 1
    sw zero, 4(t1)
    sw t0, 0(t1)
    {wait}
    .align 12
victim:
    li t6, 2
patched:
    li a0, 1
    addi t6, t6, -1
    bnez t6, patched
    ret
"""
WAITS = {"a loop": "j .", "asleep": "1: wfi; j 1b", "calls": "1: la t0, victim; jalr t0; j 1b"}
CLOCKS = {"host": (), "counted": ("-icount", "3")}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_guest_that_hangs_starts_again_with_its_image(
    wait: str, clock: str, tier: str, tmp_path: Path
):
    text = DOG.format(wait=WAITS[wait])
    words = [*TIERS[tier], *CLOCKS[clock], "-device", "watchdog", "-stats"]
    done = programs.run(text, tmp_path, *words)
    assert 0 == done.returncode, done.stderr
    assert b"system_reset 3" in done.stderr


def test_with_counted_time_it_comes_at_the_same_instruction(tmp_path: Path):
    text = """
    .equ DOG, 0x103000
main:
    li t1, DOG
    li t0, 1
    sw t0, 0(t1)
1:  addi s4, s4, 1
    j 1b
    """
    words = ["-icount", "3", "-no-reboot", "-device", "watchdog", "-stats", "-translator", "none"]
    said = [programs.run(text, tmp_path, *words).stderr for _ in range(2)]
    counts = [line.split(b" instructions")[0] for line in said]
    assert counts[0] == counts[1]
    number = int(counts[0].split()[-1])
    assert 819_200 <= number < 819_300  # 2**16 ticks of 100 ns, 8 ns an instruction


def test_a_guest_that_restarts_it_lives(tmp_path: Path):
    text = """
    .equ DOG, 0x103000
main:
    li t1, DOG
    li t0, 1
    sw t0, 0(t1)
    li s2, 40
    li t2, 0x76
1:  li s3, 50000
2:  addi s3, s3, -1
    bnez s3, 2b
    sw t2, 12(t1)
    addi s2, s2, -1
    bnez s2, 1b
    j PASS
    """
    done = programs.run(text, tmp_path, "-icount", "3", "-no-reboot", "-device", "watchdog")
    assert 0 == done.returncode
    assert b"" == done.stderr
