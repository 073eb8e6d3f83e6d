"""Short runs of the workloads that hurt a translator.

The full ones are a command: `python -m tests.system.workloads`.

Read next: `tests/system/workloads`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.runner import Machine
from tests.system.test_uboot import UBOOT_PROMPT, to_prompt
from tests.system.workloads import flash, linux
from tests.system.workloads.__main__ import main
from tests.system.workloads.emulators import WorkloadError


@pytest.mark.parametrize(("harts", "pairs"), [(2, 5), (4, 2)])
def test_the_function_tracer_on_and_off(harts: int, pairs: int, guests_folder: Path):
    """Each pair patches some 25,000 places of the kernel twice, while other harts run it."""
    result = linux.run(["tracer-busy"], guests_folder, harts=harts, count=lambda name: pairs)
    assert ["tracer on and off"] == list(result.rounds)


def test_the_kernel_compiles_and_loads_code(guests_folder: Path):
    """Its eBPF compiler's own tests, static keys, modules."""
    counts = {"bpf": 1, "modules": 3}
    result = linux.run(["bpf", "modules"], guests_folder, count=counts.__getitem__)
    assert 3 == len(result.rounds)


def test_programs_that_write_code(programs_folder: Path):
    counts = {"lua": 200, "stress": 2}
    result = linux.run(["lua", "stress"], programs_folder, harts=2, count=counts.__getitem__)
    assert 4 + len(linux.STRESSORS) == len(result.rounds)


@pytest.mark.parametrize("harts", [1, 2])
@pytest.mark.parametrize("reset", [False, True], ids=["on", "resets"])
def test_flash_updates(harts: int, reset: bool):
    flash.run(harts=harts, count=20, reset=reset)


def test_flash_updates_seen_by_regions_at_once():
    flash.run(harts=1, count=6, words=["-threshold", "1"])


def test_a_guest_that_finds_fault_fails_the_run(guests_folder: Path, monkeypatch):
    """No check here that cannot fail: a wrong result, a complaint of the kernel, old code."""
    monkeypatch.setattr(
        flash, "PROGRAM", flash.PROGRAM.replace("0x00350513", "0x00250513")
    )  # addi a0, a0, 2
    with pytest.raises(WorkloadError, match="status 3"):
        flash.run(count=1)
    oops = linux.Workload("", "echo 'WARNING: made up' > /dev/kmsg; echo COUNT", count=1)
    monkeypatch.setitem(linux.WORKLOADS, "oops", oops)
    with pytest.raises(WorkloadError, match="the kernel complained"):
        linux.run(["oops"], guests_folder)


def test_the_command(capsys: pytest.CaptureFixture[str]):
    assert 0 == main(["flash", "--count", "2", "--emulator", "tier0"])
    assert "a whole run's CPU" in capsys.readouterr().out
    assert 1 == main(["flash", "--count", "5000"])
    assert "FAILED flash on 1 hart(s), flash: 5000 rounds" in capsys.readouterr().out


def test_uboot_flash_survives_a_reset(guests_folder: Path, tmp_path: Path):
    """flinfo, erase, cp.b, go; after a reset the same code is there, and then other code."""
    with Machine(["-bios", guests_folder / "u-boot.bin", "-m", "256M"], tmp_path) as machine:
        to_prompt(machine)

        def say(text: str) -> str:
            return machine.command(text, UBOOT_PROMPT)

        assert 2 == say("flinfo").count("Intel Extended command set")
        for number in (5, 6):
            say("protect off 22000000 +40000")
            assert "Erased" in say("erase 22000000 +40000")
            say(f"mw.q 84000000 {(0x8067 << 32 | 0x513 | number << 20):x}")
            assert "done" in say("cp.b 84000000 22000000 40")
            for _ in range(2):
                assert f"rc = {number:#x}" in say("go 22000000").lower()
                machine.send("reset\r")
                to_prompt(machine)
        machine.send("poweroff\r")
        assert 0 == machine.wait()
