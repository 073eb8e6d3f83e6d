"""Where translators listen: which endpoints are possible, and that no stranger can reach them.

Problem: who can reach a translator's socket may have a machine run code, and libzmq neither looks
at a folder's owner nor at who listens already.

Invariants:
- A local endpoint lies in a folder that only its owner may enter.
- One that other hosts can reach is refused without keys.
- Two translators never listen at one local endpoint: the first holds a lock. When it has been told
  to end, who comes next waits for it instead of being refused.

Read next: `protocol.transport`, which opens the sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from protocol.errors import UserError

if TYPE_CHECKING:
    from protocol.keys import Keys

END_WAIT = 20.0  # seconds that who comes next grants one that ends
_LOOK = 0.02  # seconds between two looks at whether it has
_ENDING = b"ending"
_SUN_PATH = 107  # bytes of a unix socket's path, Linux unix(7)
_TCP = re.compile(r"tcp://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]|\*):([0-9]{1,5}|\*)")
_LOOPBACK = re.compile(r"tcp://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):([0-9]{1,5}|\*)")


def default_endpoint() -> str:
    """Where `coldboot translator` listens, and machines look, unless told otherwise."""
    return f"ipc://{runtime_folder() / 'translator'}"


def private_endpoint() -> str:
    """An endpoint nobody else uses, for a machine that starts its own translator."""
    return f"ipc://{runtime_folder() / f'run-{os.getpid()}-{os.urandom(4).hex()}'}"


def discard_endpoint(endpoint: str) -> None:
    """Remove what a translator that was killed left of its local endpoint."""
    if endpoint.startswith("ipc://"):
        path = Path(endpoint.removeprefix("ipc://"))
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".lock").unlink(missing_ok=True)


def runtime_folder() -> Path:
    """``$XDG_RUNTIME_DIR/coldboot``, or a folder of this user's in the temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return Path(runtime) / "coldboot"
    import tempfile  # which loads much that nothing else here needs

    return Path(tempfile.gettempdir()) / f"coldboot-{os.getuid()}"


def check_endpoint(endpoint: str, keys: Keys | None) -> None:
    """Only ends that no stranger can reach, or that know strangers by their keys."""
    if endpoint.startswith("tcp://"):
        found = _TCP.fullmatch(endpoint)
        if found is None or (found[2] != "*" and int(found[2]) > 65535):
            raise UserError(f"endpoint {endpoint} is not of the form tcp://HOST:PORT")
        if keys is None and not _LOOPBACK.fullmatch(endpoint):
            raise UserError(
                f"endpoint {endpoint} is not of this host, and needs keys: use a remote "
                "translator by -backend remote,host=...,port=..., or ipc:///FOLDER/NAME here"
            )
        return
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or not path.startswith("/") or "\0" in path:
        raise UserError(f"endpoint {endpoint!r} is not of the form ipc:///FOLDER/NAME")
    if len(os.fsencode(path)) > _SUN_PATH:
        raise UserError(
            f"endpoint {endpoint} is longer than {_SUN_PATH} bytes: choose a shorter path"
        )
    secure_folder(Path(path).parent)


def secure_folder(folder: Path) -> None:
    """Make the folder, for its owner only; refuse one that others may write to or enter."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise UserError(f"folder {folder} for the endpoint: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{folder} is not a folder: choose another endpoint")
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UserError(
            f"folder {folder} is open to other users: use one of your own, made with mode 0700"
        )


class Lock(NamedTuple):
    """An endpoint taken by this process."""

    fd: int
    path: Path
    socket_path: Path

    def announce_end(self) -> None:
        """Let who comes next wait: this process is about to give the endpoint free."""
        os.pwrite(self.fd, _ENDING, 0)


def lock_endpoint(endpoint: str) -> Lock | None:
    """Take a local endpoint for this process; the kernel gives it free when the process ends.

    libzmq unlinks a socket that is in the way before it binds, in use or not: hence a lock. Waits
    for one that ends, `END_WAIT` at most; raises UserError when the endpoint is in use otherwise.
    """
    if not endpoint.startswith("ipc://"):
        return None
    socket_path = Path(endpoint.removeprefix("ipc://"))
    path = socket_path.with_name(socket_path.name + ".lock")
    last = time.monotonic() + END_WAIT
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UserError(f"cannot listen at {endpoint}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:  # not one that is just being removed
                os.ftruncate(fd, 0)
                return Lock(fd, path, socket_path)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            ending = os.pread(fd, len(_ENDING), 0) == _ENDING
            os.close(fd)
            if ending and time.monotonic() < last:
                time.sleep(_LOOK)
                continue
            raise UserError(
                f"endpoint {endpoint} is in use: another translator listens there; "
                "use it, or choose another endpoint"
            ) from None
        os.close(fd)
