"""Code that is made too late, or has no room: it is dropped, and the guest goes on.

Read next: `test_retirement`, for the ways to write code.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import programs, slow_lifter
from tests.system.runner import Machine, Translator
from tests.system.test_retirement import RESETS, VICTIM, count

SLOW = ("--lifter", "tests.system.slow_lifter:translate")

PATCHES = """
    .equ OLD, 0x00b00513
    .equ NEW, 0x00c00513
    .equ MTIME, 0x200bff8
main:
    la s4, victim
    li s5, OLD
    li s6, NEW
    li s7, 11
    li s8, 12
1:
    la s0, start                # gets hot, and is asked for
    li s1, WARM
    mv s2, s7
    li s3, 1
    call check
    sw s6, 0(s4)                # changes while it is being made
    fence.i
    li t1, MTIME
    ld t0, 0(t1)
    li t2, PAUSE
    add t0, t0, t2
2:
    ld t2, 0(t1)
    bltu t2, t0, 2b
    la s0, start                # what was made meanwhile is too late
    li s1, 1
    mv s2, s8
    li s3, 2
    call check
    lw t0, 8(s4)                # a branch decoded anew counts from the beginning
    sw t0, 8(s4)
    fence.i
    xor s5, s5, s6              # and the other way round
    xor s6, s5, s6
    xor s5, s5, s6
    xor s7, s7, s8
    xor s8, s7, s8
    xor s7, s7, s8
    li t1, UART                 # until a key is pressed
    lbu t0, 5(t1)
    andi t0, t0, 1
    beqz t0, 1b
    j PASS
    .align 12
"""


def equ(**values: int) -> str:
    return "".join(f".equ {name}, {value}\n" for name, value in values.items())


def too_late(said: bytes) -> int:
    """How many translations and requests came to nothing because of a change."""
    names = ["late_page_generation", "late_epoch", "late_bytes", "refused_bytes_moved"]
    names += ["refused_stale_epoch", "dropped_stale_epoch", "dropped_not_outstanding"]
    return sum(count(name, said) for name in names)


def test_a_patch_while_the_code_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(slow_lifter.PAUSE, "0.02")
    path = programs.elf(equ(WARM=50_000, PAUSE=600_000) + PATCHES + VICTIM, tmp_path)
    with Translator(tmp_path, *SLOW) as translator:
        words = ["--stats", "--threshold", "64", "--translator", translator.endpoint, path]
        with Machine(words, tmp_path) as machine:
            machine.wait_event("region_requested", 20)
            machine.send("x")
            status = machine.wait()
            said = machine.errors.encode()

    assert 0 == status, said.decode()
    assert too_late(said) > 0, said.decode()


def test_a_reset_while_the_code_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(slow_lifter.PAUSE, "0.1")
    text = equ(WARM=200_000) + RESETS.replace("VICTIM", VICTIM)
    with Translator(tmp_path, *SLOW) as translator:
        result = programs.run(
            text, tmp_path, "--stats", "--threshold", "64", "--translator", translator.endpoint
        )

    assert 0 == result.returncode, result.stderr.decode()
    assert 19 == count("system_reset", result.stderr)


def many_functions(number: int) -> str:
    """Each function has a loop and returns its number; all are called, again and again."""
    text = "main:\n    li s6, 2\n1:\n"
    for n in range(number):
        text += f"    la s0, f{n}\n    li s1, 3\n    li s2, {n}\n    li s3, 1\n    call check\n"
    text += "    addi s6, s6, -1\n    beqz s6, 3f\n    j 1b\n3:\n    j PASS\n"
    for n in range(number):
        work = "".join(f"    sd t{i % 3}, {-8 * i - 8}(sp)\n" for i in range(30))
        text += f"    .align 6\nf{n}:\n    li t6, 2\n2:\n{work}    addi t6, t6, -1\n"
        text += f"    bnez t6, 2b\n    li a0, {n}\n    ret\n"
    return text


def test_a_code_space_that_is_full(tmp_path: Path):
    with Translator(tmp_path, "--code-space", "64K") as translator:
        words = ["--stats", "--threshold", "1", "--translator", translator.endpoint]
        result = programs.run(many_functions(24), tmp_path, *words)

        assert 0 == result.returncode, result.stderr.decode()
        assert count("code_space_full", result.stderr) > 0, result.stderr.decode()
        assert translator.events("epoch_retired")
