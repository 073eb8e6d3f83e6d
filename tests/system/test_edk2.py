"""edk2, executed in place from flash, starts Debian's kernel and keeps its variables in flash.

The firmware is Debian's package, unmodified. A store to a variable turns the second bank from
memory to a device and back while its code runs from the first.

Read next: `devices/fw_cfg.py` (how the kernel gets there), `test_flash`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cpu_proc import cpio
from devices.cfi_flash import BLOCK_SIZE
from tests.oracle import require
from tests.system.runner import APPEND, PROMPT, Machine

GUID = "6f1d6c1e-7b1a-4f0a-9d57-c01db0070001"
ENTRY = f"/sys/firmware/efi/efivars/Coldboot-{GUID}"
SHELL = rb"Shell> |FS0:\\> "
KEEP = r"\007\000\000\000"  # not volatile, for boot services, at run time


@pytest.fixture
def variables(guests_folder: Path, tmp_path: Path) -> Path:
    """The second bank's file: no variable is set."""
    return Path(shutil.copyfile(guests_folder / "edk2-vars.fd", tmp_path / "vars.fd"))


@pytest.fixture
def initrd(guests_folder: Path, tmp_path: Path) -> Path:
    """The initramfs, and behind it the module that shows the firmware's variables."""
    module = (guests_folder / "modules" / "efivarfs.ko").read_bytes()
    more = cpio.archive([cpio.file("lib/modules/efivarfs.ko", module)])
    path = tmp_path / "initrd"
    path.write_bytes((guests_folder / "initramfs.cpio").read_bytes() + more)
    return path


def flash(folder: Path, variables: Path) -> list[str]:
    code = f"if=pflash,unit=0,file={folder / 'edk2-code.fd'},readonly=on"
    return ["-drive", code, "-drive", f"if=pflash,unit=1,file={variables}"]


def to_linux(machine: Machine) -> None:
    """To a prompt of a kernel that came by the firmware, with the variables mounted."""
    machine.expect("BOOT-OK")
    machine.expect(PROMPT)
    assert "EDK II" in machine.command("dmesg | grep 'efi: EFI v'")
    machine.command("insmod /lib/modules/efivarfs.ko")
    assert "" == machine.command("mount -t efivarfs none /sys/firmware/efi/efivars")
    machine.command(f"v={ENTRY}")  # longer lines are echoed in two


def to_shell(machine: Machine) -> None:
    """From a start to edk2's shell, without its waits: five seconds for a key, twice."""
    machine.expect("Press ESCAPE within 5 seconds")
    machine.send("\r")
    machine.expect("UEFI Interactive Shell")
    machine.expect("to skip")
    machine.send("\x1b")
    machine.expect(SHELL)


def poweroff(machine: Machine) -> None:
    machine.send("poweroff -f\r")
    assert 0 == machine.wait()
    assert "" == machine.errors


def blocks(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + BLOCK_SIZE] for at in range(0, len(data), BLOCK_SIZE)]


def test_the_kernel_of_the_command_line_and_a_variable_it_sets(
    guests_folder: Path, variables: Path, initrd: Path, tmp_path: Path
):
    kernel = ["-kernel", guests_folder / "Image", "-initrd", initrd, "-append", APPEND]
    words = [*flash(guests_folder, variables), *kernel]
    code = (guests_folder / "edk2-code.fd").stat().st_mtime_ns
    with Machine(words, tmp_path) as machine:
        machine.expect("OpenSBI v")
        machine.expect("RISC-V EDK2 firmware version")
        to_linux(machine)
        assert APPEND in machine.command("cat /proc/cmdline")
        assert "64" == machine.command("cat /sys/firmware/efi/fw_platform_size")
        boot_order = machine.command("od -An -tx1 /sys/firmware/efi/efivars/BootOrder-*")
        assert re.match(r" *07 00 00 00 00 00", boot_order), boot_order  # edk2 has set it
        assert "" == machine.command(f"printf '{KEEP}first' > $v")
        poweroff(machine)
    first = blocks(variables)
    assert any("Coldboot".encode("utf-16-le") in block for block in first)
    assert all(block == bytes(BLOCK_SIZE) for block in first[8:])  # nothing but its own store
    assert code == (guests_folder / "edk2-code.fd").stat().st_mtime_ns

    with Machine([*words, "--translator", "none"], tmp_path) as machine:
        to_linux(machine)
        assert "first" in machine.command("cat $v")
        assert "" == machine.command(f"printf '{KEEP}second' > ${{v%1}}2")
        assert "second" in machine.command("cat ${v%1}2")
        poweroff(machine)
    assert first != blocks(variables)


@pytest.fixture
def disk(guests_folder: Path, initrd: Path, tmp_path: Path) -> Path:
    """A FAT disk with the kernel, its initrd, and a script for edk2's shell."""
    require("mformat", "mcopy")
    script = tmp_path / "startup.nsh"
    script.write_text(
        "@echo -off\r\n"
        f'setvar Coldboot -guid {GUID} -nv -bs -rt =L"shell"\r\n'
        f"FS0:\\Image {APPEND} initrd=\\initrd\r\n"
    )
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mformat", "-i", image, "-F", "::"], check=True, capture_output=True)
    files = [guests_folder / "Image", initrd, script]
    subprocess.run(["mcopy", "-i", image, *files, "::"], check=True, capture_output=True)
    return image


def test_the_shell_sets_a_variable_and_starts_the_kernel_of_a_disk(
    guests_folder: Path, variables: Path, disk: Path, tmp_path: Path
):
    words = [*flash(guests_folder, variables), "-drive", f"file={disk},readonly=on"]
    with Machine(words, tmp_path) as machine:
        to_shell(machine)
        machine.send(f"setvar Coldboot -guid {GUID}\r")
        machine.expect("Unable to get")
        machine.expect(SHELL)
        machine.send("FS0:startup.nsh\r")
        to_linux(machine)
        assert "s.h.e.l.l" in machine.command("tr '\\0' . < $v")
        machine.send("reboot -f\r")
        machine.expect("OpenSBI v")
        to_shell(machine)
        machine.send(f"setvar Coldboot -guid {GUID}\r")
        machine.expect("73 00 68 00 65 00 6C 00 6C 00")
        machine.expect(SHELL)
        machine.send("reset -s\r")

        assert 0 == machine.wait()
        assert "" == machine.errors
