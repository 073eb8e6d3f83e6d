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
- A request that the content store can answer, or that was refused before, waits for no worker: both
  are asked as soon as a request comes, `LOOKUPS` in a turn of the loop, machines in turn. Workers
  start with the first one they cannot answer.
- A worker's time is charged to the machine it worked for (`protocol/shares.py`).
- A retirement is answered after the old segment is put away, where nothing can be placed in it any
  more, and no running job of an older epoch is left in `_running`; `live_older` counts them by
  looking. Harts run in tier 0 until then: the new segment was made before, the old one is closed
  after (`Served.tidy`).
- Every region passes by the quarantine before it is kept or placed, one out of the store, too.
- What a worker says is checked as what a machine says is; a wrong answer is a refusal, not an end.

Read next: `protocol/session_translator.py` (who may ask, and whose turn it is), `served.py` (what
is held for each machine), `outcomes.py` (what is made of a worker's word), `pool.py`,
`content_store.py`.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterable
from itertools import count

from jit_proc import backends, content_store
from jit_proc import job as work
from jit_proc.agent import Workplaces
from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.code_space import CodeSpaceFull
from jit_proc.machine_view import Unreadable
from jit_proc.outcomes import (
    U32,
    Build,
    Running,
    check,
    current_engine_key,
    describe,
    keep_engine,
    placed,
    rates,
)
from jit_proc.pool import Result
from jit_proc.quarantine import QUARANTINED, Doubts
from jit_proc.served import Served, ServedMachine, segment
from jit_proc.service_options import Options, make_pool
from jit_proc.store import EngineStore
from protocol.backends import is_pair
from protocol.codec import CodecError
from protocol.engine_image import EngineImageError
from protocol.errors import UserError
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.messages import Attach, Bye, Message, Rejected, Translate
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
from protocol.session_translator import Service as Description
from protocol.session_translator import TranslatorSessions
from protocol.transport import MAX_WAIT, Server, Timers
from protocol.waiting import Bell

HOSTS = ("x86_64",)  # what `link.py` knows
DRAIN_LIMIT = 2.0  # seconds that jobs under way are given when the service is told to end
ENGINE_ATTEMPTS = 2
ENDPOINT_CHECK = 1.0  # seconds between two looks whether the socket is there
LOOKUPS = 8  # in the content store, before messages are looked at again
NOT_KEPT = work.Refusal("not_kept", "")

log = get_logger("translator")


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
            max_sessions=options.machines,
            max_queue=options.queue,
        )
        self.sessions = TranslatorSessions(description)
        self.store = EngineStore(options.cache)
        # Of another lifter nothing is known that could stand in a key.
        mode = options.store if options.lifter == DEFAULT_LIFTER else "off"
        self.kept = content_store.made(self.store.folder, mode, options.store_size)
        self.doubts = Doubts(self.store.folder, self.kept)
        self.pool = Workplaces(make_pool(options), self.server)
        self._timers = Timers()
        self._machines = Served(options.code_space)
        self._peers: dict[int, bytes] = {}  # of sessions that are being attached
        self._running: dict[int, Running | Build] = {}
        self._tickets = count(1)
        self._refused_again = 0
        self._watched: set[int] = set()
        self.bell = Bell()
        self._stopping = ""
        self._stop_at = 0.0
        self.server.watch(self.bell.fileno())
        if self.kept is None or not self.kept.is_warm():
            self.pool.start()
        self._timers.set("endpoint", ENDPOINT_CHECK)
        self._act(self.sessions.start())

    def stop(self, reason: str) -> None:
        """End: finish what is under way, at most `DRAIN_LIMIT` seconds; told twice, at once.

        Safe in a signal handler.
        """
        now = time.monotonic()
        self._stop_at = now if self._stopping else now + DRAIN_LIMIT
        self._stopping = reason
        self.server.announce_end()
        self.bell.ring()

    def run(self) -> None:
        """Serve until told to stop; machines are told goodbye."""
        while not self._drained():
            self._watch()
            ready = self.server.poll(self._timeout())
            if self.bell.fileno() in ready.fds:
                self.bell.quiet()
            if ready.messages:
                for peer, message in self.server.receive():
                    self._hear(peer, message)
            for name in self._timers.due():
                if name == "endpoint":
                    self._guard_endpoint()
                else:
                    self._act(self.sessions.timer(name))
            for number, machine in self._machines:
                if machine.process in ready.fds:
                    bye = Bye(number, "the machine's process ended")
                    self._act(self.sessions.receive(machine.peer, bye))
            for result in self.pool.collect():
                self._finished(result)
            for backend in self.pool.distrusted():
                self._part(self.sessions.using(backend), "its code is of a host not trusted")
            if not self._stopping:
                self._serve_known()
                self._feed()
            self._count()
            self._machines.tidy()

    def close(self) -> None:
        """Say goodbye to all machines, end the workers, give everything back."""
        self._act(self.sessions.close(self._stopping or "the translator ends"))
        self._count()
        counts = {name: value for name, value in self.sessions.counters() if value}
        log.info("work_summed", **counts, **rates(counts))
        self.pool.close()
        self._machines.close()
        self.server.close()
        self.store.close()
        if self.kept is not None:
            self.kept.close()
        self.bell.close()

    # --- the loop's parts ----------------------------------------------------------------------

    def _drained(self) -> bool:
        if not self._stopping:
            return False
        return not self._running or time.monotonic() >= self._stop_at

    def _timeout(self) -> float:
        """Seconds until something is due."""
        if not self._stopping and any(machine.fresh for _, machine in self._machines):
            return 0.0
        limit = self._timers.wait(MAX_WAIT)
        due = self.pool.deadline()
        now = time.monotonic()
        if due is not None:
            limit = min(limit, due - now)
        if self._stopping:
            limit = min(limit, self._stop_at - now)
        return max(0.0, limit)

    def _guard_endpoint(self) -> None:
        """Whoever tidied the runtime folder up: machines that come later shall find us."""
        self._timers.set("endpoint", ENDPOINT_CHECK)
        try:
            if self.server.restore():
                log.warning("endpoint_restored", endpoint=self.server.endpoint)
        except UserError as error:
            log.error("endpoint_lost", reason=error.text)

    def _watch(self) -> None:
        """Have the poll look at the workers and machines that there are now."""
        wanted = set(self.pool.filenos())
        wanted.update(machine.process for _, machine in self._machines)
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
            machine.fresh.append(message.id)
        self._act(self.sessions.receive(peer, message))

    def _feed(self) -> None:
        """Give jobs to idle workers: read their bytes now."""
        while (job := self.sessions.take(self.pool.has_room)) is not None:
            machine = self._machines[job.session]
            asked = job.request
            now = time.monotonic()
            waited = now - machine.arrived.pop(asked.id, now)
            try:
                content = machine.view.read_page(asked.stamp)
            except Unreadable as error:
                self.sessions.charge(job, 0)
                self._act(self.sessions.rejected(job, error.reason, error.text))
                continue
            if self.doubts.quarantine.holds_entries(job.backend, content, asked.entries):
                self.sessions.charge(job, 0)
                self._act(self.sessions.rejected(job, "unsupported", QUARANTINED))
                continue
            hints = machine.view.registers() if is_pair(job.backend) else ()
            running = Running(job, content, min(U32, int(waited * 1e6)), now, hints)
            # Meanwhile it may have been made for another machine.
            known = self._known(machine, running, disk=False)
            if known is not None:
                self.sessions.charge(job, 0)
                self._act(self._answer(running, known, fresh=False))
                continue
            ticket = next(self._tickets)
            self._running[ticket] = running
            self.pool.submit(ticket, running.pure)

    def _serve_known(self) -> None:
        """Answer what is known already; nobody waits for a worker by this."""
        for session, id in self._machines.take_fresh(LOOKUPS):
            job = self.sessions.waiting(session, id)
            machine = self._machines.get(session)
            if job is None or machine is None:
                continue  # cancelled or retired meanwhile, or with a worker already
            if self.kept is None and not machine.refusals and job.request.heat:
                continue
            try:
                content = machine.view.read_page(job.request.stamp)
            except Unreadable:
                continue  # refused when its turn comes
            now = time.monotonic()
            waited = now - machine.arrived.get(id, 0.0)
            running = Running(job, content, min(U32, int(waited * 1e6)), now)
            known = self._known(machine, running, disk=True)
            if known is None:
                continue
            self.sessions.take_one(job)
            machine.arrived.pop(id, None)
            self._act(self._answer(running, known, fresh=False))

    def _known(
        self, machine: ServedMachine, running: Running, *, disk: bool
    ) -> work.Outcome | None:
        """What became of an equal job before: its region, or why there is none. Nothing else is
        wanted with heat 0.
        """
        probe = running.job.request.heat == 0
        refusal = machine.refusals.find(running.pure)
        if refusal is not None:
            self._refused_again += 1
            return refusal
        found = None
        if self.kept is not None:
            found = self.kept.find(running.pure, disk=disk or probe)
        if found is None:
            return NOT_KEPT if probe else None
        return found.region

    def _count(self) -> None:
        self.sessions.extra.update(
            workers=self.pool.count,
            workers_started=self.pool.started,
            workers_died=self.pool.died,
            **self.doubts.counters(),
            **self.pool.counters(),
            refused_again=self._refused_again,
            **(self.kept.counters() if self.kept is not None else {}),
        )

    # --- results -------------------------------------------------------------------------------

    def _finished(self, result: Result) -> None:
        running = self._running.pop(result.ticket, None)
        if isinstance(running, Build):
            self._engine_built(running, result.outcome)
        elif running is not None:
            self.sessions.charge(running.job, running.lasted)
            self._act(self._answer(running, result.outcome))

    def _answer(
        self, running: Running, outcome: work.Outcome, *, fresh: bool = True
    ) -> list[TranslatorAction]:
        """What the sessions say to a job's outcome; code is placed here, and only here.

        `fresh`: a worker made it, so it may be kept.
        """
        job, sessions = running.job, self.sessions
        if isinstance(outcome, work.Crash):
            log.warning("job_crashed", session=job.session, id=job.request.id, text=outcome.text)
            return self._learn(running, sessions.crashed(job))
        if isinstance(outcome, work.Refusal):
            actions = sessions.rejected(job, outcome.reason, outcome.text[:1000])
            return self._learn(running, actions) if fresh else actions
        if isinstance(outcome, work.Difference):
            return self._differ(running, outcome)
        if not sessions.is_live(job) or not isinstance(outcome, work.Region):
            return sessions.rejected(job, "compiler_failed", "the worker answered something else")
        self.doubts.compared += outcome.compared
        self.doubts.alone += outcome.alone
        if self.doubts.quarantine.holds(job.backend, running.content, outcome.spans):
            return sessions.rejected(job, "unsupported", QUARANTINED)
        machine, asked = self._machines[job.session], job.request
        began = time.perf_counter_ns()
        if self.kept is not None and fresh:
            self.kept.keep(running.pure, outcome)
        try:
            stamp = machine.view.confirm(asked.stamp)
            region = describe(running, outcome, machine.code.used)
            check(asked, region)
            offset = machine.code.publish(outcome.code, stamp.page, stamp.page_generation)
            region = placed(region, offset, (time.perf_counter_ns() - began) // 1000)
        except Unreadable as error:
            return sessions.rejected(job, error.reason, error.text)
        except CodeSpaceFull as error:
            return sessions.rejected(job, "code_space_full", str(error))
        except (ValueError, TypeError, CodecError) as error:
            log.error("translation_inconsistent", page=asked.page, reason=str(error))
            return sessions.rejected(job, "compiler_failed", f"inconsistent: {error}"[:1000])
        if not outcome.compared:
            self.doubts.unproven.placed(job.session, job.backend, running.content, outcome.spans)
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

    def _differ(self, running: Running, found: work.Difference) -> list[TranslatorAction]:
        self._act(self.sessions.rejected(running.job, "unsupported", found.text[:1000]))
        having = self.doubts.differ(running.job, running.content, found)
        self._part(having, "two backends differ about code it has")
        return []

    def _part(self, sessions: Iterable[int], why: str) -> None:
        """End sessions whose code is not to be run any more: a new one is another epoch's."""
        for session in sessions:
            if (machine := self._machines.get(session)) is not None:
                bye = Bye(session, why)
                self.server.send(machine.peer, bye)
                self._act(self.sessions.receive(machine.peer, bye))

    def _learn(self, running: Running, actions: list[TranslatorAction]) -> list[TranslatorAction]:
        machine = self._machines.get(running.job.session)
        return actions if machine is None else machine.refusals.learn(running.pure, actions)

    def _engine_built(self, build: Build, outcome: work.Outcome) -> None:
        if isinstance(outcome, work.Crash) and build.attempts < ENGINE_ATTEMPTS:
            self._build(Build(build.key, build.attempts + 1))
            return
        try:
            path = keep_engine(self.store, build.key, outcome)
        except EngineImageError as error:
            log.error("engine_failed", key=build.key, reason=str(error))
            self._act(self.sessions.engine_failed(build.key, str(error)[:1000]))
            return
        self._act(self.sessions.engine_ready(build.key, path))

    def _build(self, build: Build) -> None:
        ticket = next(self._tickets)
        self._running[ticket] = build
        self.pool.submit(ticket, work.EngineJob())

    # --- actions -------------------------------------------------------------------------------

    def _act(self, actions: list[TranslatorAction]) -> None:
        """Carry out what the sessions decided, in order."""
        for action in actions:
            match action:
                case Reply(peer, message):
                    if isinstance(message, Rejected):
                        asked = {"session": message.session, "id": message.id}
                        log.info("request_rejected", **asked, reason=message.reason)
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
            machine = self._machines.attach(session, peer, attach)
        except (OSError, ValueError) as error:
            log.warning("attach_failed", session=session, reason=str(error))
            self._act(self.sessions.attach_failed(session, str(error)[:1000]))
            return
        pages = machine.view.page_count
        log.info("machine_attached", session=session, pid=attach.pid, pages=pages)
        self._act(self.sessions.attached(session, attach.epoch, segment(machine.code)))

    def _forget_older(self, session: int, epoch: int) -> None:
        try:
            images, used = self._machines.renew(session)
        except OSError as error:
            self._act(self.sessions.retire_failed(session, str(error)))
            return
        self.doubts.unproven.forget(session)
        alive = sum(
            isinstance(one, Running)
            and one.job.session == session
            and one.job.request.epoch != epoch
            for one in self._running.values()
        )
        log.info("epoch_retired", session=session, epoch=epoch, modules=images, bytes=used)
        code = segment(self._machines[session].code)
        self._act(self.sessions.retired(session, epoch, images, used, alive, code))

    def _abandon(self, job: Job) -> None:
        for ticket, running in list(self._running.items()):
            if isinstance(running, Running) and running.job is job:
                del self._running[ticket]
                self.sessions.charge(job, running.lasted)
                self.pool.abandon(ticket)

    def _forget_session(self, session: int, reason: str) -> None:
        self._peers.pop(session, None)
        machine = self._machines.get(session)
        if machine is None:
            return
        self.server.unwatch(machine.process)
        self._watched.discard(machine.process)
        self._machines.forget(session)
        self.doubts.unproven.forget(session)
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
            self._build(Build(key))
