"""Virtio on the whole board: a disk with a file system and an entropy source, both transports.

Read next: `tests/devices/virtio`, the devices by themselves.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.oracle import require
from tests.system import runner
from tests.system.runner import PROMPT, Machine, linux


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk image with an ext4 file system that holds one file."""
    mke2fs = require("mke2fs")
    content = tmp_path / "content"
    content.mkdir()
    (content / "greeting").write_text("hello from the host\n")
    image = tmp_path / "disk.img"
    subprocess.run(
        [mke2fs, "-q", "-t", "ext4", "-d", content, image, "16M"], check=True, capture_output=True
    )
    return image


def dump(image: Path, name: str) -> str:
    """A file's text in an ext4 image, as the host's tools read it."""
    debugfs = require("debugfs")
    return subprocess.run(
        [debugfs, "-R", f"cat /{name}", image], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("legacy", ["on", "off"])
def test_a_disk_and_entropy(legacy: str, guests_folder: Path, disk: Path, tmp_path: Path):
    words = ["-global", f"virtio-mmio.force-legacy={legacy}"]
    words += ["-drive", f"file={disk},format=raw,if=none,id=d0"]
    words += ["-device", "virtio-blk-device,drive=d0", "-device", "virtio-rng-device"]
    with Machine(linux(guests_folder, *words), tmp_path) as machine:
        machine.expect("BOOT-OK")
        machine.expect(PROMPT)
        assert "done" == machine.command("load-modules && echo done").splitlines()[-1]
        mounted = machine.command("mount -t ext4 /dev/vda /mnt && cat /mnt/greeting")
        assert "hello from the host" in mounted
        interrupts = machine.command("grep virtio /proc/interrupts")
        assert 2 == interrupts.count("virtio"), interrupts
        features = machine.command("cat /sys/block/vda/device/features")
        assert ("1" if legacy == "off" else "0") == features[32]  # VIRTIO_F_VERSION_1

        machine.command("seq 1 5000 > /mnt/numbers; echo hello from the guest > /mnt/answer")
        checksum = machine.command("sync; sha256sum < /mnt/numbers").split()[0]
        machine.command("umount /mnt; mount -t ext4 /dev/vda /mnt")
        assert checksum in machine.command("sha256sum < /mnt/numbers")
        machine.command("umount /mnt")

        first = machine.command("dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum")
        second = machine.command("dd if=/dev/hwrng bs=32 count=1 2>/dev/null | sha256sum")
        assert first != second
        machine.send("poweroff -f\r")
        assert 0 == machine.wait()

    assert "hello from the guest\n" == dump(disk, "answer")
    assert [str(n) for n in range(1, 5001)] == dump(disk, "numbers").split()


def test_a_read_only_disk_stays_as_it_is(guests_folder: Path, disk: Path):
    before = disk.read_bytes()

    result = runner.run(
        *linux(guests_folder, "-drive", f"file={disk},format=raw,readonly=on"),
        "-append",
        f'{runner.APPEND} run="load-modules; echo x > /dev/vda; cat /sys/block/vda/ro;'
        ' mount -o ro /dev/vda /mnt && cat /mnt/greeting"',
    )

    assert 0 == result.returncode, result.stderr
    assert b"hello from the host" in result.stdout
    assert b"\n1\r\n" in result.stdout
    assert before == disk.read_bytes()
