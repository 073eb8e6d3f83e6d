"""What a machine counts, told to whoever asks on this host: `coldboot top`, `coldboot metrics`.

Problem: who runs many machines wants to see what each does, and a machine should have no part in
HTTP, screens or graphs, nor lose a guest instruction to nobody's curiosity. So it answers one
question: connect to its socket in the user's runtime folder, and read one object of JSON.

Invariants:
- A thread sleeps in accept(2); nothing is gathered, or written down, before somebody asks.
- Who may enter the folder (mode 0700) may ask, and nobody can say anything: nothing is read.
- No runtime folder, or one that is open to others, is no error: then nobody is told.

Read next: `metrics.py`, `top.py` (who asks), docs/metrics.md (every name).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpu_proc.stats import CAUSES
from protocol.errors import UserError
from protocol.logs import get_logger

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

VERSION = 2
LAST = 12  # retirements told
PATIENCE = 2.0  # seconds for either side of a question
HEAD_START = 0.2  # seconds a machine is left alone: no guest waits for our imports
FOLDER = "machines"

log = get_logger("counts")


def folder() -> Path:
    """Where machines of this user have their sockets."""
    from protocol.endpoints import runtime_folder

    return runtime_folder() / FOLDER


def gather(machine: Machine) -> dict[str, Any]:
    """All counts of a machine, now."""
    from cpu_proc import explain

    book, options = machine.retirement, machine.options
    link = machine.translator
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "guest": guest(machine),
        "seconds": time.monotonic() - machine.started,
        "translator": options.translator,
        "backend": machine.backend,
        "harts": [_hart(hart) for hart in machine.harts],
        "epoch": book.epoch,
        "map_generation": int(machine.control.words.map_generation),
        "regions": machine.records.region_count,
        "resets": machine.resets,
        "devices": dict(machine.memory.accesses),
        "retirements": dict(book.counts),
        "latency": book.latency.told(),
        "last": [explain.line(event) for event in list(book.history)[-LAST:]],
        "requests": dict(link.counts) if link is not None else {},
        "phases_us": dict(link.times) if link is not None else {},
    }


def guest(machine: Machine) -> str:
    """A word for what it runs: its first image's file name."""
    names = [Path(path).name for path in machine.options.image_files]
    return names[-1] if names else "firmware"


def _hart(hart: Hart) -> dict[str, Any]:
    state = hart.state
    doing = "sleeps" if state.waiting else "python" if state.idle else "native"
    return {
        "state": doing,
        "instructions": int(state.count),
        "traps": int(state.stat_traps),
        "decodes": int(state.stat_decodes),
        "walks": int(state.stat_walks),
        "tracked_stores": int(state.stat_stores),
        "device_accesses": int(state.stat_mmio),
        "leaves": {name: int(state.stat_leaves[i]) for i, name in enumerate(CAUSES)},
    }


class Teller:
    """Answers for one machine, from `start` to `close`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._socket: socket.socket | None = None
        self._path: Path | None = None
        self._gate = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Begin to answer; returns at once."""
        threading.Thread(target=self._main, name="counts", daemon=True).start()

    def close(self) -> None:
        """Answer no more, and leave nothing in the folder."""
        with self._gate:
            self._closed = True
            if self._path is not None:
                self._path.unlink(missing_ok=True)
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(2)  # wakes accept(2)
                self._socket.close()

    def _main(self) -> None:
        self._machine.linger(HEAD_START)
        import json

        with self._gate:
            if self._closed:
                return
            try:
                listening = self._listen()
            except (OSError, UserError) as error:
                log.debug("counts_untold", reason=str(error))
                return
        while True:
            try:
                connection, _ = listening.accept()
            except OSError as error:
                if not self._closed:
                    log.warning("counts_untold", reason=str(error))
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(PATIENCE)
                connection.sendall(json.dumps(gather(self._machine)).encode())

    def _listen(self) -> socket.socket:
        """The socket: named by the process, and a number where it has several machines."""
        import socket

        from protocol.endpoints import secure_folder

        place = folder()
        secure_folder(place.parent)
        secure_folder(place)
        for name in os.listdir(place):  # of machines that were killed
            # Another container's processes are not in our /proc: theirs answer.
            if not os.path.exists(f"/proc/{name.partition('.')[0]}") and ask(place / name) is None:
                (place / name).unlink(missing_ok=True)
        listening = self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for number in count():
            path = place / (f"{os.getpid()}.{number}" if number else f"{os.getpid()}")
            if path.exists() and ask(path) is None:
                path.unlink(missing_ok=True)  # of one that was killed, and had our number
            try:
                listening.bind(str(path))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    continue
                raise
            self._path = path
            break
        listening.listen(4)
        return listening


# --- who asks ------------------------------------------------------------------------------------


def ask(path: Path) -> dict[str, Any] | None:
    """What the machine behind a socket counts; None when there is none, or no answer."""
    import json
    import socket

    parts = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
        one.settimeout(PATIENCE)
        try:
            one.connect(str(path))
            while part := one.recv(1 << 16):
                parts.append(part)
            told = json.loads(b"".join(parts))
        except (OSError, ValueError):
            return None
    return told if isinstance(told, dict) and told.get("version") == VERSION else None


def machines(place: Path | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every machine of this user on this host that answers: its name and its counts."""
    place = place or folder()
    try:
        names = sorted(os.listdir(place))
    except OSError:
        return
    for name in names:
        told = ask(place / name)
        if told is not None:
            yield name, told
