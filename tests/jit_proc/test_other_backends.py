"""Backends of other packages: found by entry point, used by a machine, harmless when broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system import programs, runner

EXAMPLE = Path(__file__).parents[2] / "docs" / "template_backend.py"

TEXT = """
main:                           # sums of everything the templates know, beside what they do not
    li s6, ROUNDS
    li s0, 0
    la s1, cell
again:
    addi t0, s6, 7
    slli t1, t0, 13
    srli t2, t1, 3
    srai t3, t1, 5
    add t4, t0, t1
    sub t5, t4, t2
    xor s0, s0, t5
    or t6, s0, t0
    and t6, t6, t1
    addw a0, t6, t3
    subw a1, a0, t2
    addiw a2, a1, -5
    lui a3, 0xfffff
    andi a4, a1, -16
    ori a5, a2, 0x55
    xori a6, a5, -1
    mul a7, a6, t0
    add s0, s0, a7
    add s0, s0, a4
    add s0, s0, a3
    add zero, s0, s0
    sd s0, 0(s1)
    addi s6, s6, -1
    bnez s6, again
    srli s11, s0, 32
    xor s11, s11, s0
    slli s11, s11, 56
    srli s11, s11, 56
    j FAIL                      # the sum is the exit status

    .data
cell:
    .dword 0
    .text
""".replace("ROUNDS", "20000")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, first on the path of every process."""
    folder = tmp_path / "site"
    info = folder / "template-1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(EXAMPLE, folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: template\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[coldboot.backends]\ntemplate = template_backend:TEMPLATE\n"
        "broken = nowhere:X\nllvm = template_backend:TEMPLATE\n"
    )
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), path])))
    return folder


def test_they_are_listed(site: Path):
    done = subprocess.run(
        [sys.executable, "-m", "cpu_proc", "backends"],
        capture_output=True, text=True, check=True, env=runner.environment(),
    )  # fmt: skip
    assert re.search("^template +an example: ", done.stdout, re.M)
    assert re.search("^broken .*cannot be loaded: No module named 'nowhere'$", done.stdout, re.M)
    assert re.search("^llvm +regions of many blocks", done.stdout, re.M)
    assert "backend_left_out" in done.stderr


def test_the_example_of_the_documentation_runs_a_guest(site: Path, tmp_path: Path):
    expected = programs.run(TEXT, tmp_path, "-translator", "none")
    words = ["-backend", "template", "-threshold", "1", "-stats"]

    done = programs.run(TEXT, tmp_path, *words)

    assert expected.returncode == done.returncode
    assert expected.returncode not in (0, 2)
    published = re.search(rb"published (\d+)", done.stderr)
    assert published is not None, done.stderr
    assert int(published[1]) > 0
    assert len(EXAMPLE.read_text().splitlines()) <= 150


def test_a_broken_one_is_refused_in_a_line(site: Path, tmp_path: Path):
    done = programs.run("main:\n    j main\n", tmp_path, "-backend", "broken")
    assert done.returncode == 2
    last = done.stderr.decode().splitlines()[-1]
    assert last == (
        "coldboot: translator: backend broken (nowhere:X) cannot be loaded: "
        "No module named 'nowhere'"
    )
