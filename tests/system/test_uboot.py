"""U-Boot as firmware: a prompt, commands, resets that keep RAM, power off.

Read next: `test_reboot`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.oracle import require
from tests.system.runner import Machine

UBOOT_PROMPT = b"=> "
S_MODE = "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"


def to_prompt(machine: Machine) -> None:
    machine.expect("Hit any key to stop autoboot")
    machine.send(" ")
    machine.expect(UBOOT_PROMPT)


@pytest.mark.parametrize("translator", ["embedded", "none"])
def test_reset_keeps_ram(translator: str, guests_folder: Path, tmp_path: Path):
    firmware = str(guests_folder / "u-boot.bin")
    words = ["-bios", firmware, "-m", "256M", "--translator", translator]
    with Machine(words, tmp_path) as machine:
        to_prompt(machine)
        assert "U-Boot 20" in machine.command("version", UBOOT_PROMPT)
        machine.command("mw.q 0x84000000 0xdeadbeef12345678 2", UBOOT_PROMPT)
        for count in range(1, 4):
            machine.send("reset\r")
            to_prompt(machine)
            words_read = machine.command("md.q 0x84000000 2", UBOOT_PROMPT)
            assert "deadbeef12345678 deadbeef12345678" in words_read
            assert 1 + count == machine.wait_event("system_reset_done", count)["epoch"]
        machine.send("poweroff\r")

        assert 0 == machine.wait()
        assert "" == machine.errors


def test_a_reset_ends_the_run_if_told_so(guests_folder: Path, tmp_path: Path):
    with Machine(["-bios", guests_folder / "u-boot.bin", "-no-reboot"], tmp_path) as machine:
        to_prompt(machine)
        machine.send("reset\r")

        assert 0 == machine.wait()


def test_in_s_mode_under_opensbi(tmp_path: Path):
    with Machine(["-kernel", require(S_MODE), "-m", "256M"], tmp_path) as machine:
        machine.expect("OpenSBI v")
        to_prompt(machine)
        assert "U-Boot 20" in machine.command("version", UBOOT_PROMPT)
        machine.send("reset\r")
        machine.expect("OpenSBI v")
        to_prompt(machine)
        machine.send("poweroff\r")

        assert 0 == machine.wait()
