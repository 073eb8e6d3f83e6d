"""Stale code, as guests would see it: every way to write code, on every tier, in the real machine.

Each program ends well only if it always ran what stands in its memory. `--threshold 1` makes a
region of everything before it is run a second time; at the default threshold a region comes when it
comes; without a translator there is tier 0 alone.

Read next: `programs`; `test_late_code`, where code is retired while it is being made.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from protocol.riscv.assembler import assemble
from tests.system import programs

NO_NAMES: dict[int, str] = {}
EAGER = ("--threshold", "1")
MODES = {"eager": EAGER, "default": (), "tier 0": ("--translator", "none")}
ROUNDS = {"eager": 6, "default": 2, "tier 0": 100}
WARM = {"eager": 3, "default": 300_000, "tier 0": 3}
"""Calls of code between two changes of it: enough for a region to come, or a few."""


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def passes(
    text: str, mode: str, folder: Path, *words: str | Path, failures: Mapping[int, str] = NO_NAMES
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that may use WARM (calls before code counts as hot) and ROUNDS; it must pass,
    and if eager, by way of regions.
    """
    equ = f".equ WARM, {WARM[mode]}\n.equ ROUNDS, {ROUNDS[mode]}\n"
    text = f"{equ}{text}".replace("VICTIM", VICTIM)
    result = programs.run(text, folder, "--stats", *MODES[mode], *words)
    what = failures.get(result.returncode, "")
    assert 0 == result.returncode, f"{what}\n{result.stderr.decode()}"
    if mode == "eager":
        assert count("published", result.stderr) > 0, result.stderr.decode()
    return result


def count(name: str, said: bytes) -> int:
    """A count from the lines of --stats."""
    found = re.search(rb"\b" + name.encode() + rb" (\d+)", said)
    return int(found[1]) if found else 0


# --- each way to store ---------------------------------------------------------------------------

VICTIM = """
start:
    li t6, 2
victim:                         # what is patched; a loop, that gets hot by itself
    li a0, 11
    addi t6, t6, -1
    bnez t6, victim
    ret
"""

PATCH = """
    .equ OLD, 0x00b00513        # li a0, 11
    .equ NEW, 0x00c00513        # li a0, 12
    .equ NEXT, 0xffff8f93       # addi t6, t6, -1
    .data
    .align 4
values:
    .word NEW, NEXT, 0, 0
    .word OLD, NEXT, 0, 0
    .text
main:
    li s6, ROUNDS
1:
"""

PATCH_ONE = """
    la s0, start{n}
    la s4, victim{n}
    la s5, store{n}
    li s3, {n}
    call patch_and_check
"""

PATCH_REST = """
    addi s6, s6, -1
    beqz s6, PASS
    j 1b

patch_and_check:                # has s5 write the values at s7 over the code at s4
    addi sp, sp, -16
    sd ra, 8(sp)
    la s7, values
    li s2, 12
    call patched
    addi s7, s7, 16
    li s2, 11
    call patched
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

patched:
    addi sp, sp, -16
    sd ra, 8(sp)
    jalr ra, 0(s5)
    fence.i
    li s1, WARM
    call check                  # of what was a region before
    call refresh
    li s1, WARM
    call check                  # becomes a region
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

refresh:                        # a branch decoded anew counts from the beginning
    lw t0, 8(s4)
    sw t0, 8(s4)
    fence.i
    ret
"""

STORE = """
store{n}:
    {store}
    ret
"""

