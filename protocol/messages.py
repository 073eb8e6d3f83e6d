"""What machine and translator say to each other: every message is one frozen dataclass.

Problem: two processes that must agree to the byte, one of them allowed to be slow, restarted or
dead. So a message is plain data, complete in itself, bounded in size, and its fields say their
ranges in their types: the codec checks them, the specification's tables are generated from them.

Invariants:
- Ids and page indices are never pointers. Offsets and lengths are checked against what they point
  into before use.
- Every message of a session repeats `session`, a random number that the machine draws anew for each
  connection: what an older session or an older incarnation of the translator left in a queue names
  another session, and is dropped.
- A reply repeats the stamp (epoch, map_generation, page, page_generation, state_word) of its
  request.
- Units: sizes and offsets in bytes, times in microseconds, pages as backing page indices (byte
  offset in the RAM segment divided by 4096), slots as halfword indices within a page (0..2047).
- `check()` states what types cannot: relations between fields. It raises ValueError; the codec
  calls it on both sides.

Read next: `protocol.codec` (bytes), `protocol.session_machine` and `protocol.session_translator`
(who says what, when).
"""

from __future__ import annotations

from typing import Annotated

from protocol.fields import (
    MAX_BACKENDS,
    MAX_COUNTERS,
    MAX_ENTRIES,
    MAX_FEATURES,
    MAX_SPANS,
    U32,
    U64,
    Bytes,
    Identity,
    Name,
    OptionalName,
    PageIndex,
    Path,
    Pid,
    Range,
    Size,
    Slot,
    SlotBitmap,
    Text,
)
from protocol.fields import (
    Counter as Counter,
)
from protocol.fields import (
    Entry as Entry,
)
from protocol.fields import (
    ErrorName as ErrorName,
)
from protocol.fields import (
    RejectReason as RejectReason,
)
from protocol.fields import (
    RetireCause as RetireCause,
)
from protocol.fields import (
    Segment as Segment,
)
from protocol.fields import (
    Span as Span,
)
from protocol.fields import (
    Timings as Timings,
)
from protocol.generations import Stamp
from protocol.layout import SLOTS_PER_PAGE
from protocol.message_base import (
    DESCRIPTIONS as DESCRIPTIONS,
)
from protocol.message_base import (
    MESSAGES as MESSAGES,
)
from protocol.message_base import (
    Message as Message,
)
from protocol.message_base import (
    check_ascending,
    check_region,
)
from protocol.message_base import (
    message as _message,
)
from protocol.plain import dataclass

PROTOCOL_VERSION = 4
"""Both sides must have the same; every message carries it. Raised by any change to a message, a
table of names, or their meaning.
"""

MAX_MESSAGE = 65536
"""Bytes of an encoded message; a longer one is refused unread."""


