"""Whole machines for the system tests: real processes on a pty, their log, memory and maps.

Problem: what a user relies on is only seen from outside: a command, a terminal, an exit status, and
what the kernel says of the processes. So nothing here reaches into the program; a machine is its
command line, its console, and its log.

Invariants: every wait has a deadline and fails with the console's last lines and what was said on
standard error. No process outlives its `with` block. Standard error is a file of its own, so a
traceback is never mistaken for the guest's output.

Read next: `programs` (small guests in assembly), `test_linux`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import pexpect
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 300.0
"""Seconds for a step of a guest: many times what it takes, for cores that others use too."""
PROMPT = rb"[/~] # "
APPEND = "console=ttyS0 panic=-1 cryptomgr.notests quiet"

Event = dict[str, Any]
T = TypeVar("T")


def environment() -> dict[str, str]:
    """That of the tests, with the repository's packages first."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def command(*words: object) -> list[str]:
    """The command line of `coldboot WORDS`."""
    return [sys.executable, "-m", "cpu_proc", *map(str, words)]


def run(
    *words: str | Path, data: bytes | None = None, seconds: float = DEADLINE
) -> subprocess.CompletedProcess[bytes]:
    """Run `coldboot run WORDS` to its end; its status, the console, and standard error."""
    line = command("run", *words)
    feed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if data is None else {"input": data}
    try:
        return subprocess.run(
            line, capture_output=True, timeout=seconds, env=environment(), check=False, **feed
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"")[-2000:].decode(errors="replace")
        errors = (late.stderr or b"")[-2000:].decode(errors="replace")
        pytest.fail(f"still running after {seconds} s: {line}\nconsole: {said}\nstderr: {errors}")


def linux(folder: Path, *words: str | Path, append: str = "", memory: str = "512M") -> list[str]:
    """Arguments of `coldboot run` that boot Debian's kernel with unmodified OpenSBI."""
    kernel = ["-kernel", folder / "Image", "-initrd", folder / "initramfs.cpio"]
    line = ["-m", memory, "-bios", folder / "fw_dynamic.bin", *kernel]
    return [*map(str, line), "-append", f"{APPEND} {append}".strip(), *map(str, words)]


class Machine:
    """A running `coldboot run` with its console on a pty. Use it in a `with` statement."""

    def __init__(self, words: Sequence[object], folder: Path) -> None:
        """`words`: arguments of `coldboot run`, strings or paths. `folder`: for its log and
        standard error.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.log_path = Path(tempfile.mkstemp(suffix=".log", dir=folder)[1])
        self.error_path = self.log_path.with_suffix(".err")
        self.transcript_path = self.log_path.with_suffix(".txt")
        line = command("run", "--log-json", "-d", "retire", "-D", self.log_path, *words)
        self.error_path.touch()
        self.child = pexpect.spawn(
            line[0],
            line[1:],
            timeout=DEADLINE,
            env=environment(),
            preexec_fn=self._divert_errors,
            dimensions=(50, 200),
        )
        self._transcript = self.transcript_path.open("wb")
        self.child.logfile_read = self._transcript
        self.child.delaybeforesend = None

    def _divert_errors(self) -> None:
        """In the new process: standard error is a file."""
        os.dup2(os.open(self.error_path, os.O_WRONLY), 2)

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in children(self.pid):  # a stopped one cannot see that its machine ends
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        if self.child.isalive():
            self.child.kill(signal.SIGKILL)
            until(lambda: not self.child.isalive(), f"the end of process {self.pid}")
        self.child.close()
        self._transcript.close()

    @property
    def pid(self) -> int:
        """The machine's process."""
        assert self.child.pid is not None
        return self.child.pid

    # --- the console ---------------------------------------------------------------------------

    def expect(self, pattern: str | bytes, seconds: float = DEADLINE) -> re.Match[bytes]:
        """Wait for a regular expression on the console; the match."""
        wanted = pattern.encode() if isinstance(pattern, str) else pattern
        found = self.child.expect([wanted, pexpect.EOF, pexpect.TIMEOUT], timeout=seconds)
        if found != 0:
            what = "the machine ended" if found == 1 else f"nothing came within {seconds} s"
            pytest.fail(f"waiting for {wanted!r}: {what}\n{self.diagnosis()}")
        return cast("re.Match[bytes]", self.child.match)

    def send(self, text: str | bytes) -> None:
        """Type `text` as it stands."""
        self.child.send(text)

    def command(self, text: str, prompt: bytes = PROMPT, seconds: float = DEADLINE) -> str:
        """Type a line at the prompt that is there; what the guest prints until the next one."""
        self.send(text + "\r")
        self.expect(re.escape(text.encode()) + rb"\r+\n", seconds)
        self.expect(prompt, seconds)
        before = self.child.before
        assert isinstance(before, bytes)
        return before.decode(errors="replace").replace("\r", "").rstrip("\n")

    def wait(self, seconds: float = DEADLINE) -> int:
        """Wait for the end of the process; its exit status (negative: minus the signal)."""
        found = self.child.expect([pexpect.EOF, pexpect.TIMEOUT], timeout=seconds)
        if found != 0:
            pytest.fail(f"still running after {seconds} s\n{self.diagnosis()}")
        self.child.wait()
        if self.child.exitstatus is not None:
            return int(self.child.exitstatus)
        return -int(self.child.signalstatus or 0)

    def diagnosis(self) -> str:
        """The end of the console, of the log and of standard error."""
        self._transcript.flush()
        parts = []
        for path in (self.transcript_path, self.log_path, self.error_path):
            text = path.read_bytes()[-3000:].decode(errors="replace")
            parts.append(f"--- {path.suffix[1:]}\n{text}")
        return "\n".join(parts)

    @property
    def errors(self) -> str:
        """What was said on standard error, but for the embedded translator's log."""
        lines = self.error_path.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("{"))

    # --- the log -------------------------------------------------------------------------------

    def events(self, name: str | None = None) -> list[Event]:
        """The events of the machine's log so far, or those called `name`."""
        return [e for e in read_events(self.log_path) if name is None or e["event"] == name]

    def wait_event(
        self, name: str, count: int = 1, seconds: float = DEADLINE, **fields: Any
    ) -> Event:
        """Wait until the log has `count` events of this name (and fields); the last of them."""
        return until(
            lambda: nth([e for e in self.events(name) if fields.items() <= e.items()], count),
            f"{count} x {name} {fields} in the log",
            seconds,
            also=self.pump,
            explain=self.diagnosis,
        )

    def pump(self) -> None:
        """Take what the console has to say, so that the guest never waits for its reader; the next
        `expect` looks for its pattern in it.
        """
        if not self.child.isalive():
            pytest.fail(f"the machine ended\n{self.diagnosis()}")
        while select.select([self.child.fileno()], [], [], 0)[0]:
            if self.child.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=0) == 1:
                return

    # --- its translator --------------------------------------------------------------------------

    def translator(self, incarnation_after: str = "") -> int:
        """The process of the translator that is attached, once it is."""
        attached = self.events("translator_attached")
        if not attached or attached[-1]["incarnation"] == incarnation_after:
            attached = [self.wait_event("translator_attached", len(attached) + 1)]
        return int(attached[-1]["pid"])


