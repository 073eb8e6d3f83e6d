"""Backends swapped under a running guest: it never runs stale code, and loses nothing.

The guests are the scenarios' kind (`cpu_proc/stress/scenario.py`); they say themselves when the
outside world is to swap, and report what patched code returned.

Read next: `cpu_proc/stress/trial.py`, `jit_proc/backends/__init__.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cpu_proc.stress import scenario, trial
from protocol.errors import UserError
from tests.system import programs, runner

SWAPPING = """#: M46 a guest that patches code before and after each swap
#: expect {expect}
main:
    la s2, asks
    li s3, 100
1:
    la a0, victim
    call warm
    call report
    mv a0, s2
    call ask                    # swap
    addi s3, s3, 1
    mv a0, s3
    call body
    la t0, middle
    sw a0, 0(t0)
    fence.i
    la a0, victim
    call victim
    call report                 # at once
    la a0, victim
    call warm
    call report                 # again as a region, if the backend makes any
2:
    lbu t0, 0(s2)
    addi s2, s2, 1
    bnez t0, 2b
    lbu t0, 0(s2)
    bnez t0, 1b
    j done
    .data
asks:
{asks}
    .byte 0
    .text
    .align 12
victim:
    nop
middle:
    li a0, 100
    nop
    ret
"""


def swapping(folder: Path, *backends: str) -> scenario.Scenario:
    """A guest that has each of these backends swapped in, in turn."""
    asks = "\n".join(f'    .asciz "swap {backend}"' for backend in backends)
    expect, value = [], 100
    for _ in backends:
        expect += [value, value + 1, value + 1]
        value += 1
    text = SWAPPING.format(asks=asks, expect=" ".join(map(str, expect)))
    path = folder / "swapping.s"
    path.write_text(text)
    return scenario.read(path)


THERE_AND_BACK = ("reference", "none", "llvm", "llvm,level=0", "reference", "llvm,passes=none")


@pytest.mark.parametrize("mode", ["regions", "mixed"])
@pytest.mark.parametrize("harts", [1, 2])
def test_code_is_never_stale_across_swaps(mode: str, harts: int, tmp_path: Path):
    outcome = trial.run(swapping(tmp_path, *THERE_AND_BACK), mode, harts)

    assert "" == outcome.verdict, outcome.said
    assert len(THERE_AND_BACK) == outcome.retired["backend_swap"]


def test_an_unknown_backend_changes_nothing(tmp_path: Path):
    wrong = ("magic", "llvm,level=9", "llvm,passes=magic", "none,level=1", "reference")
    with_problems = swapping(tmp_path, *wrong)
    seen: list[str] = []

    class Telling(trial.Trial):
        def do_swap(self, backend: str) -> bytes:
            try:
                self.machine.host.swap(backend)
                seen.append("")
            except UserError as error:
                seen.append(error.text)
            return trial.DONE

    guest = Telling(with_problems, scenario.MODES["regions"], 1, tmp_path)
    try:
        guest.go(runner.DEADLINE)
    finally:
        guest.close()
    outcome = guest.judge()

    assert "" == outcome.verdict, outcome.said
    assert 1 == outcome.retired["backend_swap"]
    assert "" == seen.pop()
    assert "use one of llvm, reference, none" in seen[0]
    for text, word in zip(seen[1:], ("level=9", "passes=magic", "no option level"), strict=True):
        assert word in text


class Killing(trial.Trial):
    """Asks for a swap while the translator dies, and once more when the next one is there."""

    problems: tuple[str, ...] = ()

    def do_swap(self, backend: str) -> bytes:
        link = self.machine.translator
        assert link is not None
        pid, incarnation = link.child_pid, link.incarnation
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # so that the swap is under way when it dies
        swap = self.machine.request_swap(backend)
        os.kill(pid, signal.SIGKILL)
        assert swap.done.wait(runner.DEADLINE)
        self.problems += (swap.problem,)
        attached = self.until(lambda: link.incarnation != incarnation, runner.DEADLINE)
        if attached and swap.problem:
            swap = self.machine.request_swap(backend)
            attached = swap.done.wait(runner.DEADLINE) and not swap.problem
        return trial.DONE if attached else trial.FAILED


def test_a_translator_that_dies_in_a_swap(tmp_path: Path):
    scene = swapping(tmp_path, "reference", "llvm")
    guest = Killing(scene, scenario.MODES["regions"], 1, tmp_path)
    try:
        guest.go(runner.DEADLINE)
        backend = guest.machine.backend
    finally:
        guest.close()
    outcome = guest.judge()

    assert "" == outcome.verdict, outcome.said
    assert "llvm" == backend
    assert all("translator" in problem for problem in guest.problems)
    assert outcome.retired["translator_restart"] + outcome.retired["backend_swap"] >= 4


ENDLESS = """
main:
    li t0, 100
