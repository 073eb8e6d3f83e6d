"""One translator lost, replaced, or out of means under real machines: their guests see nothing.

The guest computes, checks what it computed, sleeps for fifty milliseconds, and does so until
something is typed; then it ends well. A wrong result would end it otherwise.

Read next: `test_faults` (a kernel under kills and stops), `tests/jit_proc/test_many_machines.py`,
`docs/loss.md`.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from tests.system import programs, runner
from tests.system.runner import Machine, Translator

COMPUTING = """
    .equ MTIMECMP, 0x2004000
    .equ MTIME, 0x200bff8
main:
    li t0, 0x80
    csrw mie, t0
round:
    la s0, sum
    li s1, 300
    li s2, 5050
    li s3, 1
    call check
    li t0, MTIME
    ld t1, 0(t0)
    li t2, 500000               # fifty milliseconds
    add t1, t1, t2
    li t0, MTIMECMP
    sd t1, 0(t0)
    wfi
    li t0, UART
    lbu t1, 5(t0)
    andi t1, t1, 1
    beqz t1, round
    j PASS
    .align 12
sum:
    li a0, 0
    li t0, 100
1:
    add a0, a0, t0
    addi t0, t0, -1
    bnez t0, 1b
    ret
"""


def computing(folder: Path, *words: object) -> Machine:
    """A machine that goes on until it is typed to."""
    folder.mkdir(exist_ok=True)
    return Machine(["-m", "32M", *words, programs.elf(COMPUTING, folder)], folder)


def ends_well(machine: Machine) -> None:
    """The guest was right all the time."""
    machine.send("x")
    assert 0 == machine.wait(), machine.diagnosis()
    assert "Traceback" not in machine.errors


def test_eight_machines_lose_their_translator_and_meet_the_next(tmp_path: Path):
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Translator(tmp_path, "--store", "memory"))
        machines = [
            stack.enter_context(
                computing(tmp_path / str(n), "-threshold", 1024, "-translator", first.endpoint)
            )
            for n in range(8)
        ]
        for machine in machines:
            machine.wait_event("region_published")
        assert 8 == len(first.events("machine_attached"))
        assert 1 == len({machine.events("region_published")[0]["page"] for machine in machines})
        first.kill()
        for machine in machines[:4]:
            machine.wait_event("translator_lost")
            ends_well(machine)  # without any
        second = stack.enter_context(Translator(tmp_path, endpoint=first.endpoint))
        for machine in machines[4:]:
            machine.wait_event("translator_attached", 2)
            ends_well(machine)
        runner.until(lambda: 4 == len(second.events("session_ended")), "the sessions' ends")
        maps = Path(f"/proc/{second.process.pid}/maps").read_text()
        assert 0 == maps.count("memfd:coldboot-ram") + maps.count("memfd:ram")


def build(folder: Path, module: str, old: str, new: str) -> Path:
    """Another build: these packages with a change in one module."""
    for package in ("protocol", "jit_proc"):
        shutil.copytree(runner.REPOSITORY / package, folder / package)
    path = folder / module
    text = path.read_text()
    assert 1 == text.count(old)
    path.write_text(text.replace(old, new))
    return folder


@contextlib.contextmanager
def running(folder: Path, endpoint: str):
    """A translator of another build."""
    command = [sys.executable, "-m", "jit_proc", "--endpoint", endpoint, "--store", "off"]
    environment = {**runner.environment(), "PYTHONPATH": str(folder)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL) as one:
        try:
            yield one
        finally:
            one.terminate()


def test_an_upgrade_behind_the_same_endpoint(tmp_path: Path):
    # With another engine than the machine's, but the same layout and calls: its regions fit.
    better = build(tmp_path / "better", "jit_proc/lift.py", "def translate(", "\n\ndef translate(")
    # With another layout: they would not.
    other = build(tmp_path / "other", "protocol/layout.py", '("idle", ', '("resting", ')
    with Translator(tmp_path, "--store", "off") as first:
        machine = computing(tmp_path, "-translator", first.endpoint)
        with machine:
            machine.wait_event("region_published")
            first.process.terminate()
            machine.wait_event("translator_lost")
            with running(better, first.endpoint) as second:
                assert second.pid == machine.wait_event("translator_attached", 2)["pid"]
                machine.wait_event("region_published", 2)
            with running(other, first.endpoint):
                refused = machine.wait_event("translator_incompatible")
                assert "layout" in refused["text"]
                assert "same installation" in refused["text"]
                # It is asked again now and then, and complained of once.
                asked = len(machine.events("session_opened"))
                machine.wait_event("session_opened", asked + 1)
            with Translator(tmp_path, endpoint=first.endpoint):
                machine.wait_event("translator_attached", 3)
                machine.wait_event("region_published", 3)
                assert 1 == len(machine.events("translator_incompatible"))
                ends_well(machine)


def test_a_full_disk_costs_what_would_have_been_written(tmp_path: Path):
    with Translator(tmp_path, "--cache", tmp_path / "cache") as translator:
        machine = computing(tmp_path, "-translator", translator.endpoint)
        with machine:
            machine.wait_event("translator_attached")
            # From here on each write to a file fails: the store's, and its log's.
            resource.prlimit(translator.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
            machine.wait_event("region_published")
            ends_well(machine)
        assert translator.process.poll() is None
        translator.process.terminate()
        assert 0 == translator.process.wait(runner.DEADLINE)


def test_a_log_that_cannot_be_written_is_no_reason_to_end(tmp_path: Path):
    words = ["-d", "retire", "-D", "/dev/full", "--log-json"]
    path = programs.elf(COMPUTING.replace("beqz t1, round", "nop"), tmp_path)
    with open("/dev/full", "w") as full:
        status = subprocess.run(
            runner.command("run", "-m", "32M", *words, path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=full,
            env=runner.environment(),
            timeout=runner.DEADLINE,
            check=False,
        ).returncode
    assert 0 == status