def nth(found: Sequence[Event], count: int) -> Event | None:
    """The last of `found`, if there are at least `count`."""
    return found[-1] if len(found) >= count else None


def until(
    ask: Callable[[], T | None],
    what: str,
    seconds: float = DEADLINE,
    also: Callable[[], None] = lambda: None,
    explain: Callable[[], str] = lambda: "",
) -> T:
    """Ask again until the answer is something true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds} s\n{explain()}")
        also()
        time.sleep(0.02)


def read_events(path: Path) -> list[Event]:
    """The complete JSON lines of a log."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]


# --- a translator of its own ---------------------------------------------------------------------


class Translator:
    """A running `coldboot translator`. `endpoint` is what machines are given."""

    def __init__(
        self,
        folder: Path,
        *words: str | Path,
        endpoint: str | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """`folder`: for its log, and for its socket unless `endpoint` says where. `prefix`: what
        the command line begins with.
        """
        self.endpoint = endpoint or f"ipc://{socket_folder()}/translator"
        self.log_path = Path(tempfile.mkstemp(suffix=".translator.log", dir=folder)[1])
        line = [
            *prefix,
            *command("translator", "--endpoint", self.endpoint, "--log-json", *words),
        ]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )

    def __enter__(self) -> Translator:
        self.wait_event("service_started")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self.process.kill()
        self.process.wait(DEADLINE)

    def events(self, name: str) -> list[Event]:
        """The events called `name` so far."""
        return [e for e in read_events(self.log_path) if e["event"] == name]

    def wait_event(self, name: str, count: int = 1, seconds: float = DEADLINE) -> Event:
        """Wait until the log has `count` events of this name; the last of them."""
        return until(
            lambda: nth(self.events(name), count),
            f"{count} x {name} in the translator's log",
            seconds,
            explain=lambda: self.log_path.read_text(errors="replace")[-3000:],
        )


def socket_folder() -> str:
    """A new folder for a socket: short, and nobody else's."""
    folder = tempfile.mkdtemp(prefix="coldboot-test-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


# --- what the kernel says of processes -----------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes that `pid` started and their children, those still there."""
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    found += [int(child), *children(int(child))]
    return found


def map_lines(pid: int) -> list[str]:
    """/proc/PID/maps."""
    return Path(f"/proc/{pid}/maps").read_text().splitlines()


def maps(pid: int) -> list[tuple[str, str]]:
    """(permissions, what is mapped) of every mapping of a process."""
    found = []
    for line in map_lines(pid):
        parts = line.split(None, 5)
        found.append((parts[1], parts[5] if len(parts) > 5 else ""))
    return found


def memory_of(pid: int) -> Mapping[str, int]:
    """Kilobytes by name, from /proc/PID/status: VmRSS, RssAnon, RssShmem and so on."""
    text = Path(f"/proc/{pid}/status").read_text()
    return {
        name: int(value) for name, value in re.findall(r"^((?:Vm|Rss)\w+):\s+(\d+) kB", text, re.M)
    }


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does not run inside of this."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
