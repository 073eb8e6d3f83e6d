"""Two translations of one job compared: by a process of its own, from many states.

The problem: see `protocol/comparison.py`. This is the end that has the translations: it starts the
process that runs them, hands over sealed code and states, and judges what comes back - an answer,
a crash, or nothing.

Invariants:
- Code goes over as a memfd that nobody can write any more, its writer included; this process maps
  it neither for execution nor for anything else.
- Every wait has a deadline. A run that takes `HANG` seconds of processor time is a translation that
  does not come back; a process that gets no processor is no finding, but `ComparisonFailed`.
- Crash and hang are findings about the side whose turn it was; tier 0's would be our own mistake.
- How many states are run depends on what they covered, so on the job, the code and the seed alone.

Read next: `states.py`, `backends/shadow.py` (who asks), `cpu_proc/comparison.py` (who runs).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jit_proc.job import Job, Region
from jit_proc.process import child_environment
from jit_proc.states import states
from protocol.comparison import MAX_PACKET, Found, Load, Side, State, pack, unpack
from protocol.layout import STATE_EXACT

START_LIMIT = 15.0  # seconds until the process is ready
RUN_LIMIT = 15.0  # seconds for a state, whatever else the host does
HANG = 2.0  # seconds of processor time that no state needs
EXTRA = 3  # so many times the states asked for, while they lead to new instructions
_F_ADD_SEALS, _SEALS = 1033, 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE


class ComparisonFailed(Exception):
    """It could not be compared; the message says why."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison came to. `lines`: what differs, none if nothing does; `state`: where.

    `blamed`: which sides differ from tier 0. `ran`: states; `covered`: slots of the region executed
    in them, of `slots`.
    """

    lines: tuple[str, ...] = ()
    blamed: tuple[str, ...] = ()
    state: State | None = None
    ran: int = 0
    covered: int = 0
    slots: int = 0


class Comparer:
    """Keeps the process that runs translations, and starts it again after it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None

    def compare(
        self, job: Job, first: Region, second: Region, count: int, seed: int = 0
    ) -> Verdict:
        """Run both from `count` states at least. Raises ComparisonFailed."""
        slots = [slot for slot, _ in first.entries if second.enters(slot)] or [
            slot for slot, _ in first.entries
        ]
        instructions = _starts(job.content, first.spans)
        seen: set[int] = set()
        self._load(job, first, second)
        fruitless = ran = 0
        for state in states(job.content, first.spans, slots, seed, job.hints):
            found = self.run(state)
            ran += 1
            new = instructions & _slots(found.covered) - seen
            seen |= new
            fruitless = 0 if new else fruitless + 1
            if found.lines:
                counts = ran, len(seen), len(instructions)
                return Verdict(found.lines, found.blamed, state, *counts)
            if ran >= count and (fruitless >= count or seen == instructions):
                break
            if ran >= EXTRA * count:
                break
        return Verdict((), (), None, ran, len(seen), len(instructions))

    def replay(self, job: Job, first: Region, second: Region, state: State) -> Found:
        """Both from one state. Raises ComparisonFailed."""
        self._load(job, first, second)
        return self.run(state)

    def close(self) -> None:
        """End the process."""
        if self._link is not None:
            self._link.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._link = self._process = None

    # --- the process -------------------------------------------------------------------------

    def _load(self, job: Job, first: Region, second: Region) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._link is not None
        sides = tuple(Side(len(r.code), r.entries, r.spans, r.lines) for r in (first, second))
        load = Load(job.content, bool(job.state_word & STATE_EXACT), (sides[0], sides[1]))
        fds: list[int] = []
        try:
            for region in (first, second):
                fds.append(_sealed(region.code))
            with self._judged():
                socket.send_fds(self._link, [pack("load", load)], fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self) -> None:
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_PACKET)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cpu_proc.comparison", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=child_environment(),
            )
        self._link = ours
        if self._receive(START_LIMIT) != ["ready"]:
            raise ComparisonFailed("the process that compares said something else than ready")

    def run(self, state: State) -> Found:
        """One state of what was loaded. Raises ComparisonFailed."""
        assert self._link is not None
        assert self._process is not None
        spent = _processor_time(self._process.pid)
        side = ""
        try:
            with self._judged():
                self._link.send(pack("run", state))
            while True:
                tag, what = self._receive(RUN_LIMIT, spent)
                if tag == "found":
                    assert isinstance(what, Found)
                    return what
                side = str(what)
        except _Ended as ended:
            self.close()
            if side not in ("A", "B"):
                raise ComparisonFailed(str(ended)) from ended
            return Found((f"{side}: {ended}",), (side,), b"", 0)

    def _receive(self, limit: float, spent: float | None = None) -> list[object]:
        """The next packet, within `limit` seconds and, if asked, `HANG` seconds of processor time.

        Raises _Ended, and ComparisonFailed.
        """
        assert self._link is not None
        assert self._process is not None
        end = time.monotonic() + limit
        while True:
            self._link.settimeout(0.5)
            try:
                with self._judged():
                    packet = self._link.recv(MAX_PACKET)
                break
            except TimeoutError:
                used = _processor_time(self._process.pid)
                if spent is not None and used is not None and used - spent > HANG:
                    self._process.kill()
                    raise _Ended("it does not come back") from None
                if time.monotonic() > end:
                    self.close()
                    raise ComparisonFailed(f"no answer in {limit:.0f} seconds") from None
        if not packet:
            raise _Ended(_ending(self._process))
        try:
            return unpack(packet)
        except ValueError as error:
            self.close()
            raise ComparisonFailed(str(error)) from error

    @contextlib.contextmanager
    def _judged(self) -> Iterator[None]:
        """A broken connection is the process's end."""
        try:
            yield
        except (BrokenPipeError, ConnectionResetError):
            assert self._process is not None
            raise _Ended(_ending(self._process)) from None


class _Ended(ComparisonFailed):
    """The process ended or was ended; the message says how."""


def _ending(process: subprocess.Popen[bytes]) -> str:
    try:
        status = process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        return "it closed its connection"
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with status {status}"


def _processor_time(pid: int) -> float | None:
    """Seconds of processor time of a process (clock_getcpuclockid(3)), None if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def _sealed(code: bytes) -> int:
    fd = os.memfd_create("coldboot-compared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(code)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _slots(bitmap: bytes) -> set[int]:
    return {8 * at + bit for at, byte in enumerate(bitmap) for bit in range(8) if byte >> bit & 1}


def _starts(content: bytes, spans: Iterable[tuple[int, int]]) -> set[int]:
    """Slots at which the instructions of some spans begin."""
    found = set()
    for start, size in spans:
        at = start
        while at < start + size:
            found.add(at >> 1)
            at += 4 if content[at] & 3 == 3 else 2
    return found
