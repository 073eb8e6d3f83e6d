"""The fault switches: all there, off, and out of a normal run's reach."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from protocol import mutants

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cpu_proc", "jit_proc", "devices", "protocol")


@pytest.fixture(autouse=True)
def _disarm():
    yield
    mutants.arm(())


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def test_there_is_a_switch_for_each_class():
    assert [f"M{n}" for n in range(1, 49)] == list(mutants.MUTANTS)


def test_nothing_is_armed_by_itself():
    assert () == mutants.all_armed()
    assert not any(map(mutants.armed, mutants.MUTANTS))
    assert ["jit_proc"] == mutants.translator_module()


def test_what_is_armed_is_armed_and_nothing_else():
    mutants.arm(["M43", "M7"])

    assert {"M7", "M43"} == {name for name in mutants.MUTANTS if mutants.armed(name)}
    assert ["jit_proc.armed", "M43,M7"] == mutants.translator_module()


def test_an_unknown_name_is_refused():
    with pytest.raises(KeyError):
        mutants.arm(["M49"])
    mutants.arm(["M1"])
    with pytest.raises(KeyError):
        mutants.armed("M49")


def test_native_code_with_a_mistake_has_another_key():
    assert "" == mutants.engine_suffix()
    mutants.arm(["M6", "M1"])
    assert "+M6" == mutants.engine_suffix()


def test_only_the_stress_tool_and_the_simulator_arm():
    callers = {
        str(path.relative_to(ROOT))
        for path in sources()
        if re.search(r"\bmutants\.arm\(|import .*\barm\b", path.read_text())
    }
    allowed = {"jit_proc/armed.py", "jit_proc/worker.py", "protocol/simulate/cli.py"}
    assert allowed <= callers
    assert {name for name in callers if not name.startswith("cpu_proc/stress/")} == allowed


def test_commands_and_environment_arm_nothing():
    for words in (
        ["run", "--mutants", "M1"],
        ["run", "--armed", "M1"],
        ["translator", "--armed", "M1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cpu_proc", *words], capture_output=True, text=True, check=False
        )
        assert 2 == done.returncode
    assert "os.environ" not in (ROOT / "protocol/mutants.py").read_text()
