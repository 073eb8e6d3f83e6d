"""What a process and its children cost, seen from outside while they run.

The problem: an emulator that translates in another process must not hide that work, and time that
passes while a busy machine runs something else must not count. So CPU time is read from the clocks
that the kernel keeps for each process, of the process itself and of all its descendants apart, at
the moments when the guest says how far it is: a line after each chunk of work.

Invariants: nothing is left running when `watch` returns; every wait has a deadline.

Source: clock_getcpuclockid(3) (which clock is a process's), proc(5). Read next: `figures.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LEAVING = 10.0  # seconds for a process to end when it is asked to
LOOK = 0.02  # seconds between two looks at the clocks, at least
QUIET = 0.05  # of a CPU: a translator that takes less is done
QUIET_FOR = 0.4  # of its own CPU seconds


@dataclass(frozen=True)
class Sample:
    """One look: seconds since the start, CPU seconds so far, chunks so far."""

    wall: float
    own: float
    others: float
    chunks: int

    def since(self, earlier: Sample) -> Sample:
        """What happened between two looks."""
        return Sample(
            self.wall - earlier.wall,
            self.own - earlier.own,
            self.others - earlier.others,
            self.chunks - earlier.chunks,
        )


@dataclass
class Trace:
    """A run. `steady` is what happened when it was warm; empty if it ended before.

    `memory` is the most that was resident, in bytes: of the process, and of its descendants.
    """

    samples: list[Sample] = field(default_factory=list)
    checksums: list[str] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    status: int | None = None
    steady: Sample | None = None
    whole: Sample | None = None
    said: str = ""


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, all its threads. Raises OSError when it is gone."""
    return time.clock_gettime((~pid << 3) | 2)


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return text.rpartition(")")[2].split()


def state(pid: int) -> str:
    """R, S, D and so on: proc(5). Z, too, if it is gone."""
    try:
        return _stat(pid)[0]
    except OSError:
        return "Z"


def _at_rest(pid: int) -> bool:
    """Whether no thread of it runs or waits for a CPU."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            text = (task / "stat").read_text(encoding="utf-8")
            if text.rpartition(")")[2].split()[0] == "R":
                return False
    return True


def _reaped(pid: int) -> float:
    """CPU seconds of its children that have ended."""
    fields = _stat(pid)
    return (int(fields[13]) + int(fields[14])) / TICKS


def descendants(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text(encoding="utf-8").split()
            for child in map(int, children):
                found += [child, *descendants(child)]
    return found


def _others(pid: int, family: Sequence[int]) -> float:
    total = 0.0
    for one in family:
        with contextlib.suppress(OSError):
            total += cpu_of(one) + _reaped(one)
    return total + _reaped(pid)


def peak(pid: int) -> int:
    """The most memory it ever had resident, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def watch(
    command: Sequence[str],
    *,
    warm: float = 0.0,
    seconds: float | None = None,
    chunks: int = 0,
    deadline: float = 600.0,
    given: bytes = b"",
    environment: dict[str, str] | None = None,
) -> Trace:
    """Run a program and look on. With `seconds` it is ended when it was warm for so long, and has
    done `chunks`.

    Seconds are those of its own CPU time. Warm is: `warm` of them after its first line, and its
    descendants at rest (or ten times that, if they never are). At rest: none of their threads even
    waits for a CPU, for on a busy machine that is where a translator is most of the time. `given`
    goes to its standard input.
    """
    start = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if given else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    if given:
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
    watcher = _Watcher(process.pid, start, warm, seconds, chunks)
    try:
        outputs = {process.stdout.fileno(): watcher.hear, process.stderr.fileno(): watcher.note}
        while outputs and time.perf_counter() - start < deadline:
            ready = select.select(list(outputs), [], [], 0.1)[0]
            for number in ready:
                if data := os.read(number, 65536):
                    outputs[number](data)
                else:
                    del outputs[number]
            if watcher.look():
                break
        else:
            if not outputs:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    watcher.trace.status = process.wait(LEAVING)
    finally:
        end(process)
        process.stdout.close()
        process.stderr.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    trace = watcher.trace
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = trace.samples[-1] if trace.samples else Sample(0, 0, 0, 0)
    trace.whole = Sample(
        time.perf_counter() - start, cpu - last.others, last.others, len(trace.checksums)
    )
    return trace


class _Watcher:
    """What is seen of one run."""

    def __init__(
        self, pid: int, start: float, warm: float, seconds: float | None, chunks: int
    ) -> None:
        self.trace = Trace()
        self._pid = pid
        self._start = start
        self._warm = warm
        self._seconds = seconds
        self._chunks = chunks
        self._rest = b""
        self._begin: Sample | None = None
        self._busy = Sample(0, 0, 0, 0)  # when its descendants were seen at work
        self._looked = 0.0

    def hear(self, data: bytes) -> None:
        """A part of its output."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.trace.checksums += [line.strip().decode("ascii", "replace") for line in lines]

    def note(self, data: bytes) -> None:
        """A part of its complaints: the end is kept."""
        self.trace.said = (self.trace.said + data.decode(errors="replace"))[-4000:]

    def look(self) -> bool:
        """Read the clocks if there is something new. Whether enough was seen."""
        trace = self.trace
        now = time.perf_counter() - self._start
        chunks = len(trace.checksums)
        if now - self._looked < LOOK or (trace.samples and chunks == trace.samples[-1].chunks):
            return False
        self._looked = now
        family = descendants(self._pid)
        try:
            sample = Sample(now, cpu_of(self._pid), _others(self._pid, family), chunks)
        except OSError:  # it has ended
            return False
        trace.samples.append(sample)
        memory = (peak(self._pid), sum(map(peak, family)))
        trace.memory = (max(memory[0], trace.memory[0]), max(memory[1], trace.memory[1]))
        if self._begin is None:
            if chunks and self._is_warm(sample, family):
                self._begin = sample
            return False
        trace.steady = sample.since(self._begin)
        enough = self._seconds is not None and trace.steady.own >= self._seconds
        return enough and chunks >= self._chunks

    def _is_warm(self, sample: Sample, family: Sequence[int]) -> bool:
        passed = sample.own - self.trace.samples[0].own
        if not all(map(_at_rest, family)):
            self._busy = sample
        if passed < self._warm:
            return False
        lately = sample.since(self._busy)
        quiet = lately.own >= QUIET_FOR and lately.others < QUIET * lately.own
        return quiet or not family or passed > 10 * self._warm


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started; they are gone when this returns."""
    family = descendants(process.pid) if process.poll() is None else []
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LEAVING)
    if not _gone(family, LEAVING):
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _gone(family, LEAVING)


def _gone(family: Sequence[int], patience: float) -> bool:
    """Whether all of them end within so many seconds."""
    limit = time.monotonic() + patience
    while any(state(pid) != "Z" for pid in family):
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True
