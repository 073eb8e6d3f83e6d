"""The machine's side of a session with a translator: events in, actions out.

Problem: a machine must profit from a translator that may be absent, slow, restarted or broken,
and must never use an answer that is not about its present state. All of that is decided here,
without a socket, a clock or a thread, so that services, tests and models run the same code.

Life of a session::

    idle -connect-> greeting -WELCOME-> attaching -ATTACHED-> attached <-RETIRED/retire-> retiring
      any of these -deadline, BYE, lost connection-> dead -(new epoch) Reconnect, connect-> greeting
      greeting -mismatch-> incompatible (final); or dead, if one of this build was met before
      any -close-> closed (final)

Invariants:
- `Publish` is emitted only in state attached, for a request that is outstanding, whose stamp the
  reply repeats, under the present epoch, with offsets inside of the attached code segment. The
  machine still checks the stamp against its counters at a safe point, and stores then.
- A slot that was asked for ends in exactly one of Publish, RequestRefused, RequestFailed, or a
  retirement of everything.
- After `retire`, nothing of an older epoch is outstanding, and no code is attached until RETIRED of
  exactly this epoch says that nothing older is alive. `settled` is False until then, or until the
  translator is declared dead: harts run in tier 0, and nothing is asked for.
- Each ATTACH is made under an epoch no other ATTACH of this machine was made under.
- Request ids only grow, over all sessions of the machine.
- A backend swap is an epoch of its own: SWAPPED says that the backend is ready, the machine retires
  everything, and RETIRED says that it is in force. A refusal leaves the old one, and no epoch.

Read next: `protocol.session_wishes`, `protocol.session_translator`; `protocol/SPEC.md`, sections on
sessions and retirement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from protocol.codec import CodecError
from protocol.generations import MASK, Epoch, Stamp
from protocol.messages import (
    Attached,
    Bye,
    Cancel,
    EngineReady,
    Error,
    Message,
    Ping,
    Pong,
    Rejected,
    Retire,
    RetireCause,
    Retired,
    Segment,
    Stats,
    StatsReply,
    Swapped,
    Translate,
    Translated,
    Welcome,
    tag_of,
)
from protocol.mutants import armed
from protocol.session import (
    AttachCode,
    CancelTimer,
    CodeSpaceFull,
    DropCode,
    Dropped,
    Incompatible,
    MachineAction,
    Publish,
    Reconnect,
    RequestFailed,
    RequestRefused,
    RetirementDone,
    Send,
    SetTimer,
    StatsArrived,
    TranslatorDead,
)
from protocol.session_requests import Requests, failed, outside
from protocol.session_terms import Deadlines as Deadlines
from protocol.session_terms import Offer as Offer
from protocol.session_wishes import Wishes

State = Literal[
    "idle", "greeting", "attaching", "attached", "retiring", "dead", "incompatible", "closed"
]

_CONNECTED = ("greeting", "attaching", "attached", "retiring")
_WELCOMED = ("attaching", "attached", "retiring")
_FINAL = (
    "version_mismatch",
    "layout_mismatch",
    "isa_mismatch",
    "unsupported_host",
    "unknown_backend",
)
"""Errors after which asking again would have the same answer."""


class MachineSession:
    """One machine's session with whichever translator it has. Every event returns its actions."""

    def __init__(
        self, offer: Offer, epoch: Epoch, deadlines: Deadlines | None = None, window: int = 64
    ) -> None:
        """`epoch`: the machine's present one. `window`: requests outstanding at most."""
        self.state: State = "idle"
        self.epoch = epoch
        self.session = 0
        self.code: Segment | None = None
        self.backend = ""
        self.backends: tuple[str, ...] = ()
        self.incarnation = 0
        self.translator_pid = 0
        self._offer = offer
        self._deadlines = deadlines or Deadlines()
        self._window = window
        self._next_id = 1
        self._requests = Requests()
        self._beat = 0
        self._heard = 0
        self._pause = self._deadlines.reconnect
        self._spent_epoch: Epoch | None = None  # ATTACH was sent under it
        self._wishes = Wishes(offer.backend, self._deadlines)
        self._full = False

    # --- what the machine asks -------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether no retirement of everything is waiting for its answer."""
        return self.state != "retiring"

    @property
    def outstanding(self) -> int:
        """Requests under way."""
        return len(self._requests)

    @property
    def awaits_epoch(self) -> bool:
        """Whether a new session must wait for the machine to bump the epoch."""
        return self._spent_epoch == self.epoch

    # --- events from the machine -----------------------------------------------------------------

    def connect(self, session: int) -> list[MachineAction]:
        """A socket is open: begin. `session`: a random number, 1 to 2**64 - 1, never used before.

        Raises ValueError in a state that has a session, or before the epoch was bumped.
        """
        if self.state not in ("idle", "dead"):
            raise ValueError(f"connect in state {self.state}")
        if self.awaits_epoch:
            raise ValueError("connect under an epoch that was used before")
        self.state = "greeting"
        self.session = session
        hello = self._offer.hello(session, self._wishes.backend)
        return [Send(hello), SetTimer("handshake", self._deadlines.handshake)]

    def request(
        self,
        stamp: Stamp,
        entries: Iterable[int],
        heat: int,
        level: int = 0,
        known: tuple[int, ...] = (),
        seen: bytes = b"",
    ) -> list[MachineAction]:
        """Hot records want code. Slots already asked for under this stamp are left out.

        `level`, `known`, `seen`: as in TRANSLATE.
        """
        wanted = tuple(sorted(set(entries)))
        if self.state != "attached":
            return [RequestFailed(stamp.page, stamp.state_word, wanted, "not_attached")]
        if stamp.epoch != self.epoch:
            return [RequestFailed(stamp.page, stamp.state_word, wanted, "stale_epoch")]
        actions: list[MachineAction] = []
        fresh = []
        for slot in wanted:
            earlier = self._requests.asked(stamp, slot)
            if earlier is not None and earlier.stamp != stamp:
                actions += self._give_up(earlier, "superseded", but=wanted)
                earlier = None
            if earlier is None:
                fresh.append(slot)
        if not fresh:
            return actions
        slots = tuple(fresh)
        if len(self._requests) >= self._window:
            return [*actions, RequestFailed(stamp.page, stamp.state_word, slots, "window_full")]
        message = Translate(
            self.session,
            self._next_id,
            stamp.epoch,
            stamp.map_generation,
            stamp.page,
            stamp.page_generation,
            stamp.state_word,
            slots,
            heat,
            level,
            known,
            seen,
        )
        self._next_id = (self._next_id + 1) & MASK
        self._requests.add(message, self._beat)
        return [*actions, Send(message)]

    def is_asked(self, id: int) -> bool:
        """Whether a request is under way, by its id."""
        return self._requests.has(id)

    def asks_about(self, page: int) -> bool:
        """Whether a request about the page is under way."""
        return bool(self._requests.about(page))

    def asks_of_old(self, page: int, stamp: Stamp) -> bool:
        """Whether a request about the page is under way, and its bytes or place have moved."""
        now = stamp.map_generation, stamp.page_generation
        about = self._requests.about(page)
        return any((one.map_generation, one.page_generation) != now for one in about)

    def cancel_page(self, page: int) -> list[MachineAction]:
        """The page's generation moved: no answer about it is wanted any more."""
        actions: list[MachineAction] = []
        for request in self._requests.about(page):
            actions += self._give_up(request, "superseded")
        return actions

    def retire(self, epoch: Epoch, cause: RetireCause) -> list[MachineAction]:
        """The epoch was bumped; no record points to translated code, and none of it is mapped.

        Another retirement waits until `settled`, or until it is given up.
        """
        if epoch == self.epoch:
            raise ValueError(f"retirement under the same epoch {epoch}")
        self.epoch = epoch
        self._full = False
        if armed("M42") and self.state == "attached":
            self._spent_epoch = epoch
            return [Send(Retire(self.session, epoch, cause))]
        self._requests.clear()
        actions: list[MachineAction] = []
        if self.state in _WELCOMED:
            self.state = "retiring"
            self._spent_epoch = epoch
            actions += [
                Send(Retire(self.session, epoch, cause)),
                SetTimer("retire", self._deadlines.retire),
            ]
        if self.code is not None:  # last: it takes its time, and the translator is at work by now
            self.code = None
            actions.append(DropCode())
        return actions

    def ask_engine(self, key: str) -> list[MachineAction]:
        """Want the engine of this key; asked for whenever a translator is met, until it is here."""
        actions = self._wishes.want_engine(key)
        if self.state in _WELCOMED:
            actions += self._wishes.ask_engine(self.session)
        return actions

    def swap(self, backend: str) -> list[MachineAction]:
        """Want another backend, one of `backends`, with its options; one swap at a time."""
        session = self.session if self.state in _WELCOMED else None
        return self._wishes.ask_swap(backend, session, self.backends)

    def ask_stats(self) -> list[MachineAction]:
        """Want the translator's counts; nothing happens without one."""
        return [Send(Stats(self.session))] if self.state in _WELCOMED else []

    def close(self, reason: str) -> list[MachineAction]:
        """The machine ends."""
        actions: list[MachineAction] = []
        if self.state in _CONNECTED:
            actions.append(Send(Bye(self.session, reason)))
        self.state = "closed"
        self._requests.clear()
        return [
            *actions,
            *_cancel("handshake", "retire", "heartbeat", "reconnect", "engine", "swap"),
        ]

    # --- events from the socket and the clock ----------------------------------------------------

    def disconnected(self) -> list[MachineAction]:
        """The connection was lost."""
        return self._die("connection_lost") if self.state in _CONNECTED else []

    def send_failed(self, message: Message) -> list[MachineAction]:
        """A Send could not be carried out: the queue towards the translator is full."""
        if isinstance(message, Translate):
            asked = self._requests.remove(message.id)
            return [] if asked is None else [failed(asked, "send_queue_full")]
        if message.session != self.session or self.state not in _CONNECTED:
            return []
        return self._die("send_queue_full")

    def garbage(self, error: CodecError) -> list[MachineAction]:
        """Something came that is no message."""
        if self.state == "greeting" and error.name == "version_mismatch":
            return self._incompatible(f"translator: {error.text}")
        return [Dropped("", 0, error.name)]

    def timer(self, name: str) -> list[MachineAction]:
        """The deadline of a SetTimer has passed."""
        if name == "handshake" and self.state in ("greeting", "attaching"):
            return self._die("handshake_timed_out")
        if name == "retire" and self.state == "retiring":
            return self._die("retire_timed_out")
        if name == "heartbeat" and self.state in ("attached", "retiring"):
            return self._heartbeat()
        if name == "reconnect" and self.state == "dead":
            if self.awaits_epoch:
                return [SetTimer("reconnect", self._pause)]
            return [Reconnect()]
        return self._wishes.timer(name)

    def receive(self, message: Message) -> list[MachineAction]:
        """A message came."""
        if isinstance(message, Error) and message.session == 0 and self.state in _CONNECTED:
            return self._on_error(message)
        if self.state not in _CONNECTED or message.session != self.session:
            if armed("M41") and isinstance(message, Translated) and self.state == "attached":
                return [Publish(replace(message, session=self.session, epoch=self.epoch))]
            return [_dropped(message, "other_session")]
        self._heard = self._beat
        match message:
            case Welcome():
                return self._on_welcome(message)
            case Attached():
                return self._on_attached(message)
            case Translated() | Rejected():
                return self._on_answer(message)
            case Retired():
                return self._on_retired(message)
            case EngineReady():
                return self._wishes.engine_ready(message) or [_dropped(message, "not_outstanding")]
            case Swapped():
                return self._wishes.swapped(message) or [_dropped(message, "not_outstanding")]
            case Pong():
                if message.incarnation != self.incarnation and self.state != "greeting":
                    return self._die("translator_restarted")
                return []
            case StatsReply():
                return [StatsArrived(message)]
            case Error():
                return self._on_error(message)
            case Bye():
                return self._die(f"said_goodbye: {message.reason}")
            case _:
                return [_dropped(message, "wrong_direction")]

    # --- messages --------------------------------------------------------------------------------

    def _on_welcome(self, message: Welcome) -> list[MachineAction]:
        if self.state != "greeting":
            return [_dropped(message, "duplicate")]
        complaint = self._offer.complaint(message)
        if complaint:
            return self._incompatible(complaint)
        self.state = "attaching"
        self.backends = message.backends
        self.incarnation = message.incarnation
        self.translator_pid = message.pid
        self._spent_epoch = self.epoch
        attach = self._offer.attach(self.session, self.epoch)
        return [Send(attach), *self._wishes.ask_engine(self.session)]

    def _on_attached(self, message: Attached) -> list[MachineAction]:
        if message.epoch != self.epoch:
            return [_dropped(message, "stale_epoch")]
        if self.state != "attaching":
            return [_dropped(message, "duplicate")]
        return [*self._attach(message), *_cancel("handshake")]

    def _on_retired(self, message: Retired) -> list[MachineAction]:
        if message.epoch != self.epoch:
            return [_dropped(message, "stale_epoch")]
        if armed("M42") and self.state == "attached" and self.code != message.code:
            return [*self._attach(message), RetirementDone(message)]
        if self.state != "retiring":
            return [_dropped(message, "duplicate")]
        if message.live_older:
            return self._die(f"retired_with_{message.live_older}_older_alive")
        attached = self._attach(message)
        if self.code is None:  # its segment is not one to be mapped: it is dead now
            return attached
        return [RetirementDone(message), *attached, *_cancel("retire", "handshake")]

    def _attach(self, message: Attached | Retired) -> list[MachineAction]:
        """Code may be published from now on."""
        if message.pid != self.translator_pid:
            return self._die("segment_of_another_process")
        self.state = "attached"
        self.code = message.code
        self.backend = message.backend
        self._pause = self._deadlines.reconnect
        return [
            AttachCode(message.code, message.epoch),
            SetTimer("heartbeat", self._deadlines.heartbeat),
        ]

    def _on_answer(self, message: Translated | Rejected) -> list[MachineAction]:
        if self.state != "attached" or self.code is None:
            return [_dropped(message, "stale_epoch")]
        if message.epoch != self.epoch and not armed("M42"):
            return [_dropped(message, "stale_epoch")]
        asked = self._requests.remove(message.id)
        if asked is None:
            return [_dropped(message, "not_outstanding")]
        useless = failed(asked, "answer_inconsistent")
        if message.stamp != asked.stamp and not armed("M47"):
            return [_dropped(message, "another_stamp"), useless]
        if isinstance(message, Translated):
            if message.code_offset + message.code_size > self.code.size:
                return [_dropped(message, "outside_of_code_segment"), useless]
            left = outside(asked.entries, message.spans)
            if len(left) == len(asked.entries):
                left = ()  # it would be answered by the same again
            if armed("M42"):
                message = replace(message, epoch=self.epoch)
            return [Publish(message, left)]
        if message.reason == "code_space_full" and not self._full:
            self._full = True
            return [RequestRefused(message), CodeSpaceFull()]
        return [RequestRefused(message)]

    def _on_error(self, message: Error) -> list[MachineAction]:
        if self.state == "greeting" and message.name in _FINAL:
            return self._incompatible(f"translator: {message.text}")
        refused = self._wishes.refused(message)
        if refused:
            return refused
        if message.id:
            asked = self._requests.remove(message.id)
            if asked is None:
                return [_dropped(message, "not_outstanding")]
            return [failed(asked, message.name)]
        return self._die(message.name, message.text)

    # --- inner life ------------------------------------------------------------------------------

    def _heartbeat(self) -> list[MachineAction]:
        self._beat += 1
        if self._beat - self._heard > self._deadlines.missed:
            return self._die("no_answer")
        actions: list[MachineAction] = [
            Send(Ping(self.session, self._beat)),
            SetTimer("heartbeat", self._deadlines.heartbeat),
        ]
        for request in self._requests.before(self._beat - self._deadlines.request):
            actions += self._give_up(request, "timed_out")
        return actions

    def _die(self, reason: str, text: str = "") -> list[MachineAction]:
        self.state = "dead"
        self._requests.clear()
        actions: list[MachineAction] = [TranslatorDead(reason, self.awaits_epoch, text)]
        actions += _cancel("handshake", "retire", "heartbeat", "swap")
        actions += self._wishes.swap_failed(f"the translator is gone: {reason}")
        actions.append(SetTimer("reconnect", self._pause))
        self._pause = min(2 * self._pause, self._deadlines.reconnect_max)
        return actions

    def _incompatible(self, text: str) -> list[MachineAction]:
        """It is of another build. Where one of this build was, one may be again: look now and then.

        Its code is none for this machine's engine: the guest goes on in tier 0.
        """
        if self.incarnation:
            self._pause = self._deadlines.reconnect_max
            _, *rest = self._die("incompatible")  # of which the user is told in other words
            return [Send(Bye(self.session, "incompatible")), Incompatible(text), *rest]
        self.state = "incompatible"
        actions: list[MachineAction] = [Incompatible(text), *_cancel("handshake", "engine")]
        actions += self._wishes.engine_failed(text)
        return [Send(Bye(self.session, "incompatible")), *actions]

    def _give_up(
        self, request: Translate, reason: str, but: tuple[int, ...] = ()
    ) -> list[MachineAction]:
        """Cancel a request; its slots fail, but for those that are asked for anew at once."""
        self._requests.remove(request.id)
        rest = tuple(slot for slot in request.entries if slot not in but)
        actions: list[MachineAction] = [Send(Cancel(self.session, request.id))]
        if rest:
            actions.append(RequestFailed(request.page, request.state_word, rest, reason))
        return actions


def _cancel(*names: str) -> list[MachineAction]:
    return [CancelTimer(name) for name in names]


def _dropped(message: Message, reason: str) -> Dropped:
    return Dropped(tag_of(message), getattr(message, "id", 0), reason)
