"""A machine and a translator in one process, between them a network that may do anything.

Both real state machines run here, driven by models of what surrounds them: counters and records on
the machine's side, code segments and workers on the translator's. Messages cross as bytes, by the
codec. Every action is checked when it is carried out; the tests choose what happens next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from protocol.codec import decode, encode
from protocol.generations import MASK, Now, Stamp, bump, is_current, lines_of
from protocol.messages import (
    Attached,
    Entry,
    Message,
    RetireCause,
    Retired,
    Segment,
    Span,
    Timings,
    Translated,
)
from protocol.session import (
    Abandon,
    AttachCode,
    BuildEngine,
    CancelTimer,
    CodeSpaceFull,
    Discard,
    DropCode,
    Dropped,
    EngineFailed,
    EngineLoaded,
    ForgetOlder,
    ForgetSession,
    Job,
    MachineAction,
    MapMachine,
    PrepareBackend,
    Publish,
    Reconnect,
    Reply,
    RequestFailed,
    RequestRefused,
    RetirementDone,
    Send,
    SetTimer,
    SwapFailed,
    SwapReady,
    TranslatorAction,
    TranslatorDead,
)
from protocol.session_machine import Deadlines, MachineSession, Offer
from protocol.session_translator import Region, Service, TranslatorSessions

PAGES = 3
OFFER = Offer(
    "layout",
    "isa",
    "x86_64",
    ("avx2",),
    100,
    Segment("/proc/100/fd/3", 0x1000000),
    0x80000000,
    Segment("/proc/100/fd/4", 4096),
)
DEADLINES = Deadlines(missed=3, request=4)


def identity(page: int, content: int) -> bytes:
    """What a region made from a page with this content says it was made from."""
    return hashlib.blake2b(f"{page} {content}".encode(), digest_size=16).digest()


@dataclass
class Timer:
    """An armed timer of one side."""

    at: float
    side: str
    name: str


@dataclass
class TranslatorModel:
    """What surrounds the translator's state machine, for one incarnation."""

    sessions: TranslatorSessions
    pid: int
    pending: list[TranslatorAction] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    live: dict[int, list[int]] = field(default_factory=dict)  # session: epochs of its modules
    segments: int = 10