1:
    addi t0, t0, -1
    bnez t0, 1b
    j main
"""


def test_a_user_swaps_in_the_monitor(tmp_path: Path):
    words = ["-m", "32M", "-backend", "reference", programs.elf(ENDLESS, tmp_path)]
    with runner.Machine(words, tmp_path) as machine:
        attached = machine.wait_event("translator_attached")
        assert "reference" == attached["backend"]
        machine.send("\x01c")
        machine.expect(r"\(coldboot\) ")
        machine.send("swap magic\r")
        machine.expect(r"swap magic: backend magic is unknown: use one of reference, llvm, none")
        machine.send("swap llvm,level=2\r")
        machine.wait_event("backend_swapped", backend="llvm,level=2")
        machine.send("info status\r")
        machine.expect(r"backend llvm,level=2")
        again = machine.wait_event("translator_attached", 2)
        assert ("llvm,level=2", attached["epoch"] + 1) == (again["backend"], again["epoch"])
        machine.send("quit\r")
        assert 0 == machine.wait()
        retired = machine.events("everything_retired")
        assert [("backend_swap", 0)] == [(e["cause"], e["live_older"]) for e in retired]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("-backend", "magic"), "backend magic is unknown: use one of llvm, reference, none"),
        (("-backend", "llvm,level=9"), "level=9 is not possible: 0|1|2"),
        (("-backend", "Not one"), "-backend Not one: "),
        (("-backend", "none", "-translator", "none"), "not together with -translator none"),
    ],
)
def test_a_backend_nobody_has_is_one_line(words: tuple[str, ...], says: str, tmp_path: Path):
    result = runner.run("-m", "32M", *words, programs.elf(ENDLESS, tmp_path))

    lines = result.stderr.decode().strip().splitlines()
    assert 1 == len(lines), lines
    assert lines[0].startswith("coldboot: ")
    assert says in lines[0]
    assert 2 == result.returncode


def test_the_backends_are_listed():
    listing = subprocess.run(
        runner.command("backends"),
        capture_output=True,
        text=True,
        env=runner.environment(),
        check=True,
        timeout=runner.DEADLINE,
    ).stdout

    assert ["llvm", "reference", "none", "shadow:BACKEND,BACKEND", "remote"] == [
        line.split()[0] for line in listing.splitlines() if not line.startswith(" ")
    ]
    assert "level=0|1|2" in listing


@pytest.mark.parametrize("backend", ["reference", "llvm,level=0", "llvm,level=2,passes=none"])
def test_a_backend_from_the_start(backend: str, tmp_path: Path):
    text = """
main:
    li s4, 300
    la s0, victim
    li s2, 55
    li s3, 1
    li s1, 300
    call check
    j PASS
victim:
    li a0, 0
    li t0, 10
1:
    add a0, a0, t0
    addi t0, t0, -1
    bnez t0, 1b
    ret
"""
    result = programs.run(text, tmp_path, "--stats", "-threshold", "1", "-backend", backend)

    assert 0 == result.returncode, result.stderr.decode()
    assert b"published" in result.stderr
