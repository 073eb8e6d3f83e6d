"""What the broker asks of a worker and what comes back: plain data, and its bytes on the pipe.

The problem: translating must be a pure function of its request, so that its result may be kept,
compared and repeated, and the process that does it may die. So a `Job` is complete in itself, holds
no pointer, no session and no counter, and a worker knows nothing else.

Who reads what:

- `jit_proc.lift.translate(job: Job) -> Translation` turns guest bytes into IR, or raises
  `Untranslatable`. It sees the hart's state only through `Job.state_word`, which the code's guard
  compares, so what is baked and what is guarded cannot differ.
- `backends/` make a `Region` of a job; `worker.py` finds the one named and answers an `Outcome`.
- `pool.py` carries both across the pipe: frames of a 4-byte little-endian length and a msgpack
  array, in both directions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import msgpack  # type: ignore[import-untyped]

from protocol.fields import RejectReason
from protocol.plain import dataclass

MAX_FRAME = 256 << 20

_LENGTH = struct.Struct("<I")
_REASONS = frozenset(get_args(RejectReason))


@dataclass(frozen=True, slots=True)
class Job:
    """Translate a region of one page.

    `page`: backing page index (it tells apart regions in listings; nothing may be derived from it).
    `content`: the page's 4096 bytes. `entries`: slots (halfword indices) at which the code must be
    enterable, ascending. `state_word`: as in TRANSLATE. `backend`: with its options, as it is spelt
    (`protocol/backends.py`). `level`: as in TRANSLATE. `known`, `seen`: advice, as in TRANSLATE;
    any translation that can be entered at `entries` is right, whatever it was advised. `hints`:
    values that a hart's registers had of late, for who wants to try a translation. `cpu`: the
    level of the architecture that the code may use, in LLVM's spelling; empty for this host's CPU.
    """

    page: int
    content: bytes
    entries: tuple[int, ...]
    state_word: int
    backend: str = "llvm"
    level: int = 0
    known: tuple[int, ...] = ()
    seen: bytes = b""
    hints: tuple[int, ...] = ()
    cpu: str = ""


@dataclass(frozen=True, slots=True)
class Translation:
    """What the lifter made of a job: IR, and which guest bytes it stands for.

    `ir`: a module in LLVM's textual form. `entries`: slot -> name of the function to enter there.
    `spans`: (offset, length) of the guest code bytes, ascending, not touching (see TRANSLATED).
    `lines`: bitmap of the 64-byte lines looked at, at least those of the spans.
    `instructions`: guest instructions lifted. `passes`, `level`, `isel`: for `llvm.compile_ir`.
    `select_us`: microseconds of lifting that went into choosing the instructions.
    """

    ir: str
    entries: Mapping[int, str]
    spans: tuple[tuple[int, int], ...]
    lines: int
    instructions: int
    passes: tuple[str, ...] = ("sroa", "instcombine", "simplifycfg")
    level: int = 1
    isel: str = "fast"
    select_us: int = 0


ADVICE = ("known", "seen", "hints")
"""Fields of a `Job` that no one needs to follow: they are no part of what decides a result."""


class Untranslatable(Exception):
    """The lifter's refusal: a reason of `protocol.fields.RejectReason` and a line for the log."""

    def __init__(self, reason: RejectReason, text: str = "") -> None:
        super().__init__(f"{reason}: {text}" if text else reason)
        self.reason: RejectReason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class EngineJob:
    """Build the tier-0 engine (`jit_proc.engine.build()`)."""


class Times(NamedTuple):
    """Microseconds a job took, by phase, and its processor time; parts of `fields.Timings`."""

    select: int = 0
    lift: int = 0
    parse: int = 0
    passes: int = 0
    codegen: int = 0
    link: int = 0
    cpu: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """A job done: a position-independent image, and the offsets of its entries in it (by slot).

    `compared`: the states from which it was compared with another translation; `alone`: it was to
    be, but the other backend refused to translate it.
    """

    code: bytes
    entries: tuple[tuple[int, int], ...]
    spans: tuple[tuple[int, int], ...]
    lines: int
    instructions: int
    times: Times
    compared: int = 0
    alone: bool = False

    def enters(self, slot: int) -> bool:
        """Whether it can be entered there."""
        return any(slot == one for one, _ in self.entries)


@dataclass(frozen=True, slots=True)
class EngineBuilt:
    """The engine's image and the offsets of its symbols."""

    code: bytes
    symbols: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job not done, and why: one of the reasons of REJECTED."""

    reason: RejectReason
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """A job done twice, and the two can be told apart: `backend` is not to be asked for these bytes
    again. `spans`: its region's. `text`: what differs, a line; `file`: the reproducer, or empty;
    `compared`: as in `Region`.
    """

    backend: str
    spans: tuple[tuple[int, int], ...]
    text: str
    file: str
    compared: int = 0


class Differs(Exception):
    """Two backends disagree about a job."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.text)
        self.difference = difference


@dataclass(frozen=True, slots=True)
class Crash:
    """The worker that had the job ended, by LLVM or by its time limit; the pool says so."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first words: it can take a job; `identity` is LLVM's version, CPU and features."""

    identity: str


AnyJob = Job | EngineJob
Outcome = Region | EngineBuilt | Refusal | Difference | Crash

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (Job, EngineJob, Region, EngineBuilt, Refusal, Difference, Ready)
}


def encode(message: AnyJob | Outcome | Ready) -> bytes:
    """One frame, length included."""
    fields = [getattr(message, name) for name in message.__dataclass_fields__]
    body: bytes = msgpack.packb([type(message).__name__, *fields])
    if len(body) > MAX_FRAME:
        raise ValueError(f"a {type(message).__name__} of {len(body)} bytes is too large")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes | bytearray | memoryview) -> Any:
    """The message of one frame, without its length. Raises ValueError when it is none."""
    try:
        name, *fields = msgpack.unpackb(body, use_list=False, strict_map_key=False)
        message = _KINDS[name](*fields)
        if isinstance(message, Region):
            message = replace(message, times=Times(*message.times))
    except (ValueError, TypeError, KeyError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"a frame of {len(body)} bytes makes no sense: {error!r}") from error
    if isinstance(message, Refusal) and message.reason not in _REASONS:
        raise ValueError(f"reason {message.reason!r} is unknown")
    return message


class Frames:
    """Cuts a stream of bytes into frames as they become complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take `data` in; yield each message now complete. Raises ValueError for nonsense."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            length = _LENGTH.unpack_from(self._buffer)[0]
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} bytes is announced")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body)
