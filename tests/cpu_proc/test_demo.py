"""The demonstration, as a user runs it; and that its checks are checks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from cpu_proc import demo, demo_guest
from cpu_proc.demo_view import View
from protocol.riscv.assembler import assemble
from tests.oracle import run_in_qemu

DEADLINE = 240.0  # seconds: many times what it takes, for cores that others use too
ROOT = Path(__file__).resolve().parents[2]


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE
    )


def test_it_succeeds_and_shows_what_was_retired(tmp_path: Path):
    picture = tmp_path / "demo.svg"

    done = python("-m", "cpu_proc.demo", "--svg", str(picture))

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "" == done.stderr
    text = re.sub("\x1b\\[[0-9;]*m", "", done.stdout)
    assert re.search(r"All \d+ checks held", text)
    for cause in (
        "guest's store over regions",
        "device's write",
        "system reset",
        "translator lost",
    ):
        assert cause in text
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert "@font-face" not in picture.read_text(encoding="utf-8")


def test_it_fails_when_stale_code_runs():
    # Regions leave the book, but the records still point to them: the bug this project is about.
    broken = """
import sys
from cpu_proc import demo, demo_guest, records

def hot_code(guest, view, whole=demo.hot_code):
    whole(guest, view)
    records.Records._take_back = lambda self, regions: None
    demo_guest.PATIENCE = 8.0

demo.CHAPTERS = (hot_code, *demo.CHAPTERS[1:])
sys.exit(demo.run())
"""

    done = python("-c", broken)

    assert 1 == done.returncode, done.stdout + done.stderr
    assert re.search(r"✗ .* [1-9][0-9,]* stale", done.stdout), done.stdout


def test_ctrl_c_ends_it_at_once_and_cleanly():
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "cpu_proc", "run"],
        cwd=str(ROOT),
        dimensions=(40, 80),
        timeout=DEADLINE,
    )
    terminal.expect("Hot code")
    terminal.expect(r"translator \S*?m(\d+)")
    assert isinstance(terminal.match, re.Match)
    child = int(terminal.match[1])
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert 128 + signal.SIGINT == terminal.exitstatus
    assert "Traceback" not in str(terminal.before)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_guest_is_right_elsewhere_too():
    program = assemble(demo_guest.FIRMWARE.read_text(encoding="utf-8"))

    outcome = run_in_qemu(program.data, console_input=b"phnnsabaq")

    lines = outcome.console.decode().split("\n")
    assert 0 == outcome.code, outcome.console
    assert "boot 1 42" == lines[0].strip()
    assert re.search(r"^end \d+ 0\r?$", outcome.console.decode(), re.MULTILINE)
    assert set("wphsa") <= {line[:1] for line in lines}


def test_the_work_has_the_result_the_guest_expects():
    program = assemble(demo_guest.FIRMWARE.read_text(encoding="utf-8"))
    size, result = program.symbols["SIEVE_SIZE"], 0
    composite = bytearray(size)
    for number in range(2, size):
        for multiple in range(2 * number, size, number):
            composite[multiple] = 1
    for number in [n for n in range(2, size) if not composite[n]] * 8:
        result = (result * 31 + number) % 2**64 ^ result >> 7

    assert program.symbols["PRIMES_HASH"] == result


def test_one_failed_check_is_a_failed_demonstration():
    view = View(record=True)
    view.check("this", "holds", True)
    view.check("that", "does not", False)

    assert not view.verdict(1.0)
    assert ["that: does not"] == view.failures
    assert "1 of 2 checks failed" in view.console.export_text()


def test_no_check_is_no_success():
    assert not View(record=True).verdict(1.0)
    assert 5 == len(demo.CHAPTERS)
