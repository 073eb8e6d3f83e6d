"""What each side of a session tells of itself, and what a finished translation is.

Problem: both state machines are made with plain data about the process around them, and so are the
models of those processes in the tests and in the simulator.

Invariant: nothing here changes.

Read next: `protocol.session_machine`, `protocol.session_translator`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field

from protocol.generations import Epoch
from protocol.messages import Attach, Entry, Hello, Segment, Span, Timings, Welcome
from protocol.plain import dataclass


@dataclass(frozen=True, slots=True)
class Offer:
    """What the machine tells of itself: fields of HELLO and ATTACH."""

    layout_hash: str
    isa_hash: str
    host: str
    host_features: tuple[str, ...]
    pid: int
    ram: Segment
    ram_base: int
    ctrl: Segment
    backend: str = ""

    def hello(self, session: int, backend: str) -> Hello:
        """The first message of a session. `backend`: the one wanted by now."""
        hashes = self.layout_hash, self.isa_hash
        return Hello(session, *hashes, self.host, self.host_features, backend, self.pid)

    def attach(self, session: int, epoch: Epoch) -> Attach:
        """The second one."""
        return Attach(session, epoch, self.ram, self.ram_base, self.ctrl, self.pid)

    def complaint(self, welcome: Welcome) -> str:
        """Why code of this translator could not be used; empty if nothing is against it."""
        for what, theirs, ours in (
            ("layout", welcome.layout_hash, self.layout_hash),
            ("instruction set", welcome.isa_hash, self.isa_hash),
        ):
            if theirs != ours:
                return (
                    f"translator (process {welcome.pid}) has the {what} {theirs}, this machine "
                    f"{ours}: run both from the same installation"
                )
        return ""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the machine waits, in seconds, and in heartbeats where it says so."""

    handshake: float = 20.0
    """From HELLO to ATTACHED; a translator that is just starting is within it."""
    retire: float = 2.0
    """From RETIRE to RETIRED: harts run in tier 0 meanwhile."""
    engine: float = 120.0
    """From asking for the engine to having it."""
    swap: float = 60.0
    """From SWAP to SWAPPED."""
    heartbeat: float = 1.0
    """Between two PINGs."""
    missed: int = 5
    """Heartbeats without any message, after which the translator is dead."""
    request: int = 30
    """Heartbeats after which a request is given up."""
    reconnect: float = 0.1
    """Before the first new attempt; doubled for each further one."""
    reconnect_max: float = 5.0
    """The longest pause between attempts."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the translator tells of itself, and its limits.

    `hosts`: architectures it makes code for. `known_features`: host features it can use; None for
    whatever the machine names. `backends`: the default first. `silence`: seconds without a message
    after which a session ends, in steps of `sweep` seconds. `complaint`: what is wrong with the
    options of a known backend, as it is spelt; empty if nothing is.
    """

    incarnation: int
    pid: int
    layout_hash: str
    isa_hash: str
    hosts: tuple[str, ...]
    backends: tuple[str, ...]
    known_features: frozenset[str] | None = None
    max_sessions: int = 64
    max_queue: int = 1024
    silence: float = 60.0
    sweep: float = 10.0
    complaint: Callable[[str], str] = field(default=lambda _: "")


@dataclass(frozen=True, slots=True)
class Region:
    """A finished translation, standing complete in the code segment: fields of TRANSLATED."""

    identity: bytes
    code_offset: int
    code_size: int
    entries: tuple[Entry, ...]
    lines: int
    spans: tuple[Span, ...]
    instructions: int
    timings: Timings