STORES = {
    "sb": "lb t0, 2(s7); sb t0, 2(s4)",
    "sh": "lh t0, 2(s7); sh t0, 2(s4)",
    "sw": "lw t0, 0(s7); sw t0, 0(s4)",
    "sd": "ld t0, 0(s7); sd t0, 0(s4)",
    "fsw": "flw ft0, 0(s7); fsw ft0, 0(s4)",
    "fsd": "fld ft0, 0(s7); fsd ft0, 0(s4)",
    "amoswap.w": "lw t0, 0(s7); amoswap.w t1, t0, (s4)",
    "amoswap.d": "ld t0, 0(s7); amoswap.d t1, t0, (s4)",
    "amoxor.w": "lw t0, 0(s7); lw t1, 0(s4); xor t0, t0, t1; amoxor.w t1, t0, (s4)",
    "sc.w": "lw t0, 0(s7); 2: lr.w t1, (s4); sc.w t1, t0, (s4); bnez t1, 2b",
    "sc.d": "ld t0, 0(s7); 2: lr.d t1, (s4); sc.d t1, t0, (s4); bnez t1, 2b",
    "c.sw": "mv a4, s4; lw a5, 0(s7); c.sw a5, 0(a4)",
    "c.sd": "mv a4, s4; ld a5, 0(s7); c.sd a5, 0(a4)",
    "c.fsd": "mv a4, s4; fld fa5, 0(s7); c.fsd fa5, 0(a4)",
    "misaligned sw": "lw t0, 2(s7); sw t0, 2(s4)",
    "misaligned sd": "ld t0, -1(s4); andi t0, t0, 255; ld t1, 0(s7); slli t1, t1, 8; "
    "or t0, t0, t1; sd t0, -1(s4)",
}

OVER_TWO = "srli t0, t0, 16; slli t0, t0, 16; lhu t1, 2(s7); or t0, t0, t1; sd t0, 2(s4)"
EDGES = {
    "over a page's edge, patched in its tail": (4090, "lh t0, 2(s7); sh t0, 2(s4)"),
    "over a page's edge, patched over the edge": (4090, "lw t0, 0(s7); sw t0, 0(s4)"),
    "over a line's edge, patched in its tail": (58, "lh t0, 2(s7); sh t0, 2(s4)"),
    "behind a page's edge, the store before it": (
        4092,
        "ld t0, -4(s4); slli t0, t0, 32; srli t0, t0, 32; "
        "lwu t1, 0(s7); slli t1, t1, 32; or t0, t0, t1; sd t0, -4(s4)",
    ),
    "before a page's edge, the store over it": (4084, f"ld t0, 2(s4); {OVER_TWO}"),
    "before a line's edge, the store over it": (52, f"ld t0, 2(s4); {OVER_TWO}"),
}
WAYS = {name: (60, store) for name, store in STORES.items()} | EDGES
NAMES = dict(enumerate(WAYS, 1))


def patching() -> str:
    """A program that patches a victim in each of `WAYS`; it fails with the number of one."""
    text = PATCH
    for n in NAMES:
        text += PATCH_ONE.format(n=n)
    text += PATCH_REST
    for n, name in NAMES.items():
        text += STORE.format(n=n, store=WAYS[name][1])
    for n, name in NAMES.items():
        own = VICTIM.replace("victim", f"victim{n}").replace("start", f"start{n}")
        text += f"    .align 12\n    .space {WAYS[name][0]}\n{own}"
    return text


def test_every_way_to_store_over_code(mode: str, tmp_path: Path):
    result = passes(patching(), mode, tmp_path, failures=NAMES)

    if mode == "eager":  # but for those over a page's edge, which no region holds
        assert count("guest_store", result.stderr) > 2 * ROUNDS[mode] * (len(WAYS) - 4)


# --- the next instruction, with and without fence.i ----------------------------------------------

NEXT = """
main:                           # s2: the sum as it must be
    li s6, ROUNDS * 40
    la s4, victim
    li s7, 0x00100413           # li s0, 1
    li s8, 0x00700413           # li s0, 7
    li s5, 0
    li s2, 0
1:
    andi t0, s6, 1
    mv t1, s7
    li t2, 1
    beqz t0, 2f
    mv t1, s8
    li t2, 7
2:
    add s2, s2, t2
    sw t1, 0(s4)
    {between}
victim:
    li s0, 0
    add s5, s5, s0
    addi s6, s6, -1
    bnez s6, 1b
    li s11, 1
    bne s5, s2, FAIL
    j PASS
"""


@pytest.mark.parametrize("between", ["fence.i", ""])
def test_the_next_instruction(between: str, mode: str, tmp_path: Path):
    passes(NEXT.format(between=between), mode, tmp_path)


