"""Accesses to CSRs in every mode, by tier 0 and by regions: random loops of them.

Regions make some of these accesses themselves (`jit_proc/csr_regions.py`), leave others to tier 0,
and must leave those that this mode may not make: they trap, with the instruction's bits in mtval.
"""

from __future__ import annotations

import random

import pytest

from tests.engine_harness import FINISHER
from tests.isa.machine_runner import MachineRunner
from tests.isa.test_translation import HANDLER, LOG, MPRV, ROUNDS, compare, run_engine

WRITTEN = ["sscratch", "sepc", "scause", "stval", "stvec", "scounteren", "senvcfg"]
WRITTEN += ["mscratch", "mepc", "mtval"]
READ = [*WRITTEN, "sstatus", "mstatus", "mhartid", "satp", "sie", "mideleg", "misa", "cycle"]
OPERATIONS = ["csrrw", "csrrs", "csrrc", "csrrwi", "csrrsi", "csrrci"]
ACTS, ROUND_COUNT = 25, 4


def text(seed: int) -> str:
    """A program: loops entered in M, S or U mode, each ended by a trap."""
    pick = random.Random(seed)
    lines = [f"li s10, {LOG}", f"li t6, {MPRV}", f"li t0, {HANDLER}", "csrw mtvec, t0"]
    lines += ["li t0, -1", "csrw pmpaddr15, t0", f"li t0, {0x1F << 56}", "csrw pmpcfg2, t0"]
    lines += [
        "li t0, -1",
        "csrw mcounteren, t0",
        "li t0, 7",
        "csrw mcountinhibit, t0",
        "csrw mcycle, zero",
    ]
    lines += [f"li t0, {ROUND_COUNT}", f"li t1, {ROUNDS}", "sd t0, (t1)", "again:"]
    for number in range(ACTS):
        mode = pick.choice((0, 1, 1, 3))
        lines += [f"la s11, act{number}", f"li t0, {3 << 11}", "csrc mstatus, t0"]
        lines += [f"li t0, {mode << 11}", "csrs mstatus, t0", f"la t0, loop{number}"]
        lines += ["csrw mepc, t0", "li s9, 5", f"li a1, {pick.getrandbits(64)}", "mret"]
        lines += [f"loop{number}:"]
        for _ in range(pick.randrange(1, 6)):
            lines += access(pick, mode)
        lines += ["addi s9, s9, -1", f"bnez s9, loop{number}", "ecall", f"act{number}:"]
    lines += [f"li t1, {ROUNDS}", "ld t0, (t1)", "addi t0, t0, -1", "sd t0, (t1)"]
    lines += ["beqz t0, done", "j again", "done:"]
    lines += [f"li t0, {FINISHER}", "li t1, 0x5555", "sw t1, (t0)", "1: j 1b"]
    return "\n".join(lines)


def access(pick: random.Random, mode: int) -> list[str]:
    """One instruction, and what it read mixed into a0; seldom one that the mode may not execute."""
    names = READ if pick.random() < 0.5 else WRITTEN
    if mode == 1 and pick.random() < 0.9:
        names = [name for name in names if name[0] == "s"]
    name = pick.choice(names)
    if name not in WRITTEN:
        line = f"csrr t3, {name}"
    else:
        operation = pick.choice(OPERATIONS)
        source = str(pick.randrange(32)) if operation[-1] == "i" else pick.choice(("a1", "zero"))
        line = f"{operation} {pick.choice(('t3', 'zero'))}, {name}, {source}"
    return [line, "slli t4, a0, 7", "xor a0, t4, t3", "add a1, a1, a0"]


@pytest.mark.parametrize("seed", range(8))
def test_tier_0(seed):
    compare(text(seed), run_engine)


@pytest.mark.parametrize("further", [(), ("-icount", "3")], ids=["free", "counted"])
@pytest.mark.parametrize("seed", range(8, 11))
def test_regions(seed, further):
    runner = MachineRunner("-threshold", "1", "-cold", *further)
    compare(text(seed), runner)
    assert runner.regions > 5