class World:
    """Everything. `first_epoch` and the like let the counters wrap."""

    def __init__(self, first_epoch: int = 1, first_generation: int = 0) -> None:
        self.now = 0.0
        self.epoch = first_epoch & MASK
        self.map_generation = first_generation
        self.pages = [first_generation] * PAGES
        self.content = [0] * PAGES
        self.contents = 0
        self.machine = MachineSession(OFFER, self.epoch, DEADLINES, window=8)
        self.must_bump = False
        self.code: tuple[Segment, int] | None = None
        self.asked: set[tuple[int, int, int]] = set()  # page, state word, slot
        self.published: list[tuple[Translated, int]] = []  # with the content of its page
        self.retirements = 0
        self.swaps: list[str] = []
        self.engines: list[str] = []
        self.connection = 0
        self.sessions_drawn = 0
        self.timers: list[Timer] = []
        self.to_translator: list[tuple[int, bytes]] = []
        self.to_machine: list[tuple[int, bytes]] = []
        self.incarnations = 0
        self.translator: TranslatorModel | None = None
        self.start_translator()
        self.connect()

    # --- the network -----------------------------------------------------------------------------

    def deliver(self, towards: str, index: int, keep: bool = False) -> None:
        """Deliver one message of a queue; `keep`: it will come once more."""
        queue = self.to_translator if towards == "translator" else self.to_machine
        connection, data = queue[index] if keep else queue.pop(index)
        message = decode(data)
        if towards == "machine":
            self.do_machine(self.machine.receive(message))
        elif self.translator is not None:
            peer = b"peer%d" % connection
            self.do_translator(self.translator.sessions.receive(peer, message))

    # --- the machine's surroundings --------------------------------------------------------------

    def connect(self) -> None:
        self.connection += 1
        self.sessions_drawn += 1
        self.do_machine(self.machine.connect(self.sessions_drawn))

    def stamp(self, page: int, state_word: int) -> Stamp:
        generation = self.pages[page]
        return Stamp(self.epoch, self.map_generation, page, generation, state_word)

    def request(self, page: int, state_word: int, slots: list[int], heat: int = 1) -> None:
        """A hart found records hot."""
        assert self.machine.settled
        slots = [slot for slot in slots if (page, state_word, slot) not in self.asked] or slots
        for slot in slots:
            self.asked.add((page, state_word, slot))
        self.do_machine(self.machine.request(self.stamp(page, state_word), slots, heat))

    def write(self, page: int) -> None:
        """Something wrote to a tracked line."""
        self.contents += 1
        self.content[page] = self.contents
        self.pages[page], wrapped = bump(self.pages[page])
        self.published = [one for one in self.published if one[0].page != page]
        if wrapped:
            self.retire("counter_wrap")

    def remap(self) -> None:
        """A commit to the memory map."""
        self.map_generation, wrapped = bump(self.map_generation)
        if wrapped:
            self.retire("counter_wrap")

    def retire(self, cause: RetireCause) -> None:
        """Harts stand still, everything is dropped, the epoch moves."""
        self.epoch, _ = bump(self.epoch)
        self.published.clear()
        self.asked.clear()
        self.must_bump = False
        self.do_machine(self.machine.retire(self.epoch, cause))
        assert self.code is None

    def do_machine(self, actions: list[MachineAction]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self.to_translator.append((self.connection, encode(message)))
                case AttachCode(code, epoch):
                    assert epoch == self.epoch
                    assert self.code is None
                    self.code = code, epoch
                case DropCode():
                    assert self.code is not None
                    assert not self.published
                    self.code = None
                case Publish(message):
                    self.publish(message)
                case RequestRefused(message):
                    self.ended(message.page, message.state_word, message.entries)
                case RequestFailed(page, state_word, entries, _):
                    self.ended(page, state_word, entries)
                case CodeSpaceFull():
                    self.must_bump = True
                case RetirementDone(message):
                    assert message.live_older == 0
                    self.retirements += 1
                case TranslatorDead(_, epoch_needed):
                    self.must_bump = self.must_bump or epoch_needed
                case Reconnect():
                    self.connect()
                case EngineLoaded(key, _) | EngineFailed(key, _):
                    self.engines.append(key)
                case SwapReady(backend):
                    self.swaps.append(backend)
                    self.must_bump = True
                case SetTimer(name, seconds):
                    self.set_timer("machine", name, seconds)
                case CancelTimer(name):
                    self.cancel_timer("machine", name)
                case Dropped() | SwapFailed():
                    pass
                case _:
                    raise AssertionError(action)

    def ended(self, page: int, state_word: int, slots: tuple[int, ...]) -> None:
        """Slots got their answer: exactly one."""
        for slot in slots:
            assert (page, state_word, slot) in self.asked
            self.asked.discard((page, state_word, slot))

    def publish(self, message: Translated) -> None:
        """The check and the store, at a safe point."""
        assert message.epoch == self.epoch
        assert self.code is not None
        assert self.code[1] == self.epoch
        assert message.code_offset + message.code_size <= self.code[0].size
        self.ended(message.page, message.state_word, tuple(slot for slot, _ in message.entries))
        now = Now(self.epoch, self.map_generation, self.pages[message.page])
        if is_current(message.stamp, now):
            assert message.identity == identity(message.page, self.content[message.page])
            self.published.append((message, self.content[message.page]))

    # --- the translator's surroundings -----------------------------------------------------------

    def start_translator(self) -> None:
        self.incarnations += 1
        pid = 1000 + self.incarnations
        service = Service(
            self.incarnations, pid, "layout", "isa", ("x86_64",), ("llvm", "reference")
        )
        self.translator = TranslatorModel(TranslatorSessions(service), pid)
        self.do_translator(self.translator.sessions.start())

    def crash_translator(self) -> None:
        """It is gone, with all it knew; what it sent may still arrive."""
        self.translator = None
        self.timers = [timer for timer in self.timers if timer.side != "translator"]

    def do_translator(self, actions: list[TranslatorAction]) -> None:
        model = self.translator
        assert model is not None
        for action in actions:
            match action:
                case Reply(peer, message):
                    self.check_reply(model, message)
                    self.to_machine.append((int(peer[4:]), encode(message)))
                case SetTimer(name, seconds):
                    self.set_timer("translator", name, seconds)
                case CancelTimer(name):
                    self.cancel_timer("translator", name)
                case Abandon(job):
                    assert not model.sessions.is_live(job)
                    assert job in model.jobs
                case ForgetSession(session, _):
                    model.live.pop(session, None)
                case Dropped() | Discard():
                    pass
                case _:
                    model.pending.append(action)

    def check_reply(self, model: TranslatorModel, message: Message) -> None:
        if isinstance(message, Retired):
            assert message.live_older == 0
            assert model.live[message.session] == []
        if isinstance(message, Attached):
            assert not model.live.get(message.session)

    def serve(self, index: int) -> None:
        """The service carries out something it was asked for."""
        model = self.translator
        assert model is not None
        action = model.pending.pop(index)
        sessions = model.sessions
        match action:
            case MapMachine(session, attach):
                model.live[session] = []
                code = self.new_segment(model)
                self.do_translator(sessions.attached(session, attach.epoch, code))
            case ForgetOlder(session, epoch, _):
                freed = len(model.live.get(session, []))
                model.live[session] = []
                code = self.new_segment(model)
                self.do_translator(sessions.retired(session, epoch, freed, 64 * freed, 0, code))
            case BuildEngine(key):
                self.do_translator(sessions.engine_ready(key, f"/cache/{key}"))
            case PrepareBackend(session, backend):
                self.do_translator(sessions.backend_ready(session, backend))
            case _:
                raise AssertionError(action)

    def new_segment(self, model: TranslatorModel) -> Segment:
        model.segments += 1
        return Segment(f"/proc/{model.pid}/fd/{model.segments}", 0x100000)

    def take(self) -> None:
        """A worker is free."""
        assert self.translator is not None
        job = self.translator.sessions.take()
        if job is not None:
            self.translator.jobs.append(job)

    def finish(self, index: int, outcome: str) -> None:
        """A worker ends: as the real one, it reads the bytes, and the counters once more."""
        model = self.translator
        assert model is not None
        job = model.jobs.pop(index)
        asked = job.request
        if outcome == "crash":
            self.do_translator(model.sessions.crashed(job))
        elif outcome == "full":
            self.do_translator(model.sessions.rejected(job, "code_space_full"))
        elif (
            not model.sessions.is_live(job)
            or asked.page_generation != self.pages[asked.page]
            or asked.epoch != self.epoch
        ):
            self.do_translator(model.sessions.rejected(job, "bytes_moved"))
        else:
            model.live[job.session].append(asked.epoch)
            entries = tuple(Entry(slot, 64 + 16 * i) for i, slot in enumerate(asked.entries))
            spans = tuple(Span(2 * slot, 2) for slot in asked.entries)
            made_from = identity(asked.page, self.content[asked.page])
            region = Region(
                made_from,
                64,
                4096,
                entries,
                lines_of(spans),
                spans,
                1,
                Timings(1, 2, 3, 4, 5, 6, 7, 8, 9),
            )
            self.do_translator(model.sessions.translated(job, region))

    # --- time ------------------------------------------------------------------------------------

    def set_timer(self, side: str, name: str, seconds: float) -> None:
        self.cancel_timer(side, name)
        self.timers.append(Timer(self.now + seconds, side, name))

    def cancel_timer(self, side: str, name: str) -> None:
        self.timers = [one for one in self.timers if (one.side, one.name) != (side, name)]

    def fire(self, index: int) -> None:
        """A deadline passes (in any order: clocks differ, threads are late)."""
        timer = self.timers.pop(index)
        self.now = max(self.now, timer.at)
        if timer.side == "machine":
            self.do_machine(self.machine.timer(timer.name))
        elif self.translator is not None:
            self.do_translator(self.translator.sessions.timer(timer.name))

    # --- what happens next -----------------------------------------------------------------------

    def possible(self) -> list[str]:
        """What can happen without mishap, most urgent first."""
        model = self.translator
        kinds = {
            "arrive_at_translator": bool(self.to_translator),
            "arrive_at_machine": bool(self.to_machine),
            "serve": model is not None and bool(model.pending),
            "finish": model is not None and bool(model.jobs),
            "bump": self.must_bump,
            "take": model is not None,
        }
        return [kind for kind, can in kinds.items() if can]

    def do(self, kind: str, choice: int = 0) -> None:
        """Let it happen: `choice` where order is not given. Messages keep theirs."""
        model = self.translator
        match kind:
            case "arrive_at_translator":
                self.deliver("translator", 0)
            case "arrive_at_machine":
                self.deliver("machine", 0)
            case "serve" if model is not None:
                self.serve(choice % len(model.pending))
            case "finish" if model is not None:
                self.finish(choice % len(model.jobs), "done")
            case "bump":
                self.retire("translator_restart")
            case "take":
                self.take()

    def settle(self, wanted: str = "attached") -> None:
        """Let everything happen, in order, until nothing is left to do in state `wanted`."""
        if self.translator is None:
            self.start_translator()
        for _ in range(2000):
            kind = self.possible()[0]
            if kind != "take":
                self.do(kind)
                continue
            if self.machine.state == wanted and not self.asked:
                return
            self.take()
            if self.translator is None or not self.translator.jobs:
                self.fire(min(range(len(self.timers)), key=lambda i: self.timers[i].at))
        raise AssertionError(f"no progress from {self.machine.state}")
