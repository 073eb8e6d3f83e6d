"""Flash that is erased and programmed anew, with the code in it run after each time.

Problem: flash is memory while it is read and a device while it is written, so each update changes
what an address means twice and what the bytes are once, under code that has just run there (and,
with a second hart, under code that another hart has just run there).

The guest: bare metal. A round erases a block of the second bank, sees it erased, programs a
function with a loop that gives a result nobody computed before, and calls it forty times; with a
second hart that one calls it, too, after its own fence.i. With `reset`, the machine is reset after
each round by the test finisher, and the function of the round before must still be there before
the next one comes. The round's number is kept in RAM outside of the image.

Invariants: the guest alone decides. Its exit status tells where it failed: 1 not erased, 2 not
programmed, 3 another result than that round's, 4 another one on the second hart, 5 after a reset.

Read next: `tests/system/test_flash.py`, `devices/cfi_flash.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.system import programs, runner
from tests.system.workloads import emulators
from tests.system.workloads.emulators import Run, WorkloadError

PROGRAM = """
    .equ BANK1, 0x22000000
    .equ ROUND, 0x80800000      # outside of the image, so that a reset leaves it
    .equ POSTED, 0x80800040     # the second hart: number of the call wanted,
    .equ DONE, 0x80800080       # number of the call done, and its result
    .equ CALLS, 40

main:
    li s0, BANK1
    li s1, ROUND
    li s2, POSTED
    li s3, DONE
    bnez a0, second
    ld s4, 0(s1)
    beqz s4, next               # the first boot
    call expect                 # what a reset left must be what was programmed before it
    li s10, 5
    call run
next:
    li s10, 3
    addi s4, s4, 1
    call update
    call expect
    call run
    sd s4, 0(s1)
    li t0, COUNT
    bgeu s4, t0, PASS
    li t0, RESET
    beqz t0, next
    fence
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .

    # s6: what the function of round s4 returns: s4 + 3 * (16 + s4 % 8), s4 below 2048.
expect:
    andi s7, s4, 0x7ff
    andi s8, s4, 7
    addi s8, s8, 16
    slli s6, s8, 1
    add s6, s6, s8
    add s6, s6, s7
    ret

    # Call the function CALLS times; each result must be s6 (else FAIL with s10). Then the second
    # hart does the same.
run:
    mv s9, ra
    fence.i
    li s5, CALLS
1:
    jalr ra, 0(s0)
    mv s11, s10
    bne a0, s6, FAIL
    addi s5, s5, -1
    bnez s5, 1b
    li t0, HARTS
    li t1, 2
    bltu t0, t1, 3f
    ld t0, 0(s3)
    addi t0, t0, 1
    fence
    sd t0, 0(s2)
2:
    ld t1, 0(s3)
    bne t0, t1, 2b
    fence
    ld a0, 8(s3)
    li s11, 4
    bne a0, s6, FAIL
3:
    jr s9

    # The second hart: waits for a call, makes it, tells the result; -1 if it was not always equal.
second:
1:
    ld t0, 0(s2)
    ld t1, 0(s3)
    beq t0, t1, 1b
    mv s4, t0
    fence
    fence.i
    li s5, CALLS
    jalr ra, 0(s0)
    mv s6, a0
2:
    jalr ra, 0(s0)
    beq a0, s6, 3f
    li s6, -1
3:
    addi s5, s5, -1
    bnez s5, 2b
    sd s6, 8(s3)
    fence
    sd s4, 0(s3)
    j 1b

    # Erase the block and program the function of round s4.
update:
    mv s9, ra
    li t0, 0x00200020
    sw t0, 0(s0)
    li t0, 0x00d000d0
    sw t0, 0(s0)
1:
    lw t0, 0(s0)
    andi t0, t0, 0x80
    beqz t0, 1b
    li t0, 0x00ff00ff
    sw t0, 0(s0)
    lw t0, 0(s0)
    li t1, -1
    li s11, 1
    bne t0, t1, FAIL
    mv a0, s0
    slli a1, s4, 20             # li a0, s4
    addi a1, a1, 0x513
    call word_
    andi a1, s4, 7              # li t0, 16 + s4 % 8
    addi a1, a1, 16
    slli a1, a1, 20
    addi a1, a1, 0x293
    call word_
    li a1, 0x00350513           # 1: addi a0, a0, 3
    call word_
    li a1, 0xfff28293           # addi t0, t0, -1
    call word_
    li a1, 0xfe029ce3           # bnez t0, 1b
    call word_
    li a1, 0x00008067           # ret
    call word_
    li t0, 0x00ff00ff
    sw t0, 0(s0)
    lw t0, 0(s0)
    slli t1, s4, 20
    addi t1, t1, 0x513
    sext.w t1, t1
    li s11, 2
    bne t0, t1, FAIL
    jr s9

    # Program the word a1 at a0, which goes on to the next.
word_:
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
1:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 1b
    addi a0, a0, 4
    ret
"""

LIMIT = 2047
"""Rounds at most: a round's number is an instruction's immediate."""


def text(count: int, harts: int, reset: bool) -> str:
    """The guest's source. Raises `WorkloadError` for more than `LIMIT` rounds."""
    if not 0 < count <= LIMIT:
        raise WorkloadError(f"flash: {count} rounds; from 1 to {LIMIT} are possible")
    constants = f".equ COUNT, {count}\n.equ HARTS, {harts}\n.equ RESET, {int(reset)}\n"
    return constants + PROGRAM


def run(
    *,
    emulator: str = "coldboot",
    harts: int = 1,
    count: int = 1000,
    reset: bool = False,
    words: Sequence[object] = (),
    deadline: float = runner.DEADLINE,
) -> Run:
    """Run the guest to its end. Raises `WorkloadError` unless it found everything as it should."""
    source = text(count, harts, reset)
    with tempfile.TemporaryDirectory() as folder:
        line: list[object] = ["-m", "32M", "-smp", harts]
        if emulator == "qemu":
            path = Path(folder, "program.bin")
            made = programs.program(source)
            path.write_bytes(made.data)
            loader = f"loader,file={path},addr={made.base:#x},force-raw=on"
            line += ["-bios", "none", "-device", loader]
        else:
            line += [programs.elf(source, Path(folder))]
        done = emulators.run(emulator, [*words, *line], deadline)
    if done.status != 0:
        raise WorkloadError(
            f"{emulator}: flash: status {done.status} (3: old code ran; see "
            f"tests/system/workloads/flash.py)\n{done.console[-2000:]}"
        )
    return done
