"""A translator as a process of its own, for the tests that meet it over its socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jit_proc.process import child_environment
from tests.jit_proc import fake_lifter as fake
from tests.jit_proc.fake_machine import DEADLINE, FakeMachine

Connect = Callable[..., FakeMachine]


class Service:
    """A translator process."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.chmod(0o700)
        self.endpoint = f"ipc://{folder}/t"
        self.cache = folder / "cache"
        command = [
            *(sys.executable, "-m", "jit_proc", "--endpoint", self.endpoint, "--nice", "0"),
            *("--lifter", f"{fake.__name__}:translate_whole_page", "--cache", str(self.cache)),
            *("--engine", f"{fake.__name__}:build", "--workers", "1", "--log-json"),
            *("--log-level", "info", "--parent", str(os.getpid())),
        ]
        self.process = subprocess.Popen(
            [*command, *options],
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )

    def end(self, with_signal: int = signal.SIGTERM) -> str:
        """Signal it, wait for its end, and return its log."""
        self.process.send_signal(with_signal)
        return self.process.communicate(timeout=DEADLINE)[1]


def returned(machine: FakeMachine, offset: int) -> int:
    """What the code at `offset` returns: it is `mov eax, NUMBER; ret`."""
    assert machine.code is not None
    code = machine.code.read(offset, 6)
    assert (code[0], code[5]) == (0xB8, 0xC3)
    return int.from_bytes(code[1:5], "little")
