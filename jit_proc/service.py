"""The translator's broker: the one place where this process is put together.

The problem: machines ask, workers translate, and between them somebody must read the right bytes at
the right moment, put finished code where machines can execute it, and forget everything of an epoch
at a word. Who may ask what, and in which order jobs are served, is decided without sockets and
clocks in `protocol/session_translator.py`; here its actions are carried out.

Invariants:

- One thread, one loop. Nothing in it waits for a machine or for a worker.
- Bytes are read when a worker is free to take them, not when they are asked for: the younger the
  copy, the rarer the answer that comes too late. They are checked against the counters before and
  after reading, and once more before the code is placed.
- A job that is no longer live leaves nothing in the code segment and gets no answer.
- A request that the content store can answer waits for no worker: the store is asked as soon as a
  request comes, `LOOKUPS` in a turn of the loop. Workers start with the first one it cannot answer.
- A retirement is answered after the old segment is put away, where nothing can be placed in it any
  more, and no running job of an older epoch is left in `_running`; `live_older` counts them by
  looking. All harts wait for the answer: the new segment was made before, the old one is closed
  after (`_tidy`).
- A machine that ends without a word is noticed by its process's end: its memory is let go.
- What a worker says is checked as what a machine says is; a wrong answer is a refusal, not an end.

Read next: `protocol/session_translator.py`, `pool.py`, `machine_view.py`, `code_space.py`,
`content_store.py`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from jit_proc import backends, content_store
from jit_proc import job as work
from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.code_space import DEFAULT_SIZE, CodeSpace, CodeSpaceFull
from jit_proc.machine_view import MachineView, Unreadable
from jit_proc.pool import Pool, Result
from jit_proc.store import EngineStore
from jit_proc.worker import DEFAULT_ENGINE, DEFAULT_NICE
from protocol.codec import CodecError, encode
from protocol.engine_image import EngineImageError, engine_key
from protocol.generations import identity_of
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.messages import (
    Attach,
    Bye,
    Entry,
    Message,
    Rejected,
    Segment,
    Span,
    Timings,
    Translate,
)
from protocol.riscv.identity import isa_hash
from protocol.session import (
    Abandon,
    BuildEngine,
    CancelTimer,
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
from protocol.session_book import answer
from protocol.session_translator import Region, TranslatorSessions
from protocol.session_translator import Service as Description
from protocol.transport import MAX_WAIT, Server, Timers, default_endpoint

HOSTS = ("x86_64",)  # what `link.py` knows
DRAIN_LIMIT = 2.0  # seconds that jobs under way are given when the service is told to end
ENGINE_ATTEMPTS = 2
LOOKUPS = 8  # in the content store, before messages are looked at again

_U32 = 2**32 - 1

log = get_logger("translator")


@dataclass(frozen=True)
class Options:
    """How a translator is run. `code_space` in bytes, a segment for each machine and epoch; `store`
    and `store_size` (bytes on disk): where translations are kept; `cache`: the folder for that.
    """

    endpoint: str = field(default_factory=default_endpoint)
    workers: int = 1
    code_space: int = DEFAULT_SIZE
    nice: int = DEFAULT_NICE
    lifter: str = DEFAULT_LIFTER
    engine: str = DEFAULT_ENGINE
    cache: Path | None = None
    store: content_store.Mode = "disk"
    store_size: int = content_store.DEFAULT_DISK


def make_pool(options: Options) -> Pool:
    """The workers these options ask for, not started yet."""
    return Pool(options.workers, lifter=options.lifter, engine=options.engine, nice=options.nice)


def current_engine_key() -> str:
    """The key of the engine that this installation builds on this host."""
    return engine_key(isa_hash(), LAYOUT_HASH)


@dataclass
class _Machine:
    """What is held for one session. `arrived`: when each request came, by id (monotonic)."""

    peer: bytes
    view: MachineView
    code: CodeSpace
    process: int  # a pidfd: readable when the machine has ended
    arrived: dict[int, float] = field(default_factory=dict)

    def close(self) -> None:
        self.view.close()
        self.code.close()
        os.close(self.process)


@dataclass
class _Running:
    """A job with a worker, and the bytes that its answer will name."""

    job: Job
    content: bytes
    queue_us: int

    @property
    def pure(self) -> work.Job:
        """What translating depends on, and nothing else."""
        asked = self.job.request
        return work.Job(
            asked.page,
            self.content,
            asked.entries,
            asked.state_word,
            self.job.backend,
            asked.level,
            asked.known,
            asked.seen,
        )


@dataclass
class _Build:
    """An engine being built."""

    key: str
    attempts: int = 1


class Broker:
    """One translator service: `run` until `stop`."""

    def __init__(self, options: Options) -> None:
        """Listen and start the workers. Raises UserError when the endpoint cannot be had."""
        self.options = options
        self.server = Server(options.endpoint)
        description = Description(
            incarnation=secrets.randbits(64),
            pid=os.getpid(),
            layout_hash=LAYOUT_HASH,
            isa_hash=isa_hash(),
            hosts=HOSTS,
            backends=backends.names(),
            complaint=backends.complaint,
        )
        self.sessions = TranslatorSessions(description)
        self.store = EngineStore(options.cache)
        # Of another lifter nothing is known that could stand in a key.
        mode = options.store if options.lifter == DEFAULT_LIFTER else "off"
        self.kept = content_store.made(self.store.folder, mode, options.store_size)
        self._fresh: deque[tuple[int, int]] = deque()  # session, id: not looked for in it yet
        self.pool = make_pool(options)
        self._timers = Timers()
        self._machines: dict[int, _Machine] = {}
        self._peers: dict[int, bytes] = {}  # of sessions that are being attached
        self._running: dict[int, _Running | _Build] = {}
        self._tickets = count(1)
        self._watched: set[int] = set()
        self._spare: CodeSpace | None = None
        self._put_away: list[CodeSpace] = []
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = ""
        self._stop_at = 0.0
        self.server.watch(self._wake)
        if self.kept is None or not self.kept.is_warm():
            self.pool.start()
        self._act(self.sessions.start())

    def stop(self, reason: str) -> None:
        """End: finish what is under way, at most `DRAIN_LIMIT` seconds; told twice, at once.

        Safe in a signal handler.
        """
        now = time.monotonic()
        self._stop_at = now if self._stopping else now + DRAIN_LIMIT
        self._stopping = reason
        os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Serve until told to stop; machines are told goodbye."""
        while not self._drained():
            self._watch()
            ready = self.server.poll(self._timeout())
            if ready.messages:
                for peer, message in self.server.receive():
                    self._hear(peer, message)
            for name in self._timers.due():
                self._act(self.sessions.timer(name))
            for number, machine in list(self._machines.items()):
                if machine.process in ready.fds:
                    bye = Bye(number, "the machine's process ended")
                    self._act(self.sessions.receive(machine.peer, bye))
            for result in self.pool.collect():
                self._finished(result)
            if not self._stopping:
                self._serve_kept()
                self._feed()
            self._count()
            self._tidy()

    def close(self) -> None:
        """Say goodbye to all machines, end the workers, give everything back."""
        self._act(self.sessions.close(self._stopping or "the translator ends"))
        self._count()
        counts = {name: value for name, value in self.sessions.counters() if value}
        log.info("work_summed", **counts, **rates(counts))
        self.pool.close()
        self._tidy()
        if self._spare is not None:
            self._spare.close()
        self.server.close()
        self.store.close()
        if self.kept is not None:
            self.kept.close()
        os.close(self._wake)

    # --- segments ------------------------------------------------------------------------------

    def _new_space(self) -> CodeSpace:
        """An empty code segment. Raises OSError."""
        space, self._spare = self._spare, None
        return space if space is not None else CodeSpace(self.options.code_space)

    def _tidy(self) -> None:
        """While nobody waits: close what was put away, have a segment ready for a retirement."""
        for space in self._put_away:
            space.close()
        self._put_away.clear()
        if self._machines and self._spare is None:
            with contextlib.suppress(OSError):  # who needs one will be told
                self._spare = CodeSpace(self.options.code_space)

    # --- the loop's parts ----------------------------------------------------------------------

    def _drained(self) -> bool:
        if not self._stopping:
            return False
        return not self._running or time.monotonic() >= self._stop_at

    def _timeout(self) -> float:
        """Seconds until something is due."""
        if self._fresh and not self._stopping:
            return 0.0
        limit = self._timers.wait(MAX_WAIT)
        due = self.pool.deadline()
        now = time.monotonic()
        if due is not None:
            limit = min(limit, due - now)
        if self._stopping:
            limit = min(limit, self._stop_at - now)
        return max(0.0, limit)

    def _watch(self) -> None:
        """Have the poll look at the workers and machines that there are now."""
        wanted = set(self.pool.filenos())
        wanted.update(machine.process for machine in self._machines.values())
        for fd in self._watched - wanted:
            self.server.unwatch(fd)
        for fd in wanted - self._watched:
            self.server.watch(fd)
        self._watched = wanted

    def _hear(self, peer: bytes, message: Message) -> None:
        machine = self._machines.get(message.session)
        if isinstance(message, Attach):
            self._peers[message.session] = peer
        elif isinstance(message, Translate) and machine is not None and machine.peer == peer:
            machine.arrived[message.id] = time.monotonic()
            if self.kept is not None:
                self._fresh.append((message.session, message.id))
        self._act(self.sessions.receive(peer, message))

    def _feed(self) -> None:
        """Give jobs to idle workers: read their bytes now."""
        while self.pool.idle:
            job = self.sessions.take()
            if job is None:
                return
            machine = self._machines[job.session]
            asked = job.request
            now = time.monotonic()
            waited = now - machine.arrived.pop(asked.id, now)
            try:
                content = machine.view.read_page(asked.stamp)
            except Unreadable as error:
                self._act(self.sessions.rejected(job, error.reason, error.text))
                continue
            running = _Running(job, content, min(_U32, int(waited * 1e6)))
            # Meanwhile it may have been made for another machine.
            kept = self.kept.find(running.pure, disk=False) if self.kept is not None else None
            if kept is not None:
                self._act(self._answer(running, kept.region, fresh=False))
                continue
            ticket = next(self._tickets)
            self._running[ticket] = running
            self.pool.start()
            self.pool.submit(ticket, running.pure)

    def _serve_kept(self) -> None:
        """Answer what the content store can answer; nobody waits for a worker by this."""
        for _ in range(min(LOOKUPS, len(self._fresh))):
            session, id = self._fresh.popleft()
            job = self.sessions.waiting(session, id)
            machine = self._machines.get(session)
            if job is None or machine is None or self.kept is None:
                continue  # cancelled or retired meanwhile, or with a worker already
            try:
                content = machine.view.read_page(job.request.stamp)
            except Unreadable:
                continue  # refused when its turn comes
            waited = time.monotonic() - machine.arrived.get(id, 0.0)
            running = _Running(job, content, min(_U32, int(waited * 1e6)))
            kept = self.kept.find(running.pure)
            if kept is None:
                continue
            self.sessions.take_one(job)
            machine.arrived.pop(id, None)
            self._act(self._answer(running, kept.region, fresh=False))

    def _count(self) -> None:
        self.sessions.extra.update(
            workers=self.pool.count,
            workers_started=self.pool.started,
            workers_died=self.pool.died,
            **(self.kept.counters() if self.kept is not None else {}),
        )

    # --- results -------------------------------------------------------------------------------

    def _finished(self, result: Result) -> None:
        running = self._running.pop(result.ticket, None)
        if isinstance(running, _Build):
            self._engine_built(running, result.outcome)
        elif running is not None:
            self._act(self._answer(running, result.outcome))

    def _answer(
        self, running: _Running, outcome: work.Outcome, *, fresh: bool = True
    ) -> list[TranslatorAction]:
        """What the sessions say to a job's outcome; code is placed here, and only here.

        `fresh`: a worker made it, so it may be kept.
        """
        job, sessions = running.job, self.sessions
        if isinstance(outcome, work.Crash):
            log.warning("job_crashed", session=job.session, id=job.request.id, text=outcome.text)
            return sessions.crashed(job)
        if isinstance(outcome, work.Refusal):
            return sessions.rejected(job, outcome.reason, outcome.text[:1000])
        if not sessions.is_live(job) or not isinstance(outcome, work.Region):
            return sessions.rejected(job, "compiler_failed", "the worker answered something else")
        machine, asked = self._machines[job.session], job.request
        began = time.perf_counter_ns()
        if self.kept is not None and fresh:
            self.kept.keep(running.pure, outcome)
        try:
            stamp = machine.view.confirm(asked.stamp)
            region = _describe(running, outcome, machine.code.used)
            _check(asked, region)
            offset = machine.code.publish(outcome.code, stamp.page, stamp.page_generation)
            region = _placed(region, offset, (time.perf_counter_ns() - began) // 1000)
        except Unreadable as error:
            return sessions.rejected(job, error.reason, error.text)
        except CodeSpaceFull as error:
            return sessions.rejected(job, "code_space_full", str(error))
        except (ValueError, TypeError, CodecError) as error:
            log.error("translation_inconsistent", page=asked.page, reason=str(error))
            return sessions.rejected(job, "compiler_failed", f"inconsistent: {error}"[:1000])
        log.info(
            "block_translated",
            session=job.session,
            id=asked.id,
            page=asked.page,
            epoch=asked.epoch,
            instructions=outcome.instructions,
            bytes=len(outcome.code),
            ms=sum(outcome.times[:-1]) / 1000,
            microseconds=region.timings._asdict(),
        )
        return sessions.translated(job, region, stamp)

    def _engine_built(self, build: _Build, outcome: work.Outcome) -> None:
        if isinstance(outcome, work.Crash) and build.attempts < ENGINE_ATTEMPTS:
            self._build(_Build(build.key, build.attempts + 1))
            return
        try:
            path = keep_engine(self.store, build.key, outcome)
        except EngineImageError as error:
            log.error("engine_failed", key=build.key, reason=str(error))
            self._act(self.sessions.engine_failed(build.key, str(error)[:1000]))
            return
        self._act(self.sessions.engine_ready(build.key, path))

    def _build(self, build: _Build) -> None:
        ticket = next(self._tickets)
        self._running[ticket] = build
        self.pool.start()
        self.pool.submit(ticket, work.EngineJob())

    # --- actions -------------------------------------------------------------------------------

    def _act(self, actions: list[TranslatorAction]) -> None:
        """Carry out what the sessions decided, in order."""
        for action in actions:
            match action:
                case Reply(peer, message):
                    if isinstance(message, Rejected):
                        log.info(
                            "request_rejected",
                            session=message.session,
                            id=message.id,
                            reason=message.reason,
                        )
                    if not self.server.send(peer, message):
                        self._act(self.sessions.peer_lost(peer))
                case MapMachine():
                    self._map(action)
                case Abandon(job):
                    self._abandon(job)
                case ForgetOlder(session, epoch, _):
                    self._forget_older(session, epoch)
                case ForgetSession(session, reason):
                    self._forget_session(session, reason)
                case BuildEngine(key):
                    self._find_engine(key)
                case PrepareBackend(session, backend):  # workers load it with its first job
                    self._act(self.sessions.backend_ready(session, backend))
                case Discard(job):
                    log.debug("result_discarded", session=job.session, id=job.request.id)
                case SetTimer(name, seconds):
                    self._timers.set(name, seconds)
                case CancelTimer(name):
                    self._timers.cancel(name)
                case Dropped(tag, id, reason):
                    log.debug("message_dropped", tag=tag, id=id, reason=reason)

    def _map(self, action: MapMachine) -> None:
        session, attach = action.session, action.attach
        peer = self._peers.pop(session)
        try:
            process = os.pidfd_open(attach.pid)
            try:
                view = MachineView(attach)
                try:
                    code = CodeSpace(self.options.code_space)
                except BaseException:
                    view.close()
                    raise
            except BaseException:
                os.close(process)
                raise
        except (OSError, ValueError) as error:
            log.warning("attach_failed", session=session, reason=str(error))
            self._act(self.sessions.attach_failed(session, str(error)[:1000]))
            return
        self._machines[session] = _Machine(peer, view, code, process)
        log.info("machine_attached", session=session, pid=attach.pid, pages=view.page_count)
        self._act(self.sessions.attached(session, attach.epoch, _segment(code)))

    def _forget_older(self, session: int, epoch: int) -> None:
        machine = self._machines[session]
        old = machine.code
        try:
            machine.code = self._new_space()
        except OSError as error:
            self._act(self.sessions.retire_failed(session, str(error)))
            return
        images, used = old.images, old.used
        self._put_away.append(old)
        machine.arrived.clear()
        alive = sum(
            isinstance(one, _Running)
            and one.job.session == session
            and one.job.request.epoch != epoch
            for one in self._running.values()
        )
        log.info("epoch_retired", session=session, epoch=epoch, modules=images, bytes=used)
        segment = _segment(machine.code)
        self._act(self.sessions.retired(session, epoch, images, used, alive, segment))

    def _abandon(self, job: Job) -> None:
        for ticket, running in list(self._running.items()):
            if isinstance(running, _Running) and running.job is job:
                del self._running[ticket]
                self.pool.abandon(ticket)

    def _forget_session(self, session: int, reason: str) -> None:
        self._peers.pop(session, None)
        machine = self._machines.pop(session, None)
        if machine is None:
            return
        self.server.unwatch(machine.process)
        self._watched.discard(machine.process)
        machine.close()
        log.info("session_ended", session=session, reason=reason)

    def _find_engine(self, key: str) -> None:
        ours = current_engine_key()
        if key != ours:
            text = (
                f"the machine asks for engine {key}, this translator makes {ours}:"
                " run both from the same installation, on the same host"
            )
            self._act(self.sessions.engine_failed(key, text))
            return
        image = self.store.find(key)
        if image is not None:
            self._act(self.sessions.engine_ready(key, image.path))
        else:
            self._build(_Build(key))


def keep_engine(
    store: EngineStore, key: str, outcome: work.Outcome, *, lasting: bool = False
) -> str:
    """Store what a worker built; its path. Raises EngineImageError if it built nothing."""
    if not isinstance(outcome, work.EngineBuilt):
        text = outcome.text if isinstance(outcome, work.Refusal | work.Crash) else "no engine"
        raise EngineImageError(f"the engine cannot be built: {text}")
    image = store.keep(key, outcome.code, outcome.symbols, lasting=lasting)
    log.info("engine_built", key=key, path=image.path, bytes=image.code_size)
    return image.path


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """What a service's counts say of its speed: regions a second of a worker's time, and
    microseconds of it, and of its processor's, that one guest instruction took.
    """
    instructions = counts.get("instructions", 0) - counts.get("store_instructions", 0)
    translated = counts.get("translated", 0) - counts.get("store_hits", 0)
    worked = sum(counts.get(f"{phase}_us", 0) for phase in work.Times._fields if phase != "cpu")
    if instructions <= 0 or not worked:
        return {}
    return {
        "regions_a_second": round(translated / worked * 1e6, 1),
        "us_an_instruction": round(worked / instructions, 1),
        "cpu_us_an_instruction": round(counts.get("cpu_us", 0) / instructions, 1),
    }


def _segment(code: CodeSpace) -> Segment:
    return Segment(code.path, code.size)


def _describe(running: _Running, outcome: work.Region, offset: int) -> Region:
    """The region as TRANSLATED tells of it, its code standing at `offset` of the segment."""
    spans = tuple(Span(*span) for span in outcome.spans)
    *phases, cpu = (min(_U32, microseconds) for microseconds in outcome.times)
    return Region(
        identity=identity_of(running.content, spans),
        code_offset=offset,
        code_size=len(outcome.code),
        entries=tuple(Entry(slot, offset + place) for slot, place in outcome.entries),
        lines=outcome.lines,
        spans=spans,
        instructions=outcome.instructions,
        timings=Timings._make((running.queue_us, *phases, 0, cpu)),
    )


def _placed(region: Region, offset: int, publish_us: int) -> Region:
    """The same with its code at `offset`, which took so long."""
    moved = offset - region.code_offset
    return replace(
        region,
        code_offset=offset,
        entries=tuple(Entry(slot, place + moved) for slot, place in region.entries),
        timings=region.timings._replace(publish=min(_U32, publish_us)),
    )


def _check(asked: Translate, region: Region) -> None:
    """Raise CodecError if the answer would break the protocol: before its code is placed."""
    encode(answer(asked, region, asked.stamp))
