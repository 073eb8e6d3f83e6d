"""What `coldboot doctor` says about machines that lack something, and what it exits with."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from cpu_proc import debian, doctor, guests

GOOD = "flags\t\t: fpu sse2 fma avx2 bmi1 bmi2 abm popcnt\n"


@pytest.fixture
def fitting_host(monkeypatch, tmp_path):
    """A machine that has all that is needed, whatever machine runs the tests."""
    monkeypatch.setattr(doctor, "cpu_features", lambda text: frozenset(GOOD.split()))
    monkeypatch.setattr(guests, "default_folder", lambda: tmp_path)
    monkeypatch.setattr(
        debian, "mirrors", lambda: [debian.Source("http://mirror/debian", "bookworm")]
    )


def found(subject: str) -> doctor.Finding:
    return next(finding for finding in doctor.examine() if finding.subject == subject)


def test_a_fitting_machine_passes(fitting_host, capsys):
    assert doctor.main() == 0
    output = capsys.readouterr().out
    assert "missing" not in output
    assert "llvmlite" in output


def test_something_needed_is_missing(fitting_host, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "cpu_features", lambda text: frozenset({"sse2"}))
    assert doctor.main() == 1
    assert "no fma" in capsys.readouterr().out


def test_features_are_those_that_every_processor_has():
    assert doctor.cpu_features("flags : sse2 fma\nmodel : x\nflags : sse2\n") == {"sse2"}
    assert doctor.cpu_features("Features : asimd\n") == frozenset()


@pytest.mark.parametrize(
    ("lacking", "state"), [("fma", "missing"), ("avx2", "warning"), ("abm", "warning"), ("", "ok")]
)
def test_a_processor_is_judged_by_what_it_lacks(lacking, state):
    features = frozenset(GOOD.split()) - {lacking}
    assert doctor.judge_cpu(features).state == state


def test_a_package_that_is_not_installed_is_named_with_the_command(fitting_host, monkeypatch):
    look_up = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "llvmlite" else look_up(name)
    )
    finding = found("llvmlite")
    assert (finding.state, "pip install llvmlite" in finding.advice) == ("missing", True)


def test_without_rich_the_report_is_plain(fitting_host, monkeypatch, capsys):
    look_up = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rich" else look_up(name)
    )
    assert doctor.main() == 1
    assert "rich: missing: no module rich install it: python -m pip install rich" in (
        capsys.readouterr().out.splitlines()
    )


def test_sealed_memory_is_tried_itself(fitting_host, monkeypatch):
    assert found("sealed memory").state == "ok"

    def refuse(*arguments: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", refuse)
    finding = found("sealed memory")
    assert finding.state == "missing"
    assert "memfd_create: Operation not permitted" in finding.found


def test_what_only_fetching_and_comparing_need_is_a_warning(fitting_host, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    states = {finding.subject: finding.state for finding in doctor.examine()}
    assert (states["apt"], states["QEMU"], states["guests"]) == ("warning", "warning", "warning")
    assert "missing" not in states.values()


def test_llvm_is_looked_up_and_not_loaded():
    look = "import sys; from cpu_proc import doctor; doctor.main()"
    code = f"{look}; sys.exit('llvmlite' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=240)
    assert done.returncode == 0
