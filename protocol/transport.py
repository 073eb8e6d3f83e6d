"""Sockets: the one place that speaks ZeroMQ.

Problem: the session state machines know neither sockets nor clocks, and a bad peer must cost its
own connection at most. This module carries whole messages between one translator (`Server`, a
ROUTER) and many machines (`Client`, a DEALER each), and offers what an I/O loop needs beside:
`Mailbox` to be woken by other threads, `Timers` for the state machines' deadlines.

Invariants:
- No wait without a deadline: `poll` takes a finite number of seconds.
- Nothing is lost silently: a `send` that cannot queue returns False and logs; a message that cannot
  be decoded is logged (at the 1st, 2nd, 4th, 8th... of a peer), and the server answers it by ERROR.
- A message longer than `MAX_MESSAGE` is refused by the codec; one longer than `HARD_LIMIT` makes
  libzmq close the connection before it is in memory. Other peers are served meanwhile.
- A local endpoint lies in a folder that only its owner may enter, checked by both sides: who can
  reach it may make the machine run code.
- An object here belongs to one thread, but for `Mailbox.put`.

zmq is imported when the first socket is made: a machine that finds its engine in the cache runs its
first instructions before it.

Read next: `protocol.codec`; `protocol.session_machine` for what drives a `Client`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import secrets
import stat
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from protocol.codec import CodecError, decode, encode
from protocol.errors import UserError
from protocol.logs import get_logger
from protocol.messages import MAX_MESSAGE, Bye, Error, Message, tag_of

if TYPE_CHECKING:
    import zmq

HARD_LIMIT = 16 * MAX_MESSAGE
"""Bytes: a longer message closes the connection it came by."""

QUEUE_LIMIT = 4096
"""Messages that may wait in one direction of one connection."""

BATCH = 256
"""Messages taken at most by one `receive`, so that a flood cannot keep a loop from its timers."""

MAX_WAIT = 60.0
"""Seconds: the longest wait `poll` accepts."""

_LINGER = 200  # milliseconds a closing socket gives to messages under way, such as BYE
_SUN_PATH = 107  # bytes of a unix socket's path, Linux unix(7)
_LOOPBACK = re.compile(r"tcp://(127(\.[0-9]{1,3}){3}|localhost|\[::1\]):([0-9]{1,5}|\*)")

log = get_logger("transport")

T = TypeVar("T")


class Ready(NamedTuple):
    """What `poll` found: messages to `receive`, watched file descriptors, and a lost connection."""

    messages: bool
    fds: frozenset[int]
    disconnected: bool

    def __bool__(self) -> bool:
        return self.messages or bool(self.fds) or self.disconnected


class Connection(Protocol):
    """What a machine's I/O loop needs of its connection: a `Client`, or one round it."""

    def watch(self, fd: int) -> None: ...

    def poll(self, timeout: float) -> Ready: ...

    def receive(self) -> list[Message | CodecError]: ...

    def send(self, message: Message) -> bool: ...

    def close(self) -> None: ...


class Mailbox(Generic[T]):
    """A queue into an I/O loop: any thread puts, the loop polls `fileno()` and takes all.

    Unbounded: whoever puts bounds what may be under way.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, item: T) -> None:
        """Append an item and wake the loop. Safe from any thread."""
        self._items.append(item)
        os.eventfd_write(self._fd, 1)

    def take_all(self) -> list[T]:
        """All items put so far, oldest first. Only for the loop's thread."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def fileno(self) -> int:
        """Readable while there may be items."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; no `put` may follow."""
        os.close(self._fd)