def test_an_atomic_counter_beside_code_counts_once(mode: str, tmp_path: Path):
    text = """
main:
    li s6, ROUNDS * 40
    mv s7, s6
    la s4, counter
    li t1, 1
1:
    amoadd.w t0, t1, (s4)
    addi s6, s6, -1
    bnez s6, 1b
    j 2f
    .align 2
counter:
    .word 0
2:
    lw t0, 0(s4)
    li s11, 1
    bne t0, s7, FAIL
    j PASS
    """
    passes(text, mode, tmp_path)


def test_an_illegal_word_becomes_code_and_back(mode: str, tmp_path: Path):
    text = """
main:
    la t0, illegal
    csrw mtvec, t0
    la s4, victim
    li s6, ROUNDS
1:
    li s2, 99                   # what `illegal` gives
    sw zero, 0(s4)
    fence.i
    mv s0, s4
    li s1, WARM
    li s3, 1
    call check
    li s2, 12
    li t0, 0x00c00513
    sw t0, 0(s4)
    fence.i
    mv s0, s4
    li s1, WARM
    li s3, 2
    call check
    addi s6, s6, -1
    bnez s6, 1b
    j PASS
    .align 2
illegal:
    csrr t0, mcause
    li t1, 2
    li s11, 3
    bne t0, t1, FAIL
    li a0, 99
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    mret
    .align 12
victim:
    li a0, 12
    ret
    """
    passes(text, mode, tmp_path)


# --- two addresses of one page -------------------------------------------------------------------

ALIASES = """
    .equ HIGH, 0x40000000       # what is added to an address to name the same byte
main:
    li t0, -1
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    la t0, root                 # 1 GiB each: devices, RAM, and RAM again
    li t1, 0xcf
    sd t1, 0(t0)
    li t1, (0x80000000 >> 2) | 0xcf
    sd t1, 16(t0)
    sd t1, 24(t0)
    srli t0, t0, 12
    li t1, 8 << 60
    or t0, t0, t1
    csrw satp, t0
    sfence.vma
    la t0, supervisor
    csrw mepc, t0
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x0800
    csrs mstatus, t0
    mret
supervisor:
    la s4, victim
    li t0, HIGH
    add s5, s4, t0
    la s9, start
    add s10, s9, t0
    li s6, ROUNDS
    li s7, 0x00b00513
    li s8, 0x00c00513
1:
    sw s7, 0(s5)                # written high, run low and high
    fence.i
    li s2, 11
    mv s0, s9
    li s1, WARM
    li s3, 1
    call check
    mv s0, s10
    li s1, WARM
    li s3, 2
    call check
    lw t0, 8(s4)                # a branch decoded anew counts from the beginning
    sw t0, 8(s4)
    mv s0, s9
    li s1, WARM
    li s3, 5
    call check
    sw s8, 0(s4)                # written low, run high and low
    fence.i
    li s2, 12
    mv s0, s10
    li s1, WARM
    li s3, 3
    call check
    mv s0, s9
    li s1, WARM
    li s3, 4
    call check
    lw t0, 8(s4)
    sw t0, 8(s4)
    mv s0, s9
    li s1, WARM
    li s3, 6
    call check
    addi s6, s6, -1
    bnez s6, 1b
    j PASS
    .align 12
VICTIM
    .data
    .align 12
root:
    .space 4096
"""


def test_two_virtual_addresses_of_one_page(mode: str, tmp_path: Path):
    passes(ALIASES, mode, tmp_path)


# --- what is not a hart's store ------------------------------------------------------------------

RESETS = """
    .equ COUNTER, 0x81000000
main:
    la s4, victim
    la s0, start
    li s1, WARM
    li s2, 11                   # as in the image
    li s3, 1
    call check
    li t0, 0x00c00513
    sw t0, 0(s4)
    fence.i
    la s0, start
    li s1, WARM
    li s2, 12
    li s3, 2
    call check
    li t1, COUNTER
    ld t0, 0(t1)
    addi t0, t0, 1
    sd t0, 0(t1)
    li t2, 20
    beq t0, t2, PASS
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .
    .align 12
VICTIM
"""


def test_a_reset_restores_patched_code(mode: str, tmp_path: Path):
    result = passes(RESETS, mode, tmp_path)

    assert 19 == count("system_reset", result.stderr)


