"""The workers: started, fed, watched, and replaced when a job kills one.

The problem: LLVM's errors in code generation end the process that asks. The broker must live on,
the job that did it must not be tried for ever, and innocent jobs must not pay for it.

Invariants:

- One job at a time a worker: whoever dies, it is known of what.
- Every ticket given to `submit` comes back from `collect` exactly once, unless it was abandoned:
  then never.
- A job whose worker died, or which took longer than its time limit, comes back as a Crash. Whether
  it is tried again is for others to say (`protocol/session_translator.py`: once).
- Workers that end before they are ready, several times in a row, are not restarted for ever: the
  pool is `broken`, and every job is refused with what they said last.

Nothing blocks here: `filenos()` says what to wait for, `collect()` does what is due, `deadline()`
when to look again at the latest. The clock is given from outside.

Read next: `worker.py` (the other end of the pipes), `service.py` (who calls this).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.job import AnyJob, Crash, EngineJob, Frames, Outcome, Ready, Refusal, encode
from jit_proc.process import start_worker
from jit_proc.worker import DEFAULT_ENGINE, DEFAULT_NICE
from protocol.logs import get_logger

START_LIMIT = 30.0  # seconds until a worker is ready
TRANSLATE_LIMIT = 20.0  # seconds for a region
ENGINE_LIMIT = 180.0  # seconds for the engine
MAX_FAILED_STARTS = 3
_CLOSE_LIMIT = 2.0
_SAID_LIMIT = 4096

log = get_logger("pool")


class Result(NamedTuple):
    """What became of the job handed in under `ticket`."""

    ticket: int
    outcome: Outcome


@dataclass
class _Task:
    ticket: int
    job: AnyJob
    abandoned: bool = False


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    answers: int
    errors: int
    deadline: float
    frames: Frames = field(default_factory=Frames)
    ready: bool = False
    task: _Task | None = None
    said: bytes = b""
    killed_for: str = ""


class Pool:
    """A fixed number of workers, and the jobs they have at the moment."""

    def __init__(
        self,
        count: int = 1,
        *,
        lifter: str = DEFAULT_LIFTER,
        engine: str = DEFAULT_ENGINE,
        nice: int = DEFAULT_NICE,
        translate_limit: float = TRANSLATE_LIMIT,
        clock: Callable[[], float] = time.monotonic,
        first: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Describe `count` workers; `start()` starts them. Limits in seconds of `clock`. `first`:
        one of them, started already.
        """
        if count < 1:
            raise ValueError(f"a pool of {count} workers")
        self.count = count
        self.broken = ""
        self.started = 0
        self.died = 0
        self._start = partial(start_worker, lifter, engine, nice)
        self._first = first
        self._translate_limit = translate_limit
        self._clock = clock
        self._workers: list[_Worker] = []
        self._waiting: deque[_Task] = deque()
        self._finished: list[Result] = []
        self._failed_starts = 0

    def start(self) -> None:
        """Start what is missing of the workers; it takes each of them half a second to be ready."""
        while len(self._workers) < self.count and not self.broken:
            self._spawn()

    @property
    def idle(self) -> int:
        """How many jobs may be handed in now and begin as soon as a worker is ready."""
        busy = sum(worker.task is not None for worker in self._workers)
        return max(0, self.count - busy - len(self._waiting))

    @property
    def running(self) -> int:
        """How many jobs are under way, abandoned ones included."""
        return self.count - self.idle

    def submit(self, ticket: int, job: AnyJob) -> None:
        """Have `job` done; its Result will carry `ticket`. May be called when nothing is idle."""
        if self.broken:
            self._finished.append(Result(ticket, Refusal("compiler_failed", self.broken)))
            return
        self._waiting.append(_Task(ticket, job))
        self._assign()

    def abandon(self, ticket: int) -> bool:
        """Forget a job: its result goes nowhere. False when the ticket is not under way."""
        for task in self._tasks():
            if task.ticket == ticket and not task.abandoned:
                task.abandoned = True
                with contextlib.suppress(ValueError):
                    self._waiting.remove(task)
                return True
        before = len(self._finished)
        self._finished = [result for result in self._finished if result.ticket != ticket]
        return len(self._finished) < before

    def filenos(self) -> list[int]:
        """Descriptors that become readable when `collect` has something to do."""
        return [fd for worker in self._workers for fd in (worker.answers, worker.errors)]

    def deadline(self) -> float | None:
        """When `collect` must be called at the latest, in the clock's seconds; None for never."""
        if self._finished:
            return self._clock()
        due = [w.deadline for w in self._workers if w.task is not None or not w.ready]
        return min(due, default=None)

    def collect(self) -> list[Result]:
        """Read what the workers say, replace the dead, enforce limits; return what is finished."""
        for worker in list(self._workers):
            self._listen(worker)
        now = self._clock()
        for worker in self._workers:
            if (worker.task or not worker.ready) and now >= worker.deadline:
                worker.killed_for = worker.killed_for or "its time limit passed"
                worker.process.kill()
                worker.deadline = now + START_LIMIT
        self._assign()
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """End all workers, idle ones by end of input, busy ones by a kill; jobs are forgotten."""
        workers, self._workers = self._workers, []
        self._waiting.clear()
        for worker in workers:
            if worker.task is not None or not worker.ready:
                worker.process.kill()
            assert worker.process.stdin is not None
            worker.process.stdin.close()
        for worker in workers:
            _end(worker)

    # --- one worker ----------------------------------------------------------------------------

    def _spawn(self) -> None:
        process, self._first = self._first or self._start(), None
        assert process.stdout is not None
        assert process.stderr is not None
        self._workers.append(
            _Worker(
                process,
                process.stdout.fileno(),
                process.stderr.fileno(),
                deadline=self._clock() + START_LIMIT,
            )
        )
        self.started += 1

    def _assign(self) -> None:
        """Give waiting jobs to workers that are ready and idle."""
        for worker in self._workers:
            if not self._waiting:
                return
            if not worker.ready or worker.task is not None or worker.killed_for:
                continue
            task = self._waiting.popleft()
            worker.task = task
            engine = isinstance(task.job, EngineJob)
            worker.deadline = self._clock() + (ENGINE_LIMIT if engine else self._translate_limit)
            assert worker.process.stdin is not None
            # A pipe holds more than a job, and the worker has read all before: this cannot block.
            # Nor does it matter if the worker is gone: its end is noticed at its other pipes.
            with contextlib.suppress(BrokenPipeError):
                worker.process.stdin.write(encode(task.job))

    def _listen(self, worker: _Worker) -> None:
        for data in _read_available(worker.errors):
            worker.said = (worker.said + data)[-_SAID_LIMIT:]
        ended = False
        try:
            for data in _read_available(worker.answers):
                ended = not data
                for message in worker.frames.feed(data):
                    self._hear(worker, message)
        except ValueError as error:
            worker.killed_for = f"it sent nonsense ({error})"
            worker.process.kill()
            ended = True
        if ended:
            self._bury(worker)

    def _hear(self, worker: _Worker, message: Any) -> None:
        if isinstance(message, Ready):
            worker.ready = True
            self._failed_starts = 0
            log.info("worker_started", pid=worker.process.pid, identity=message.identity[:40])
            return
        task, worker.task = worker.task, None
        if worker.said:
            log.warning(
                "worker_complained", pid=worker.process.pid, text=_telling_line(worker.said)
            )
            worker.said = b""
        if task is not None and not task.abandoned:
            self._finished.append(Result(task.ticket, message))

    def _bury(self, worker: _Worker) -> None:
        """A worker ended: say of what, hand its job back, start another."""
        for data in _read_available(worker.errors):
            worker.said = (worker.said + data)[-_SAID_LIMIT:]
        self._workers.remove(worker)
        status = _end(worker)
        self.died += 1
        cause = worker.killed_for or _ending(status)
        said = _telling_line(worker.said)
        text = f"a worker ended: {cause}" + (f"; it said: {said}" if said else "")
        log.warning("worker_died", pid=worker.process.pid, cause=cause, said=said)
        task = worker.task
        if task is not None and not task.abandoned:
            self._finished.append(Result(task.ticket, Crash(text)))
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                self._break(f"translator workers cannot start: {text}")
                return
        self._spawn()

    def _break(self, text: str) -> None:
        self.broken = text
        log.error("pool_broken", text=text)
        refusal = Refusal("compiler_failed", text)
        self._finished += [Result(t.ticket, refusal) for t in self._waiting if not t.abandoned]
        self._waiting.clear()

    def _tasks(self) -> Iterator[_Task]:
        yield from list(self._waiting)
        for worker in self._workers:
            if worker.task is not None:
                yield worker.task


def _read_available(fd: int) -> Iterator[bytes]:
    """What can be read without waiting; an empty piece last when the other end is closed."""
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except BlockingIOError:
            return
        yield data
        if not data:
            return


def _end(worker: _Worker) -> int:
    """Wait for a worker that is ending, give its descriptors back, return its status."""
    try:
        status = worker.process.wait(_CLOSE_LIMIT)
    except subprocess.TimeoutExpired:  # it closed its pipes and lives on
        worker.process.kill()
        status = worker.process.wait()
    for pipe in (worker.process.stdin, worker.process.stdout, worker.process.stderr):
        if pipe is not None:
            pipe.close()
    return status


def _ending(status: int) -> str:
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
        return f"signal {-status}"
    return f"exit status {status}"


def _telling_line(said: bytes) -> str:
    """The line that tells most of what a worker printed: LLVM's error, else the last one."""
    lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
    for line in lines:
        if any(word in line for word in ("LLVM ERROR", "error:", "Assertion", "UNREACHABLE")):
            return line[:300]
    return next((line[:300] for line in reversed(lines) if line), "")
