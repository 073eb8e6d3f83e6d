"""What patching leaves behind: nothing that grows, though a second hart is stopped all the while.

A stopped hart passes no quiescent state of its own; it counts as one, so what is retired need not
wait for it. Read next: `cpu_proc/records.py`, `jit_proc/code_space.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cpu_proc import options
from cpu_proc.machine import Machine
from protocol.riscv.assembler import assemble
from tests.system import runner

RAM = 0x8000_0000
WRONG = 3

TEXT = """
    csrr t0, mhartid
    bnez t0, park
    la s7, victim
    li s8, 0x00000513               # li a0, 0
    li s9, 1 << 20
    li s6, COUNT
patch:
    sw s8, 0(s7)
    fence.i
    li s5, 3
call:
    jalr s7
    srli t0, s8, 20
    bne a0, t0, wrong
    addi s5, s5, -1
    bnez s5, call
    xor s8, s8, s9
    addi s6, s6, -1
    bnez s6, patch
    li t0, 0x5555
    j end
wrong:
    li t0, 0x33333
end:
    li t1, 0x100000
    sw t0, 0(t1)
park:
    wfi
    j park
    .balign 4096
victim:
    li a0, 0
    ret
"""


def pages_with_records(machine: Machine) -> int:
    """Record arrays that harts took."""
    taken = zip(machine.harts, machine.pools, strict=True)
    return sum((int(hart.state.pool_next) - first) >> 16 for hart, (first, _) in taken)


@pytest.mark.parametrize(
    ("count", "words"),
    [(100_000, ("-translator", "none")), (100_000, ()), (150, ("-threshold", "1"))],
    ids=["tier 0", "default", "eager"],
)
def test_many_patches_leave_no_memory_behind(tmp_path: Path, count: int, words: list[str]) -> None:
    path = tmp_path / "guest.bin"
    path.write_bytes(assemble(f".equ COUNT, {count}\n{TEXT}", RAM).data)
    given = ["-m", "16M", "-smp", "2", "-serial", "null", "-bios", str(path), *words]
    machine = Machine(options.parse(given))
    try:
        machine.power_on()
        assert machine.wait() == 0, "old code was run" if machine.exit_code == WRONG else ""
        assert pages_with_records(machine) <= 4  # reset ROM, program and victim, of either hart
        assert machine.records.region_count <= 16
        segments = {name for _, name in runner.maps(os.getpid()) if "coldboot-code" in name}
        assert len(segments) <= 2  # of this epoch and the one before
    finally:
        machine.close()
