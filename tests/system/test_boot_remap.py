"""The boot-remap controller under running code: flash and RAM change places at one address.

Class M9 of stale-code mistakes, by another device than flash, and as a consequence of reset. The
guest alone decides: it prints what the function at the window returned.

Read next: `devices/boot_remap.py`, `test_flash`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system import programs
from tests.system.test_flash import HELPERS, TIERS

WINDOW = f"""
{HELPERS}
    .equ VIEW, 0x102004
    .equ WINDOW, 0x24000000
    .equ PLACE, 0x80000         # from the window's, flash's and RAM's beginning
    .equ COUNT, 0x80100000      # of boots, in RAM

    # Have the function in the window run, and print what it returned.
visit:
    addi sp, sp, -16
    sd ra, 8(sp)
    li s2, 40
1:
    li t0, WINDOW + PLACE
    jalr ra, 0(t0)
    addi s2, s2, -1
    bnez s2, 1b
    call digit
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

    # Write `a loop, li a0, N; ret` for N in a0: at the function in flash.
flash_body:
    addi sp, sp, -16
    sd ra, 8(sp)
    call body
    mv a1, a0
    li a0, BANK0 + PLACE + 4
    call program
    li a0, BANK0
    call array
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

    # The same in RAM.
ram_body:
    addi sp, sp, -16
    sd ra, 8(sp)
    call body
    li t0, 0x80000000 + PLACE
    sw a0, 4(t0)
    ld ra, 8(sp)
    addi sp, sp, 16
    ret

    # The rest of the function, in both.
frames:
    addi sp, sp, -16
    sd ra, 8(sp)
    la s4, model
    li s5, 0
1:
    lw a1, 0(s4)
    li a0, BANK0 + PLACE
    add a0, a0, s5
    call program
    lw a1, 0(s4)
    li t0, 0x80000000 + PLACE
    add t0, t0, s5
    sw a1, 0(t0)
    addi s4, s4, 4
    addi s5, s5, 4
    li t0, 20
    bne s5, t0, 1b
    li a0, BANK0
    call array
    ld ra, 8(sp)
    addi sp, sp, 16
    ret
    .align 2
model:
    .word 0x00200f93            # li t6, 2
    .word 0x00000513            # li a0, 0
    .word 0xffff8f93            # addi t6, t6, -1
    .word 0xfe0f9ce3            # bnez t6, -8
    .word 0x00008067            # ret
show_ram:
    li t0, 1
    li t1, VIEW
    sw t0, 0(t1)
    ret
show_flash:
    li t1, VIEW
    sw zero, 0(t1)
    ret
"""

FLIPS = f"""
{WINDOW}
main:
    call frames
    li a0, 1
    call flash_body
    li a0, 2
    call ram_body
    fence.i
    call visit                  # 1
    call show_ram
    call visit                  # 2
    call show_flash
    call visit                  # 1
    call show_ram
    li a0, 3                    # patched in the view that is shown,
    call ram_body
    li a0, 4                    # and in the other one
    call flash_body
    fence.i
    call visit                  # 3
    call show_flash
    call visit                  # 4
    li s6, 20
2:
    call show_ram
    li t0, WINDOW + PLACE
    jalr ra, 0(t0)
    mv s7, a0
    call show_flash
    li t0, WINDOW + PLACE
    jalr ra, 0(t0)
    li s11, 1
    li t1, 3
    bne s7, t1, FAIL
    li t1, 4
    bne a0, t1, FAIL
    addi s6, s6, -1
    bnez s6, 2b
    li t0, 0x102000             # its identity
    lw t0, 0(t0)
    li t1, 0x504d5242
    li s11, 2
    bne t0, t1, FAIL
    call show_ram               # a store in the window reaches RAM,
    li t0, WINDOW + PLACE
    li a0, 5
    call body
    li t0, WINDOW + PLACE
    sw a0, 4(t0)
    fence.i
    call visit                  # 5
    call show_flash
    li a0, WINDOW + PLACE + 4   # or the flash's registers
    li a1, 0x00600513
    call program
    li a0, WINDOW
    call array
    fence.i
    call visit                  # 6
    j PASS
"""


@pytest.mark.parametrize("tier", TIERS)
def test_the_view_decides_what_runs(tier: str, tmp_path: Path):
    done = programs.run(FLIPS, tmp_path, *TIERS[tier], "-machine", "virt,boot-remap=on")
    assert (b"1213456", 0) == (done.stdout, done.returncode), done.stderr


OWN_WINDOW = f"""
{WINDOW}
main:                           # in RAM: show flash; li a0, 7; ret. in flash: li a0, 8; ret
    la s4, switch
    li s5, 0x80000000 + PLACE
    lw t0, 0(s4)
    sw t0, 0(s5)
    li t0, 0x00700513
    sw t0, 4(s5)
    li t0, 0x8067
    sw t0, 8(s5)
    li a0, BANK0 + PLACE + 4
    li a1, 0x00800513
    call program
    li a0, BANK0 + PLACE + 8
    li a1, 0x8067
    call program
    li a0, BANK0
    call array
    fence.i
    li s6, 40
1:
    call show_ram
    li t1, VIEW
    li t0, WINDOW + PLACE
    jalr ra, 0(t0)
    li s11, 1
    li t0, 8
    bne a0, t0, FAIL
    addi s6, s6, -1
    bnez s6, 1b
    j PASS
    .align 2
switch:
    .word 0x00032023            # sw zero, 0(t1)
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_store_that_changes_the_view_it_runs_in(tier: str, tmp_path: Path):
    """The instruction behind the store comes from the other memory."""
    text = OWN_WINDOW
    done = programs.run(text, tmp_path, *TIERS[tier], "-machine", "virt,boot-remap=on")
    assert 0 == done.returncode, done.stderr


RESETS = f"""
{WINDOW}
main:
    li t0, COUNT
    lw s8, 0(t0)
    addi s8, s8, 1
    sw s8, 0(t0)
    li t1, 1
    bne s8, t1, again
    call frames
    li a0, 1
    call flash_body
again:
    call visit                  # at once, before anything is written
    li t1, 4
    beq s8, t1, PASS
    addi a0, s8, 4              # 5, 6, 7 in RAM
    call ram_body
    fence.i
    call show_ram
    call visit
    addi a0, s8, 1              # 2, 3 in flash, behind the view
    call flash_body
    call visit
    li t0, 0x7777
    li t1, FINISHER
    sw t0, 0(t1)
    j .
"""


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("option", "said"), [("on", b"1552663774"), ("keep", b"1555666777")])
def test_a_reset_shows_flash_again_unless_told_to_keep(
    tier: str, option: str, said: bytes, tmp_path: Path
):
    words = [*TIERS[tier], "-machine", f"virt,boot-remap={option}"]
    done = programs.run(RESETS, tmp_path, *words)
    assert (said, 0) == (done.stdout, done.returncode), done.stderr


def test_without_the_option_there_is_no_controller(tmp_path: Path):
    text = "main:\n li t0, 0x102000\n lw t0, 0(t0)\n j PASS"
    assert 105 == programs.run(text, tmp_path).returncode  # a load access fault
