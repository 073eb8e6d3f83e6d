"""A client of QMP: connect, ask, wait for the answer.

Invariants: every wait has a deadline; whatever goes wrong is a `UserError` that names the socket.
Events that come in between are kept in `events`.

Read next: `qmp.py` (the protocol), `ctl.py`.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from protocol.errors import UserError

PATIENCE = 120.0  # seconds for an answer: a swap may have a process to start


class Refused(UserError):
    """The machine answered that it cannot be done."""


class QmpClient:
    """One connection, negotiated. Use it in a `with` statement, or `close` it."""

    def __init__(self, path: str, patience: float = PATIENCE) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(patience)
        deadline = time.monotonic() + patience
        try:
            while not self._connected(path):
                if time.monotonic() > deadline:
                    raise TimeoutError("nobody answers")
                time.sleep(0.01)
        except OSError as error:
            self._socket.close()
            raise UserError(f"{path}: {error.strerror or error}") from error
        self._file = self._socket.makefile("rb")
        if "QMP" not in self._read():
            raise UserError(f"{path}: this is no QMP socket")
        self.ask("qmp_capabilities")

    def _connected(self, path: str) -> bool:
        """Try; False while too many others wait."""
        try:
            self._socket.connect(path)
        except BlockingIOError:
            return False
        return True

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """A command's result; `_` in an argument's name stands for `-`. Raises UserError."""
        self._number += 1
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": given, "id": self._number}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror or error}") from error
        while True:
            reply = self._read()
            if "event" in reply:
                self.events.append(reply)
            elif reply.get("id") == self._number:
                break
        if "error" in reply:
            raise Refused(reply["error"].get("desc", "refused"))
        return reply["return"]

    def _read(self) -> dict[str, Any]:
        try:
            line = self._file.readline()
            found = json.loads(line) if line else None
        except TimeoutError:
            raise UserError(f"{self.path}: no answer") from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path}: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: the machine hung up")
        return found
