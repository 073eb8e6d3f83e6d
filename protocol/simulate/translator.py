"""A simulated translator: broker and workers around the real sessions.

It mirrors `jit_proc/service.py`: one loop that hears messages, takes in what workers finished, and
gives jobs to idle workers, reading their bytes at that moment. A crash loses everything but what is
on its way; a new incarnation begins with nothing.

What is checked: when RETIRED is sent, nothing older is queued, running, with a worker, or in the
new code segment; jobs of an epoch have its backend.

Read next: `machine.py`; `jit_proc/service.py`, of which `_act`, `_feed` and `_answer` are mirrors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from protocol.generations import Now, identity_of, lines_of
from protocol.messages import Attach, Entry, Message, Retired, Segment, Span, Timings
from protocol.placement import CodeSpaceFull
from protocol.reading import Reader, Unreadable
from protocol.session import (
    Abandon,
    BuildEngine,
    CancelTimer,
    ForgetOlder,
    ForgetSession,
    Job,
    MapMachine,
    PrepareBackend,
    Reply,
    SetTimer,
    TranslatorAction,
)
from protocol.session_terms import Region, Service
from protocol.session_translator import TranslatorSessions
from protocol.simulate.image import ILLEGAL, PAGE_BYTES, SIZE, CodeSegment, Image, content_of
from protocol.simulate.network import Timers, Violation

if TYPE_CHECKING:
    from protocol.simulate.machine import Machine
    from protocol.simulate.world import World

_SPANS = (Span(0, PAGE_BYTES),)
_LINES = lines_of(_SPANS)
_TIMINGS = Timings(1, 2, 3, 4, 5, 6, 7, 8, 9)


@dataclass
class Held:
    """What is held for one session."""

    peer: bytes
    machine: Machine
    reader: Reader
    code: CodeSegment


@dataclass
class Running:
    """A job with a worker, and the bytes its answer will name. `outcome`: None while it works."""

    job: Job
    content: bytes
    outcome: str | None = None


class Translator:
    """One incarnation."""

    def __init__(self, world: World, incarnation: int) -> None:
        self.world = world
        self.pid = 1000 + incarnation
        self.sessions = TranslatorSessions(
            Service(incarnation, self.pid, "layout", "isa", ("x86_64",), world.backends)
        )
        self.inbox: deque[tuple[bytes, Message]] = deque()
        self.timers = Timers()
        self.stalled = 0.0  # until then
        self._held: dict[int, Held] = {}
        self._peers: dict[int, bytes] = {}
        self.running: dict[int, Running] = {}  # by ticket, in the order of their start
        self._tickets = count(1)
        self._descriptors = count(10)
        self.act(self.sessions.start())

    def say(self, text: str) -> None:
        self.world.say(f"translator {self.pid}: {text}")

    # --- the broker's loop -----------------------------------------------------------------------

    def serve(self, arg: int) -> bool:
        """One round; whether there was anything to do. `arg`: what happens while bytes are read."""
        if self.world.now < self.stalled:
            return False
        busy = bool(self.inbox)
        while self.inbox:
            peer, message = self.inbox.popleft()
            if isinstance(message, Attach):
                self._peers[message.session] = peer
            self.act(self.sessions.receive(peer, message))
        for name in self.timers.due(self.world.now):
            busy = True
            self.act(self.sessions.timer(name))
        done = [ticket for ticket, one in self.running.items() if one.outcome is not None]
        for ticket in done:
            running = self.running.pop(ticket, None)
            if running is not None:  # else an answer before it had it abandoned
                busy = True
                self.act(self._answer(running))
        return self._feed(arg) or busy

    def _feed(self, arg: int) -> bool:
        """Give jobs to idle workers: read their bytes now."""
        busy = False
        while len(self.running) < self.world.shape.workers:
            job = self.sessions.take()
            if job is None:
                return busy
            busy = True
            held = self._held[job.session]
            if held.machine.session.session == job.session and job.request.epoch != held.code.epoch:
                raise Violation("job_of_old_epoch", f"page {job.request.page} was given out")
            self.world.meanwhile = arg
            try:
                content = held.reader.read(job.request.stamp)
            except Unreadable as error:
                self.act(self.sessions.rejected(job, error.reason, error.text))
                continue
            self.running[next(self._tickets)] = Running(job, content)
            if self.world.telling:
                self.say(f"reads page {job.request.page}: {content[0]}; a worker begins")
        return busy

    def work(self, arg: int) -> bool:
        """A worker ends, well or not."""
        busy = [one for one in self.running.values() if one.outcome is None]
        if not busy:
            return False
        running = busy[arg % len(busy)]
        running.outcome = "crash" if arg >> 8 & 31 == 0 else "done"
        if self.world.telling:
            self.say(f"a worker is {running.outcome} with page {running.job.request.page}")
        return True

    def _answer(self, running: Running) -> list[TranslatorAction]:
        job, sessions = running.job, self.sessions
        if running.outcome == "crash":
            return sessions.crashed(job)
        if running.content == content_of(ILLEGAL):
            return sessions.rejected(job, "not_code")
        if not sessions.is_live(job):
            return sessions.rejected(job, "compiler_failed")
        held, asked = self._held[job.session], job.request
        image = Image(asked.page, running.content, self.world.backends.index(job.backend))
        try:
            stamp = held.reader.confirm(asked.stamp)
            offset = held.code.publish(image.encode())
        except Unreadable as error:
            return sessions.rejected(job, error.reason, error.text)
        except CodeSpaceFull as error:
            return sessions.rejected(job, "code_space_full", str(error))
        region = Region(
            identity=identity_of(running.content, _SPANS),
            code_offset=offset,
            code_size=SIZE,
            entries=tuple(Entry(slot, offset + 4 * slot) for slot in asked.entries),
            lines=_LINES,
            spans=_SPANS,
            instructions=len(asked.entries),
            timings=_TIMINGS,
        )
        return sessions.translated(job, region, stamp)

    # --- actions ---------------------------------------------------------------------------------

    def act(self, actions: list[TranslatorAction]) -> None:
        """Carry out what the sessions decided."""
        for action in actions:
            match action:
                case Reply(peer, message):
                    self._reply(peer, message)
                case MapMachine(session, attach):
                    self._map(session, attach)
                case Abandon(job):
                    for ticket, running in list(self.running.items()):
                        if running.job is job:
                            del self.running[ticket]
                case ForgetOlder(session, epoch):
                    self._forget_older(session, epoch)
                case ForgetSession(session):
                    self._peers.pop(session, None)
                    held = self._held.pop(session, None)
                    if held is not None:
                        held.code.closed = True
                case BuildEngine(key):
                    self.act(self.sessions.engine_ready(key, f"/cache/{key}"))
                case PrepareBackend(session, backend):
                    self.act(self.sessions.backend_ready(session, backend))
                case SetTimer(name, seconds):
                    self.timers.set(name, self.world.now + seconds)
                case CancelTimer(name):
                    self.timers.cancel(name)
                case _:
                    pass  # Discard and Dropped are for logs

    def _reply(self, peer: bytes, message: Message) -> None:
        if isinstance(message, Retired):
            self._check_retired(message)
        if self.world.telling:
            self.say(f"answers {type(message).__name__} to {peer.decode()}")
        connection = self.world.connections.get(peer)
        if connection is None or not connection.send_down(message):
            self.act(self.sessions.peer_lost(peer))

    def _check_retired(self, message: Retired) -> None:
        """Nothing older is alive: found by looking, not by asking the sessions."""
        session, epoch = message.session, message.epoch
        held = self._held[session]
        if message.code != held.code.segment or held.code.closed or held.code.epoch != epoch:
            raise Violation("older_alive", f"RETIRED of epoch {epoch} names another segment")
        for running in self.running.values():
            asked = running.job.request
            if running.job.session == session and asked.epoch != epoch:
                raise Violation("older_alive", f"page {asked.page} of epoch {asked.epoch} runs")
        if self.sessions.live_older(session) or message.live_older:
            raise Violation("older_alive", f"jobs older than epoch {epoch} are queued")

    def _map(self, session: int, attach: Attach) -> None:
        machine = self.world.machine(attach.pid)
        code = self._new_segment(attach.epoch)

        def copy(page: int) -> bytes:
            content = machine.content[page]
            self.world.interleave(machine)
            return content

        def now(page: int) -> Now:
            return machine.now(page)

        held = Held(self._peers.pop(session), machine, Reader(now, copy), code)
        self._held[session] = held
        self.act(self.sessions.attached(session, attach.epoch, code.segment))

    def _new_segment(self, epoch: int) -> CodeSegment:
        room = self.world.shape.room
        segment = Segment(f"/proc/{self.pid}/fd/{next(self._descriptors)}", room * SIZE)
        return self.world.add_segment(CodeSegment(segment, epoch, room))

    def _forget_older(self, session: int, epoch: int) -> None:
        held = self._held[session]
        old = held.code
        held.code = self._new_segment(epoch)
        images, used = old.placement.images, old.placement.used
        old.closed = True
        self.world.drop_segment(old)
        alive = sum(
            one.job.session == session and one.job.request.epoch != epoch
            for one in self.running.values()
        )
        code = held.code.segment
        self.act(self.sessions.retired(session, epoch, images, used, alive, code))
