"""Actions: what a session's state machine wants done, on either side.

Problem: both sides of a session are sans-I/O state machines: they are told events by method calls
and answer with lists of actions. Whoever owns the socket and the clock carries the actions out, in
order, before it tells the next event.

Invariant: an action is plain data; carrying it out needs no look into the state machine.

Read next: `protocol.session_machine`, `protocol.session_translator`; `protocol.transport.Timers`,
`Client.send` and `Server.send`, which carry actions out.
"""

from __future__ import annotations

from protocol.generations import Epoch
from protocol.messages import (
    Attach,
    Message,
    Rejected,
    RetireCause,
    Retired,
    Segment,
    StatsReply,
    Translate,
    Translated,
)
from protocol.plain import dataclass

# --- both sides ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Call `timer(name)` in `seconds`; an earlier deadline of the same name is forgotten."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the deadline `name`; it need not be set."""

    name: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message was not acted on: late, twice, or not for us. For logs and counts only.

    `tag`: the message's tag. `id`: its request's number, or 0. `reason`: a word.
    """

    tag: str
    id: int
    reason: str


# --- the machine's side --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message; if it cannot be queued, call `send_failed` with it."""

    message: Message


@dataclass(frozen=True, slots=True)
class AttachCode:
    """Map this code segment for reading and executing (after checking its size and seals)."""

    code: Segment
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class DropCode:
    """Unmap the code segment, where that is not done yet. Only ever an answer to `retire`: no
    record points into it any more.
    """


@dataclass(frozen=True, slots=True)
class Publish:
    """At a safe point: if the stamp is current and the bytes' identity is right, store the entries
    into their records; else drop it. `left`: slots asked for that lie outside of what was
    translated, though others do not: they may be asked for again.
    """

    message: Translated
    left: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The translator will not translate this; the message says why, and so for how long."""

    message: Rejected


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """These slots got no answer (`reason`, a word); they may be asked for again when hot again."""

    page: int
    state_word: int
    entries: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class CodeSpaceFull:
    """The translator has no room: bump the epoch, cause code_space_full. Told once per epoch."""


@dataclass(frozen=True, slots=True)
class RetirementDone:
    """Nothing older than the epoch is alive in the translator. AttachCode comes."""

    message: Retired


@dataclass(frozen=True, slots=True)
class TranslatorDead:
    """The translator is given up. If `epoch_needed`: at a safe point bump the epoch, drop every
    record that points to translated code, and call `retire`; no new session begins before.
    `text`: what the translator said of it, if it did.
    """

    reason: str
    epoch_needed: bool
    text: str = ""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Close the socket, make a new one, and call `connect` with a new random session number."""


@dataclass(frozen=True, slots=True)
class Incompatible:
    """The translator can never serve this machine; `text` tells the user why."""

    text: str


@dataclass(frozen=True, slots=True)
class EngineLoaded:
    """The engine asked for lies at `path`."""

    key: str
    path: str


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """There will be no engine of this key; `text` tells the user why."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class SwapReady:
    """The backend is ready: bump the epoch, cause backend_swap, and it comes into force."""

    backend: str


@dataclass(frozen=True, slots=True)
class SwapFailed:
    """The backend cannot be had; the old one stays in force."""

    backend: str
    text: str


@dataclass(frozen=True, slots=True)
class StatsArrived:
    """The translator's counts."""

    message: StatsReply


MachineAction = (
    Send
    | AttachCode
    | DropCode
    | Publish
    | RequestRefused
    | RequestFailed
    | CodeSpaceFull
    | RetirementDone
    | TranslatorDead
    | Reconnect
    | Incompatible
    | EngineLoaded
    | EngineFailed
    | SwapReady
    | SwapFailed
    | StatsArrived
    | SetTimer
    | CancelTimer
    | Dropped
)


# --- the translator's side -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """A translation to be made: `session` and `request.id` name it in the whole service.

    `backend`: the one in force in the request's epoch. `attempts`: workers it has killed so far.
    """

    session: int
    request: Translate
    backend: str
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """Send the message to the peer; if that fails, call `peer_lost`."""

    peer: bytes
    message: Message


@dataclass(frozen=True, slots=True)
class MapMachine:
    """Map the machine's segments for reading, make a code segment, and call `attached` (or
    `attach_failed`). Code will be made for `host` with `host_features`.
    """

    session: int
    attach: Attach
    host: str
    host_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Abandon:
    """A job that `take` gave out is not wanted any more: kill its worker, or let it end in vain.

    What it makes must not reach the code segment: `is_live` is False for it from now on.
    """

    job: Job


@dataclass(frozen=True, slots=True)
class ForgetOlder:
    """Forget all that was made for the session under older epochs (modules, objects, page
    snapshots, negative results; not what is stored by content), make a new code segment, close the
    old one, and call `retired` (or `retire_failed`) with the epoch and what was freed.
    """

    session: int
    epoch: Epoch
    cause: RetireCause


@dataclass(frozen=True, slots=True)
class ForgetSession:
    """The session is over: unmap and close everything of it."""

    session: int
    reason: str


@dataclass(frozen=True, slots=True)
class BuildEngine:
    """Make the engine of this key, or find it, and call `engine_ready` or `engine_failed`.

    Asked once for all sessions that wait for it.
    """

    key: str
    session: int


@dataclass(frozen=True, slots=True)
class PrepareBackend:
    """Load the backend, and call `backend_ready` or `backend_failed`."""

    session: int
    backend: str


@dataclass(frozen=True, slots=True)
class Discard:
    """A result came for a job that is not live: free what it placed, if anything."""

    job: Job


TranslatorAction = (
    Reply
    | MapMachine
    | Abandon
    | ForgetOlder
    | ForgetSession
    | BuildEngine
    | PrepareBackend
    | Discard
    | SetTimer
    | CancelTimer
    | Dropped
)
