"""Counted time (-icount): interrupts come at the same instruction, whoever executes it.

A program works in loops, with calls and memory in them, and changes its own code now and then; its
timer interrupts it again and again, and the handler logs where, with the count of instructions and
the work done so far.
"""

from __future__ import annotations

import functools
import struct
from itertools import pairwise

import pytest

from benchmarks.store import translator
from protocol.riscv.assembler import assemble
from tests.engine_harness import FINISHER
from tests.isa.batch import RAM
from tests.isa.machine_runner import MachineRunner

LOG = RAM + 0x10_0000
TIMES = 500
MTIMECMP = 0x200_4000
MTIME = 0x200_BFF8

TEXT = f"""
    la t0, handler
    csrw mtvec, t0
    li s11, {LOG}
    li s10, {TIMES}
    li s9, {MTIMECMP}
    li s8, 3
    {{arm}}
    li t0, {{bit}}
    csrw mie, t0
    csrsi mstatus, 8
    la a1, data
    li a0, 0
work:
    addi a0, a0, 1
    ld a2, (a1)
    add a2, a2, a0
    sd a2, (a1)
    andi a3, a0, 7
    bnez a3, 1f
    jal ra, leaf
1:  andi a3, a0, 31
    bnez a3, work
    rdtime a4
    mul a5, a5, a4
    la t3, spot
    lw t4, 0(t3)
    li t5, 1 << 20
    add t4, t4, t5
    sw t4, 0(t3)
    xor a5, a5, t4
spot:
    addi a6, a6, 0
    slli a7, a6, 1
    add a5, a5, a7
    j work
leaf:
    xor a2, a2, a0
    srli a2, a2, 3
    ret
    .align 2
handler:
    csrr t0, mepc
    sd t0, 0(s11)
    csrr t0, minstret
    sd t0, 8(s11)
    sd a0, 16(s11)
    sd a2, 24(s11)
    rdtime t0
    sd t0, 32(s11)
    csrr t0, mcause
    xor t0, t0, a6
    sd t0, 40(s11)
    addi s11, s11, 48
    {{arm}}
    addi s10, s10, -1
    beqz s10, done
    mret
done:
    li t0, {FINISHER}
    li t1, 0x5555
    sw t1, (t0)
2:  j 2b
    .align 3
data: .dword 0
"""
# An interval that differs each time, so that no loop is in step with it.
STEP = "slli t1, s8, 1; add s8, s8, t1; andi s8, s8, 255; addi s8, s8, 5"
CLINT = f"{STEP}; li t0, {MTIME}; ld t0, (t0); add t0, t0, s8; sd t0, (s9)"
SSTC = f"{STEP}; rdtime t0; add t0, t0, s8; csrw stimecmp, t0"
KINDS = {"clint": (CLINT, 1 << 7), "sstc": (SSTC, 1 << 5)}


def program(kind: str) -> bytes:
    arm, bit = KINDS[kind]
    text = TEXT.format(arm=arm, bit=bit)
    if kind == "sstc":  # the supervisor's timer, taken in machine mode
        text = "li t0, 1 << 63\ncsrw menvcfg, t0\n" + text
    return assemble(text, RAM).data


@functools.cache
def log(kind: str, *options: str) -> tuple[bytes, int]:
    """What the handler wrote, and the regions there were."""
    runner = MachineRunner("-icount", "3", *options)
    ram = runner(program(kind))
    return ram[LOG - RAM : LOG - RAM + 48 * TIMES], runner.regions


def test_a_filled_store_changes_nothing(tmp_path):
    """Regions made before, by another run, are entered sooner; what the guest sees is the same."""
    arm, bit = KINDS["clint"]
    # Not a word of it changes: each of its regions is made once.
    still = TEXT.replace("sw t4, 0(t3)", "nop").format(arm=arm, bit=bit)
    image = assemble(still, RAM).data
    expected = MachineRunner("-icount", "3", "-translator", "none")(image)
    for filled in (False, True):
        with translator(tmp_path) as endpoint:
            words = ("-icount", "3", "-threshold", "1", "-translator", endpoint)
            runner = MachineRunner(*words)
            assert expected == runner(image)
            fresh = runner.regions - runner.kept
            assert (runner.kept if filled else fresh) > 0, (filled, fresh, runner.kept)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupts_come_and_the_clock_is_the_count(kind):
    entries = list(struct.iter_unpack("<6Q", log(kind, "-translator", "none")[0]))
    assert len(entries) == TIMES
    for before, after in pairwise(entries):
        assert after[1] > before[1]
        assert after[2] >= before[2]
        assert after[5] >> 63
    for _, count, _, _, time, _ in entries:
        ticks = (count * 8) // 100
        assert abs(time - ticks) <= 1


@pytest.mark.parametrize(
    ("kind", "backend"), [("clint", "llvm"), ("sstc", "llvm"), ("clint", "reference")]
)
def test_regions_are_interrupted_where_tier_0_is(kind, backend):
    expected, _ = log(kind, "-translator", "none")
    found, regions = log(kind, "-threshold", "1", "-cold", "-backend", backend)
    assert regions > 0
    first = [list(struct.iter_unpack("<6Q", data)) for data in (expected, found)]
    assert first[0] == first[1]
