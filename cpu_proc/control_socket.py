"""The socket by which a user reaches a machine, and the folder where all the user's sockets are.

Problem: every machine shall be within reach (`coldboot ctl`), and most are never reached for: so a
machine makes the socket, and loads what answers on it when somebody comes.

Invariants:
- The socket is the user's alone: mode 0600 before anybody can connect; the folder 0700.
- `close` removes it. One that a killed machine left behind is removed by whoever wants its place,
  or finds that nobody answers; one that answers is left alone.

Read next: `qmp_server.py` (who answers), `ctl.py` (who connects).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.endpoints import runtime_folder, secure_folder
from protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cpu_proc.machine import Machine
    from cpu_proc.qmp_server import QmpServer

SUFFIX = ".qmp"
BACKLOG = 128
PATIENCE = 2.0  # seconds for clients to take the last event, at the end


def default_path() -> str:
    """The path of this process's socket. Raises UserError if the folder is not safe.

    Containers may share the folder, and have the same process ids: then it has another number too.
    """
    folder = runtime_folder()
    secure_folder(folder)
    names = (f"machine-{os.getpid()}{more}{SUFFIX}" for more in ["", *(f"-{i}" for i in range(64))])
    for name in names:
        if not is_served(str(folder / name)):
            return str(folder / name)
    raise UserError(f"{folder}: there are sockets of many machines with this process id")


def all_of_this_user() -> Iterator[Path]:
    """The sockets of the machines that run, by process."""
    folder = runtime_folder()
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(f"machine-*{SUFFIX}"), key=_process):
        if is_served(str(path)):
            yield path
        elif not os.path.exists(f"/proc/{_process(path)}"):
            path.unlink(missing_ok=True)


def _process(path: Path) -> int:
    number = path.name.removeprefix("machine-").removesuffix(SUFFIX).partition("-")[0]
    return int(number) if number.isdecimal() else 0


class ControlSocket:
    """One machine's. Raises UserError if the socket cannot be made."""

    def __init__(self, machine: Machine, path: str) -> None:
        self.path = path
        self._machine = machine
        self._listener = listen(path)
        self._inode = os.stat(path).st_ino
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._server: QmpServer | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="qmp", daemon=True)
        self._thread.start()

    def _main(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        poller.poll()
        if self._closing:
            return
        from cpu_proc.qmp_server import QmpServer

        server = QmpServer(self._machine, self._listener, self._wake)
        self._machine.listeners.append(server.tell)
        self._server = server
        if self._closing:
            server.close()
        server.serve()

    def close(self) -> None:
        """Have clients hear the last event, end the thread, remove the socket."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        os.eventfd_write(self._wake, 1)
        self._thread.join(PATIENCE)
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(self.path).st_ino == self._inode:  # nobody else's by now
                os.unlink(self.path)


def listen(path: str) -> socket.socket:
    """A listening socket that only this user may connect to. Raises UserError."""
    with contextlib.suppress(OSError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise UserError(f"-qmp unix:{path}: there is something else of that name")
        if is_served(path):
            raise UserError(f"-qmp unix:{path}: another machine listens there")
        os.unlink(path)  # left behind by one that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)  # nobody can connect before `listen`
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UserError(f"-qmp unix:{path}: {error.strerror or error}") from error
    return listener


def is_served(path: str) -> bool:
    """Whether somebody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.settimeout(1.0)
            probe.connect(path)
        except (TimeoutError, BlockingIOError):  # others wait there already
            return True
        except OSError:
            return False
    return True