class Timers:
    """Named deadlines for SetTimer and CancelTimer. Setting one again moves it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: dict[str, float] = {}

    def set(self, name: str, seconds: float) -> None:
        """Let `name` be due in `seconds`."""
        self._deadlines[name] = self._clock() + seconds

    def cancel(self, name: str) -> None:
        """Forget `name`; it need not be set."""
        self._deadlines.pop(name, None)

    def due(self) -> list[str]:
        """The names whose time has come, earliest first; each is told once."""
        now = self._clock()
        names = sorted((at, name) for name, at in self._deadlines.items() if at <= now)
        for _, name in names:
            del self._deadlines[name]
        return [name for _, name in names]

    def wait(self, limit: float) -> float:
        """Seconds until the next deadline, 0 to `limit`: the timeout for `poll`."""
        if not self._deadlines:
            return limit
        return min(limit, max(0.0, min(self._deadlines.values()) - self._clock()))


class _Socket:
    """What both ends share: one socket, its poller, watched descriptors."""

    def __init__(self) -> None:
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None

    def _open(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(self._zmq.MAXMSGSIZE, HARD_LIMIT)
        socket.setsockopt(self._zmq.LINGER, _LINGER)
        socket.setsockopt(self._zmq.SNDHWM, QUEUE_LIMIT)
        socket.setsockopt(self._zmq.RCVHWM, QUEUE_LIMIT)
        self._poller.register(socket, self._zmq.POLLIN)
        self._socket = socket
        return socket

    def watch(self, fd: int) -> None:
        """Let `poll` also wait for this descriptor to be readable (a mailbox, a worker's pipe)."""
        self._poller.register(fd, self._zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        """No longer wait for it; it need not be watched."""
        with contextlib.suppress(KeyError):
            self._poller.unregister(fd)

    def poll(self, timeout: float) -> Ready:
        """Wait at most `timeout` seconds (0 to `MAX_WAIT`) for anything; tell what is ready."""
        if not 0 <= timeout <= MAX_WAIT or not math.isfinite(timeout):
            raise ValueError(f"a wait of {timeout} seconds has no proper deadline")
        messages = disconnected = False
        fds = set()
        for ready, _ in self._poller.poll(math.ceil(timeout * 1000)):
            if ready is self._socket:
                messages = True
            elif ready is self._monitor:
                disconnected = self._connection_lost() or disconnected
            elif isinstance(ready, int):
                fds.add(ready)
        return Ready(messages, frozenset(fds), disconnected)

    def _connection_lost(self) -> bool:
        """Take all events of the monitor: whether one tells of a connection that ended."""
        import zmq.utils.monitor

        lost = False
        while self._monitor is not None and self._monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self._monitor)
            lost = lost or event["event"] == zmq.EVENT_DISCONNECTED
        return lost

    def _frames(self) -> Iterable[list[bytes]]:
        """The multipart messages that are there, at most `BATCH`."""
        assert self._socket is not None
        for _ in range(BATCH):
            try:
                yield self._socket.recv_multipart(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return

    def close(self) -> None:
        """Close; messages under way get a fifth of a second. May be called twice."""
        if self._socket is not None:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(0)
            self._socket.close()
            self._socket = self._monitor = None
            self._context.term()


class Server(_Socket):
    """The translator's end: messages from many peers, each named by opaque bytes."""

    def __init__(self, endpoint: str) -> None:
        """Listen at `endpoint`. Raises `UserError` if it is in use, not local, or impossible."""
        _check_endpoint(endpoint)
        self._lock = _lock_endpoint(endpoint)
        self._bad: dict[bytes, int] = {}
        super().__init__()
        socket = self._open(self._zmq.ROUTER)
        socket.setsockopt(self._zmq.ROUTER_MANDATORY, 1)  # no silent loss for an unknown peer
        try:
            socket.bind(endpoint)
        except self._zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"cannot listen at {endpoint}: {error.strerror}; choose another endpoint"
            ) from error
        self.endpoint = socket.getsockopt_string(self._zmq.LAST_ENDPOINT)

    def receive(self) -> list[tuple[bytes, Message]]:
        """The messages that are there (at most `BATCH`; `poll` again), each with its peer."""
        received = []
        for peer, *frames in self._frames():
            try:
                if len(frames) != 1:
                    raise CodecError("malformed", f"{len(frames)} frames, a message has one")
                received.append((peer, decode(frames[0])))
            except CodecError as error:
                self._refuse(peer, error)
        return received

    def _refuse(self, peer: bytes, error: CodecError) -> None:
        count = self._bad[peer] = self._bad.pop(peer, 0) + 1
        if len(self._bad) > QUEUE_LIMIT:  # peers come and go: forget the one silent for longest
            del self._bad[next(iter(self._bad))]
        if count & (count - 1) == 0:
            log.warning(
                "message_refused", peer=peer, error=error.name, text=error.text, count=count
            )
        self.send(peer, Error(0, error.name, 0, error.text[:200]))

    def send(self, peer: bytes, message: Message) -> bool:
        """Queue a message, at once. False if the peer is gone or takes nothing: it is lost to it.

        Raises `CodecError` if the message breaks the protocol: a bug on this side.
        """
        assert self._socket is not None
        data = encode(message)
        try:
            self._socket.send_multipart((peer, data), self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            # That a peer is gone before it could be answered is its own affair.
            gone = isinstance(message, Bye) or error.errno == errno.EHOSTUNREACH
            tell = log.debug if gone else log.warning
            tell("send_failed", peer=peer, message=tag_of(message), error=error.strerror)
            return False
        return True

    def close(self) -> None:
        """Close, and give the endpoint free."""
        super().close()
        if self._lock is not None:
            for path in (self._lock.socket_path, self._lock.path):
                path.unlink(missing_ok=True)
            os.close(self._lock.fd)
            self._lock = None


class Client(_Socket):
    """The machine's end: one connection, made and made again in the background."""

    def __init__(self, endpoint: str) -> None:
        """Connect to `endpoint`; succeeds whether or not somebody listens there already.

        Raises `UserError` if the endpoint is not local, or others could listen there.
        """
        _check_endpoint(endpoint)
        super().__init__()
        self._bad = 0
        socket = self._open(self._zmq.DEALER)
        socket.setsockopt(self._zmq.RECONNECT_IVL, 20)
        socket.setsockopt(self._zmq.RECONNECT_IVL_MAX, 1000)
        self._monitor = socket.get_monitor_socket(self._zmq.EVENT_DISCONNECTED)
        self._poller.register(self._monitor, self._zmq.POLLIN)
        try:
            socket.connect(endpoint)
        except self._zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"cannot connect to translator {endpoint}: {error.strerror}; check --translator"
            ) from error
        self.endpoint = endpoint

    def receive(self) -> list[Message | CodecError]:
        """The messages that are there (at most `BATCH`), errors in place of what is none."""
        received: list[Message | CodecError] = []
        for frames in self._frames():
            try:
                if len(frames) != 1:
                    raise CodecError("malformed", f"{len(frames)} frames, a message has one")
                received.append(decode(frames[0]))
            except CodecError as error:
                self._bad += 1
                # The session tells the user of another version, in one line.
                if error.name != "version_mismatch" and self._bad & (self._bad - 1) == 0:
                    log.warning(
                        "message_refused", error=error.name, text=error.text, count=self._bad
                    )
                received.append(error)
        return received

    def send(self, message: Message) -> bool:
        """Queue a message, at once. False if the queue is full: tell the session's `send_failed`.

        Raises `CodecError` if the message breaks the protocol: a bug on this side.
        """
        assert self._socket is not None
        data = encode(message)
        try:
            self._socket.send(data, self._zmq.NOBLOCK)
        except self._zmq.Again:
            log.warning("send_failed", message=tag_of(message), error="queue full")
            return False
        return True


def default_endpoint() -> str:
    """Where `coldboot translator` listens, and machines look, unless told otherwise."""
    return f"ipc://{_runtime_folder() / 'translator'}"


def private_endpoint() -> str:
    """An endpoint nobody else uses, for a machine that starts its own translator."""
    return f"ipc://{_runtime_folder() / f'run-{os.getpid()}-{secrets.token_hex(4)}'}"


def discard_endpoint(endpoint: str) -> None:
    """Remove what a translator that was killed left of its local endpoint."""
    if endpoint.startswith("ipc://"):
        path = Path(endpoint.removeprefix("ipc://"))
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".lock").unlink(missing_ok=True)


