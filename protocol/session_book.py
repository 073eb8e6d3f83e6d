"""What the translator keeps of each session, and the messages that are made from it alone.

Problem: whether a machine can be served, what it is welcomed with, what it is told of counts and
refusals: none of that changes a session, so it stands apart from the state machine that does.

Invariant: nothing here but `count` changes a session.

Read next: `protocol.session_translator`, the only one that moves sessions from state to state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from protocol.backends import name_of
from protocol.generations import Epoch, Stamp
from protocol.messages import (
    Attach,
    Attached,
    Counter,
    ErrorName,
    Hello,
    Rejected,
    RejectReason,
    RetireCause,
    Retired,
    Timings,
    Translate,
    Translated,
    Welcome,
)
from protocol.session import Reply, TranslatorAction
from protocol.session_requests import Jobs
from protocol.session_terms import Region, Service

COUNTED = (
    *("requested", "translated", "rejected", "cancelled", "retired", "instructions"),
    *(f"{phase}_us" for phase in Timings._fields),
)
"""What is counted of a session as long as it lives: requests and what became of them, guest
instructions translated, and where the time went.
"""

NOTHING: Mapping[str, int] = {}


@dataclass(slots=True)
class Session:
    """One machine's session, from HELLO to its end."""

    peer: bytes
    hello: Hello
    features: tuple[str, ...]
    backend: str
    state: Literal["welcomed", "mapping", "attached", "retiring"] = "welcomed"
    epoch: Epoch = 0
    next_backend: str = ""
    attach: Attach | None = None
    cause: RetireCause | None = None  # of a retirement that came while mapping
    answer: Attached | Retired | None = None  # the last one, for a question that comes twice
    last_id: int = 0
    jobs: Jobs = field(default_factory=Jobs)
    modules: int = 0  # finished in this epoch
    bytes: int = 0
    freed: dict[str, int] = field(default_factory=dict)  # by RETIRE, for RETIRED
    expected: dict[int, float] = field(default_factory=dict)  # by id: what a worker is to take
    silent: int = 0  # sweeps without a message
    counts: dict[str, int] = field(default_factory=dict)


def refusal(service: Service, message: Hello, sessions: int) -> tuple[ErrorName, str] | None:
    """Why a machine cannot be served; `sessions`: how many are."""
    same = "run both from the same installation"
    if message.layout_hash != service.layout_hash:
        theirs, ours = message.layout_hash, service.layout_hash
        return (
            "layout_mismatch",
            f"the machine's layout is {theirs}, the translator's {ours}: {same}",
        )
    if message.isa_hash != service.isa_hash:
        theirs, ours = message.isa_hash, service.isa_hash
        return (
            "isa_mismatch",
            f"the machine's instruction set is {theirs}, the translator's {ours}: {same}",
        )
    if message.host not in service.hosts:
        hosts = ", ".join(service.hosts)
        return "unsupported_host", f"no code for host {message.host}, only for {hosts}"
    complaint = complaint_about(service, message.backend or service.backends[0])
    if complaint:
        return "unknown_backend", complaint
    if sessions >= service.max_sessions:
        return (
            "too_many_sessions",
            f"{service.max_sessions} machines are served already, no more are allowed",
        )
    return None


def complaint_about(service: Service, backend: str) -> str:
    """Why a backend, as it is spelt, cannot be had; empty if it can."""
    if name_of(backend) not in service.backends:
        names = ", ".join(service.backends)
        return f"backend {name_of(backend)} is unknown: use one of {names}"
    return service.complaint(backend)[:1000]


def welcome(service: Service, one: Session) -> Welcome:
    """The answer to HELLO."""
    own = name_of(one.backend)
    rest = (name for name in service.backends if name != own)
    return Welcome(
        one.hello.session,
        service.layout_hash,
        service.isa_hash,
        one.features,
        (own, *rest),
        service.incarnation,
        service.pid,
    )


def counters(
    chosen: Iterable[Session], extra: Mapping[str, int], before: Mapping[str, int] = NOTHING
) -> tuple[Counter, ...]:
    """Sums over some sessions and what was counted `before`, and further counts."""
    chosen = list(chosen)
    counts = {
        "sessions": len(chosen),
        "queued": sum(len(one.jobs.queued) for one in chosen),
        "running": sum(len(one.jobs.running) for one in chosen),
        "modules": sum(one.modules for one in chosen),
        "code_bytes": sum(one.bytes for one in chosen),
    }
    for name in COUNTED:
        counts[name] = sum(one.counts.get(name, 0) for one in chosen) + before.get(name, 0)
    return tuple(Counter(name, value) for name, value in {**counts, **extra}.items())


def answer(asked: Translate, region: Region, stamp: Stamp) -> Translated:
    """TRANSLATED: `stamp` is the request's, repeated."""
    return Translated(
        asked.session,
        asked.id,
        stamp.epoch,
        stamp.map_generation,
        stamp.page,
        stamp.page_generation,
        stamp.state_word,
        region.identity,
        region.code_offset,
        region.code_size,
        region.entries,
        region.lines,
        region.spans,
        region.instructions,
        region.timings,
    )


def reject(
    one: Session, asked: Translate, reason: RejectReason, text: str = ""
) -> TranslatorAction:
    """REJECTED, counted."""
    count(one, "rejected")
    message = Rejected(
        asked.session,
        asked.id,
        asked.epoch,
        asked.map_generation,
        asked.page,
        asked.page_generation,
        asked.state_word,
        asked.entries,
        reason,
        text,
    )
    return Reply(one.peer, message)


def count(one: Session, name: str, number: int = 1) -> None:
    """So many more of something."""
    one.counts[name] = one.counts.get(name, 0) + number
