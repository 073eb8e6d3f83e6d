"""Real machines whose connection to the translator misbehaves: guests see nothing of it.

Read next: `protocol/chaos.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cpu_proc.run_options import RunOptions
from cpu_proc.stress import scenario, trial
from protocol.chaos import Chaos, Plan
from tests.system import runner

PLANS = {
    "late and doubled": Plan(1, delay=0.8, longest=0.05, duplicate=0.4, disconnect=0.0),
    "often lost": Plan(2, delay=0.3, longest=0.03, duplicate=0.2, disconnect=0.03),
    "later than deadlines": Plan(3, delay=0.2, longest=30.0, duplicate=0.1, disconnect=0.01),
}

PATCHING = """#: M31 a guest that patches code all the time
#: expect 400
main:
    li s2, 0
    li s3, 400
1:
    andi t0, s3, 63             # now and then the translator gets time
    bnez t0, 2f
    la a0, time_
    call ask
2:
    andi a0, s3, 511
    call body
    la t0, middle
    sw a0, 0(t0)
    fence.i
    la a0, victim
    li a1, 300
    call times
    andi t0, s3, 511
    sub a0, a0, t0
    seqz a0, a0
    add s2, s2, a0              # how often it was right
    addi s3, s3, -1
    bnez s3, 1b
    mv a0, s2
    call report
    call done
time_:
    .asciz "breathe"
    .align 12
victim:
    li t6, 20
1:
    addi t6, t6, -1
middle:
    li a0, 0
    bnez t6, 1b
    ret
    .align 12
"""


@pytest.mark.parametrize("name", PLANS)
def test_a_guest_that_patches_itself(name: str, tmp_path: Path):
    path = tmp_path / "patching.s"
    path.write_text(PATCHING)
    chaos = Chaos(PLANS[name])

    class Breathing(trial.Trial):
        def do_breathe(self) -> bytes:
            """Wait until the connection said something more, a second at most."""
            link, said = self.machine.translator, chaos.heard
            assert link is not None
            self.until(lambda: chaos.heard > said, 1.0)
            return trial.DONE

    guest = Breathing(scenario.read(path), scenario.MODES["mixed"], 2, tmp_path)
    guest.machine.transport = chaos.wrap
    try:
        guest.go(runner.DEADLINE)
    finally:
        guest.close()
    outcome = guest.judge()

    assert "" == outcome.verdict, outcome.said
    assert chaos.counts["delay"] > 0, chaos.counts


def test_the_translators_processes_are_known(tmp_path: Path):
    path = tmp_path / "waiting.s"
    path.write_text("#: M42 waits\n#: expect 1\nmain:\n la a0, ask_\n call ask\n li a0, 1\n"
                    " call report\n call done\nask_: .asciz \"look\"\n")  # fmt: skip
    seen: list[tuple[int | None, list[int]]] = []

    class Looking(trial.Trial):
        def _options(self, harts: int, out: int) -> RunOptions:
            return replace(super()._options(harts, out), cold=True)  # workers from the beginning

        def do_look(self) -> bytes:
            link = self.machine.translator
            assert link is not None
            self.until(lambda: bool(link.worker_pids), runner.DEADLINE)
            seen.append((link.child_pid, link.worker_pids))
            return trial.DONE

    guest = Looking(scenario.read(path), scenario.MODES["mixed"], 1, tmp_path)
    try:
        guest.go(runner.DEADLINE)
    finally:
        guest.close()

    assert [1] == guest.outcome.values
    ((child, workers),) = seen
    assert child is not None
    assert workers
    assert child not in workers