def _runtime_folder() -> Path:
    """``$XDG_RUNTIME_DIR/coldboot``, or a folder of this user's in the temporary folder."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return Path(runtime) / "coldboot"
    return Path(tempfile.gettempdir()) / f"coldboot-{os.getuid()}"


def _check_endpoint(endpoint: str) -> None:
    """Only ends that no stranger can reach."""
    if endpoint.startswith("tcp://"):
        if not _LOOPBACK.fullmatch(endpoint):
            raise UserError(
                f"endpoint {endpoint} needs keys, which are not supported yet: "
                "use ipc://FOLDER/NAME, or tcp://127.0.0.1:PORT"
            )
        return
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or not path.startswith("/") or "\0" in path:
        raise UserError(f"endpoint {endpoint!r} is not of the form ipc:///FOLDER/NAME")
    if len(os.fsencode(path)) > _SUN_PATH:
        raise UserError(
            f"endpoint {endpoint} is longer than {_SUN_PATH} bytes: choose a shorter path"
        )
    _secure_folder(Path(path).parent)


def _secure_folder(folder: Path) -> None:
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


class _Lock(NamedTuple):
    fd: int
    path: Path
    socket_path: Path


def _lock_endpoint(endpoint: str) -> _Lock | None:
    """Take a local endpoint for this process; the kernel gives it free when the process ends.

    libzmq unlinks a socket that is in the way before it binds, in use or not: hence a lock.
    """
    if not endpoint.startswith("ipc://"):
        return None
    socket_path = Path(endpoint.removeprefix("ipc://"))
    path = socket_path.with_name(socket_path.name + ".lock")
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UserError(f"cannot listen at {endpoint}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == path.stat().st_ino:  # not one that is just being removed
                return _Lock(fd, path, socket_path)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(fd)
            raise UserError(
                f"endpoint {endpoint} is in use: another translator listens there; "
                "use it, or choose another endpoint"
            ) from None
        os.close(fd)
