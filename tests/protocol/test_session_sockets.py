"""Both state machines over real sockets: the loops of the two services, in small.

The loops below are what a service does: carry actions out in order, poll with the next deadline,
feed what came. Everything else of the services is left out.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from protocol.codec import CodecError
from protocol.generations import Stamp, lines_of
from protocol.messages import Entry, Segment, Span, Timings, Translated
from protocol.session import (
    AttachCode,
    BuildEngine,
    CancelTimer,
    EngineLoaded,
    ForgetOlder,
    MachineAction,
    MapMachine,
    Publish,
    Reconnect,
    Reply,
    RetirementDone,
    Send,
    SetTimer,
    TranslatorAction,
    TranslatorDead,
)
from protocol.session_machine import Deadlines, MachineSession
from protocol.session_translator import Region, Service, TranslatorSessions
from protocol.transport import Client, Mailbox, Server, Timers, private_endpoint
from tests.protocol.world import OFFER

DEADLINE = 240.0


class Translator:
    """A translator's loop, in a thread of its own; the region it makes is always the same."""

    def __init__(self, endpoint: str, incarnation: int) -> None:
        self.server = Server(endpoint)
        self.pid = os.getpid()
        service = Service(incarnation, self.pid, "layout", "isa", ("x86_64",), ("llvm",))
        self.sessions = TranslatorSessions(service)
        self.timers = Timers()
        self.wake: Mailbox[str] = Mailbox()
        self.server.watch(self.wake.fileno())
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.carry_out(self.sessions.start())
        while not self.wake.take_all():
            self.server.poll(self.timers.wait(1.0))
            for peer, message in self.server.receive():
                self.carry_out(self.sessions.receive(peer, message))
            for name in self.timers.due():
                self.carry_out(self.sessions.timer(name))
            while job := self.sessions.take():
                entries = tuple(Entry(slot, 64) for slot in job.request.entries)
                spans = (Span(0, 4096),)
                lines, timings = lines_of(spans), Timings(0, 0, 0, 0, 0, 0, 0, 0, 0)
                region = Region(bytes(16), 64, 64, entries, lines, spans, 1, timings)
                self.carry_out(self.sessions.translated(job, region))
        self.server.close()
        self.wake.close()

    def carry_out(self, actions: list[TranslatorAction]) -> None:
        code = Segment(f"/proc/{self.pid}/fd/9", 4096)
        for action in actions:
            match action:
                case Reply(peer, message):
                    if not self.server.send(peer, message):
                        self.carry_out(self.sessions.peer_lost(peer))
                case MapMachine(session, attach):
                    self.carry_out(self.sessions.attached(session, attach.epoch, code))
                case ForgetOlder(session, epoch, _):
                    self.carry_out(self.sessions.retired(session, epoch, 0, 0, 0, code))
                case BuildEngine(key):
                    self.carry_out(self.sessions.engine_ready(key, f"/cache/{key}"))
                case SetTimer(name, seconds):
                    self.timers.set(name, seconds)

    def stop(self) -> None:
        self.wake.put("stop")
        self.thread.join(DEADLINE)


class Machine:
    """A machine's loop, stepped by the test."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client: Client | None = None
        self.session = MachineSession(OFFER, 1, Deadlines(heartbeat=1.0, reconnect=0.01))
        self.timers = Timers()
        self.seen: list[MachineAction] = []
        self.connections = 0
        self.connect()

    def connect(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = Client(self.endpoint)
        self.connections += 1
        self.carry_out(self.session.connect(self.connections))

    def carry_out(self, actions: list[MachineAction]) -> None:
        assert self.client is not None
        for action in actions:
            self.seen.append(action)
            match action:
                case Send(message):
                    if not self.client.send(message):
                        self.carry_out(self.session.send_failed(message))
                case SetTimer(name, seconds):
                    self.timers.set(name, seconds)
                case CancelTimer(name):
                    self.timers.cancel(name)
                case TranslatorDead(_, epoch_needed):
                    if epoch_needed:
                        self.carry_out(
                            self.session.retire(self.session.epoch + 1, "translator_restart")
                        )
                case Reconnect():
                    self.connect()

    def step(self) -> None:
        assert self.client is not None
        ready = self.client.poll(self.timers.wait(1.0))
        for message in self.client.receive():
            if isinstance(message, CodecError):
                self.carry_out(self.session.garbage(message))
            else:
                self.carry_out(self.session.receive(message))
        if ready.disconnected:
            self.carry_out(self.session.disconnected())
        for name in self.timers.due():
            self.carry_out(self.session.timer(name))

    def until(self, kind: type[MachineAction]) -> MachineAction:
        """Step until an action of this kind was carried out; all before it are forgotten."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            while self.seen:
                action = self.seen.pop(0)
                if isinstance(action, kind):
                    return action
            self.step()
        raise AssertionError(f"no {kind.__name__} within {DEADLINE} seconds")

    def translated(self) -> Translated:
        stamp = Stamp(self.session.epoch, 0, 3, 0, 0)
        self.carry_out(self.session.request(stamp, [4], 1))
        published = self.until(Publish)
        assert isinstance(published, Publish)
        return published.message


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield private_endpoint()


def test_a_session_through_retirement_and_a_restart_of_the_translator(endpoint: str):
    translator = Translator(endpoint, 1)
    machine = Machine(endpoint)
    machine.until(AttachCode)
    assert machine.translated().epoch == 1
    machine.carry_out(machine.session.retire(2, "system_reset"))
    machine.until(RetirementDone)
    assert machine.translated().epoch == 2
    translator.stop()
    machine.until(TranslatorDead)
    translator = Translator(endpoint, 2)
    machine.until(AttachCode)
    assert machine.session.incarnation == 2
    assert machine.translated().epoch == 3
    machine.carry_out(machine.session.close("the test ends"))
    assert machine.client is not None
    machine.client.close()
    translator.stop()


def test_an_engine_is_awaited_from_a_translator_that_starts_late(endpoint: str):
    machine = Machine(endpoint)
    machine.carry_out(machine.session.ask_engine("key"))
    machine.step()
    translator = Translator(endpoint, 1)
    loaded = machine.until(EngineLoaded)
    assert loaded == EngineLoaded("key", "/cache/key")
    assert machine.client is not None
    machine.client.close()
    translator.stop()
