"""Snapshots on real machines: what comes back, what runs afterwards, which files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from cpu_proc.machine import Machine
from cpu_proc.snapshot import SnapshotError
from devices.uart16550 import Uart16550State
from tests.cpu_proc.test_host_api import (
    COUNTER,
    MODES,
    PATCHED,
    RAM,
    Maker,
    body,
    changed,
    counter,
    goes_on,
    machine,
)
from tests.system.runner import until

__all__ = ["machine"]


@pytest.mark.parametrize("mode", MODES)
def test_saved_patched_and_restored_the_first_code_runs_again(
    machine: Maker, mode: str, tmp_path: Path
):
    here = machine("-smp", "2", *MODES[mode])
    path = str(tmp_path / "saved")
    here.power_on()
    for _ in range(5):
        goes_on(here, 1)
        here.host.save(path)
        epoch = here.retirement.epoch
        here.host.write(PATCHED, body(1 << 10))
        here.host.pause()
        here.host.set_register(0, "s1", 0)
        here.host.set_register(0, "pc", RAM)
        here.host.resume()
        until(lambda: counter(here) and counter(here) % (1 << 10) == 0, "patched code")
        here.host.restore(path)
        assert here.retirement.epoch == epoch + 1
        here.host.pause()
        for hart in range(2):
            here.host.set_register(hart, "s1", 0)
        here.host.resume()
        until(lambda: counter(here) % (1 << 10), "the first code")
        goes_on(here, 1)
    assert here.retirement.counts["snapshot_restore"] == 5


def test_another_process_s_machine_goes_on_from_the_file(machine: Maker, tmp_path: Path):
    words = ["-translator", "none", "-device", "virtio-rng-device"]
    first = machine(*words)
    path = str(tmp_path / "saved")
    first.power_on()
    goes_on(first)
    first.receive(b"typed ahead")
    first.host.pause()
    here = {n: first.host.get_register(0, n) for n in ("pc", "s1", "f3", "mstatus", "count")}
    time = first.harts[0].now()
    size = first.host.save(path)
    assert size == (tmp_path / "saved").stat().st_size < 100_000  # mostly zeros
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []

    second = machine(*words, "-loadvm", path)
    second.load(fresh=True)
    second.host.write(RAM + 0x18_0000, b"not in the snapshot")
    second.host.restore(path)
    assert here == {n: second.host.get_register(0, n) for n in here}
    assert second.host.read(RAM + 0x18_0000, 19) == bytes(19)
    assert second.host.read(COUNTER, 8) == first.host.read(COUNTER, 8)
    assert second.board.uart.state == first.board.uart.state != Uart16550State()
    assert second.harts[0].now() - time < 10_000_000 * 60
    second.power_on()
    goes_on(second)


def test_counted_time_goes_on_exactly(machine: Maker, tmp_path: Path):
    words = ["-translator", "none", "-icount", "3"]
    path = str(tmp_path / "saved")
    first = machine(*words)
    first.power_on()
    goes_on(first)
    first.host.pause()
    first.host.save(path)
    second = machine(*words)
    second.host.restore(path)
    assert second.harts[0].now() == first.harts[0].now()
    assert second.harts[0].state.count == first.harts[0].state.count


def test_flash_and_its_mode_come_back(machine: Maker, tmp_path: Path):
    words = ["-translator", "none", "-machine", "virt,boot-remap=on"]
    path = str(tmp_path / "saved")
    first = machine(*words)
    with first.lock:
        first.memory.mmio_write(0x2200_0000, 4, 0x40)
        first.memory.mmio_write(0x2200_0000, 4, 0x1234_5678)
        first.memory.mmio_write(0x2000_0000, 4, 0xFF)
        first.memory.mmio_write(0x10_2004, 4, 1)
    first.host.save(path)
    second = machine(*words)
    second.host.restore(path)
    second.host.at_safe_point(lambda: None)
    assert second.memory.mmio_read(0x2200_0000, 4) == 0x80_0080 & 0xFFFF_FFFF  # the status
    second.memory.mmio_write(0x2200_0000, 4, 0xFF)
    second.host.at_safe_point(lambda: None)
    assert second.host.read(0x2200_0000, 4) == (0x1234_5678).to_bytes(4, "little")
    assert second.memory.mmio_read(0x10_2004, 4) == 1
    assert second.memory.is_memory(0x2400_0000, 4, write=True)  # RAM in the window


def refused(here: Machine, path: Path, match: str) -> None:
    before = here.host.read(COUNTER, 8), here.retirement.epoch
    with pytest.raises(SnapshotError, match=match):
        here.host.restore(str(path))
    assert before == (here.host.read(COUNTER, 8), here.retirement.epoch)


def test_files_that_are_no_snapshot_of_this_machine_change_nothing(machine: Maker, tmp_path: Path):
    first = machine("-translator", "none", "-smp", "2")
    path = tmp_path / "saved"
    first.host.write(COUNTER, b"8 bytes.")
    first.host.save(str(path))
    good = path.read_bytes()
    here = machine("-translator", "none")
    refused(here, path, r"is of another machine \(harts: 2 there, 1 here\)")
    refused(here, tmp_path / "none", "no such file")
    bad = tmp_path / "bad"
    for content, match in [
        (b"", "is not a snapshot"),
        (b"#!/bin/sh", "is not a snapshot"),
        (good[:40], "damaged"),
        (good[:-1], "damaged"),
        (good + b"x", "damaged"),
        (good[:100] + bytes([good[100] ^ 1]) + good[101:], "damaged"),
        (good[:-1] + bytes([good[-1] ^ 1]), "damaged"),
    ]:
        bad.write_bytes(content)
        refused(first, bad, match)
    with pytest.raises(SnapshotError, match="no such file"):
        first.host.save(str(tmp_path / "nowhere" / "saved"))
    assert path.read_bytes() == good


def test_a_save_that_fails_leaves_the_older_file(
    machine: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import os

    first = machine("-translator", "none")
    path = tmp_path / "saved"
    first.host.save(str(path))
    good = path.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    first.host.write(COUNTER, b"8 bytes.")
    with pytest.raises(SnapshotError, match="no space left"):
        first.host.save(str(path))
    assert path.read_bytes() == good
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_the_monitor_s_lines(machine: Maker, tmp_path: Path):
    here = machine("-translator", "none")
    here.power_on()
    goes_on(here)
    path = tmp_path / "saved"
    assert here.command(f"snapshot save {path}").startswith(f"saved to {path}")
    assert here.command(f"snapshot restore {path}") == f"restored from {path}\n"
    changed(here, counter(here))
    assert "no such file" in here.command(f"snapshot restore {path}x")
    assert "is expected" in here.command("snapshot forget")
