"""Emulators on which a workload runs, and one run of it to its end.

Invariants: both get the same words, as far as they share options; no process outlives `run`.

Read next: `linux`, `flash`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle import QEMU, require
from tests.system import runner

EMULATORS = ("coldboot", "tier0", "qemu")


class WorkloadError(Exception):
    """The run went wrong; the text says how, and what the guest said last."""


@dataclass(frozen=True)
class Run:
    """A finished run: what the console said, the exit status, and seconds of wall clock and CPU."""

    console: str
    status: int
    seconds: float
    cpu: float


def command(emulator: str) -> list[str]:
    """The words before a machine's own options."""
    if emulator == "qemu":
        return [require(QEMU), "-machine", "virt", "-nographic", "-monitor", "none"]
    words = runner.command("run")
    return [*words, "-translator", "none"] if emulator == "tier0" else words


def run(emulator: str, words: Sequence[object], deadline: float) -> Run:
    """Run a machine to its end. Raises `WorkloadError` when `deadline` seconds are not enough."""
    line = [*command(emulator), *map(str, words)]
    if emulator == "qemu":
        line += ["-serial", "stdio"]
    start = time.monotonic()
    with tempfile.TemporaryFile() as console, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=errors,
            env=runner.environment(),
            start_new_session=True,
        )
        try:
            while True:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                if time.monotonic() - start > deadline:
                    raise WorkloadError(
                        f"{emulator}: still running after {deadline:.0f} s\n{_end(console)}"
                    )
                time.sleep(0.02)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = time.monotonic() - start
        console.seek(0)
        text = console.read().decode(errors="replace").replace("\r", "")
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if "Traceback" in said:
        raise WorkloadError(f"{emulator}: a traceback\n{said[-3000:]}")
    return Run(text, process.returncode, seconds, usage.ru_utime + usage.ru_stime)


def _end(file: object) -> str:
    """The last lines of a console."""
    assert hasattr(file, "seek")
    file.seek(0)
    return str(file.read()[-3000:].decode(errors="replace"))  # type: ignore[attr-defined]
