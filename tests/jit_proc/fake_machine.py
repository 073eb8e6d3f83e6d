"""A machine without a hart: real segments, a real socket, the real session state machine."""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import struct
import time
from collections.abc import Callable
from typing import Any, TypeVar

from jit_proc.code_space import (
    F_SEAL_GROW,
    F_SEAL_SHRINK,
    ReadOnlySegment,
    open_readonly,
)
from protocol.codec import CodecError
from protocol.generations import Stamp
from protocol.layout import CONTROL, LAYOUT_HASH, PAGE, PAGE_SIZE
from protocol.messages import Rejected, RetireCause, Segment, Translated
from protocol.riscv.isa import isa_hash
from protocol.session import (
    AttachCode,
    CancelTimer,
    DropCode,
    Dropped,
    MachineAction,
    Publish,
    Reconnect,
    RequestRefused,
    RetirementDone,
    Send,
    SetTimer,
)
from protocol.session_machine import MachineSession, Offer
from protocol.transport import Client, Timers

DEADLINE = 240.0
PAGES = 64
A = TypeVar("A")


def segment(
    name: str, size: int, seals: int = F_SEAL_SHRINK | F_SEAL_GROW
) -> tuple[int, mmap.mmap]:
    """A sealed memfd and a writable mapping of it."""
    fd = os.memfd_create(name, os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, 1033, seals)
    return fd, mmap.mmap(fd, size)


class FakeMachine:
    """Asks a translator for code and collects what it answers, by kind of action."""

    def __init__(
        self,
        endpoint: str,
        *,
        seals: int = F_SEAL_SHRINK | F_SEAL_GROW,
        announced: int = PAGES * PAGE_SIZE,
        backend: str = "",
    ) -> None:
        """`announced`: what is said of the size of its memory."""
        self.epoch, self.map_generation = 1, 1
        self.generations = [0] * PAGES
        self._ram_fd, self.ram = segment("ram", PAGES * PAGE_SIZE, seals)
        pages = -(-CONTROL.size // 64) * 64
        size = -(-(pages + PAGES * PAGE.size) // PAGE_SIZE) * PAGE_SIZE
        self._ctrl_fd, self.ctrl = segment("ctrl", size)
        self._pages = pages
        self.store_counters()
        pid = os.getpid()
        offer = Offer(
            LAYOUT_HASH,
            isa_hash(),
            "x86_64",
            (),
            pid,
            Segment(f"/proc/{pid}/fd/{self._ram_fd}", announced),
            0x80000000,
            Segment(f"/proc/{pid}/fd/{self._ctrl_fd}", size),
            backend=backend,
        )
        self.session = MachineSession(offer, self.epoch)
        self.client = Client(endpoint)
        self.timers = Timers()
        self.seen: list[MachineAction] = []
        self.code: ReadOnlySegment | None = None
        self.act(self.session.connect(secrets.randbits(64) | 1))

    def store_counters(self) -> None:
        """Put all counters where the translator reads them."""
        values = (self.epoch, self.map_generation, PAGES, self._pages)
        for name, value in zip(
            ("epoch", "map_generation", "page_count", "pages"), values, strict=True
        ):
            struct.pack_into("<Q", self.ctrl, CONTROL.offset(name), value)
        for page, value in enumerate(self.generations):
            place = self._pages + page * PAGE.size + PAGE.offset("generation")
            struct.pack_into("<Q", self.ctrl, place, value)

    def write(self, page: int, content: bytes) -> None:
        """The guest writes a page: the bytes, then the generation."""
        self.ram[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = content
        self.generations[page] += 1
        self.store_counters()

    def stamp(self, page: int, state_word: int = 0) -> Stamp:
        return Stamp(self.epoch, self.map_generation, page, self.generations[page], state_word)

    def request(self, page: int, entries: tuple[int, ...] = (0,), heat: int = 1) -> None:
        self.act(self.session.request(self.stamp(page), entries, heat))

    def retire(self, cause: RetireCause = "system_reset") -> None:
        self.epoch += 1
        self.store_counters()
        self.act(self.session.retire(self.epoch, cause))

    def begin_again(self) -> None:
        """Under another epoch, after a session has ended."""
        self.epoch += 1
        self.store_counters()
        self.act(self.session.retire(self.epoch, "translator_restart"))
        self.wait(Reconnect)
        self.act(self.session.connect(secrets.randbits(64) | 1))
        self.attached()

    def act(self, actions: list[MachineAction]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self.client.send(message)
                case SetTimer(name, seconds):
                    self.timers.set(name, seconds)
                case CancelTimer(name):
                    self.timers.cancel(name)
                case AttachCode(code, _):
                    self.code = open_readonly(code.path, code.size)
                case DropCode():
                    assert self.code is not None
                    self.code.close()
                    self.code = None
            if not isinstance(action, Send | SetTimer | CancelTimer | Dropped):
                self.seen.append(action)

    def turn(self, timeout: float = 0.05) -> None:
        """One turn of the machine's I/O loop."""
        if self.client.poll(self.timers.wait(timeout)):
            for message in self.client.receive():
                if isinstance(message, CodecError):
                    self.act(self.session.garbage(message))
                else:
                    self.act(self.session.receive(message))
        for name in self.timers.due():
            self.act(self.session.timer(name))

    def until(self, condition: Callable[[], Any]) -> None:
        """Turn until the condition holds; fail with what was seen when it never does."""
        end = time.monotonic() + DEADLINE
        while not condition():
            hopeless = self.session.state == "incompatible" or time.monotonic() > end
            assert not hopeless, f"in state {self.session.state} after {self.seen}"
            self.turn()

    def wait(self, kind: type[A]) -> A:
        """Take the next action of a kind out of what was seen, waiting for it."""
        self.until(lambda: any(isinstance(action, kind) for action in self.seen))
        [first, *_] = (action for action in self.seen if isinstance(action, kind))
        self.seen.remove(first)
        return first

    def attached(self) -> FakeMachine:
        self.wait(AttachCode)
        return self

    def answered(self) -> bool:
        """Whether a request has an answer that was not taken yet."""
        return any(isinstance(action, Publish | RequestRefused) for action in self.seen)

    def translated(self) -> Translated:
        return self.wait(Publish).message

    def rejected(self) -> Rejected:
        return self.wait(RequestRefused).message

    def retired(self) -> RetirementDone:
        done = self.wait(RetirementDone)
        self.wait(AttachCode)
        return done

    def close(self) -> None:
        self.act(self.session.close("the test is over"))
        self.client.close()
        for memory in (self.ram, self.ctrl):
            memory.close()
        for fd in (self._ram_fd, self._ctrl_fd):
            os.close(fd)
        if self.code is not None:
            self.code.close()
