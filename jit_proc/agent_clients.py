"""A remote translator's side of all its agents: events in, replies out; and the queue of jobs.

The problem: agents on many hosts want jobs done. One that asks for much must not keep the others
waiting, one that is of another installation must be told so by name, and one that vanishes must
leave nothing behind.

Invariants:
- A session belongs to the peer that opened it; a peer has one.
- Agents are served in turn, each one's jobs in the order in which they came.
- At most `JOBS` jobs of an agent are here at a time, waiting or with a worker, and at most `AGENTS`
  agents: what is beyond is refused by name.
- A job whose worker died is tried once more, then refused.
- Nothing is kept of an agent that said BYE, was lost, or was silent for `SILENCE` seconds.
- No socket and no clock: the time comes with each event, in seconds.

Read next: `protocol/job_messages.py`; `agent_server.py`, which does what this says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from jit_proc.agent_session import Terms
from jit_proc.job import Crash, Job, Outcome, Refusal, Region
from protocol.backends import name_of
from protocol.job_messages import (
    MAX_CODE,
    MAX_PIECE,
    JobCancel,
    JobCode,
    JobDone,
    JobHello,
    JobRefused,
    JobRequest,
    JobWelcome,
)
from protocol.messages import (
    Bye,
    Counter,
    Entry,
    Error,
    ErrorName,
    Message,
    Ping,
    Pong,
    Span,
    Stats,
    StatsReply,
    Timings,
)

AGENTS: Final = 64
JOBS: Final = 64
SILENCE: Final = 30.0
ATTEMPTS: Final = 2
_U32: Final = 2**32 - 1


class Reply(NamedTuple):
    """Send a message to a peer; if it cannot be, tell `lost`."""

    peer: bytes
    message: Message


@dataclass(eq=False)
class Task:
    """A job of an agent. `dropped`: nobody wants its outcome any more."""

    session: int
    id: int
    job: Job
    attempts: int = 0
    dropped: bool = False


@dataclass(eq=False)
class _Agent:
    peer: bytes
    hello: JobHello
    heard: float
    waiting: deque[Task] = field(default_factory=deque)
    running: set[Task] = field(default_factory=set)
    last_id: int = 0


class AgentSessions:
    """All agents. Events return replies; `take` and `done` are for who has the workers."""

    def __init__(
        self,
        terms: Terms,
        hosts: tuple[str, ...],
        incarnation: int,
        complaint: Callable[[str], str],
    ) -> None:
        """`terms`: what agents must agree to; host, level and backend are theirs. `complaint`: what
        is wrong with a backend.
        """
        self._terms = terms
        self._hosts = hosts
        self._incarnation = incarnation
        self._complaint = complaint
        self._agents: dict[int, _Agent] = {}
        self._turns: deque[int] = deque()
        self.abandoned: list[Task] = []
        """Tasks with a worker that nobody waits for any more: the service empties this."""
        self.counts = {"agents_seen": 0, "jobs": 0, "done": 0, "refused": 0, "crashed": 0}

    # --- events ----------------------------------------------------------------------------------

    def receive(self, peer: bytes, message: Message, now: float) -> list[Reply]:
        """A message came."""
        number = message.session
        if isinstance(message, JobHello):
            return self._hello(peer, message, now)
        if number == 0 and isinstance(message, Ping):
            return [Reply(peer, Pong(0, message.token, self._incarnation))]
        if number == 0 and isinstance(message, Stats):
            return [Reply(peer, StatsReply(0, self.counters()))]
        one = self._agents.get(number)
        if one is None or one.peer != peer:
            if isinstance(message, Bye | JobCancel):
                return []
            text = "this is a remote translator, and the session is not known here"
            return [Reply(peer, Error(number, "unknown_session", 0, text))]
        one.heard = now
        match message:
            case JobRequest():
                return self._request(one, message)
            case JobCancel():
                self._cancel(one, message.id)
            case Ping():
                return [Reply(peer, Pong(number, message.token, self._incarnation))]
            case Bye():
                self._end(number)
            case _:
                pass  # of the other direction
        return []

    def lost(self, peer: bytes) -> None:
        """Nothing can be sent to the peer."""
        for number in [number for number, one in self._agents.items() if one.peer == peer]:
            self._end(number)

    def tick(self, now: float) -> None:
        """Forget who was silent for too long."""
        for number, one in list(self._agents.items()):
            if now - one.heard >= SILENCE:
                self._end(number)

    def close(self, reason: str) -> list[Reply]:
        """The service ends."""
        replies = [Reply(one.peer, Bye(number, reason)) for number, one in self._agents.items()]
        for number in list(self._agents):
            self._end(number)
        return replies

    # --- jobs ------------------------------------------------------------------------------------

    def take(self) -> Task | None:
        """The next job for a free worker."""
        for _ in range(len(self._turns)):
            number = self._turns[0]
            self._turns.rotate(-1)
            one = self._agents[number]
            if one.waiting:
                task = one.waiting.popleft()
                one.running.add(task)
                return task
        return None

    def done(self, task: Task, outcome: Outcome) -> list[Reply]:
        """A job's outcome."""
        one = self._agents.get(task.session)
        if task.dropped or one is None or task not in one.running:
            return []
        one.running.discard(task)
        if isinstance(outcome, Crash):
            self.counts["crashed"] += 1
            task.attempts += 1
            if task.attempts < ATTEMPTS:
                one.waiting.appendleft(task)
                return []
            outcome = Refusal("compiler_crashed", f"{task.attempts} workers died of it")
        if isinstance(outcome, Region) and 0 < len(outcome.code) <= MAX_CODE:
            self.counts["done"] += 1
            return [Reply(one.peer, message) for message in _code(task, outcome)]
        self.counts["refused"] += 1
        if not isinstance(outcome, Refusal):
            outcome = Refusal("too_large", f"no region of 1 to {MAX_CODE} bytes")
        refused = JobRefused(task.session, task.id, outcome.reason, outcome.text[:300])
        return [Reply(one.peer, refused)]

    def counters(self) -> tuple[Counter, ...]:
        """For STATS, and for the log."""
        now = {
            "agents": len(self._agents),
            "queued": sum(len(one.waiting) for one in self._agents.values()),
            "running": sum(len(one.running) for one in self._agents.values()),
        }
        return tuple(Counter(name, value) for name, value in {**now, **self.counts}.items())

    # --- inner life ------------------------------------------------------------------------------

    def _hello(self, peer: bytes, message: JobHello, now: float) -> list[Reply]:
        known = self._agents.get(message.session)
        if known is None:
            self.lost(peer)  # it began anew on the same connection
            refused = self._refusal(message)
            if refused is not None:
                return [Reply(peer, Error(message.session, refused[0], 0, refused[1][:1000]))]
            self._agents[message.session] = _Agent(peer, message, now)
            self._turns.append(message.session)
            self.counts["agents_seen"] += 1
        elif known.peer != peer:
            text = "the session's number is in use: draw another"
            return [Reply(peer, Error(message.session, "session_in_use", 0, text))]
        return [Reply(peer, JobWelcome(message.session, JOBS, self._incarnation))]

    def _refusal(self, message: JobHello) -> tuple[ErrorName, str] | None:
        same = "run both from the same installation"
        compared: tuple[tuple[ErrorName, str, str, str], ...] = (
            ("layout_mismatch", "layout", message.layout_hash, self._terms.layout_hash),
            ("isa_mismatch", "instruction set", message.isa_hash, self._terms.isa_hash),
            ("engine_mismatch", "program", message.engine, self._terms.engine),
        )
        for name, what, theirs, ours in compared:
            if theirs != ours:
                text = f"the agent's {what} is {theirs}, the remote translator's {ours}: {same}"
                return name, text
        if message.host not in self._hosts:
            hosts = ", ".join(self._hosts)
            return "unsupported_host", f"no code is made for {message.host} here, only for {hosts}"
        if message.cpu not in CPUS:
            return "unsupported_host", f"no code is made for {message.cpu} here"
        if name_of(message.backend) == "remote":
            return "unknown_backend", "a remote translator does not forward jobs to another one"
        complaint = self._complaint(message.backend)
        if complaint:
            return "unknown_backend", complaint
        if len(self._agents) >= AGENTS:
            return "too_many_sessions", f"{AGENTS} agents are served already"
        return None

    def _request(self, one: _Agent, message: JobRequest) -> list[Reply]:
        if message.id <= one.last_id:
            return []
        one.last_id = message.id
        self.counts["jobs"] += 1
        if len(one.waiting) + len(one.running) >= JOBS:
            text = f"{JOBS} jobs of this agent are here already"
            return [Reply(one.peer, JobRefused(message.session, message.id, "queue_full", text))]
        job = Job(
            message.page,
            message.content,
            message.entries,
            message.state_word,
            one.hello.backend,
            message.level,
            message.known,
            message.seen,
            cpu=one.hello.cpu,
        )
        one.waiting.append(Task(message.session, message.id, job))
        return []

    def _cancel(self, one: _Agent, id: int) -> None:
        for task in [*one.waiting, *one.running]:
            if task.id == id:
                self._drop(one, task)

    def _drop(self, one: _Agent, task: Task) -> None:
        task.dropped = True
        if task in one.running:
            one.running.discard(task)
            self.abandoned.append(task)
        else:
            one.waiting.remove(task)

    def _end(self, number: int) -> None:
        one = self._agents.pop(number)
        self._turns.remove(number)
        for task in [*one.waiting, *one.running]:
            self._drop(one, task)


CPUS: Final = ("x86-64", "x86-64-v2", "x86-64-v3")
"""Levels that code can be made for (x86-64 psABI, "Micro-Architecture Levels")."""


def _code(task: Task, region: Region) -> Iterator[Message]:
    """A region in messages."""
    for offset in range(0, len(region.code), MAX_PIECE):
        piece = region.code[offset : offset + MAX_PIECE]
        yield JobCode(task.session, task.id, offset, piece)
    spent = {name: min(_U32, value) for name, value in region.times._asdict().items()}
    yield JobDone(
        task.session,
        task.id,
        len(region.code),
        tuple(Entry(*entry) for entry in region.entries),
        region.lines,
        tuple(Span(*span) for span in region.spans),
        region.instructions,
        Timings(queue=0, publish=0, **spent),
    )
