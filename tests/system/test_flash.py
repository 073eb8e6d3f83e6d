"""Flash under code: programs in place that are overwritten, mode changes, the file, U-Boot.

Classes of stale-code mistakes M1 (a device writes memory that holds code) and M9 (a range changes
what it is). What a guest prints or ends with decides.

Read next: `devices/cfi_flash.py`, `programs`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle import run_in_qemu
from tests.system import programs, runner
from tests.system.runner import Machine
from tests.system.test_uboot import UBOOT_PROMPT, to_prompt

TIERS = {
    "tier 0": ["--translator", "none"],
    "regions": ["--threshold", "1"],
}
FLASH_SIZE = 32 << 20

HELPERS = """
    .equ BANK0, 0x20000000
    .equ BANK1, 0x22000000

    # Store the word a1 at a0 in flash, by a word program; command mode stays. Uses t0.
program:
    li t0, 0x00400040
    sw t0, 0(a0)
    sw a1, 0(a0)
1:
    lw t0, 0(a0)
    andi t0, t0, 0x80
    beqz t0, 1b
    ret

    # Back to the array of the bank with address a0.
array:
    li t0, 0x00ff00ff
    sw t0, 0(a0)
    ret

    # Print the digit a0.
digit:
    addi a0, a0, 48
    li t0, UART
    sb a0, 0(t0)
    ret

    # The instruction `li a0, N` for N in a0.
body:
    slli a0, a0, 20
    addi a0, a0, 0x513
    ret
"""

SIX_BODIES = f"""
{HELPERS}
main:
    li s0, BANK1
    addi a0, s0, 4
    li a1, 0x8067               # ret
    call program
    li s1, 1
each:
    mv a0, s1
    call body
    mv a1, a0
    mv a0, s0
    call program
    mv a0, s0
    call array
    fence.i
    li s2, 40                   # long enough for a region of it
2:
    jalr ra, 0(s0)
    addi s2, s2, -1
    bnez s2, 2b
    call digit
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    j PASS
"""


@pytest.mark.parametrize("tier", TIERS)
def test_six_programs_at_one_place(tier: str, tmp_path: Path):
    """Code that ran in place is programmed anew five times; each time the new code runs."""
    done = programs.run(SIX_BODIES, tmp_path, *TIERS[tier])
    assert (b"123456", 0) == (done.stdout, done.returncode), done.stderr


def test_qemu_runs_the_first_of_six_programs_for_ever(capsys: pytest.CaptureFixture[str]):
    """Why the test above is there. What QEMU does is shown, not required."""
    theirs = run_in_qemu(programs.program(SIX_BODIES).data)
    with capsys.disabled():
        print(f"\nsix programs at one place in flash: 123456 is right, QEMU {theirs.console!r}")
    assert 0 == theirs.code


ERASED = f"""
{HELPERS}
main:
    li s0, BANK0
    li s3, 5
again:
    li a0, 3                    # a function that ends 256 KiB further up, in the next block
    call body
    mv a1, a0
    li a0, BANK0 + 0x3fffc
    call program
    li a0, BANK0 + 0x40000
    li a1, 0x8067
    call program
    mv a0, s0
    call array
    li s2, 40
1:
    li t0, BANK0 + 0x3fffc
    jalr ra, 0(t0)
    addi s2, s2, -1
    bnez s2, 1b
    call digit
    li t0, 0x00200020           # erase the second block only: `ret` is gone
    li t1, BANK0 + 0x40000
    sw t0, 0(t1)
    li t0, 0x00d000d0
    sw t0, 0(t1)
    mv a0, s0
    call array
    la t0, gone
    csrw mtvec, t0
    li t0, BANK0 + 0x3fffc
    jalr ra, 0(t0)
    j FAIL
    .align 2
gone:
    csrr s11, mcause            # illegal instruction, at the first erased one
    addi s11, s11, -2
    bnez s11, FAIL
    csrr s11, mepc
    li t0, BANK0 + 0x40000
    bne s11, t0, FAIL
    li t0, 0x00200020
    sw t0, 0(s0)
    li t0, 0x00d000d0
    sw t0, 0(s0)
    addi s3, s3, -1
    bnez s3, again
    j PASS
