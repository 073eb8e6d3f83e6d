"""What tests measure themselves against: QEMU as a second opinion, and tools that may not be there.

Problem: a test that quietly does nothing because a program is missing is worse than none; and
"what would another machine do?" is the best question about an emulator.

Invariants: `require` is the only way to do without a tool. On a developer's machine it skips, and
the session ends with a list of what was skipped for want of what; under ``CI=true`` a missing tool
is a failure. Every run has a deadline, and its process is gone when the call returns.

Read next: `tests/conftest.py`, which prints the list.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

MISSING = "missing on this machine: "
"""How the reason of a skip begins that `tests/conftest.py` lists at the end."""

QEMU = "qemu-system-riscv64"
RAM_BASE = 0x8000_0000

# Debian's package for each program that tests use.
PACKAGES = {
    QEMU: "qemu-system-misc",
    "qemu-img": "qemu-utils",
    "dtc": "device-tree-compiler",
    "riscv64-unknown-elf-as": "binutils-riscv64-unknown-elf",
    "riscv64-unknown-elf-gcc": "gcc-riscv64-unknown-elf",
    "riscv64-unknown-elf-ld": "binutils-riscv64-unknown-elf",
    "riscv64-unknown-elf-objcopy": "binutils-riscv64-unknown-elf",
    "riscv64-unknown-elf-objdump": "binutils-riscv64-unknown-elf",
    "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu",
    "mke2fs": "e2fsprogs",
    "mcopy": "mtools",
    "mformat": "mtools",
    "dpkg-deb": "dpkg",
    "cpio": "cpio",
    "spin": "spin",
    "gcc": "gcc",
    "ip": "iproute2",
    "systemd-analyze": "systemd",
    "docker-compose": "docker-compose",
    "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin": "opensbi",
    "/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin": "opensbi",
    "/usr/lib/u-boot/qemu-riscv64/u-boot.bin": "u-boot-qemu",
    "/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin": "u-boot-qemu",
    "/usr/lib/picolibc/riscv64-unknown-elf": "picolibc-riscv64-unknown-elf",
}


def require(*names: str) -> str:
    """The path of a program (or of a file, for names with a slash), or the test ends here.

    With several names all are required, and the first one's path is given.
    """
    paths = [name if "/" in name and Path(name).exists() else shutil.which(name) for name in names]
    for name, path in zip(names, paths, strict=True):
        if path is None:
            package = PACKAGES.get(name)
            hint = f" (apt-get install {package})" if package else ""
            do_without(f"{name}{hint}")
    found = paths[0]
    assert found is not None
    return found


def do_without(what: str) -> NoReturn:
    """End this test because `what` is not there: a skip that is listed, under CI a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{MISSING}{what}; continuous integration must have it", pytrace=False)
    pytest.skip(f"{MISSING}{what}")


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `code` is QEMU's exit status: a guest chooses it by the test finisher.

    `memory` is the guest's RAM as it was left, from `RAM_BASE` on.
    """

    code: int
    console: bytes
    memory: bytes

    def read(self, address: int, length: int) -> bytes:
        """Bytes of RAM at a guest-physical address."""
        offset = address - RAM_BASE
        if not 0 <= offset <= len(self.memory) - length:
            raise IndexError(f"{address:#x}+{length:#x} is outside of RAM")
        return self.memory[offset : offset + length]

    def word(self, address: int) -> int:
        """The 64-bit little-endian word at a guest-physical address."""
        return int.from_bytes(self.read(address, 8), "little")


def run_in_qemu(
    program: bytes,
    *,
    at: int = RAM_BASE,
    memory_mib: int = 16,
    harts: int = 1,
    options: Sequence[str] = (),
    console_input: bytes = b"",
    images: Mapping[int, bytes] | None = None,
    seconds: float = 240.0,
) -> Outcome:
    """Run a raw program in QEMU's `virt` machine, in M-mode from address `at`, without firmware.

    The guest must end the run itself: 0x5555 written to 0x100000 exits with 0, and
    ``0x3333 | code << 16`` with `code`. `images` are laid at further addresses. `options` are
    QEMU's. A guest still running after `seconds` fails the test, with its console in the text.
    """
    qemu = require(QEMU)
    with tempfile.TemporaryDirectory(prefix="oracle-") as folder:
        # The reset ROM jumps to the start of RAM; a program elsewhere is reached by a jump there.
        loaded = {at: program, **(images or {})}
        if at != RAM_BASE:
            loaded.setdefault(RAM_BASE, _jump_to(at))
        ram = Path(folder, "ram")
        backend = f"memory-backend-file,id=ram,share=on,mem-path={ram},size={memory_mib}M"
        command = [qemu, "-machine", "virt,memory-backend=ram", "-object", backend]
        command += ["-m", f"{memory_mib}M", "-smp", str(harts), "-bios", "none", "-nographic"]
        command += ["-monitor", "none", "-serial", "stdio", "-no-reboot", "-net", "none"]
        for address, image in loaded.items():
            path = Path(folder, f"{address:x}.bin")
            path.write_bytes(image)
            command += ["-device", f"loader,file={path},addr={address:#x},force-raw=on"]
        try:
            done = subprocess.run(
                [*command, *options],
                input=console_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            console = expired.stdout or b""
            pytest.fail(f"the guest still ran in QEMU after {seconds} s; its console: {console!r}")
        return Outcome(done.returncode, done.stdout, ram.read_bytes())


def _jump_to(address: int) -> bytes:
    """Machine code for the reset address: load `address` from behind the code and jump there."""
    words = (0x0000_0297, 0x0102_B283, 0x0002_8067, 0x0000_0013)  # auipc t0,0; ld t0,16(t0); jr t0
    code = b"".join(word.to_bytes(4, "little") for word in words)
    return code + address.to_bytes(8, "little")
