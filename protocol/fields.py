"""What a message's field may be: types that carry their ranges, tables of names, and small
structures.

Problem: a number from another process must be bounded before it is used, and a list of bounds kept
apart from the fields would soon disagree with them. So each field's type says its bounds
(`Annotated`), the codec derives its checks from it, and the specification prints it.

Invariant: every type here is bounded, so that every message is.

Read next: `protocol.messages`, which is made of these; `protocol.codec`, which enforces them.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from protocol.generations import IDENTITY_SIZE
from protocol.layout import PAGE_SIZE, SLOTS_PER_PAGE

MAX_ENTRIES = SLOTS_PER_PAGE
MAX_SPANS = SLOTS_PER_PAGE // 2
MAX_BACKENDS = 32
MAX_FEATURES = 512
MAX_COUNTERS = 256


class Range(NamedTuple):
    """An integer's least and greatest value."""

    low: int
    high: int


class Size(NamedTuple):
    """Least and greatest length: bytes of text (UTF-8) and byte strings, items of tuples."""

    low: int
    high: int


class Pattern(NamedTuple):
    """A regular expression that a text must match as a whole."""

    regex: str


U64 = Annotated[int, Range(0, 2**64 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
Pid = Annotated[int, Range(1, 2**31 - 1)]
Bytes = Annotated[int, Range(0, 2**47 - 1)]
PageIndex = Annotated[int, Range(0, 2**35 - 1)]
Slot = Annotated[int, Range(0, SLOTS_PER_PAGE - 1)]
Name = Annotated[str, Size(1, 128), Pattern(r"[\x21-\x7e]+")]
OptionalName = Annotated[str, Size(0, 128), Pattern(r"[\x21-\x7e]*")]
Text = Annotated[str, Size(0, 1024)]
Path = Annotated[str, Size(2, 1024), Pattern(r"/[^\x00]+")]
Identity = Annotated[bytes, Size(IDENTITY_SIZE, IDENTITY_SIZE)]
SlotBitmap = Annotated[bytes, Size(0, SLOTS_PER_PAGE // 8)]

RetireCause = Literal[
    "power_on",
    "system_reset",
    "snapshot_restore",
    "backend_swap",
    "translator_restart",
    "code_space_full",
    "overflow",
    "counter_wrap",
    "request",
]
"""Why a machine bumped the epoch. "request": a person or a tool asked for it."""

RejectReason = Literal[
    "not_code",
    "unsupported",
    "too_large",
    "not_backed",
    "bytes_moved",
    "stale_epoch",
    "queue_full",
    "code_space_full",
    "compiler_failed",
    "compiler_crashed",
    "not_kept",
]
"""Why there is no translation. The first four hold until the page's generation moves; "bytes_moved"
(a counter moved while the bytes were read), "stale_epoch" and "queue_full" invite a new request
when the code is hot again; "code_space_full" asks for a retirement of everything; "compiler_failed"
and "compiler_crashed" are not to be tried again in this session; "not_kept" answers heat 0.
"""

ErrorName = Literal[
    "malformed",
    "oversize",
    "unknown_message",
    "unknown_field",
    "missing_field",
    "wrong_type",
    "out_of_range",
    "inconsistent",
    "version_mismatch",
    "layout_mismatch",
    "isa_mismatch",
    "unknown_session",
    "session_in_use",
    "not_attached",
    "attach_failed",
    "retire_failed",
    "engine_failed",
    "unknown_backend",
    "too_many_sessions",
    "unsupported_host",
    "engine_mismatch",
]
"""What went wrong. The first nine are the codec's (`protocol.codec.CodecError`)."""


class Segment(NamedTuple):
    """A shared memory segment: `path` (``/proc/PID/fd/N`` of a sealed memfd) and `size` in bytes,
    whole pages.
    """

    path: Annotated[str, Size(10, 64), Pattern(r"/proc/[1-9][0-9]{0,9}/fd/[0-9]{1,9}")]
    size: Bytes

    def check(self, pid: int) -> None:
        """The segment must belong to the process that offers it, and be whole pages."""
        if self.path.split("/")[2] != str(pid):
            raise ValueError(f"segment {self.path} is not of process {pid}")
        if self.size == 0 or self.size % PAGE_SIZE:
            raise ValueError(f"segment size {self.size} is not a whole number of pages")


class Entry(NamedTuple):
    """A region's entry: the record at `slot` may be set to the code at byte `offset` of the code
    segment.
    """

    slot: Slot
    offset: Bytes


class Span(NamedTuple):
    """A run of guest code bytes within one page: `offset` and `length` in bytes, both even,
    `length` not 0.
    """

    offset: Annotated[int, Range(0, PAGE_SIZE - 2)]
    length: Annotated[int, Range(2, PAGE_SIZE)]


class Timings(NamedTuple):
    """Where a translation's time went, in microseconds: `queue`, from the request's arrival until a
    worker had it; `select`, `lift`, `parse` (the text, verified), `passes`, `codegen` and `link` in
    the worker; `publish`, until it stood in the code segment; `cpu`, what the worker's processor
    spent on all of its part, whatever else ran beside it.
    """

    queue: U32
    select: U32
    lift: U32
    parse: U32
    passes: U32
    codegen: U32
    link: U32
    publish: U32
    cpu: U32


class Counter(NamedTuple):
    """One named count."""

    name: Name
    value: U64
