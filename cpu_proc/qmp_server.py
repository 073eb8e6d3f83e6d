"""QMP on a unix socket: clients come, ask, listen to events, and never hold the machine up.

Problem: a client may be slow, stopped, or never read at all; a command may wait for a safe point;
and events arise on harts' threads, under the machine's lock.

Invariants:
- One thread does all input and output, and waits in poll(2) only. Each client has a thread that
  carries out its commands one after another, so one that waits delays its own client alone.
- `tell` (an event, from any thread under any lock) appends and wakes; it waits for nothing.
- A client with `PENDING` commands waiting is not read from; one that leaves `BUFFERED` bytes
  unread is cut off. More than `CLIENTS` at once are turned away.

Read next: `control_socket.py` (the socket), `qmp.py` (the protocol), `qmp_commands.py`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from cpu_proc import qmp
from cpu_proc.qmp_commands import QmpCommands
from protocol.logs import get_logger

if TYPE_CHECKING:
    from cpu_proc.machine import Machine

log = get_logger("qmp")
CLIENTS = 16
PENDING = 16  # commands of a client that wait
BUFFERED = 4 << 20  # bytes a client has not read
CHUNK = 65536
CLOSE_PATIENCE = 1.0  # seconds for clients to take the last event


class _Client:
    """One connection. `out` is shared by threads: use `send`."""

    def __init__(self, server: QmpServer, connection: socket.socket) -> None:
        self.connection = connection
        self.parser = qmp.Parser()
        self.session = qmp.Session(server.commands.table)
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.waiting = 0  # requests not answered yet
        self.out = bytearray()
        self.lock = threading.Lock()
        self.gone = False
        self.listens = False  # to events: once it has its answer to `qmp_capabilities`
        self._server = server
        threading.Thread(target=self._work, name="qmp-client", daemon=True).start()

    def send(self, message: dict[str, Any]) -> None:
        """Have it sent; to a client that does not read, nothing more is."""
        with self.lock:
            self.out += qmp.dump(message)
            if len(self.out) > BUFFERED:
                self.gone = True
        self._server.wake()

    def _work(self) -> None:
        while (request := self.requests.get()) is not None:
            answer = self.session.answer(request)
            self._server.spread()  # what the command did is heard of before its answer
            self.send(answer)
            self.listens = self.session.negotiated
            with self.lock:
                self.waiting -= 1
            self._server.wake()


class QmpServer:
    """Serves one machine's clients."""

    def __init__(self, machine: Machine, listener: socket.socket, wake: int) -> None:
        """`wake`: an eventfd."""
        self.commands = QmpCommands(machine)
        self._events: deque[dict[str, Any]] = deque()
        self._clients: dict[int, _Client] = {}
        self._spreading = threading.Lock()
        self._listener = listener
        self._wake = wake
        self._closing = False

    def wake(self) -> None:
        """Have the thread look."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def tell(self, event: str, data: dict[str, object]) -> None:
        """An event of the machine's: every client that has negotiated hears of it."""
        microseconds = time.time_ns() // 1000
        seconds, rest = divmod(microseconds, 10**6)
        message: dict[str, Any] = {"timestamp": {"seconds": seconds, "microseconds": rest}}
        message["event"] = event
        if data:
            message["data"] = data
        self._events.append(message)
        self.wake()

    def spread(self) -> None:
        """Have what was told so far sent, in its order. From the threads of this server."""
        with self._spreading:
            while self._events:
                event = self._events.popleft()
                for client in list(self._clients.values()):
                    if client.listens:
                        client.send(event)

    def close(self) -> None:
        """Have `serve` send what is pending, and return."""
        self._closing = True
        self.wake()

    # --- the thread ----------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until `close`."""
        deadline = None
        while True:
            self.spread()
            if self._closing:
                deadline = deadline or time.monotonic() + CLOSE_PATIENCE
                pending = any(c.out or c.waiting for c in self._clients.values())
                if not pending or time.monotonic() > deadline:
                    break
            self._turn(0.05 if self._closing else None)
        for descriptor in list(self._clients):
            self._drop(descriptor)

    def _turn(self, seconds: float | None) -> None:
        """Wait, and do what there is to do."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if not self._closing:
            poller.register(self._listener, select.POLLIN)
        for descriptor, client in list(self._clients.items()):
            if client.gone:
                self._drop(descriptor)
                continue
            reads = client.waiting < PENDING and not self._closing
            poller.register(descriptor, select.POLLIN * reads | select.POLLOUT * bool(client.out))
        for descriptor, what in poller.poll(None if seconds is None else seconds * 1000):
            if descriptor == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            elif descriptor == self._listener.fileno():
                self._accept()
            elif descriptor in self._clients:
                self._handle(self._clients[descriptor], what)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            if len(self._clients) >= CLIENTS:
                connection.close()
                log.warning("client_refused", clients=CLIENTS)
                return
            connection.setblocking(False)
            client = _Client(self, connection)
            self._clients[connection.fileno()] = client
            client.send(client.session.greeting())

    def _handle(self, client: _Client, what: int) -> None:
        try:
            if what & select.POLLOUT:
                with client.lock:
                    sent = client.connection.send(client.out[:CHUNK])
                    del client.out[:sent]
            if what & select.POLLIN:
                self._read(client)
            elif what & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                client.gone = True
        except BlockingIOError:
            pass
        except OSError:
            client.gone = True

    @staticmethod
    def _read(client: _Client) -> None:
        data = client.connection.recv(CHUNK)
        if not data:
            client.gone = True
        for request in client.parser.feed(data):
            with client.lock:
                client.waiting += 1
            client.requests.put(request)

    def _drop(self, descriptor: int) -> None:
        client = self._clients.pop(descriptor)
        client.requests.put(None)
        client.connection.close()