"""


@pytest.mark.parametrize("tier", TIERS)
def test_an_erased_block_under_code(tier: str, tmp_path: Path):
    done = programs.run(ERASED, tmp_path, *TIERS[tier])
    assert (b"33333", 0) == (done.stdout, done.returncode), done.stderr


MODES = f"""
{HELPERS}
main:
    li s0, BANK0
    mv a0, s0
    li a1, 0x12345678
    call program
    mv a0, s0
    call array
    li s1, 0x00700070
    li s2, 0x00ff00ff
    li s3, 0x00900090
    li s4, 0x00800080
    li s5, 0x12345678
    li s6, 0x00890089
    li s7, 300
    li s11, 1
1:                              # each load is the next instruction after the change of mode
    lw t0, 0(s0)
    sw s1, 0(s0)
    lw t1, 0(s0)
    sw s2, 0(s0)
    lw t2, 0(s0)
    sw s3, 0(s0)
    lw t3, 0(s0)
    sw s2, 0(s0)
    bne t0, s5, FAIL
    bne t1, s4, FAIL
    bne t2, s5, FAIL
    bne t3, s6, FAIL
    addi s7, s7, -1
    bnez s7, 1b
    j PASS
"""


@pytest.mark.parametrize("tier", TIERS)
def test_a_mode_holds_from_the_next_instruction_on(tier: str, tmp_path: Path):
    done = programs.run(MODES, tmp_path, *TIERS[tier])
    assert 0 == done.returncode, done.stderr


OWN_BANK = f"""
{HELPERS}
main:
    li s0, BANK1
    mv a0, s0
    li a1, 0x00a5a023           # sw a0, 0(a1)
    call program
    addi a0, s0, 4
    li a1, 0x00100513           # li a0, 1
    call program
    addi a0, s0, 8
    li a1, 0x8067               # ret
    call program
    mv a0, s0
    call array
    li s2, 40
1:                              # elsewhere it may store: to RAM, to the other bank
    la a1, stack
    li a0, 0
    jalr ra, 0(s0)
    li s11, 1
    addi t0, a0, -1
    bnez t0, FAIL
    li a1, BANK0
    li a0, 0x00ff00ff
    jalr ra, 0(s0)
    addi s2, s2, -1
    bnez s2, 1b
    li s2, 3
2:                              # to its own: what follows is gone
    la t0, gone
    csrw mtvec, t0
    mv a1, s0
    li a0, 0x00700070
    jalr ra, 0(s0)
    li s11, 2
    j FAIL
    .align 2
gone:
    csrr s11, mcause            # instruction access fault
    addi s11, s11, -1
    bnez s11, FAIL
    csrr t0, mepc
    addi t1, s0, 4
    li s11, 3
    bne t0, t1, FAIL
    li s11, 4
    li t1, 0x00700070
    bne a0, t1, FAIL
    mv a0, s0                   # and from here it comes back
    call array
    la a1, stack
    li a0, 0
    jalr ra, 0(s0)
    li s11, 5
    addi t0, a0, -1
    bnez t0, FAIL
    addi s2, s2, -1
    bnez s2, 2b
    j PASS
"""


@pytest.mark.parametrize("tier", TIERS)
def test_code_that_takes_its_own_bank_away(tier: str, tmp_path: Path):
    """The instruction behind the store that changes the mode of its bank is not executed."""
    done = programs.run(OWN_BANK, tmp_path, *TIERS[tier])
    assert 0 == done.returncode, done.stderr


BEHIND_TRANSLATION = f"""
{HELPERS}
main:
    li s0, BANK1
    addi a0, s0, 4
    li a1, 0x8067
    call program
    la s1, table                # Sv39: the first GiB at itself, and again 256 GiB below the top
    la t0, table
    li t1, 0x0cf                # V R W X, A D
    sd t1, 0(t0)
    li t2, 0x200000cf           # RAM
    sd t2, 16(t0)
    li t2, 2048
    add t2, t0, t2
    sd t1, 0(t2)
    srli t0, t0, 12
    li t1, 8
    slli t1, t1, 60
    or t0, t0, t1
    csrw satp, t0
    li t0, -1                   # PMP: all for S
    csrw pmpaddr0, t0
    li t0, 0x1f
    csrw pmpcfg0, t0
    sfence.vma
    la t0, supervisor
    csrw mepc, t0
    li t0, 0x1800
    csrc mstatus, t0
    li t0, 0x0800
    csrs mstatus, t0
    mret
supervisor:
    li s3, -1
    slli s3, s3, 38
    add s4, s3, s0              # the bank by another address
    li s1, 1
each:
    mv a0, s1
    call body
    mv a1, a0
    mv a0, s0
    call program
    mv a0, s4
    call array
    fence.i
    li s2, 40
