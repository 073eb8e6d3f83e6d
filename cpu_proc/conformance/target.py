"""The translator under test: one that runs already, or one that the kit starts, kills and restarts.

Invariants: of a running one only messages are sent. A started one is this process's child, ends
with it (PR_SET_PDEATHSIG), and what it says on standard error is kept: its last lines are told when
it does not come up.

Read next: `runner.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shlex
import subprocess
import tempfile
import time
from pathlib import Path
from signal import SIGKILL

from protocol.errors import UserError
from protocol.messages import Ping
from protocol.transport import Client, discard_endpoint

START_PATIENCE = 60.0
_PR_SET_PDEATHSIG = 1
PLACE = "{endpoint}"


class Target:
    """A translator by its endpoint; `command`: how it is started, if it is the kit's."""

    def __init__(self, endpoint: str = "", command: str = "") -> None:
        """Raises UserError when the command cannot be read."""
        self.command = command
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._words: list[str] = []
        if command:
            self._folder = tempfile.TemporaryDirectory(prefix="coldboot-kit-")
            endpoint = f"ipc://{self._folder.name}/translator"
            try:
                words = shlex.split(command)
            except ValueError as error:
                raise UserError(f"conformance: --start {command}: {error}") from error
            if not words:
                raise UserError("conformance: --start: a command is expected")
            if not any(PLACE in word for word in words):
                words += ["--endpoint", PLACE]
            self._words = [word.replace(PLACE, endpoint) for word in words]
        self.endpoint = endpoint

    @property
    def pid_file(self) -> Path | None:
        """A file with the process id of the one that runs, if the kit started it."""
        return None if self._folder is None else Path(self._folder.name) / "pid"

    @property
    def restartable(self) -> bool:
        """Whether the kit started it."""
        return bool(self._words)

    def start(self, patience: float = START_PATIENCE) -> None:
        """Start it, and wait until it answers anything. Raises UserError."""
        assert self._folder is not None
        discard_endpoint(self.endpoint)
        log = Path(self._folder.name) / "log"
        libc = ctypes.CDLL(None)
        try:
            with log.open("ab") as out:
                self._process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, SIGKILL),
                )
        except OSError as error:
            raise UserError(f"conformance: --start {self._words[0]}: {error.strerror}") from error
        assert self.pid_file is not None
        self.pid_file.write_text(str(self._process.pid))
        socket = Path(self.endpoint.removeprefix("ipc://"))
        end = time.monotonic() + max(patience, START_PATIENCE)
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > end:
                last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
                raise UserError(f"conformance: --start: it does not listen; it said: {last[0]}")
            time.sleep(0.01)

    def listens(self, seconds: float) -> bool:
        """Whether anybody answers there: garbage, which is refused, or PING."""
        client = Client(self.endpoint)
        end = time.monotonic() + seconds
        try:
            client.send(Ping(0, secrets.randbits(60)))
            client.send_frames(b"\xc0")
            while (left := end - time.monotonic()) > 0:
                if client.poll(min(left, 0.25)).messages:
                    return True
        finally:
            client.close()
        return False

    def signal(self, number: int) -> None:
        """Send its process a signal."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def kill(self, number: int = SIGKILL) -> None:
        """End it, and whatever it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait()
        self._process = None

    def ended(self) -> bool:
        """Whether its process is over."""
        return self._process is None or self._process.poll() is not None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """End what the kit started."""
        self.kill()
        if self._folder is not None:
            self._folder.cleanup()
