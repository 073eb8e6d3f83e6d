"""What is asked for of code that is rewritten all the time, and when it is not any more."""

from __future__ import annotations

from pathlib import Path

from cpu_proc.machine import Machine
from cpu_proc.options import parse
from protocol.riscv.assembler import assemble
from tests.system.runner import until

RAM = 0x8000_0000
ROUNDS = RAM + 0x10_0000
STEADY = ROUNDS + 8  # written by the host: leave the code alone

REWRITER = f"""
    li s0, {ROUNDS:#x}
    la s1, hot
    lw s2, 0(s1)
    li s3, 1 << 20
1:  ld t0, 8(s0)
    bnez t0, 2f
    add s2, s2, s3              # another constant in its first instruction
    sw s2, 0(s1)
    fence.i
2:  li a0, 100000
    call hot
    ld t0, 0(s0)
    addi t0, t0, 1
    sd t0, 0(s0)
    j 1b
    .align 12
hot:
    addi a1, a0, 3
    xor a2, a1, a0
    addi a0, a0, -1
    bnez a0, hot
    ret
"""


def test_code_that_is_rewritten_all_the_time_is_asked_for_now_and_then_and_at_last(tmp_path: Path):
    image = tmp_path / "program.bin"
    image.write_bytes(assemble(REWRITER, RAM).data)
    machine = Machine(parse(["-m", "4M", "-serial", "null", "-bios", str(image)]))
    try:
        machine.power_on()
        assert machine.translator is not None
        counts = machine.translator.counts

        def rounds() -> int:
            return int.from_bytes(machine.host.read(ROUNDS, 8), "little")

        until(lambda: counts["requested"] >= 5, "the first requests")
        start, asked = rounds(), counts["requested"]
        until(
            lambda: rounds() - start > 40 and rounds() - start > 5 * (counts["requested"] - asked),
            "many rewrites for each request",
        )
        machine.host.write(STEADY, b"\1")
        at_rest = rounds() + 1
        until(lambda: rounds() > at_rest and machine.records.region_count, "a region")
    finally:
        machine.close()
