"""The guest's serial line on the user's terminal: raw mode, Ctrl-A keys, a small monitor.

Problem: the guest must get every key, Ctrl-C included, and yet the user must be able to leave; the
guest prints character by character, and yet a system call for each would cost more than emulating
the UART; and whatever happens, the terminal must be usable afterwards.

Invariants:
- One thread waits for input and writes output. It sleeps in poll(2) until there is something to
  do; output is written at most `FLUSH_DELAY` after the first byte of a batch.
- `Console.write` never waits, unless `BUFFER_LIMIT` bytes are pending: then the writer itself waits
  for the terminal, which slows the guest down to what its reader takes. After `STALL_DEADLINE`
  without progress output is dropped until the reader goes on. It never waits for the console's
  thread, which may be waiting for the machine's lock that the writer holds.
- A file descriptor's flags belong to whoever shares it: they are not changed. poll(2) before
  writes of at most PIPE_BUF bytes keeps a blocking pipe from blocking: under `_output_lock`, for
  what several threads were told is writable has room for the first of them only.
- `Terminal` restores what it found on `leave`, at exit, and while the process is stopped (Ctrl-Z,
  SIGTSTP). `cli` turns SIGTERM and SIGHUP into an exit, so they are covered. Only a process that
  is killed outright leaves a raw terminal behind (`stty sane` mends it).
- Keys and monitor are sans-I/O: bytes in, items and text out.

Keys, as QEMU's with `-serial mon:stdio`: Ctrl-A x leaves, Ctrl-A c switches between guest and
monitor, Ctrl-A h tells the keys, Ctrl-A a (or Ctrl-A twice) sends Ctrl-A.

Read next: `options.Serial` (the choices), `machine` (the other side of `Host`),
`monitor` (the commands).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import termios
import threading
import time
from types import FrameType
from typing import Any, Protocol

from cpu_proc.run_options import Serial
from protocol.errors import UserError
from protocol.logs import get_logger

ESCAPE = 0x01  # Ctrl-A
PIPE_BUF = 4096
"""A pipe that poll(2) calls writable takes so many bytes without blocking (pipe(7))."""
FLUSH_DELAY = 0.003  # seconds: not felt by a typist, long enough to gather a line
BUFFER_LIMIT = 1 << 20  # bytes
STALL_DEADLINE = 10.0  # seconds without progress
INPUT_LIMIT = 4096  # bytes the guest has not read before input from a pipe waits
INPUT_RETRY = 0.02  # seconds
CLOSE_DEADLINE = 2.0  # seconds for the thread to end

HELP = """\
Ctrl-A h  these keys
Ctrl-A x  leave the emulator
Ctrl-A c  switch between the guest and the monitor
Ctrl-A a  send Ctrl-A
"""

log = get_logger("console")


class Host(Protocol):
    """What a console needs of its machine. Called from the console's thread, without a lock."""

    def receive(self, data: bytes) -> None:
        """Input for the guest's serial port."""

    def waiting(self) -> int:
        """Bytes of input that the guest has not read yet."""

    def request_quit(self) -> None:
        """Ask for the end of the run."""

    def command(self, line: str) -> str:
        """A line typed at the monitor's prompt; what to tell the user, with line ends."""


# --- keys and monitor: no I/O ------------------------------------------------------------------


