"""A trap that cannot be taken: what -action makes of it, and what it does without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import programs
from tests.system.test_flash import TIERS

STUCK = """
    .equ BOOTS, 0x81000000
main:
    li t1, BOOTS
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 4
    beq t0, t2, PASS
    li s2, 40                   # code that patches itself first: what a reset finds
1:
    la t0, victim
    jalr ra, 0(t0)
    li s11, 7
    li t0, 1
    bne a0, t0, FAIL            # as in the image
    addi s2, s2, -1
    bnez s2, 1b
    li t1, 0x00200513           # li a0, 2
    la t0, victim
    sw t1, 0(t0)
    fence.i
    {handler}
    csrw mtvec, t0
    {trap}
    j FAIL
    .align 2
illegal:
    .word 0
    .align 2
victim:
    li a0, 1
    ret
"""
NOWHERE = "li t0, 0x40000000"
HANDLERS = {
    "no memory": NOWHERE,
    "illegal word": "la t0, illegal",
}
TRAPS = {"ecall": "ecall", "fetch": "li t0, 0x50000000; jr t0"}


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("trap", TRAPS)
def test_reset_starts_the_image_again(handler: str, trap: str, tier: str, tmp_path: Path):
    text = STUCK.format(handler=HANDLERS[handler], trap=TRAPS[trap])
    done = programs.run(text, tmp_path, *TIERS[tier], "-action", "fatal=reset")
    assert 0 == done.returncode, done.stderr
    assert 3 == done.stderr.count(b"trap_not_taken")


def test_halt_ends_with_status_1(tmp_path: Path):
    text = STUCK.format(handler=NOWHERE, trap="ecall")
    done = programs.run(text, tmp_path, "-action", "fatal=halt")
    assert 1 == done.returncode, done.stderr
    assert b"trap_not_taken" in done.stderr
    assert b"pc=" in done.stderr


@pytest.mark.parametrize("action", ["none", "report"])
def test_otherwise_the_hart_goes_on_trapping_and_another_may_mend_it(action: str, tmp_path: Path):
    text = """
    .equ SHARED, 0x81000000
main:
    csrr t0, mhartid
    bnez t0, stuck
    li t1, SHARED
    li s2, 200
1:                              # hart 1 is at its handler by now
    ld t0, 0(t1)
    beqz t0, 1b
    addi s2, s2, -1
    bnez s2, 1b
    la t0, handler
    li t2, 0x00100513
    sw t2, 0(t0)                # li a0, 1
    fence.i
2:
    ld t0, 8(t1)
    beqz t0, 2b
    j PASS
stuck:
    la t0, handler
    csrw mtvec, t0
    li t1, SHARED
    li t0, 1
    sd t0, 0(t1)
    ecall
    .align 2
handler:
    .word 0
    li t0, 1
    sd t0, 8(t1)
    wfi
    j .
    """
    done = programs.run(text, tmp_path, "-smp", "2", "-action", f"fatal={action}")
    assert 0 == done.returncode, done.stderr
    assert (action == "report") == (b"trap_not_taken" in done.stderr)


def test_a_trap_in_a_handler_that_goes_on_is_none(tmp_path: Path):
    """A second trap somewhere else in the handler, or the same pc from U-mode, is progress."""
    text = """
main:
    la t0, handler
    csrw mtvec, t0
    li s2, 3
    ecall
    .align 2
handler:
    nop
    addi s2, s2, -1
    beqz s2, PASS
    ecall
    """
    done = programs.run(text, tmp_path, "-action", "fatal=halt")
    assert 0 == done.returncode, done.stderr


def test_another_word_is_refused(tmp_path: Path):
    done = programs.run("main: j PASS", tmp_path, "-action", "fatal=pause")
    assert 2 == done.returncode
    assert b"none, report, reset or halt expected" in done.stderr
