"""The console as a user meets it: keys, the monitor, pipes, and a terminal that is usable again.

Every wait has a deadline; none is a fixed sleep.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_proc import console
from cpu_proc.console import Console, EscapeKeys, Monitor
from cpu_proc.run_options import Serial
from protocol.errors import UserError

DEADLINE = 240.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll `condition`, which costs little, until it holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not in {DEADLINE} s: {what}"
        time.sleep(0.005)


def read_until(descriptor: int, ending: bytes) -> bytes:
    """Everything up to `ending`."""
    data = b""
    end = time.monotonic() + DEADLINE
    while not data.endswith(ending):
        left = end - time.monotonic()
        assert left > 0, f"{ending!r} did not come; so far {data[-200:]!r}"
        if select.select([descriptor], [], [], left)[0]:
            part = os.read(descriptor, 65536)
            assert part, f"{ending!r} did not come before the end: {data[-200:]!r}"
            data += part
    return data


class FakeHost:
    """A machine that notes what it is asked. `reads`: whether its guest takes input."""

    def __init__(self) -> None:
        self.received = b""
        self.unread = 0
        self.reads = True
        self.asked: list[str] = []

    def receive(self, data: bytes) -> None:
        self.received += data
        if not self.reads:
            self.unread += len(data)

    def waiting(self) -> int:
        return self.unread

    def request_quit(self) -> None:
        self.asked.append("quit")

    def command(self, line: str) -> str:
        self.asked += [line] * bool(line)
        return f"done: {line}\n" if line else ""


class Line:
    """A console between two pipes: `keys` is the user's end of input, `screen` of output."""

    def __init__(self, kind: str = "mon") -> None:
        stdin, self.keys = os.pipe()
        self.screen, stdout = os.pipe()
        self._ours = {stdin, stdout}
        self._theirs = {self.keys, self.screen}
        self.host = FakeHost()
        self.console = Console(Serial(kind), self.host, stdin=stdin, stdout=stdout)
        self.console.start()

    def type(self, data: bytes) -> None:
        os.write(self.keys, data)

    def hang_up(self, descriptor: int) -> None:
        self._theirs.remove(descriptor)
        os.close(descriptor)

    def close(self) -> None:
        for descriptor in self._theirs:
            os.close(descriptor)
        self.console.close()
        for descriptor in self._ours:
            os.close(descriptor)


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.close()


class TestKeys:
    def test_data_and_keys_are_told_apart_in_order(self):
        assert [b"ab", "x", b"c\x03"] == EscapeKeys().feed(b"ab\x01xc\x03")

    @pytest.mark.parametrize("typed", [b"\x01a", b"\x01\x01"])
    def test_control_a_can_be_sent(self, typed):
        assert [b"1\x012"] == EscapeKeys().feed(b"1" + typed + b"2")

    @given(st.lists(st.sampled_from([b"\x01", b"a", b"x", b"c", b"C", b"1"])), st.integers(0, 20))
    def test_it_does_not_matter_how_input_is_cut(self, typed, cut):
        data = b"".join(typed)
        whole, pieces = EscapeKeys(), EscapeKeys()

        def flat(items: list[bytes | str]) -> list[int | str]:
            return [
                part
                for item in items
                for part in (list(item) if isinstance(item, bytes) else [item])
            ]

        assert flat(whole.feed(data)) == flat(pieces.feed(data[:cut]) + pieces.feed(data[cut:]))


class TestMonitor:
    def test_lines_reach_the_machine(self):
        host = FakeHost()
        monitor = Monitor(host)

        monitor.feed(b"system_reset\rswap  x,y=1\r")

        assert ["system_reset", "swap  x,y=1"] == host.asked

    def test_it_echoes_answers_and_prompts(self):
        monitor = Monitor(FakeHost())

        assert "info\ndone: info\n(coldboot) " == monitor.feed(b"info\r")
        assert "\n(coldboot) " == monitor.feed(b"\r")

    def test_lines_can_be_edited(self):
        host = FakeHost()
        monitor = Monitor(host)

        assert "x\b \b" == monitor.feed(b"x\x7f")
        monitor.feed(b"\x7fquix\bt\r")
        monitor.feed(b"system_reset\x15\r")

        assert ["quit"] == host.asked

    @given(st.binary(max_size=300))
    def test_no_input_upsets_it(self, data):
        Monitor(FakeHost()).feed(data)