@_message("HELLO", "machine")
@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Open a session.

    session: a random number other than 0, new for every attempt.
    layout_hash: hash of the shared structures (`layout.LAYOUT_HASH`).
    isa_hash: hash of the instruction set's description (`isa_hash()`).
    host: the machine's host architecture, as uname(2) names it.
    host_features: features of the machine's host CPU, in the compiler's spelling, sorted; code is
        made for these.
    backend: the backend wanted, with its options (`NAME,OPTION=VALUE,...`); empty for the
        translator's default.
    pid: process id of the machine.
    """

    layout_hash: Name
    isa_hash: Name
    host: Name
    host_features: Annotated[tuple[Name, ...], Size(0, MAX_FEATURES)]
    backend: OptionalName
    pid: Pid

    def check(self) -> None:
        if self.session == 0:
            raise ValueError("session 0 belongs to nobody")


@_message("WELCOME", "translator")
@dataclass(frozen=True, slots=True)
class Welcome(Message):
    """Accept a session. A mismatch of protocol, layout or ISA is answered by ERROR instead, and
    checked again here.

    layout_hash: the translator's hash of the shared structures.
    isa_hash: the translator's hash of the instruction set's description.
    host_features: features the code will be made for: those of HELLO that the translator knows.
    backends: names of the backends, the session's own first.
    incarnation: random number drawn when the translator started.
    pid: process id of the translator.
    """

    layout_hash: Name
    isa_hash: Name
    host_features: Annotated[tuple[Name, ...], Size(0, MAX_FEATURES)]
    backends: Annotated[tuple[Name, ...], Size(1, MAX_BACKENDS)]
    incarnation: U64
    pid: Pid


@_message("ATTACH", "machine")
@dataclass(frozen=True, slots=True)
class Attach(Message):
    """Hand over the machine's segments; the translator maps them for reading.

    epoch: the epoch the session begins in.
    ram: all backing memory of the machine, one page index space.
    ram_base: guest-physical address of its first byte in the map at power-on (for listings only;
        pages have no address).
    ctrl: counters and shared words, as the layout says.
    pid: process id of the machine, the owner of both segments.
    """

    epoch: U64
    ram: Segment
    ram_base: U64
    ctrl: Segment
    pid: Pid

    def check(self) -> None:
        self.ram.check(self.pid)
        self.ctrl.check(self.pid)


@_message("ATTACHED", "translator")
@dataclass(frozen=True, slots=True)
class Attached(Message):
    """The segments are mapped, and here is the code segment: the machine maps it for reading and
    executing.

    epoch: repeated from ATTACH.
    code: the code segment of this epoch.
    backend: the backend in force, with its options.
    pid: process id of the translator, the segment's owner.
    """

    epoch: U64
    code: Segment
    backend: Name
    pid: Pid

    def check(self) -> None:
        self.code.check(self.pid)


@_message("ENGINE", "machine")
@dataclass(frozen=True, slots=True)
class Engine(Message):
    """Ask for the tier-0 engine; allowed from WELCOME on. The engine depends on no guest state: no
    epoch retires it.

    key: name of the engine's content (layout hash, ISA hash, host features, options), also its name
        in the cache.
    """

    key: Name


@_message("ENGINE_READY", "translator")
@dataclass(frozen=True, slots=True)
class EngineReady(Message):
    """The engine is in the cache. A failure is answered by ERROR engine_failed.

    key: repeated from ENGINE.
    path: absolute path of the engine's file, complete and never changed in place.
    """

    key: Name
    path: Path


@dataclass(frozen=True, slots=True)
class _Stamped(Message):
    """Fields shared by a request and its answers: the id and the stamp."""

    id: U64
    epoch: U64
    map_generation: U64
    page: PageIndex
    page_generation: U64
    state_word: U64

    @property
    def stamp(self) -> Stamp:
        """The guest state that was asked about."""
        return Stamp(
            self.epoch, self.map_generation, self.page, self.page_generation, self.state_word
        )


@_message("TRANSLATE", "machine")
@dataclass(frozen=True, slots=True)
class Translate(_Stamped):
    """Ask for a region with entries at hot records of one backing page.

    id: number of the request in this session; each greater than the one before.
    epoch: the machine's epoch.
    map_generation: generation of the memory map.
    page: backing page index.
    page_generation: the page's generation.
    state_word: whatever may be baked into the code: bit 0, guest time is counted; bit 1, nothing
        is assumed of FS and frm, for what was assumed often did not hold.
    entries: slots at which the code must be enterable, ascending.
    heat: how often the hottest entry was taken; greater is translated sooner. 0: nothing is to be
        made for it. What is kept is answered, else REJECTED not_kept, at once.
    level: 0 at first; 1 for what proved hot, which is worth a dearer translation: when a region ran
        for long, and when several of the page are to become one.
    known: slots where regions are entered already, ascending: advice. What would come to one of
        them goes on there by the record, and is not translated twice.
    seen: a bit for each slot, from the lowest bit of the first byte on, set when its record was
        filled: advice. What was never executed so far is left out. Nothing: not known.
    """

    entries: Annotated[tuple[Slot, ...], Size(1, MAX_ENTRIES)]
    heat: U64
    level: Annotated[int, Range(0, 1)] = 0
    known: Annotated[tuple[Slot, ...], Size(0, MAX_ENTRIES)] = ()
    seen: SlotBitmap = b""

    def check(self) -> None:
        check_ascending("entries", self.entries)
        check_ascending("known", self.known)
        if len(self.seen) not in (0, SLOTS_PER_PAGE // 8):
            raise ValueError(f"seen has {len(self.seen)} bytes")


@_message("TRANSLATED", "translator")
@dataclass(frozen=True, slots=True)
class Translated(_Stamped):
    """A region stands complete in the code segment. The machine publishes it, or drops it, by the
    publish rule.

    id: repeated from TRANSLATE.
    epoch: repeated.
    map_generation: repeated.
    page: repeated.
    page_generation: repeated.
    state_word: repeated.
    identity: identity of the guest bytes it was made from (`generations.identity_of` over `spans`).
    code_offset: where the region starts in the code segment, in bytes.
    code_size: bytes of code and tables, from `code_offset` on.
    entries: slots and the offsets of their entries in the code segment, ascending by slot; more
        than were asked for is allowed, fewer too.
    lines: bitmap of 64-byte lines it was made from: covers all spans, may cover more (bytes looked
        at, not lifted).
    spans: runs of guest code bytes it was made from, ascending, not touching each other.
    instructions: guest instructions lifted.
    timings: where the time went.
    """

    identity: Identity
    code_offset: Bytes
    code_size: Bytes
    entries: Annotated[tuple[Entry, ...], Size(1, MAX_ENTRIES)]
    lines: U64
    spans: Annotated[tuple[Span, ...], Size(1, MAX_SPANS)]
    instructions: U32
    timings: Timings

    def check(self) -> None:
        code = range(self.code_offset, self.code_offset + self.code_size)
        check_region(self.entries, code, self.spans, self.lines)


@_message("REJECTED", "translator")
@dataclass(frozen=True, slots=True)
class Rejected(_Stamped):
    """There is no translation. The answer is retired like a translation: it holds while its stamp
    is current.

    id: repeated from TRANSLATE.
    epoch: repeated.
    map_generation: repeated.
    page: repeated.
    page_generation: repeated.
    state_word: repeated.
    entries: repeated.
    reason: why, and so for how long.
    text: a line for a log; may be empty.
    """

    entries: Annotated[tuple[Slot, ...], Size(1, MAX_ENTRIES)]
    reason: RejectReason
    text: Text

    def check(self) -> None:
        check_ascending("entries", self.entries)


@_message("CANCEL", "machine")
@dataclass(frozen=True, slots=True)
class Cancel(Message):
    """A request is no longer wanted. Never answered; an answer on its way is dropped by the
    machine.

    id: number of the request.
    """

    id: U64


@_message("RETIRE", "machine")
@dataclass(frozen=True, slots=True)
class Retire(Message):
    """Retirement of everything: cancel and forget whatever was made under an older epoch. Harts run
    in tier 0 until it is answered.

    epoch: the new epoch.
    cause: what bumped it.
    """

    epoch: U64
    cause: RetireCause


@_message("RETIRED", "translator")
@dataclass(frozen=True, slots=True)
class Retired(Message):
    """Nothing older than this epoch is alive in the translator, and here is the new, empty code
    segment.

    epoch: repeated from RETIRE.
    queued: requests dropped from the queue.
    running: translations under way that were abandoned; their results go nowhere.
    modules: finished translations forgotten.
    bytes: bytes of code freed.
    live_older: translations, queue entries, snapshots and negative results of older epochs still
        held: must be 0.
    code: the code segment of the new epoch.
    backend: the backend in force from now on, with its options.
    pid: process id of the translator, the segment's owner.
    """

    epoch: U64
    queued: U64
    running: U64
    modules: U64
    bytes: U64
    live_older: U64
    code: Segment
    backend: Name
    pid: Pid

    def check(self) -> None:
        self.code.check(self.pid)


@_message("SWAP", "machine")
@dataclass(frozen=True, slots=True)
class Swap(Message):
    """Make another backend, or other options, ready. It comes into force with the next epoch, so no
    region of the old one survives it.

    backend: one of WELCOME's names, with options (`NAME,OPTION=VALUE,...`).
    """

    backend: Name


@_message("SWAPPED", "translator")
@dataclass(frozen=True, slots=True)
class Swapped(Message):
    """The backend is ready; the machine bumps the epoch (cause backend_swap). A failure is ERROR
    unknown_backend, and the old backend stays.

    backend: repeated from SWAP.
    """

    backend: Name


@_message("PING", "machine")
@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Are you there? Session 0 may ask too.

    token: any number, greater than the one before.
    """

    token: U64


