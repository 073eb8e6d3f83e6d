"""Debian's Linux that reboots for ever: each boot like the first, and nothing stays behind.

Read next: `reboot_soak`, which does it as often as wanted.
"""

from __future__ import annotations

from pathlib import Path

from tests.system import runner
from tests.system.reboot_soak import soak, troubles
from tests.system.runner import Machine, Translator, linux

BOOTS = 8


def test_boots_in_one_process(guests_folder: Path, tmp_path: Path):
    seen = soak(guests_folder, tmp_path, BOOTS)

    assert [] == troubles(seen)
    assert [0] * (BOOTS - 1) == [boot.live_older for boot in seen[1:]]
    assert 1 == len({boot.incarnation for boot in seen} - {""}), "the translator lived through it"


def test_boots_without_a_translator(guests_folder: Path, tmp_path: Path):
    seen = soak(guests_folder, tmp_path, 2, ["--translator", "none"])

    assert [] == troubles(seen)


def test_resets_on_a_separate_translator(guests_folder: Path, tmp_path: Path):
    with Translator(tmp_path) as translator:
        seen = soak(guests_folder, tmp_path, 3, ["--translator", translator.endpoint])

        assert [] == troubles(seen)
        translator.wait_event("epoch_retired", 2)


def test_a_panic_reboots(guests_folder: Path, tmp_path: Path):
    words = linux(guests_folder, append='panic=-1 run="echo c > /proc/sysrq-trigger"')
    with Machine(words, tmp_path) as machine:
        machine.expect("BOOT-OK")
        machine.wait_event("system_reset_done")
        machine.expect("BOOT-OK")


def test_no_reboot_ends_the_run(guests_folder: Path):
    result = runner.run(*linux(guests_folder, "-no-reboot", append='run="reboot -f"'))

    assert 0 == result.returncode, result.stderr
    assert 1 == result.stdout.count(b"BOOT-OK")
