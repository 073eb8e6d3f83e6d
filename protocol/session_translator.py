"""The translator's side of all its sessions: events in, actions out; and the queue of jobs.

Problem: one translator serves many machines, each of which may retire everything at any moment,
vanish, or speak nonsense. What is queued, what is running and what is finished must be known by
epoch, so that a retirement can be answered with proof: nothing older is alive.

Life of a session: HELLO makes it, ATTACH maps it, ForgetOlder and `retired` carry it from epoch to
epoch, and BYE, a lost peer, a failure or long silence ends it (ForgetSession).

Invariants:
- A session belongs to the peer that opened it: its number from another peer is answered by ERROR
  unknown_session, whatever the message.
- Every job in queue or running has its session's present epoch. RETIRE empties both before anything
  else happens, and `is_live` is False for what was running: its result is discarded.
- RETIRED is sent only for the present epoch, and counts what is left of older ones: our jobs, found
  by looking, and what the service says it still holds.
- An id is served once per session: a message that comes twice makes no second job.
- A job whose worker died is tried once more, then rejected: never a third time.
- One machine's requests make no other one wait for more than what is with the workers already; a
  queue has `max_queue` jobs at most, and there are `max_sessions` sessions.
- Messages twice: HELLO, ATTACH and RETIRE are answered again by the same answer, others dropped.

Read next: `protocol.session` (the actions), `protocol.session_machine`, `protocol/SPEC.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protocol.generations import Epoch, Stamp, is_older
from protocol.messages import (
    Attach,
    Attached,
    Bye,
    Cancel,
    Counter,
    Engine,
    EngineReady,
    Error,
    ErrorName,
    Hello,
    Message,
    Ping,
    Pong,
    RejectReason,
    Retire,
    Retired,
    Segment,
    Stats,
    StatsReply,
    Swap,
    Swapped,
    Translate,
    tag_of,
)
from protocol.mutants import armed
from protocol.session import (
    Abandon,
    BuildEngine,
    Discard,
    Dropped,
    ForgetOlder,
    ForgetSession,
    Job,
    MapMachine,
    PrepareBackend,
    Reply,
    SetTimer,
    TranslatorAction,
)
from protocol.session_book import (
    Session,
    answer,
    complaint_about,
    count,
    counters,
    refusal,
    reject,
    welcome,
)
from protocol.session_terms import Region as Region
from protocol.session_terms import Service as Service
from protocol.shares import Shares

MAX_ATTEMPTS = 2


class TranslatorSessions:
    """All sessions of one translator. Every event returns its actions."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: dict[int, Session] = {}
        self._shares = Shares()
        self._engines: dict[str, list[int]] = {}
        self.extra: dict[str, int] = {}
        """Counts of the service that STATS of session 0 tells too."""
        self._ended: dict[str, int] = {}  # what was counted of sessions that are over

    def start(self) -> list[TranslatorAction]:
        """The service begins."""
        return [SetTimer("sweep", self._service.sweep)]

    # --- jobs ------------------------------------------------------------------------------------

    def take(self, has_room: Callable[[str], bool] = lambda _: True) -> Job | None:
        """The next job for a free worker: of the session whose turn it is by what its jobs took so
        far (`protocol/shares.py`), the hottest. Tell `charge` what it took.

        `has_room`: whether a job for a backend can be begun.
        """
        waiting = (n for n, s in self._sessions.items() if s.state == "attached" and s.jobs.queued)
        for number in self._shares.order(waiting):
            one = self._sessions[number]
            job = one.jobs.take() if has_room(one.backend) else None
            if job is not None:
                one.expected[job.request.id] = self._shares.taken(number)
                return job
        return None

    def charge(self, job: Job, microseconds: float) -> None:
        """A worker is free of a job after so long, however it ended. Before its answer is given."""
        one = self._sessions.get(job.session)
        expected = one.expected.pop(job.request.id, None) if one is not None else None
        if expected is not None:
            self._shares.done(job.session, expected, microseconds)

    def using(self, backend: str) -> list[int]:
        """The sessions that have, or are about to have, code of a backend, as it is spelt."""
        return [n for n, s in self._sessions.items() if backend in (s.backend, s.next_backend)]

    def waiting(self, session: int, id: int) -> Job | None:
        """A certain job, if it could be taken; it waits on."""
        one = self._sessions.get(session)
        return one.jobs.queued.get(id) if one is not None and one.state == "attached" else None

    def take_one(self, job: Job) -> None:
        """A job that waits is taken out of turn."""
        self._sessions[job.session].jobs.take_one(job.request.id)

    def is_live(self, job: Job) -> bool:
        """Whether the result of a job that was taken is still wanted. Ask before placing code."""
        one = self._sessions.get(job.session)
        return one is not None and one.jobs.is_live(job)

    def translated(
        self, job: Job, region: Region, stamp: Stamp | None = None
    ) -> list[TranslatorAction]:
        """The region stands complete in the session's code segment; `stamp`: what its bytes were
        confirmed to be about, if not what was asked.
        """
        one = self._finish(job)
        if one is None:
            return [Discard(job)]
        one.modules += 1
        one.bytes += region.code_size
        count(one, "translated")
        count(one, "instructions", region.instructions)
        for phase, microseconds in region.timings._asdict().items():
            count(one, f"{phase}_us", microseconds)
        return [Reply(one.peer, answer(job.request, region, stamp or job.request.stamp))]

    def rejected(self, job: Job, reason: RejectReason, text: str = "") -> list[TranslatorAction]:
        """The job cannot be done."""
        one = self._finish(job)
        return [Discard(job)] if one is None else [reject(one, job.request, reason, text)]

    def crashed(self, job: Job) -> list[TranslatorAction]:
        """The worker that had the job died: once more, then never again."""
        one = self._finish(job)
        if one is None:
            return [Discard(job)]
        job = replace(job, attempts=job.attempts + 1)
        if job.attempts >= MAX_ATTEMPTS:
            text = f"{job.attempts} workers died of it"
            return [reject(one, job.request, "compiler_crashed", text)]
        one.jobs.add(job)
        return []

    def counters(self) -> tuple[Counter, ...]:
        """What STATS of session 0 tells: of all sessions, those that are over included."""
        return counters(self._sessions.values(), self.extra, self._ended)

    def live_older(self, session: int) -> int:
        """Jobs of a session, queued or running, of another epoch than its present one."""
        one = self._sessions[session]
        return sum(job.request.epoch != one.epoch for job in one.jobs.all())

    # --- answers of the service ------------------------------------------------------------------

    def attached(self, session: int, epoch: Epoch, code: Segment) -> list[TranslatorAction]:
        """The segments of ATTACH are mapped; `code` is the new code segment."""
        one = self._sessions.get(session)
        if one is None or one.state != "mapping" or one.attach is None or one.attach.epoch != epoch:
            return []
        if one.cause is not None:  # everything was retired while the service mapped
            cause, one.cause = one.cause, None
            one.state = "retiring"
            return [ForgetOlder(session, one.epoch, cause)]
        one.state = "attached"
        one.answer = Attached(session, epoch, code, one.backend, self._service.pid)
        return [Reply(one.peer, one.answer)]

    def attach_failed(self, session: int, text: str) -> list[TranslatorAction]:
        """The segments of ATTACH cannot be mapped."""
        return self._fail(session, "attach_failed", text)

    def retired(
        self, session: int, epoch: Epoch, modules: int, size: int, live_older: int, code: Segment
    ) -> list[TranslatorAction]:
        """ForgetOlder is done: `modules`, `size` bytes of code are gone, `live_older` are not."""
        one = self._sessions.get(session)
        if one is None or one.state != "retiring" or one.epoch != epoch:
            return []
        one.state = "attached"
        one.answer = Retired(
            session,
            epoch,
            one.freed.pop("queued", 0),
            one.freed.pop("running", 0),
            modules,
            size,
            0 if armed("M42") else live_older + self.live_older(session),
            code,
            one.backend,
            self._service.pid,
        )
        return [Reply(one.peer, one.answer)]

    def retire_failed(self, session: int, text: str) -> list[TranslatorAction]:
        """There is no new code segment."""
        return self._fail(session, "retire_failed", text)

    def engine_ready(self, key: str, path: str) -> list[TranslatorAction]:
        """The engine of this key lies, complete, at `path`."""
        waiting = self._engines.pop(key, [])
        return [
            Reply(self._sessions[number].peer, EngineReady(number, key, path))
            for number in waiting
            if number in self._sessions
        ]

    def engine_failed(self, key: str, text: str) -> list[TranslatorAction]:
        """There will be no engine of this key."""
        waiting = self._engines.pop(key, [])
        return [
            Reply(self._sessions[number].peer, Error(number, "engine_failed", 0, text))
            for number in waiting
            if number in self._sessions
        ]

    def backend_ready(self, session: int, backend: str) -> list[TranslatorAction]:
        """The backend can be used: from the next epoch on."""
        one = self._sessions.get(session)
        if one is None:
            return []
        one.next_backend = backend
        return [Reply(one.peer, Swapped(session, backend))]

    def backend_failed(self, session: int, backend: str, text: str) -> list[TranslatorAction]:
        """The backend cannot be loaded."""
        one = self._sessions.get(session)
        if one is None:
            return []
        text = f"backend {backend}: {text}"
        return [Reply(one.peer, Error(session, "unknown_backend", 0, text))]

    # --- events from the socket and the clock ----------------------------------------------------

    def peer_lost(self, peer: bytes) -> list[TranslatorAction]:
        """Nothing can be sent to the peer any more."""
        lost = [number for number, one in self._sessions.items() if one.peer == peer]
        return [action for number in lost for action in self._end(number, "peer_lost")]

    def timer(self, name: str) -> list[TranslatorAction]:
        """The deadline of a SetTimer has passed."""
        if name != "sweep":
            return []
        actions: list[TranslatorAction] = [SetTimer("sweep", self._service.sweep)]
        for number, one in list(self._sessions.items()):
            one.silent += 1
            if one.silent * self._service.sweep > self._service.silence:
                actions.append(Reply(one.peer, Bye(number, "nothing was heard of the machine")))
                actions += self._end(number, "silent")
        return actions

    def close(self, reason: str) -> list[TranslatorAction]:
        """The service ends."""
        actions: list[TranslatorAction] = []
        for number, one in list(self._sessions.items()):
            actions.append(Reply(one.peer, Bye(number, reason)))
            actions += self._end(number, "closed")
        return actions

    def receive(self, peer: bytes, message: Message) -> list[TranslatorAction]:
        """A message came."""
        if isinstance(message, Hello):
            return self._on_hello(peer, message)
        number = message.session
        if number == 0 and isinstance(message, Ping):
            return [Reply(peer, Pong(0, message.token, self._service.incarnation))]
        if number == 0 and isinstance(message, Stats):
            return [Reply(peer, StatsReply(0, self.counters()))]
        one = self._sessions.get(number)
        if one is None or one.peer != peer:
            if isinstance(message, Bye | Cancel):
                return [_dropped(message, "unknown_session")]
            text = (
                f"session {number:#x} is not known here: the translator was restarted, or ended it"
            )
            return [Reply(peer, Error(number, "unknown_session", 0, text))]
        one.silent = 0
        match message:
            case Attach():
                return self._on_attach(one, message)
            case Engine():
                return self._on_engine(one, message)
            case Translate():
                return self._on_translate(one, message)
            case Cancel():
                return self._on_cancel(one, message)
            case Retire():
                return self._on_retire(one, message)
            case Swap():
                return self._on_swap(one, message)
            case Ping():
                return [Reply(peer, Pong(number, message.token, self._service.incarnation))]
            case Stats():
                return [Reply(peer, StatsReply(number, counters([one], {})))]
            case Bye():
                return self._end(number, message.reason)
            case _:
                return [_dropped(message, "wrong_direction")]

    # --- messages --------------------------------------------------------------------------------

    def _on_hello(self, peer: bytes, message: Hello) -> list[TranslatorAction]:
        service = self._service
        known = self._sessions.get(message.session)
        if known is not None:
            if known.peer != peer:
                text = "the session's number is in use: draw another"
                return [Reply(peer, Error(message.session, "session_in_use", 0, text))]
            return [Reply(peer, welcome(service, known))]
        refused = refusal(service, message, len(self._sessions))
        if refused is not None:
            return [Reply(peer, Error(message.session, refused[0], 0, refused[1]))]
        actions: list[TranslatorAction] = []
        for number, one in list(self._sessions.items()):
            if one.peer == peer:  # the machine began anew on the same connection
                actions += self._end(number, "replaced")
        features = message.host_features
        if service.known_features is not None:
            features = tuple(name for name in features if name in service.known_features)
        backend = message.backend or service.backends[0]
        one = Session(peer, message, features, backend, next_backend=backend)
        self._sessions[message.session] = one
        self._shares.enter(message.session)
        return [*actions, Reply(peer, welcome(service, one))]

    def _on_attach(self, one: Session, message: Attach) -> list[TranslatorAction]:
        if one.state == "welcomed":
            one.state = "mapping"
            one.attach = message
            one.epoch = message.epoch
            return [MapMachine(message.session, message, one.hello.host, one.features)]
        if isinstance(one.answer, Attached) and one.attach == message:
            return [Reply(one.peer, one.answer)]
        return [_dropped(message, "duplicate")]

    def _on_engine(self, one: Session, message: Engine) -> list[TranslatorAction]:
        for key, waiting in self._engines.items():
            if message.session in waiting:
                if key == message.key:
                    return [_dropped(message, "duplicate")]
                text = f"engine {message.key} asked for while {key} is being made: ask again after"
                return [Reply(one.peer, Error(message.session, "engine_failed", 0, text))]
        waiting = self._engines.setdefault(message.key, [])
        waiting.append(message.session)
        return [BuildEngine(message.key, message.session)] if len(waiting) == 1 else []

    def _on_translate(self, one: Session, message: Translate) -> list[TranslatorAction]:
        if one.state in ("welcomed", "mapping"):
            text = "TRANSLATE before ATTACHED"
            return [Reply(one.peer, Error(message.session, "not_attached", message.id, text))]
        if message.id <= one.last_id:
            return [_dropped(message, "duplicate")]
        one.last_id = message.id
        count(one, "requested")
        if message.epoch != one.epoch:
            return [reject(one, message, "stale_epoch")]
        if len(one.jobs.queued) >= self._service.max_queue:
            text = f"{self._service.max_queue} requests wait already: a machine may have no more"
            return [reject(one, message, "queue_full", text)]
        one.jobs.add(Job(message.session, message, one.backend))
        return []

    def _on_cancel(self, one: Session, message: Cancel) -> list[TranslatorAction]:
        running = message.id in one.jobs.running
        job = one.jobs.cancel(message.id)
        if job is None:
            return [_dropped(message, "not_outstanding")]
        count(one, "cancelled")
        return [Abandon(job)] if running else []

    def _on_retire(self, one: Session, message: Retire) -> list[TranslatorAction]:
        if one.state == "welcomed":
            text = "RETIRE before ATTACH"
            return [Reply(one.peer, Error(message.session, "not_attached", 0, text))]
        if message.epoch == one.epoch and isinstance(one.answer, Retired):
            if one.answer.epoch == message.epoch:
                return [Reply(one.peer, one.answer)]
            return [_dropped(message, "duplicate")]
        if not is_older(one.epoch, message.epoch):
            return [_dropped(message, "stale_epoch")]
        one.epoch = message.epoch
        one.backend = one.next_backend
        count(one, "retired")
        actions = [] if armed("M42") else self._drop_jobs(one)
        if one.state == "mapping":
            one.cause = message.cause
            return actions
        one.state = "retiring"
        return [*actions, ForgetOlder(message.session, message.epoch, message.cause)]

    def _on_swap(self, one: Session, message: Swap) -> list[TranslatorAction]:
        complaint = complaint_about(self._service, message.backend)
        if complaint:
            return [Reply(one.peer, Error(message.session, "unknown_backend", 0, complaint))]
        return [PrepareBackend(message.session, message.backend)]

    # --- inner life ------------------------------------------------------------------------------

    def _finish(self, job: Job) -> Session | None:
        """The session of a job that was running and live; it is running no more."""
        one = self._sessions.get(job.session)
        if one is None:
            return None
        one.expected.pop(job.request.id, None)  # nobody measured it
        return one if one.jobs.finish(job) else None

    def _drop_jobs(self, one: Session) -> list[TranslatorAction]:
        """Empty queue and running, and count them for RETIRED."""
        one.freed["queued"] = one.freed.get("queued", 0) + len(one.jobs.queued)
        one.freed["running"] = one.freed.get("running", 0) + len(one.jobs.running)
        actions: list[TranslatorAction] = [Abandon(job) for job in one.jobs.running.values()]
        one.jobs.clear()
        one.modules = one.bytes = 0
        return actions

    def _fail(self, session: int, name: ErrorName, text: str) -> list[TranslatorAction]:
        """Tell the machine, and end its session."""
        one = self._sessions.get(session)
        if one is None:
            return []
        reply = Reply(one.peer, Error(session, name, 0, text))
        return [reply, *self._end(session, name)]

    def _end(self, session: int, reason: str) -> list[TranslatorAction]:
        one = self._sessions.pop(session)
        for name, value in one.counts.items():
            self._ended[name] = self._ended.get(name, 0) + value
        self._shares.leave(session)
        return [*self._drop_jobs(one), ForgetSession(session, reason)]


def _dropped(message: Message, reason: str) -> Dropped:
    return Dropped(tag_of(message), getattr(message, "id", 0), reason)