DISK_READ = """
    .equ SLOT, 0x10008000
    .equ RING, 0x81000000
    .equ BLOCKS, {blocks}
main:
    li s8, SLOT
    li t0, 4096
    sw t0, 0x28(s8)             # GuestPageSize
    sw zero, 0x70(s8)           # Status
    li t0, 3
    sw t0, 0x70(s8)
    sw zero, 0x30(s8)           # QueueSel
    li t0, 8
    sw t0, 0x38(s8)             # QueueNum
    li t0, 4096
    sw t0, 0x3c(s8)             # QueueAlign
    li t0, RING >> 12
    sw t0, 0x40(s8)             # QueuePFN
    li t0, 7
    sw t0, 0x70(s8)
    li s9, RING                 # descriptors; available at +128, used at +4096
    li t0, RING + 0x2000        # 0: the request's header
    sd t0, 0(s9)
    li t0, 16 | 1 << 32 | 1 << 48
    sd t0, 8(s9)
    la t0, start                # 1: over the code
    li t1, {back}
    sub t0, t0, t1
    sd t0, 16(s9)
    li t0, {length} | 3 << 32 | 2 << 48
    sd t0, 24(s9)
    li t0, RING + 0x2010        # 2: the status
    sd t0, 32(s9)
    li t0, 1 | 2 << 32
    sd t0, 40(s9)
    la s0, start
    li s1, WARM
    li s2, 11
    li s3, 1
    call check
    li s6, ROUNDS
    li s7, 0                    # the block to read
1:
    li t0, {length} / 512
    mul t0, t0, s7
    li t1, RING + 0x2000
    sd zero, 0(t1)              # a read
    sd t0, 8(t1)
    lhu t0, 130(s9)             # available.idx; the ring's entries are all 0
    addi t0, t0, 1
    sh t0, 130(s9)
    fence
    sw zero, 0x50(s8)           # QueueNotify
2:
    li t1, RING + 0x1002
    lhu t1, 0(t1)
    bne t1, t0, 2b
    fence.i
    addi s2, s7, 20             # block n returns 20 + n
    la s0, start
    li s1, WARM
    li s3, 2
    call check
    addi s7, s7, 1
    li t0, BLOCKS
    bne s7, t0, 3f
    li s7, 0
3:
    addi s6, s6, -1
    bnez s6, 1b
    j PASS
    .align 12
    .space {back}
VICTIM
    .align 12
    .space 4096
"""


@pytest.mark.parametrize("pages", [1, 3])
@pytest.mark.parametrize("legacy", ["on"])
def test_dma_over_code(pages: int, legacy: str, mode: str, tmp_path: Path):
    # The code stands in the last page of what is read.
    length, back = 4096 * pages, 4096 * (pages - 1)
    disk = tmp_path / "disk.img"
    bodies = [assemble(VICTIM.replace("11", str(20 + number))).data for number in range(3)]
    disk.write_bytes(b"".join((bytes(back) + body).ljust(length, b"\0") for body in bodies))
    text = DISK_READ.format(blocks=3, length=length, back=back)

    result = passes(text, mode, tmp_path, "-drive", f"file={disk},format=raw")

    assert count("memory_write", result.stderr) > 0


# --- limits --------------------------------------------------------------------------------------


def test_more_pages_of_code_than_there_are_record_arrays(tmp_path: Path):
    text = """
    .equ FIRST, 0x81000000
main:
    li s4, FIRST
    li s5, 9000                 # pages
    li s7, 0x00050513           # mv a0, a0
    li s8, 0x00008067           # ret
    li s6, 2
1:
    sw s7, 0(s4)
    sw s8, 4(s4)
    fence.i
    mv a0, s5
    jalr ra, 0(s4)
    li s11, 1
    bne a0, s5, FAIL
    li t0, 4096
    add s4, s4, t0
    addi s5, s5, -1
    bnez s5, 1b
    j PASS
    """
    result = programs.run(text, tmp_path, "--stats", "-m", "64M", "--translator", "none")

    assert 0 == result.returncode, result.stderr
    assert 1 == count("overflow", result.stderr)
