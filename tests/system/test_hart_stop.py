"""One hart stopped and started by OpenSBI's HSM extension, its code patched meanwhile.

Class M34 of stale-code mistakes (a stopped hart misses what was retired), and M24 (state at its
start). The guest is an S-mode program that unmodified firmware starts; its exit status decides.

The firmware of these tests, OpenSBI 1.1, publishes that a hart is to start before it writes where:
one that has just stopped and does not sleep yet may start where it started last. So both places are
patched in each round, and what they must return stands in memory, not in the opaque argument.

Read next: `programs`, `tests/cpu_proc/test_host_api.py` (a hart reset by the host).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.loader import RAM_BASE
from cpu_proc.machine import Machine
from cpu_proc.options import parse
from protocol.layout import PAGE_SIZE
from protocol.riscv.assembler import assemble
from tests.system import runner

# Not a threshold of 1: the firmware would wait for hundreds of regions of its own.
TIERS = {"tier 0": ["-translator", "none"], "regions": ["-threshold", "50"]}
ROUNDS = 6
BASE = 0x8020_0000

PROGRAM = f"""
    .equ HSM, 0x48534D
    .equ FINISHER, 0x100000
    .equ DONE, 0                # of `shared`: the round that the other hart has done,
    .equ WANTED, 8              # what its code must return,
    .equ ROUND, 16              # the round up to which the host lets it go on
_start:
    xori s1, a0, 1              # the other hart
    la s2, shared
    li s3, 1                    # the round, and what the functions return in it
round:
    slli t0, s3, 20             # li a0, N: patched while the other hart is stopped
    addi t0, t0, 0x513
    la t1, victim
    sw t0, 4(t1)
    la t1, other
    sw t0, 4(t1)
    fence.i
    sd s3, WANTED(s2)
    fence
    la a1, enter                # at one address or the other, by turns
    andi t2, s3, 1
    beqz t2, 2f
    la a1, enter_other
2:
    mv a0, s1                   # hart_start(hart, address, opaque)
    mv a2, s2
    li a7, HSM
    li a6, 0
    ecall
    li s11, 1
    bnez a0, fail
3:
    ld t0, DONE(s2)
    bne t0, s3, 3b
4:
    mv a0, s1                   # hart_status: until it is STOPPED
    li a7, HSM
    li a6, 2
    ecall
    li t0, 1
    bne a1, t0, 4b
    addi s3, s3, 1
    li t0, {ROUNDS} + 1
    bne s3, t0, round
    li t0, 0x5555
    li t1, FINISHER
    sw t0, 0(t1)
    j .
fail:
    slli s11, s11, 16
    li t0, 0x3333
    or s11, s11, t0
    li t1, FINISHER
    sw s11, 0(t1)
    j .

enter:
    la s4, victim
    j run
enter_other:
    la s4, other
run:                            # translation is off, interrupts are masked
    li s11, 3
    csrr t0, satp
    bnez t0, fail
    csrr t0, sstatus
    andi t0, t0, 2
    bnez t0, fail
    la s2, shared
    ld s3, WANTED(s2)
again:
    li s5, 60
1:
    jalr ra, 0(s4)
    li s11, 4
    bne a0, s3, fail
    addi s5, s5, -1
    bnez s5, 1b
    ld t0, ROUND(s2)
    bltu t0, s3, again
    sd s3, DONE(s2)
    fence
    li a7, HSM                  # hart_stop
    li a6, 1
    ecall
    li s11, 5
    j fail
    .align 12
victim:
    li t6, 2
    li a0, 0
    .word 0xffff8f93            # addi t6, t6, -1
    .word 0xfe0f9ce3            # bnez t6, -8
    ret
    .align 12
other:
    li t6, 2
    li a0, 0
    .word 0xffff8f93
    .word 0xfe0f9ce3
    ret
    .align 12
shared:
    .dword 0, 0, 0
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_stopped_hart_starts_with_the_code_that_is_there(
    tier: str, guests_folder: Path, tmp_path: Path
):
    program = assemble(PROGRAM, BASE)
    shared = program.symbols["shared"]
    functions = {(program.symbols[name] - RAM_BASE) // PAGE_SIZE for name in ("victim", "other")}
    kernel = tmp_path / "kernel"
    kernel.write_bytes(program.data)
    words = ["-m", "64M", "-smp", "2", "-serial", "null", *TIERS[tier]]
    images = ["-bios", str(guests_folder / "fw_dynamic.bin"), "-kernel", str(kernel)]
    machine = Machine(parse([*words, *images]))
    try:
        machine.power_on()
        for number in range(1, ROUNDS + 1):

            def is_translated(number: int = number) -> bool:
                if machine.exit_code is not None:
                    return True
                wanted = int.from_bytes(machine.host.read(shared + 8, 8), "little")
                return wanted == number and bool(functions & machine.records.regions.keys())

            if tier == "regions":  # what is patched in the next round
                runner.until(is_translated, f"a region in round {number}")
            machine.host.write(shared + 16, number.to_bytes(8, "little"))
        runner.until(lambda: machine.exit_code is not None, "the guest's end")
        assert 0 == machine.wait()
        if tier == "regions":
            assert machine.retirement.counts["guest_store"] >= ROUNDS - 1
    finally:
        machine.close()