class EscapeKeys:
    """Splits input into data for the guest (bytes) and keys pressed after Ctrl-A (a letter)."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | str]:
        """Items in the order they were typed. An unknown key after Ctrl-A is swallowed."""
        items: list[bytes | str] = []
        plain = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte in (ESCAPE, ord("a")):
                    plain.append(ESCAPE)
                    continue
                if plain:
                    items.append(bytes(plain))
                    plain.clear()
                items.append(chr(byte).lower())
            elif byte == ESCAPE:
                self._escaped = True
            else:
                plain.append(byte)
        if plain:
            items.append(bytes(plain))
        return items


class Monitor:
    """A prompt for the machine rather than the guest."""

    PROMPT = "(coldboot) "

    def __init__(self, host: Host) -> None:
        self._host = host
        self._line = ""

    def open(self) -> str:
        """What to show when the user comes in."""
        self._line = ""
        return f"\nMonitor: help lists the commands, Ctrl-A c returns.\n{self.PROMPT}"

    def feed(self, data: bytes) -> str:
        """What to show after `data` was typed: its echo, answers, a new prompt."""
        shown = []
        for char in data.decode("ascii", "ignore"):
            if char in "\r\n":
                shown.append("\n" + self._host.command(self._line) + self.PROMPT)
                self._line = ""
            elif char in "\b\x7f":
                if self._line:
                    self._line = self._line[:-1]
                    shown.append("\b \b")
            elif char in "\x03\x15":  # Ctrl-C, Ctrl-U: start over
                self._line = ""
                shown.append("\n" + self.PROMPT)
            elif char.isprintable() and len(self._line) < 200:
                self._line += char
                shown.append(char)
        return "".join(shown)


# --- the terminal ------------------------------------------------------------------------------


class Terminal:
    """Raw mode of the terminal `fd`; nothing happens if it is none.

    `signals`: Ctrl-C and Ctrl-Z keep working on the emulator instead of reaching the guest. Output
    stays cooked: what the emulator itself prints needs no carriage returns.
    """

    def __init__(self, fd: int, *, signals: bool = False) -> None:
        self.fd = fd
        self.is_terminal = os.isatty(fd)
        self._signals = signals
        self._saved: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def enter(self) -> None:
        """Go raw. In the background it waits for SIGCONT: touching the terminal would stop us."""
        if not self.is_terminal:
            return
        self._raw()
        atexit.register(self.leave)
        if threading.current_thread() is threading.main_thread():
            for number, handler in (
                (signal.SIGTSTP, self._on_stop),
                (signal.SIGCONT, self._on_continue),
            ):
                self._handlers[number] = signal.signal(number, handler)

    def leave(self) -> None:
        """Restore what `enter` found. Harmless when called again."""
        self._restore()
        atexit.unregister(self.leave)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._handlers.clear()

    def _foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:  # a terminal that does not control us: nobody will stop us for using it
            return True

    def _raw(self) -> None:
        if self._saved is not None or not self._foreground():
            return
        with contextlib.suppress(termios.error):
            mode = termios.tcgetattr(self.fd)
            self._saved = termios.tcgetattr(self.fd)
            mode[0] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
            )  # fmt: skip
            mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
            if not self._signals:
                mode[3] &= ~termios.ISIG
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self.fd, termios.TCSANOW, mode)

    def _restore(self) -> None:
        saved, self._saved = self._saved, None
        if saved is not None and self._foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.fd, termios.TCSANOW, saved)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        """Stop as the user asked, the terminal restored; the next line runs after SIGCONT.

        SIGCONT may be delivered to another thread, whose handler does not wake this one out of its
        sleep: so this one goes raw by itself. SIGSTOP is sent to this thread, which therefore stops
        before the call returns.
        """
        self._restore()
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        self._raw()

    def _on_continue(self, number: int, frame: FrameType | None) -> None:
        self._raw()


# --- the console -------------------------------------------------------------------------------


class Console:
    """The serial line's host end. `start` it, `write` what the guest prints, `close` it."""

    def __init__(self, serial: Serial, host: Host, *, stdin: int = 0, stdout: int = 1) -> None:
        """Raises `UserError` if the file of `-serial file:` cannot be made."""
        self._host = host
        self._input: int | None = None
        self._output: int | None = None
        self._owned: int | None = None
        self._terminal: Terminal | None = None
        self._keys = EscapeKeys() if serial.kind == "mon" else None
        self._monitor: Monitor | None = None
        self._monitor_open = False
        if serial.kind in ("mon", "stdio"):
            self._input = stdin if _is_open(stdin) else None
            self._output = stdout if _is_open(stdout) else None
            if self._input is not None:
                self._terminal = Terminal(stdin, signals=serial.kind == "stdio")
        elif serial.kind == "file":
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                self._output = self._owned = os.open(serial.path, flags, 0o666)
            except OSError as error:
                raise UserError(f"-serial file:{serial.path}: {error.strerror}") from None
        self._buffer = bytearray()
        self._buffer_lock = threading.Lock()
        self._output_lock = threading.Lock()  # held around write(2), so that bytes keep their order
        self._stalled = False
        self._closing = False
        self._wake = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take the terminal and begin to read. Call it from the main thread, for its signals."""
        if self._input is None and self._output is None:
            return
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if self._terminal is not None:
            self._terminal.enter()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Output of the guest, from any thread, under any lock."""
        if self._output is None:
            return
        with self._buffer_lock:
            first = not self._buffer
            self._buffer += data
            full = len(self._buffer) >= BUFFER_LIMIT
        if full:
            self._make_room()
        elif first and self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def flush(self) -> None:
        """Write what is pending, waiting for the reader up to `STALL_DEADLINE` without progress."""
        self._drain(0)

    def close(self) -> None:
        """Flush, end the thread, give the terminal back. Harmless when called again."""
        self._closing = True
        thread, self._thread = self._thread, None
        if thread is not None:
            os.eventfd_write(self._wake, 1)
            thread.join(CLOSE_DEADLINE)
            if thread.is_alive():  # it waits for the machine's lock; as a daemon it cannot keep us
                log.warning("console_thread_left")
        self.flush()
        if self._terminal is not None:
            self._terminal.leave()
        if thread is not None and not thread.is_alive():
            os.close(self._wake)
            self._wake = -1
        if self._owned is not None:
            os.close(self._owned)
            self._owned = self._output = None

    # --- output --------------------------------------------------------------------------------

    def _make_room(self) -> None:
        if self._stalled or not self._drain(BUFFER_LIMIT // 2):
            if not self._stalled:
                log.warning("output_dropped", reason="nobody reads it")
            self._stalled = True
            with self._buffer_lock:
                del self._buffer[BUFFER_LIMIT // 2 :]

    def _drain(self, level: int) -> bool:
        """Write until at most `level` bytes are pending; False if the reader stands still."""
        deadline = time.monotonic() + STALL_DEADLINE
        while (output := self._output) is not None and len(self._buffer) > level:
            poller = select.poll()
            poller.register(output, select.POLLOUT)
            if poller.poll(100) and self._write_some():
                deadline = time.monotonic() + STALL_DEADLINE
            elif time.monotonic() > deadline or (self._closing and self._stalled):
                return False
        return True

    def _write_some(self) -> bool:
        """One write(2) to an output that takes it without blocking; True if it made progress."""
        with self._output_lock:
            output = self._output
            if output is not None and not _is_writable(output):
                return False
            with self._buffer_lock:
                chunk = bytes(self._buffer[:PIPE_BUF])
            if output is None or not chunk:
                return True
            try:
                written = os.write(output, chunk)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:  # nobody will ever read it: EPIPE, EIO, ENOSPC
                self._output = None
                written = 0
            with self._buffer_lock:
                del self._buffer[: written if self._output is not None else None]
            self._stalled = False
            return True

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        due: float | None = None  # when the pending output shall be written
        while not self._closing:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            timeouts = []
            reading = self._input
            if reading is not None and self._throttled():
                timeouts.append(INPUT_RETRY)
                reading = None
            if reading is not None:
                poller.register(reading, select.POLLIN)
            now = time.monotonic()
            writing = self._output if due is not None and now >= due else None
            if writing is not None and writing != reading:
                poller.register(writing, select.POLLOUT)
            elif writing is not None:  # one descriptor, both ways: a socket or a terminal
                poller.register(writing, select.POLLIN | select.POLLOUT)
            elif due is not None:
                timeouts.append(due - now)
            # Rounded up: poll(2) counts milliseconds, and waking early means waiting again.
            events = dict(poller.poll(int(min(timeouts) * 1000) + 1 if timeouts else None))
            if self._wake in events:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            if writing is not None and events.get(writing, 0) & ~select.POLLIN:
                self._write_some()
            if reading is not None and events.get(reading, 0) & ~select.POLLOUT:
                self._read()
            if not self._buffer or self._output is None:
                due = None
            elif due is None:
                due = time.monotonic() + FLUSH_DELAY

    def _throttled(self) -> bool:
        """Whether a pipe's input must wait for the guest. A typist is never kept from Ctrl-A x."""
        if self._terminal is not None and self._terminal.is_terminal:
            return False
        return self._host.waiting() >= INPUT_LIMIT

    def _read(self) -> None:
        assert self._input is not None
        try:
            data = os.read(self._input, 1024)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:  # end of input: the guest runs on without
            self._input = None
            return
        for item in self._keys.feed(data) if self._keys is not None else [data]:
            self._take(item)

    def _take(self, item: bytes | str) -> None:
        """Input between two keys, or a key pressed after Ctrl-A."""
        if isinstance(item, bytes):
            if self._monitor_open and self._monitor is not None:
                self._show(self._monitor.feed(item))
            else:
                self._host.receive(item)
        elif item == "x":
            self._show("\n")
            self._host.request_quit()
        elif item == "h":
            self._show("\n" + HELP)
        elif item == "c":
            if self._monitor is None:
                self._monitor = Monitor(self._host)
            self._monitor_open = not self._monitor_open
            self._show(self._monitor.open() if self._monitor_open else "\n")

    def _show(self, text: str) -> None:
        self.write(text.encode())


def _is_writable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