@_message("PONG", "translator")
@dataclass(frozen=True, slots=True)
class Pong(Message):
    """Yes.

    token: repeated from PING.
    incarnation: as in WELCOME.
    """

    token: U64
    incarnation: U64


@_message("STATS", "machine")
@dataclass(frozen=True, slots=True)
class Stats(Message):
    """Ask for counts of the session, or of the whole service with session 0."""


@_message("STATS_REPLY", "translator")
@dataclass(frozen=True, slots=True)
class StatsReply(Message):
    """Counts, in a fixed order.

    counters: names (unit as the name's last word) and values.
    """

    counters: Annotated[tuple[Counter, ...], Size(0, MAX_COUNTERS)]


@_message("ERROR", "translator")
@dataclass(frozen=True, slots=True)
class Error(Message):
    """Something asked cannot be done, or was not understood (then session and id are 0).

    name: what went wrong.
    id: number of the request concerned, or 0.
    text: one line for a person: what was asked, where, what to do.
    """

    name: ErrorName
    id: U64
    text: Text


@_message("BYE", "both")
@dataclass(frozen=True, slots=True)
class Bye(Message):
    """The session ends; nothing follows. The translator drops all it holds for it, the machine runs
    on in tier 0.

    reason: one line for a log.
    """

    reason: Text


def tag_of(message: Message | type[Message]) -> str:
    """A message's tag on the wire."""
    return DESCRIPTIONS[message if isinstance(message, type) else type(message)].tag


# They follow a session's own, and stand in a file of their own: nothing of a machine is in them.
from protocol.job_messages import (  # noqa: E402
    JobCancel as JobCancel,
)
from protocol.job_messages import (  # noqa: E402
    JobCode as JobCode,
)
from protocol.job_messages import (  # noqa: E402
    JobDone as JobDone,
)
from protocol.job_messages import (  # noqa: E402
    JobHello as JobHello,
)
from protocol.job_messages import (  # noqa: E402
    JobRefused as JobRefused,
)
from protocol.job_messages import (  # noqa: E402
    JobRequest as JobRequest,
)
from protocol.job_messages import (  # noqa: E402
    JobWelcome as JobWelcome,
)