2:
    jalr ra, 0(s0)
    mv s5, a0
    jalr ra, 0(s4)
    li s11, 1
    bne a0, s5, FAIL
    addi s2, s2, -1
    bnez s2, 2b
    call digit
    addi s1, s1, 1
    li t0, 7
    bne s1, t0, each
    j PASS
    .data
    .align 12
table:
    .space 4096
"""


@pytest.mark.parametrize("tier", TIERS)
def test_six_programs_seen_through_translation(tier: str, tmp_path: Path):
    done = programs.run(BEHIND_TRANSLATION, tmp_path, *TIERS[tier])
    assert (b"123456", 0) == (done.stdout, done.returncode), done.stderr


COUNT_BOOTS = f"""
{HELPERS}
main:
    li s0, BANK1                # boots so far, and a status in s3
    lw s1, 0(s0)
    addi s1, s1, 1
    mv a0, s0
    mv a1, s1
    call program
    lw s3, 0(s0)
    mv a0, s1
    call digit
    andi a0, s3, 0x10
    srli a0, a0, 4
    call digit
    li t0, 3
    bgeu s1, t0, PASS
    andi t0, s3, 0x10
    bnez t0, PASS
    li t0, 0x7777               # a reset in command mode
    li t1, FINISHER
    sw t0, 0(t1)
    j .
"""


def test_contents_outlive_resets_and_the_machine(tmp_path: Path):
    path = tmp_path / "bank1.fd"
    path.write_bytes(bytes(FLASH_SIZE))
    drive = f"if=pflash,format=raw,unit=1,file={path}"
    done = programs.run(COUNT_BOOTS, tmp_path, "-drive", drive)
    assert (b"102030", 0) == (done.stdout, done.returncode), done.stderr
    assert b"\x03" + bytes(FLASH_SIZE - 1) == path.read_bytes()
    done = programs.run(COUNT_BOOTS, tmp_path, "-drive", f"{drive},readonly=on")
    assert (b"41", 0) == (done.stdout, done.returncode), done.stderr  # a programming error
    assert b"\x03" + bytes(FLASH_SIZE - 1) == path.read_bytes()


def test_the_first_file_is_bank_0(tmp_path: Path):
    paths = [tmp_path / "code.fd", tmp_path / "vars.fd"]
    for number, path in enumerate(paths):
        code = (0x513 | (4 + number) << 20).to_bytes(4, "little") + b"\x67\x80\0\0"
        path.write_bytes(code + bytes(FLASH_SIZE - len(code)))
    text = f"""
    {HELPERS}
    main:
        li s0, BANK0
        jalr ra, 0(s0)
        call digit
        li s0, BANK1
        jalr ra, 0(s0)
        call digit
        j PASS
    """
    words = [word for path in paths for word in ("-drive", f"if=pflash,file={path}")]
    done = programs.run(text, tmp_path, *words)
    assert (b"45", 0) == (done.stdout, done.returncode), done.stderr


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path):
    path = tmp_path / "small.fd"
    path.write_bytes(b"\xff" * 4096)
    done = runner.run("-bios", "default", "-drive", f"if=pflash,format=raw,file={path}")
    assert 2 == done.returncode
    said = f"coldboot: -drive file {path}: a flash bank holds 33554432 bytes, this file 4096"
    assert f"{said} (truncate -s 32M pads it)\n" == done.stderr.decode()


@pytest.mark.parametrize("translator", ["embedded", "none"])
def test_uboot_writes_code_to_flash_and_goes_there(
    translator: str, guests_folder: Path, tmp_path: Path
):
    words = ["-bios", guests_folder / "u-boot.bin", "-m", "256M", "--translator", translator]
    with Machine(words, tmp_path) as machine:
        to_prompt(machine)

        def say(text: str) -> str:
            return machine.command(text, UBOOT_PROMPT)

        info = say("flinfo")
        assert 2 == info.count("Intel Extended command set, Manufacturer ID: 0x89")
        assert "Un-Protected" in say("protect off 22000000 +40000")
        for number in (5, 6, 7):
            assert "Erased" in say("erase 22000000 +40000")
            assert "22000000: ffffffff ffffffff" in say("md.l 22000000 2")
            say(f"mw.q 84000000 {(0x8067 << 32 | 0x513 | number << 20):x}")
            assert "done" in say("cp.b 84000000 22000000 40")
            assert "64 byte(s) were the same" in say("cmp.b 84000000 22000000 40")
            assert f"rc = {number:#x}" in say("go 22000000").lower()
        machine.send("poweroff\r")

        assert 0 == machine.wait()
        assert "" == machine.errors
