"""Two ways into a running QEMU: its monitor (QMP) and its stub for gdb.

Invariant: every answer is awaited with the socket's deadline (`TimeoutError`); a connection that
QEMU closes is a `ConnectionError`.

Read next: `qemu.py`.
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE = 30.0  # seconds for any answer


class Monitor:
    """QMP on a connected socket (QEMU's docs/interop/qmp-spec)."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self._next()  # the greeting
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """What the command returns. Raises ConnectionError when QEMU refuses it."""
        line = {"execute": command, "arguments": arguments}
        self._connection.sendall(json.dumps(line).encode() + b"\n")
        while True:
            answer = self._next()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise ConnectionError(f"{command}: {answer['error'].get('desc')}")

    def human(self, line: str) -> str:
        """What a command of the monitor for people prints."""
        return str(self.execute("human-monitor-command", **{"command-line": line}))

    def _next(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise ConnectionError("QEMU closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Debugger:
    """gdb's remote protocol. While connected the guest stands still; leaving lets it go on."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(str(path))
        self._rest = b""

    def __enter__(self) -> Debugger:
        self._ask("?", "TS")
        self._ask("qC", "Q")  # whatever QEMU says of stopping for us has come before this answer
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._ask("D")
        self._socket.close()

    def write(self, address: int, data: bytes) -> None:
        """Store bytes, as a debugger does."""
        if self._ask(f"M{address:x},{len(data):x}:{data.hex()}") != "OK":
            raise ConnectionError(f"QEMU's stub for gdb refused a write at {address:#x}")

    def step(self) -> None:
        """One instruction."""
        self._ask("s", "TS")

    def wait_for_byte(self, address: int, mask: int) -> None:
        """Read a byte until one of the bits of `mask` is set."""
        deadline = time.monotonic() + PATIENCE
        while not int(self._ask(f"m{address:x},1"), 16) & mask:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the byte at {address:#x} never had a bit of {mask:#x}")

    def _ask(self, packet: str, kinds: str = "") -> str:
        """An answer; if it can be told by its first letter (`kinds`), others are passed over."""
        self._socket.sendall(f"${packet}#{sum(packet.encode()) & 0xFF:02x}".encode())
        while not (answer := self._answer()).startswith(tuple(kinds)) and kinds:
            pass
        return answer

    def _answer(self) -> str:
        while len(self._rest.partition(b"#")[2]) < 2:
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("QEMU's stub for gdb closed its line")
            self._rest += data
        packet, _, rest = self._rest.partition(b"#")
        self._rest = rest[2:]
        self._socket.sendall(b"+")
        return packet.rpartition(b"$")[2].decode()