class TestPipes:
    def test_output_arrives_complete_and_in_order(self, line):
        expected = b"".join(b"%d\n" % number for number in range(5000)) + b"end"

        def guest() -> None:
            for at in range(len(expected)):
                line.console.write(expected[at : at + 1])

        thread = threading.Thread(target=guest)
        thread.start()
        assert expected == read_until(line.screen, b"end")
        thread.join()

    def test_characters_come_in_batches(self, line, monkeypatch):
        writes: list[int] = []
        write = os.write

        def counted(descriptor: int, data: bytes) -> int:
            writes.append(descriptor)
            return write(descriptor, data)

        monkeypatch.setattr(os, "write", counted)

        for _ in range(1000):
            line.console.write(b".")
        line.console.write(b"!")
        read_until(line.screen, b"!")

        assert len(writes) < 500

    def test_a_prompt_without_a_newline_is_shown(self, line):
        line.console.write(b"login: ")

        assert b"login: " == read_until(line.screen, b"login: ")

    def test_input_reaches_the_guest(self, line):
        line.type(b"ls\n\x03")

        wait_until(lambda: line.host.received == b"ls\n\x03", "input")

    def test_control_a_x_asks_to_leave(self, line):
        line.type(b"a\x01x")

        wait_until(lambda: line.host.asked == ["quit"], "the request")
        assert b"a" == line.host.received

    def test_control_a_h_tells_the_keys(self, line):
        line.type(b"\x01h")

        assert b"Ctrl-A x  leave" in read_until(line.screen, b"send Ctrl-A\n")

    def test_control_a_c_goes_to_the_monitor_and_back(self, line):
        line.type(b"1\x01c")
        read_until(line.screen, b"(coldboot) ")
        line.type(b"info status\r")
        assert b"done: info status" in read_until(line.screen, b"(coldboot) ")
        line.type(b"\x01c2")

        wait_until(lambda: line.host.received == b"12", "input after the monitor")

    def test_without_monitor_control_a_is_the_guests(self):
        line = Line("stdio")
        try:
            line.type(b"\x01x")
            wait_until(lambda: line.host.received == b"\x01x", "input")
            assert [] == line.host.asked
        finally:
            line.close()

    def test_the_end_of_input_only_ends_input(self, line):
        line.type(b"last")
        line.hang_up(line.keys)

        wait_until(lambda: line.host.received == b"last", "input")
        line.console.write(b"still here")
        read_until(line.screen, b"still here")

    def test_a_reader_that_left_does_not_disturb(self, line):
        line.hang_up(line.screen)

        for _ in range(100):
            line.console.write(b"x" * 10_000)
        line.console.flush()
        line.type(b"alive")

        wait_until(lambda: line.host.received == b"alive", "input")

    def test_a_slow_reader_slows_the_guest_down_and_loses_nothing(self, line):
        total = 3 * console.BUFFER_LIMIT
        done = threading.Event()

        def guest() -> None:
            for _ in range(total // 4096):
                line.console.write(b"x" * 4096)
            line.console.write(b"end")
            done.set()

        thread = threading.Thread(target=guest)
        thread.start()
        assert total + 3 == len(read_until(line.screen, b"end"))
        assert done.wait(DEADLINE)
        thread.join()

    def test_a_reader_that_stands_still_costs_output_but_not_the_guest(self, line, monkeypatch):
        monkeypatch.setattr(console, "STALL_DEADLINE", 0.05)

        for _ in range(3 * console.BUFFER_LIMIT // 65536):
            line.console.write(b"x" * 65536)  # would wait for ever if it waited for the reader

        monkeypatch.setattr(console, "STALL_DEADLINE", DEADLINE)
        reader = threading.Thread(target=line.console.flush)
        reader.start()
        line.console.write(b"end")
        assert len(read_until(line.screen, b"end")) < 2 * console.BUFFER_LIMIT
        reader.join()

    def test_input_waits_for_a_guest_that_does_not_read(self, line):
        line.host.reads = False
        total = 60_000
        line.type(b"x" * total)

        wait_until(lambda: line.host.unread >= console.INPUT_LIMIT, "some input")
        line.type(b"y")
        assert len(line.host.received) < console.INPUT_LIMIT + 2048
        line.host.reads = True
        line.host.unread = 0

        wait_until(lambda: len(line.host.received) == total + 1, "the rest")

    def test_closing_writes_what_is_pending(self, line):
        line.console.write(b"last words")
        line.console.close()
        line.console.close()

        assert b"last words" == read_until(line.screen, b"last words")


def test_output_to_a_file(tmp_path):
    path = tmp_path / "serial"
    host = FakeHost()
    log = Console(Serial("file", str(path)), host)
    log.start()

    log.write(b"to the file\n")

    wait_until(lambda: path.read_bytes() == b"to the file\n", "output, before the end of the run")
    log.write(b"more")
    log.close()
    assert b"to the file\nmore" == path.read_bytes()


def test_a_file_that_cannot_be_made_is_told(tmp_path):
    with pytest.raises(UserError, match=r"^-serial file:"):
        Console(Serial("file", str(tmp_path)), FakeHost())


def test_output_to_nowhere():
    silent = Console(Serial("null"), FakeHost())
    silent.start()
    silent.write(b"x" * (2 << 20))
    silent.close()


# --- terminals -----------------------------------------------------------------------------------

PROGRAM = """
import os, sys, threading, time
from cpu_proc import cli
from cpu_proc.console import Console
from cpu_proc.run_options import Serial

class Host:
    def __init__(self): self.done = threading.Event()
    def receive(self, data): console.write(b"got " + data + b"\\n")
    def waiting(self): return 0
    def request_quit(self): self.done.set()
    def command(self, line): return ""

host = Host()
console = Console(Serial(sys.argv[1]), host)
cli._unwind_on_signals()
console.start()
console.write(b"ready\\n")
how = sys.argv[2]
if how == "close":
    host.done.wait(); console.close()
elif how == "return":
    host.done.wait(); console.flush()
elif how == "raise":
    host.done.wait(); console.flush(); raise RuntimeError("a bug")
else:
    while True:
        time.sleep(0.1)  # a signal may have come just before it slept
"""


class Session:
    """A process whose terminal we hold the other end of."""

    def __init__(self, how: str, kind: str = "mon") -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(self.master)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, kind, how],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.DEVNULL,
            # A session of its own with this terminal: as under a shell, signals from keys included.
            preexec_fn=lambda: self._own(slave),
        )
        os.close(slave)
        read_until(self.master, b"ready\r\n")

    @staticmethod
    def _own(slave: int) -> None:
        import fcntl

        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    def flags(self) -> int:
        return int(termios.tcgetattr(self.master)[3])

    def is_raw(self) -> bool:
        return not self.flags() & (termios.ECHO | termios.ICANON)

    def is_stopped(self) -> bool:
        with open(f"/proc/{self.process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def wait(self) -> int:
        return self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
                self.process.kill()
        self.process.wait(DEADLINE)
        os.close(self.master)


@pytest.fixture
def session() -> Iterator[Callable[..., Session]]:
    opened: list[Session] = []

    def open_one(how: str, kind: str = "mon") -> Session:
        opened.append(Session(how, kind))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.mark.parametrize(("how", "status"), [("close", 0), ("return", 0), ("raise", 1)])
def test_the_terminal_is_restored_however_the_program_ends(session, how, status):
    shell = session(how)
    assert shell.is_raw()

    shell.type(b"\x01x")

    assert status == shell.wait()
    assert shell.before == termios.tcgetattr(shell.master)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_terminal_is_restored_when_a_signal_ends_it(session, number):
    shell = session("sleep")
    assert shell.is_raw()

    shell.process.send_signal(number)

    assert shell.wait() in (128 + number, -number)
    assert shell.before == termios.tcgetattr(shell.master)


def test_control_c_reaches_the_guest(session):
    shell = session("sleep")

    shell.type(b"\x03")

    assert b"got \x03\r\n" == read_until(shell.master, b"\n")


def test_without_monitor_control_c_ends_the_emulator(session):
    shell = session("sleep", "stdio")
    assert shell.is_raw()

    shell.type(b"\x03")

    assert shell.wait() in (128 + signal.SIGINT, -signal.SIGINT)
    assert shell.before == termios.tcgetattr(shell.master)


def test_a_stopped_emulator_gives_the_terminal_back_until_it_goes_on(session):
    shell = session("sleep")

    shell.process.send_signal(signal.SIGTSTP)
    wait_until(shell.is_stopped, "the process stopped")
    assert not shell.is_raw()
    shell.process.send_signal(signal.SIGCONT)
    wait_until(shell.is_raw, "raw mode again")

    shell.type(b"x")
    assert b"got x\r\n" == read_until(shell.master, b"\n")
