"""Sockets: the one place that speaks ZeroMQ.

Problem: the session state machines know neither sockets nor clocks, and a bad peer must cost its
own connection at most. This module carries whole messages between one translator (`Server`, a
ROUTER) and many machines (`Client`, a DEALER each). Agents and remote translators use the same two
over TCP. `Mailbox` and `Timers` are what an I/O loop needs beside (`waiting`).

Invariants:
- No wait without a deadline: `poll` takes a finite number of seconds.
- Nothing is lost silently: a `send` that cannot queue returns False and logs; a message that cannot
  be decoded is logged (at the 1st, 2nd, 4th, 8th... of a peer), and the server answers it by ERROR.
- A message longer than `MAX_MESSAGE` is refused by the codec; one longer than `HARD_LIMIT` makes
  libzmq close the connection before it is in memory. Other peers are served meanwhile.
- A local endpoint lies in a folder that only its owner may enter, checked by both sides: who can
  reach it may make the machine run code.
- Beyond this host both sides prove their keys (CURVE, ZeroMQ RFC 26), and each must know the
  other's: a stranger is refused before a message of his is looked at (ZAP, RFC 27), and so is
  each message of who was known and is no longer (`key_guard`).
- An object here belongs to one thread.

zmq is imported when the first socket is made: a machine that finds its engine in the cache runs its
first instructions before it.

Read next: `protocol.codec`; `protocol.session_machine` for what drives a `Client`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from protocol.codec import CodecError, decode, encode
from protocol.endpoints import check_endpoint, lock_endpoint
from protocol.endpoints import default_endpoint as default_endpoint
from protocol.endpoints import discard_endpoint as discard_endpoint
from protocol.endpoints import private_endpoint as private_endpoint
from protocol.errors import UserError
from protocol.key_guard import REFUSED, Guard
from protocol.logs import get_logger
from protocol.messages import MAX_MESSAGE, Bye, Error, Message, tag_of
from protocol.waiting import Mailbox as Mailbox
from protocol.waiting import Timers as Timers

if TYPE_CHECKING:
    import zmq

    from protocol.keys import Keys

HARD_LIMIT = 16 * MAX_MESSAGE
"""Bytes: a longer message closes the connection it came by."""

QUEUE_LIMIT = 4096
"""Messages that may wait in one direction of one connection."""

BATCH = 256
"""Messages taken at most by one `receive`, so that a flood cannot keep a loop from its timers."""

MAX_WAIT = 60.0
"""Seconds: the longest wait `poll` accepts."""

_LINGER = 200  # milliseconds a closing socket gives to messages under way, such as BYE
_HANDSHAKE = 10_000  # milliseconds until a connection that proves no key is closed

log = get_logger("transport")


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


class _Socket:
    """What both ends share: one socket, its poller, watched descriptors."""

    def __init__(self) -> None:
        import zmq

        self._zmq = zmq
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._zap: zmq.Socket[bytes] | None = None

    def _open(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        # Not for names: libzmq would take a host's IPv6 address, whatever is listened to there.
        socket.setsockopt(self._zmq.IPV6, endpoint.startswith("tcp://["))
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

    def attend(self, other: _Socket) -> None:
        """Let `poll` also end when another connection has something: its owner is to look."""
        for socket in (other._socket, other._monitor):
            if socket is not None:
                self._poller.register(socket, self._zmq.POLLIN)

    def desert(self, other: _Socket) -> None:
        """No longer attend to it; before it is closed."""
        for socket in (other._socket, other._monitor):
            if socket is not None:
                self._poller.unregister(socket)

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
            elif ready is self._zap:
                self._judge()
            elif ready is self._monitor:
                disconnected = self._connection_lost() or disconnected
            elif isinstance(ready, int):
                fds.add(ready)
        return Ready(messages, frozenset(fds), disconnected)

    def _judge(self) -> None:
        """Answer who asks whether a key is known; only who was made with keys is asked."""
        raise NotImplementedError

    def _connection_lost(self) -> bool:
        """Take all events of the monitor: whether one tells of a connection that ended."""
        import zmq.utils.monitor

        lost = False
        while self._monitor is not None and self._monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self._monitor)
            lost = lost or event["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
            self._noted(event["event"])
        return lost

    def _noted(self, event: int) -> None:
        """An event of the connection."""

    def _frames(self) -> Iterable[list[bytes]]:
        """The multipart messages that are there, at most `BATCH`."""
        socket = self._socket
        assert socket is not None
        try:
            yield socket.recv_multipart(self._zmq.NOBLOCK)
            for _ in range(BATCH - 1):
                # Asking costs a fraction of a vain attempt, and mostly one message comes at a time.
                if not int(socket.getsockopt(self._zmq.EVENTS)) & self._zmq.POLLIN:
                    return
                yield socket.recv_multipart(self._zmq.NOBLOCK)
        except self._zmq.Again:
            return

    def close(self) -> None:
        """Close; messages under way get a fifth of a second. May be called twice."""
        if self._socket is not None:
            if self._monitor is not None:
                self._socket.disable_monitor()
                self._monitor.close(0)
            if self._zap is not None:
                self._zap.close(0)
            self._socket.close()
            self._socket = self._monitor = self._zap = None
            self._context.term()


class Server(_Socket):
    """The translator's end: messages from many peers, each named by opaque bytes."""

    def __init__(self, endpoint: str, keys: Keys | None = None) -> None:
        """Listen at `endpoint`, for those only whose keys are authorized if there are `keys`.

        Raises `UserError` if it is in use, impossible, or neither local nor guarded by keys.
        """
        check_endpoint(endpoint, keys)
        self._lock = lock_endpoint(endpoint)
        self._bad: dict[bytes, int] = {}
        self._guard: Guard | None = None
        if keys is not None:
            from zmq.utils import z85

            self._guard = Guard(keys, z85.encode)
        super().__init__()
        if keys is not None:  # before the socket is bound: from then on it is asked
            self._zap = self._context.socket(self._zmq.REP)
            self._zap.bind("inproc://zeromq.zap.01")
            self._poller.register(self._zap, self._zmq.POLLIN)
        socket = self._open(self._zmq.ROUTER, endpoint)
        socket.setsockopt(self._zmq.ROUTER_MANDATORY, 1)  # no silent loss for an unknown peer
        if keys is not None:
            socket.setsockopt(self._zmq.CURVE_SERVER, 1)
            socket.setsockopt_string(self._zmq.CURVE_SECRETKEY, keys.secret)
            socket.setsockopt_string(self._zmq.ZAP_DOMAIN, "coldboot")
            socket.setsockopt(self._zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(self._zmq.HANDSHAKE_IVL, _HANDSHAKE)
        try:
            socket.bind(endpoint)
        except self._zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"cannot listen at {endpoint}: {error.strerror}; choose another endpoint"
            ) from error
        self.endpoint = socket.getsockopt_string(self._zmq.LAST_ENDPOINT)

    def _judge(self) -> None:
        """See `_Socket._judge`."""
        assert self._zap is not None
        assert self._guard is not None
        while self._zap.poll(0):
            answer = self._guard.judge(self._zap.recv_multipart(self._zmq.NOBLOCK))
            self._zap.send_multipart(answer)

    @property
    def refused(self) -> int:
        """Connections refused for their keys."""
        return self._guard.refused if self._guard is not None else 0

    def revoked(self) -> list[bytes]:
        """Peers whose keys are authorized no longer, each once; they have been told."""
        gone = self._guard.revoked() if self._guard is not None else []
        for peer in gone:
            self.send(peer, REFUSED)
        return gone

    def _frames(self) -> Iterable[list[bytes]]:
        """As of any socket; with keys, of those only who are still authorized."""
        if self._guard is None:
            yield from super()._frames()
            return
        assert self._socket is not None
        for _ in range(BATCH):
            try:
                frames = self._socket.recv_multipart(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                return
            peer, *rest = (frame.bytes for frame in frames)
            if self._guard.admits(peer, str(frames[-1].get("User-Id"))):
                yield [peer, *rest]
            else:
                self.send(peer, REFUSED)

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
            # `send_multipart` does the same, and looks at every part first.
            self._socket.send(peer, self._zmq.NOBLOCK | self._zmq.SNDMORE)
            self._socket.send(data, self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            # That a peer is gone before it could be answered is its own affair.
            gone = isinstance(message, Bye) or error.errno == errno.EHOSTUNREACH
            tell = log.debug if gone else log.warning
            tell("send_failed", peer=peer, message=tag_of(message), error=error.strerror)
            return False
        return True

    def restore(self) -> bool:
        """Listen anew if the local endpoint's socket was removed; whether it was.

        Connections that stand are not touched. Raises `UserError` if it cannot be had again.
        """
        if self._lock is None or self._lock.socket_path.exists():
            return False
        assert self._socket is not None
        check_endpoint(self.endpoint, None)
        if not self._lock.path.exists():
            os.close(self._lock.fd)
            self._lock = None
            self._lock = lock_endpoint(self.endpoint)
        try:  # beside what is bound already: to unbind that would cut its connections
            self._socket.bind(self.endpoint)
        except self._zmq.ZMQError as error:
            raise UserError(f"cannot listen at {self.endpoint}: {error.strerror}") from error
        return True

    def announce_end(self) -> None:
        """Let a successor that starts already wait for the endpoint."""
        if self._lock is not None:
            self._lock.announce_end()

    def close(self) -> None:
        """Close, and give the endpoint free."""
        super().close()
        lock, self._lock = self._lock, None  # a signal's handler may announce the end again
        if lock is not None:
            for path in (lock.socket_path, lock.path):
                path.unlink(missing_ok=True)
            os.close(lock.fd)


class Client(_Socket):
    """The machine's end: one connection, made and made again in the background."""

    def __init__(self, endpoint: str, keys: Keys | None = None, peer: str = "") -> None:
        """Connect to `endpoint`; succeeds whether or not somebody listens there already. With
        `keys` both sides prove theirs, the other one `peer`; what is sent while there is no
        connection is not kept until there is one: `send` is False.

        Raises `UserError` if the endpoint is neither local nor guarded by keys, or others could
        listen there.
        """
        check_endpoint(endpoint, keys)
        super().__init__()
        self._bad = 0
        self._keyed = keys is not None
        self._greeted = False
        self._ended = False  # libzmq does not try again where a key was refused
        self.trouble = ""
        """Why there is no connection, as far as it is known; with keys only."""
        socket = self._open(self._zmq.DEALER, endpoint)
        # A translator that starts on this host is there in a tenth of a second, and each moment
        # without it is tier 0's work.
        first, last = (20, 1000) if keys is not None else (4, 32)
        socket.setsockopt(self._zmq.RECONNECT_IVL, first)
        socket.setsockopt(self._zmq.RECONNECT_IVL_MAX, last)
        events = self._zmq.EVENT_DISCONNECTED
        if keys is not None:
            socket.setsockopt(self._zmq.IMMEDIATE, 1)
            socket.setsockopt(self._zmq.TCP_KEEPALIVE, 1)
            socket.setsockopt(self._zmq.HANDSHAKE_IVL, _HANDSHAKE)
            socket.setsockopt_string(self._zmq.CURVE_PUBLICKEY, keys.public)
            socket.setsockopt_string(self._zmq.CURVE_SECRETKEY, keys.secret)
            socket.setsockopt_string(self._zmq.CURVE_SERVERKEY, peer)
            events |= self._zmq.EVENT_HANDSHAKE_SUCCEEDED | self._zmq.EVENT_HANDSHAKE_FAILED_AUTH
        self._monitor = socket.get_monitor_socket(events)
        self._poller.register(self._monitor, self._zmq.POLLIN)
        try:
            socket.connect(endpoint)
        except self._zmq.ZMQError as error:
            self.close()
            raise UserError(
                f"cannot connect to translator {endpoint}: {error.strerror}; check --translator"
            ) from error
        self.endpoint = endpoint

    def part(self) -> None:
        """Give the connection up, until `try_again`: the other side is not trusted any more."""
        if not self._ended and self._socket is not None:
            self._ended = True
            with contextlib.suppress(self._zmq.ZMQError):
                self._socket.disconnect(self.endpoint)

    def try_again(self) -> None:
        """Connect anew if a key was refused, or `part` was called: all may be well by now."""
        if self._ended and self._socket is not None:
            self._ended = False
            with contextlib.suppress(self._zmq.ZMQError):
                self._socket.disconnect(self.endpoint)
            self._socket.connect(self.endpoint)

    def _noted(self, event: int) -> None:
        if event == self._zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._greeted, self.trouble = True, ""
        elif event == self._zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self.trouble = "this side's key is not authorized there"
            self._ended = True
        elif self._greeted:
            self._greeted, self.trouble = False, "the connection was lost"
        else:  # where a key is refused, this follows
            self.trouble = self.trouble or "it did not prove the key that is known of it"

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
            if not self._keyed or self._greeted:
                log.warning("send_failed", message=tag_of(message), error="queue full")
            return False
        return True

    def send_frames(self, *frames: bytes) -> bool:
        """Queue any frames, whether or not they are a message: for those who try a translator."""
        assert self._socket is not None
        try:
            self._socket.send_multipart(frames, self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False
        return True


def new_pair() -> tuple[str, str]:
    """A new pair of keys: public and secret."""
    import zmq

    public, secret = zmq.curve_keypair()
    return public.decode(), secret.decode()
