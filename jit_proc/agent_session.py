"""An agent's side of its connection to a remote translator: events in, messages and outcomes out.

The problem: jobs are done by another host, which may be slow, restarted, cut off or of another
installation. Every job handed in must come back: as code, as a refusal, or as lost; and what comes
for a job that nobody waits for any more must go nowhere.

Invariants:
- Every ticket given to `submit` comes back in `finished` exactly once, unless it was abandoned.
- Many jobs are under way at once, as many as the other side allows; none waits for another's
  answer.
- An answer counts only under the session of the present connection, and for an id that is under way
  there. A lost connection, silence for `SILENCE` seconds, or a job's own limit make jobs lost.
- A job that is lost is refused as "try later" (queue_full): the code stays in tier 0 until it is
  hot again. Nothing here is remembered beyond that.
- No socket and no clock: the time comes with each event, in seconds.

Read next: `protocol/job_messages.py`; `agent.py`, which does what this says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from jit_proc.job import Job, Outcome, Refusal, Region, Times
from protocol.codec import CodecError
from protocol.job_messages import (
    MAX_CODE,
    JobCancel,
    JobCode,
    JobDone,
    JobHello,
    JobRefused,
    JobRequest,
    JobWelcome,
)
from protocol.messages import Bye, Error, Message, Ping

CALL_AGAIN: Final = 0.5  # seconds between two attempts to be welcomed
REFUSED_AGAIN: Final = 10.0  # the same where the other side said why not
KEY_AGAIN: Final = 2.0  # the same where a key was removed: it may be entered again
PING_EVERY: Final = 2.0
SILENCE: Final = 10.0
PATIENCE: Final = 3.0  # seconds without a connection after which jobs are refused
JOB_LIMIT: Final = 60.0  # seconds until an answer; the other side gives up earlier

_WHY_NOT: Final = frozenset(
    (
        "version_mismatch",
        "layout_mismatch",
        "isa_mismatch",
        "engine_mismatch",
        "unsupported_host",
        "unknown_backend",
        "too_many_sessions",
    )
)


class Terms(NamedTuple):
    """What is asked for in JOB_HELLO."""

    layout_hash: str
    isa_hash: str
    engine: str
    host: str
    cpu: str
    backend: str


class Finished(NamedTuple):
    """What became of a job. `lost`: the other side did not say so."""

    ticket: int
    job: Job
    outcome: Outcome
    lost: bool


@dataclass
class _Asked:
    ticket: int
    job: Job
    deadline: float
    code: bytearray = field(default_factory=bytearray)


class AgentSession:
    """One connection, made again and again. Events fill `outbox` and `finished`."""

    def __init__(self, terms: Terms, draw: Callable[[], int], now: float) -> None:
        """`draw`: random numbers for sessions."""
        self._terms = terms
        self._draw = draw
        self.state: Literal["calling", "up", "refused"] = "calling"
        self.trouble = ""
        """Why it is not up, for people."""
        self.outbox: list[Message] = []
        self.finished: list[Finished] = []
        self.counts = {"remote_jobs": 0, "remote_lost": 0, "remote_connections": 0}
        self._session = 0
        self._limit = 0
        self._ids = 0
        self._tokens = 0
        self._asked: dict[int, _Asked] = {}
        self._down_since = now
        self._next_call = now
        self._next_ping = self._heard = now

    # --- jobs ------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._asked)

    def room(self, now: float) -> int:
        """How many more jobs may be handed in now. While a connection is being made, none; when
        that has taken too long, one after the other, to be refused.
        """
        if self.state == "up":
            return max(0, self._limit - len(self._asked))
        return int(self.hopeless(now))

    def hopeless(self, now: float) -> bool:
        """Whether there is no connection, and was none for too long to wait for it."""
        return self.state == "refused" or (
            self.state == "calling" and now - self._down_since >= PATIENCE
        )

    def submit(self, ticket: int, job: Job, now: float) -> None:
        """Have a job done."""
        if self.state != "up":
            self._lose(_Asked(ticket, job, now), self.trouble or "no connection yet")
            return
        self._ids += 1
        self._asked[self._ids] = _Asked(ticket, job, now + JOB_LIMIT)
        self.counts["remote_jobs"] += 1
        self.outbox.append(
            JobRequest(
                self._session,
                self._ids,
                job.page,
                job.content,
                job.entries,
                job.state_word,
                job.level,
                job.known,
                job.seen,
            )
        )

    def abandon(self, ticket: int) -> bool:
        """Forget a job; False when it is not under way."""
        for id, one in self._asked.items():
            if one.ticket == ticket:
                del self._asked[id]
                self.outbox.append(JobCancel(self._session, id))
                return True
        before = len(self.finished)
        self.finished = [one for one in self.finished if one.ticket != ticket]
        return len(self.finished) < before

    # --- events ----------------------------------------------------------------------------------

    def send_failed(self, message: Message, now: float) -> None:
        """A message of `outbox` could not be sent."""
        if isinstance(message, JobRequest):
            one = self._asked.pop(message.id, None)
            if one is not None:
                self._lose(one, "it could not be sent")

    def disconnected(self, why: str, now: float) -> None:
        """The connection is gone; another is being made."""
        self._down(why or "the connection was lost", now)

    def distrust(self, why: str, now: float) -> None:
        """The other side's key is not to be trusted any more: say so, and have no session."""
        if self.up:
            self.outbox.append(Bye(self._session, "this side's key is no longer authorized there"))
        self._refused(why, now, KEY_AGAIN)

    def receive(self, message: Message | CodecError, now: float) -> None:
        """A message came, or something that is none."""
        if isinstance(message, CodecError):
            if message.name == "version_mismatch":
                self._refused(f"it speaks another version: {message.text}", now)
            return
        if isinstance(message, Error) and message.session == 0:
            if message.name == "version_mismatch":
                self._refused(message.text, now)
            elif message.name == "unknown_session":
                self._refused(message.text, now, KEY_AGAIN)
            return
        if message.session != self._session:
            return
        self._heard = now
        match message:
            case JobWelcome():
                if self.state != "up":
                    self.state, self.trouble = "up", ""
                    self.counts["remote_connections"] += 1
                    self._next_ping = now + PING_EVERY
                self._limit = message.jobs
            case Error():
                if message.name in _WHY_NOT:
                    self._refused(message.text, now)
                else:
                    self._down(f"{message.name}: {message.text}", now)
            case Bye():
                self._down(message.reason, now)
            case JobCode():
                self._piece(message)
            case JobDone():
                self._done(message)
            case JobRefused():
                one = self._asked.pop(message.id, None)
                if one is not None:
                    self._finish(one, Refusal(message.reason, message.text))
            case _:
                pass  # PONG is heard, and that is all; the rest is not for this side

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.state == "up":
            if now - self._heard >= SILENCE:
                self._down(f"nothing was heard for {SILENCE:.0f} s", now)
            elif now >= self._next_ping:
                self._tokens += 1
                self._next_ping = now + PING_EVERY
                self.outbox.append(Ping(self._session, self._tokens))
        for id, one in [*self._asked.items()]:
            if now >= one.deadline:
                del self._asked[id]
                self.outbox.append(JobCancel(self._session, id))
                self._lose(one, f"no answer in {JOB_LIMIT:.0f} s")
        if self.hopeless(now):
            self.trouble = self.trouble or "nobody answers there"
        if self.state != "up" and now >= self._next_call:
            self.state = "calling" if self.state == "refused" else self.state
            self._session = self._draw()
            self._next_call = now + CALL_AGAIN
            self.outbox.append(JobHello(self._session, *self._terms))

    def deadline(self) -> float:
        """When `tick` is due."""
        due = [one.deadline for one in self._asked.values()]
        due.append(min(self._next_ping, self._heard + SILENCE) if self.up else self._next_call)
        return min(due)

    def close(self, reason: str) -> None:
        """The last word; jobs under way are forgotten."""
        self._asked.clear()
        if self.up:
            self.outbox.append(Bye(self._session, reason))

    @property
    def up(self) -> bool:
        """Whether jobs can be sent."""
        return self.state == "up"

    # --- inner life ------------------------------------------------------------------------------

    def _piece(self, message: JobCode) -> None:
        one = self._asked.get(message.id)
        if one is None:
            return
        if message.offset != len(one.code) or len(one.code) + len(message.code) > MAX_CODE:
            del self._asked[message.id]
            self._finish(one, Refusal("compiler_failed", "its code came in pieces that do not fit"))
            return
        one.code += message.code

    def _done(self, message: JobDone) -> None:
        one = self._asked.pop(message.id, None)
        if one is None:
            return
        if message.code_size != len(one.code):
            text = f"{len(one.code)} of {message.code_size} bytes of its code came"
            self._finish(one, Refusal("compiler_failed", text))
            return
        spent: Mapping[str, int] = message.timings._asdict()
        region = Region(
            code=bytes(one.code),
            entries=tuple((slot, offset) for slot, offset in message.entries),
            spans=tuple((start, size) for start, size in message.spans),
            lines=message.lines,
            instructions=message.instructions,
            times=Times(*(spent[name] for name in Times._fields)),
        )
        self._finish(one, region)

    def _finish(self, one: _Asked, outcome: Outcome) -> None:
        self.finished.append(Finished(one.ticket, one.job, outcome, lost=False))

    def _lose(self, one: _Asked, why: str) -> None:
        self.counts["remote_lost"] += 1
        refusal = Refusal("queue_full", f"the remote translator: {why}"[:1000])
        self.finished.append(Finished(one.ticket, one.job, refusal, lost=True))

    def _down(self, why: str, now: float) -> None:
        if self.state == "up":
            self._down_since = now
        if self.state != "refused":
            self.state, self.trouble = "calling", why
            self._session = 0
            self._next_call = now
        self._lose_all(why)

    def _refused(self, why: str, now: float, again: float = REFUSED_AGAIN) -> None:
        if self.state == "up":
            self._down_since = now
        self.state, self.trouble = "refused", why
        self._session = 0
        self._next_call = now + again
        self._lose_all(why)

    def _lose_all(self, why: str) -> None:
        asked, self._asked = self._asked, {}
        for one in asked.values():
            self._lose(one, why)
