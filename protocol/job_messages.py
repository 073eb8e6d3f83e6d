"""What an agent and a remote translator say to each other: jobs out, code back.

Problem: a translator on another host can neither read a guest's memory nor write a code segment.
So the translator beside the machine, the *agent*, keeps all that has a state - sessions, epochs,
generations, the code segment - and sends jobs that are complete in themselves: a page's bytes and
the state word. What comes back is code that may stand anywhere, and the agent treats it as it
treats its own workers' answers.

Invariants:
- Nothing of a machine is in these messages: no epoch, no generation, no address. An answer cannot
  be stale on this side; whether it is still wanted is for the agent to know.
- `session` is drawn by the agent for every attempt to be welcomed; an answer of an older attempt
  names another one, and is dropped.
- Code travels in pieces, for a message is bounded; JOB_DONE comes after the last one, and says how
  many bytes there must be.

PING, PONG, ERROR and BYE are used as between machine and translator.

Read next: `jit_proc/agent_session.py` and `jit_proc/agent_clients.py`, the two sides.
"""

from __future__ import annotations

from typing import Annotated

from protocol.fields import (
    MAX_ENTRIES,
    MAX_SPANS,
    U32,
    U64,
    Entry,
    Name,
    PageIndex,
    Range,
    RejectReason,
    Size,
    Slot,
    SlotBitmap,
    Span,
    Text,
    Timings,
)
from protocol.layout import PAGE_SIZE, SLOTS_PER_PAGE
from protocol.message_base import Message, check_ascending, check_region, message
from protocol.plain import dataclass

MAX_PIECE = 32768
"""Bytes of code in one message."""

MAX_CODE = 1 << 20
"""Bytes of code of one job; a region that has more is refused."""

CodeSize = Annotated[int, Range(1, MAX_CODE)]


@message("JOB_HELLO", "agent", 3)
@dataclass(frozen=True, slots=True)
class JobHello(Message):
    """Ask to be given code. A difference is answered by ERROR, by name.

    session: a random number other than 0, new for every attempt.
    layout_hash: hash of the shared structures.
    isa_hash: hash of the instruction set's description.
    engine: hash of all that decides code besides the job: both sides' programs must be the same.
    host: architecture that the code is for, as uname(2) names it.
    cpu: level of that architecture that the code may use, in the compiler's spelling.
    backend: the backend wanted there, with its options.
    """

    layout_hash: Name
    isa_hash: Name
    engine: Name
    host: Name
    cpu: Name
    backend: Name

    def check(self) -> None:
        if self.session == 0:
            raise ValueError("session 0 belongs to nobody")


@message("JOB_WELCOME", "remote", 3)
@dataclass(frozen=True, slots=True)
class JobWelcome(Message):
    """Jobs are accepted.

    jobs: how many may be under way at a time; more are refused by queue_full.
    incarnation: random number drawn when the remote translator started.
    """

    jobs: Annotated[int, Range(1, 4096)]
    incarnation: U64


@message("JOB", "agent", 3)
@dataclass(frozen=True, slots=True)
class JobRequest(Message):
    """Translate a region of one page.

    id: number of the job, greater than the one before.
    page: the page's number, for logs; nothing may be derived from it.
    content: the page's bytes.
    entries: slots at which the code must be enterable, ascending.
    state_word: as in TRANSLATE.
    level: as in TRANSLATE.
    known: as in TRANSLATE.
    seen: as in TRANSLATE.
    """

    id: U64
    page: PageIndex
    content: Annotated[bytes, Size(PAGE_SIZE, PAGE_SIZE)]
    entries: Annotated[tuple[Slot, ...], Size(1, MAX_ENTRIES)]
    state_word: U64
    level: Annotated[int, Range(0, 1)]
    known: Annotated[tuple[Slot, ...], Size(0, MAX_ENTRIES)]
    seen: SlotBitmap

    def check(self) -> None:
        check_ascending("entries", self.entries)
        check_ascending("known", self.known)
        if len(self.seen) not in (0, SLOTS_PER_PAGE // 8):
            raise ValueError(f"seen has {len(self.seen)} bytes")


@message("JOB_CODE", "remote", 3)
@dataclass(frozen=True, slots=True)
class JobCode(Message):
    """A piece of a job's code; pieces come in order.

    id: number of the job.
    offset: bytes that came before.
    code: the piece.
    """

    id: U64
    offset: Annotated[int, Range(0, MAX_CODE - 1)]
    code: Annotated[bytes, Size(1, MAX_PIECE)]


@message("JOB_DONE", "remote", 3)
@dataclass(frozen=True, slots=True)
class JobDone(Message):
    """All of the job's code was sent. It is position independent, and refers to nothing outside.

    id: number of the job.
    code_size: bytes of code sent.
    entries: slots and the offsets of their entries in the code, ascending by slot.
    lines: as in TRANSLATED.
    spans: as in TRANSLATED.
    instructions: guest instructions lifted.
    timings: where the time went there; queue and publish are 0.
    """

    id: U64
    code_size: CodeSize
    entries: Annotated[tuple[Entry, ...], Size(1, MAX_ENTRIES)]
    lines: U64
    spans: Annotated[tuple[Span, ...], Size(1, MAX_SPANS)]
    instructions: U32
    timings: Timings

    def check(self) -> None:
        check_region(self.entries, range(self.code_size), self.spans, self.lines)


@message("JOB_REFUSED", "remote", 3)
@dataclass(frozen=True, slots=True)
class JobRefused(Message):
    """There is no code for the job.

    id: number of the job.
    reason: why, as in REJECTED; pieces of code that came are void.
    text: a line for a log; may be empty.
    """

    id: U64
    reason: RejectReason
    text: Text


@message("JOB_CANCEL", "agent", 3)
@dataclass(frozen=True, slots=True)
class JobCancel(Message):
    """The job is no longer wanted. Never answered.

    id: number of the job.
    """

    id: U64
