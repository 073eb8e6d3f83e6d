"""A machine that follows a script: real segments, a real socket, no hart and no patience.

The problem: a machine's session state machine drops what is wrong, as it must; a kit has to see it.
So this one sends what it is told to, and judges every message that comes, whatever it waits for.

What is judged of each message, always: that it is one (the codec's checks), that it carries this
session's number, that an answer is to a request outstanding, repeats its stamp, is not of an epoch
that RETIRED has ended, names the bytes that the stamp stands for, and that its code lies inside of
the segment, at a place that was not given out before in this epoch, and never changes afterwards.

Invariants: every wait has a deadline and ends in a Violation that says what came instead. Memory is
written as a machine does it: the bytes, then the page's generation.

Read next: `requests.py` for its use; `protocol/SPEC.md`, sections 4 to 6.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from cpu_proc import native
from cpu_proc.conformance.rules import Skipped, Violation, require
from cpu_proc.segments import ControlSegment
from protocol.codec import CodecError
from protocol.generations import Stamp, bump, identity_of, is_older
from protocol.layout import LAYOUT_HASH, PAGE, PAGE_SIZE
from protocol.messages import (
    Attach,
    Attached,
    Bye,
    Error,
    Hello,
    Message,
    Ping,
    Pong,
    Rejected,
    Retire,
    RetireCause,
    Retired,
    Segment,
    Translate,
    Translated,
    Welcome,
    tag_of,
)
from protocol.riscv.identity import isa_hash
from protocol.transport import Client

if TYPE_CHECKING:
    from cpu_proc.conformance.rules import Bench

PAGES = 64
RAM_BASE = 0x8000_0000
STEP = 0.25  # seconds of one look at the socket
OWN_REFUSALS = frozenset(
    ("not_code", "unsupported", "too_large", "compiler_failed", "compiler_crashed")
)
"""Reasons that are a backend's free choice."""

M = TypeVar("M", bound=Message)


class Peer:
    """One scripted machine. `rest`: messages that came and that nobody has waited for yet."""

    def __init__(
        self, bench: Bench, *, pages: int = PAGES, backend: str | None = None, epoch: int = 1
    ) -> None:
        self.bench = bench
        self.backend = bench.backend if backend is None else backend
        self.session = secrets.randbits(64) | 1
        self.epoch, self.map_generation = epoch, 1
        self.mark = f"kit-{secrets.token_hex(6)}"
        self._ram = native.SharedSegment(self.mark, pages * PAGE_SIZE)
        self.control = ControlSegment(1, pages)
        self.generations = [0] * pages
        self.history: dict[tuple[int, int], bytes] = {}
        self.store_counters()
        for page in range(pages):
            self.history[page, 0] = bytes(PAGE_SIZE)
        self.welcome: Welcome | None = None
        self.attach_message: Attach | None = None
        self.code: Segment | None = None
        self.outstanding: dict[int, Translate] = {}
        self.rest: list[Message] = []
        self.lenient = False  # nothing of what it hears is judged
        self.lost = False  # the connection, at least once
        self._map: tuple[int, int] | None = None
        self._taken: dict[int, tuple[int, bytes]] = {}  # offset: size, bytes when it was told
        self._last_id = 0
        self._cancelled: set[int] = set()
        self._answered: set[int] = set()
        self._token = 0
        self._retired_to: int | None = None
        self.client = Client(bench.target.endpoint)

    # --- memory ----------------------------------------------------------------------------------

    def store_counters(self) -> None:
        """Put all counters where the translator reads them."""
        self.control.words.epoch = self.epoch
        self.control.words.map_generation = self.map_generation
        for page, value in enumerate(self.generations):
            self.control.pages[(page * PAGE.size + PAGE.offset("generation")) // 8] = value

    def poke(self, page: int, content: bytes) -> None:
        """Store a page's bytes, and tell no counter."""
        content = content.ljust(PAGE_SIZE, b"\0")
        ctypes.memmove(self._ram.address + page * PAGE_SIZE, content, PAGE_SIZE)
        self.history[page, self.generations[page]] = content

    def write(self, page: int, content: bytes) -> None:
        """The guest writes a page: the bytes, then the generation."""
        self.generations[page] += 1
        self.poke(page, content)
        self.store_counters()

    def content(self, page: int) -> bytes:
        """A page's present bytes."""
        return self.history[page, self.generations[page]]

    def stamp(self, page: int, state_word: int = 0) -> Stamp:
        """The counters as they are."""
        return Stamp(self.epoch, self.map_generation, page, self.generations[page], state_word)

    # --- what it says ----------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Say something."""
        require(self.client.send(message), "the translator takes no more messages", "2.6")

    def send_frames(self, *frames: bytes) -> None:
        """Say anything."""
        require(self.client.send_frames(*frames), "the translator takes no more messages", "2.6")

    def hello(self, **changes: Any) -> Hello:
        """HELLO as a machine of this installation says it, with changes."""
        pid, host = os.getpid(), os.uname().machine
        own = Hello(self.session, LAYOUT_HASH, isa_hash(), host, (), self.backend, pid)
        return replace(own, **changes)

    def greet(self) -> Welcome:
        """HELLO, and the WELCOME to it."""
        self.send(self.hello())
        self.welcome = self.wait(Welcome)
        return self.welcome

    def attach(self) -> Attached:
        """HELLO, WELCOME, ATTACH, ATTACHED."""
        self.greet()
        ram, ctrl = self._ram, self.control.segment
        pid = os.getpid()
        self.attach_message = Attach(
            self.session,
            self.epoch,
            Segment(f"/proc/{pid}/fd/{ram.fd}", ram.size),
            RAM_BASE,
            Segment(f"/proc/{pid}/fd/{ctrl.fd}", ctrl.size),
            pid,
        )
        self.send(self.attach_message)
        attached = self.wait(Attached)
        require(attached.epoch == self.epoch, "ATTACHED is of another epoch than ATTACH", "4.2")
        self.take_code(attached)
        return attached

    def take_code(self, message: Attached | Retired) -> None:
        """Map a code segment as a machine does."""
        assert self.welcome is not None
        tag, code = tag_of(message), message.code
        same = message.pid == self.welcome.pid
        require(
            same,
            f"{tag}: the segment is of process {message.pid}, WELCOME came from {self.welcome.pid}",
            "4.2",
        )
        self._unmap()
        size = os.stat(code.path).st_size if os.path.exists(code.path) else 0
        require(
            size >= code.size,
            f"{tag} tells of a code segment of {code.size} bytes, {code.path} has {size}",
            "4.2",
        )
        try:
            self._map = native.map_code(code.path, code.size), code.size
        except OSError as error:
            text = f"{tag}: the code segment cannot be mapped for executing: {error}"
            raise Violation(text, "3 ATTACHED") from error
        self.code = code
        self._taken.clear()

    def welcome_again(self) -> None:
        """A new session with whoever listens now, under an epoch that was not used before."""
        self.client = Client(self.bench.target.endpoint)
        self.session = secrets.randbits(64) | 1
        self.epoch += 1
        self.store_counters()
        self.outstanding.clear()
        self.rest.clear()
        self.attach()

    def translate(
        self, page: int, entries: tuple[int, ...] = (0,), stamp: Stamp | None = None, **more: Any
    ) -> int:
        """TRANSLATE; the request's id."""
        s = stamp or self.stamp(page)
        if "id" not in more:
            self._last_id += 1
            more["id"] = self._last_id
        fields = {"heat": 1, "level": 0, "known": (), "seen": b"", **more}
        asked = Translate(
            self.session,
            fields.pop("id"),
            s.epoch,
            s.map_generation,
            s.page,
            s.page_generation,
            s.state_word,
            entries,
            **fields,
        )
        self.outstanding.setdefault(asked.id, asked)
        self.send(asked)
        return asked.id

    def forget(self, id: int) -> None:
        """An answer to this request may come or not (it was cancelled)."""
        self._cancelled.add(id)

    def say_retire(self, cause: RetireCause = "system_reset") -> None:
        """A new epoch: the counters, then RETIRE."""
        self.epoch = bump(self.epoch)[0]
        self.store_counters()
        self._unmap()
        self.send(Retire(self.session, self.epoch, cause))

    def retire(self, cause: RetireCause = "system_reset") -> Retired:
        """RETIRE, and RETIRED within the protocol's deadline."""
        self.say_retire(cause)
        return self.retired()

    def retired(self) -> Retired:
        """Wait for RETIRED of the present epoch, and map the new segment."""
        done = self.wait(
            Retired, lambda m: m.epoch == self.epoch, self.bench.retire_deadline, clause="6.4"
        )
        self._retired_to = self.epoch
        self._cancelled.update(self.outstanding)  # of these none may be answered any more
        self.outstanding.clear()
        older = done.live_older
        require(older == 0, f"RETIRED says that {older} of older epochs are still alive", "6.2")
        self.take_code(done)
        return done

    def barrier(self) -> None:
        """PING and its PONG: what was said before has been heard."""
        self._token += 1
        self.send(Ping(self.session, self._token))
        self.wait(Pong, lambda m: m.token == self._token)

    # --- what it hears ---------------------------------------------------------------------------

    def wait(
        self,
        kind: type[M],
        where: Callable[[M], bool] = lambda _: True,
        seconds: float | None = None,
        *,
        clause: str = "",
        errors: bool = False,
    ) -> M:
        """The next message of a kind. An ERROR in its place is a Violation, unless `errors`."""
        seconds = self.bench.deadline if seconds is None else seconds
        end = time.monotonic() + seconds
        while True:
            for message in self.rest:
                if isinstance(message, kind) and where(message):
                    self.rest.remove(message)
                    return message
                if (
                    isinstance(message, Error | Bye)
                    and not errors
                    and message.session
                    in (
                        0,
                        self.session,
                    )
                ):
                    self.rest.remove(message)
                    raise Violation(f"{_word(kind)} was expected, {show(message)} came", clause)
            left = end - time.monotonic()
            if left <= 0:
                heard = ", ".join(dict.fromkeys(map(tag_of, self.rest))) or "nothing"
                raise Violation(f"no {_word(kind)} came within {seconds:g} s, but {heard}", clause)
            if self.lost and kind is not Error:
                raise Violation(f"the connection was lost where {_word(kind)} was expected", clause)
            self.hear(min(left, STEP))

    def hear(self, seconds: float) -> None:
        """Take what there is, waiting so long for it."""
        ready = self.client.poll(seconds)
        self.lost = self.lost or ready.disconnected
        for message in self.client.receive() if ready.messages else ():
            if isinstance(message, CodecError):
                text = f"it says what is no message: {message.text} ({message.name})"
                raise Violation(text, "2.4")
            self.judge(message)
            self.rest.append(message)

    def drain(self) -> list[Message]:
        """Everything that came until now and nobody waited for."""
        self.hear(0)
        rest, self.rest = self.rest, []
        return rest

    def answer(self, id: int) -> Translated | Rejected:
        """The answer to a request, whichever."""

        def is_it(message: Message) -> bool:
            return getattr(message, "id", None) == id

        kind: Any = Translated | Rejected
        found = self.wait(kind, is_it, clause="4.5")
        assert isinstance(found, Translated | Rejected)
        if isinstance(found, Translated):
            self.bench.translated += 1
        else:
            self.bench.refused += 1
        return found

    def translated(self, id: int) -> Translated:
        """The region asked for; the check is skipped if the backend will not have it."""
        found = self.answer(id)
        if isinstance(found, Translated):
            return found
        if found.reason in OWN_REFUSALS:
            raise Skipped(f"the backend refused the code: {found.reason} {found.text}".strip())
        raise Violation(
            f"REJECTED {found.reason} ({found.text}) came to a request that is current", "5.1.1"
        )

    def rejected(self, id: int, *reasons: str, clause: str = "") -> Rejected:
        """REJECTED for one of these reasons."""
        found = self.answer(id)
        wanted = " or ".join(reasons)
        if isinstance(found, Translated):
            raise Violation(f"TRANSLATED came where REJECTED {wanted} was expected", clause)
        fits = not reasons or found.reason in reasons
        require(fits, f"REJECTED {found.reason} came, not {wanted}", clause)
        return found

    def error(self, *names: str, clause: str = "", session: int | None = None) -> Error:
        """ERROR of one of these names."""
        found = self.wait(Error, clause=clause, errors=True)
        wanted = " or ".join(names)
        require(found.name in names, f"{show(found)} came, not ERROR {wanted}", clause)
        if session is not None:
            same = found.session == session
            require(
                same,
                f"ERROR {found.name} is of session {found.session:#x}, not {session:#x}",
                clause,
            )
        return found

    def bytes_of(self, answer: Translated) -> bytes:
        """A region's code as it stands in the segment."""
        return self._read(answer.code_offset, answer.code_size)

    # --- what is judged of each message ----------------------------------------------------------

    def judge(self, message: Message) -> None:
        """Raise a Violation for what no machine should ever hear."""
        if self.lenient or (isinstance(message, Error) and message.session == 0):
            return
        own = message.session in (self.session, 0)
        require(
            own,
            f"{tag_of(message)} of session {message.session:#x} came on another session's "
            "connection",
            "4.3",
        )
        if isinstance(message, Translated | Rejected):
            self._judge_answer(message)

    def _judge_answer(self, message: Translated | Rejected) -> None:
        tag, floor = tag_of(message), self._retired_to
        late = message.id not in self.outstanding
        if floor is not None and is_older(message.epoch, floor) and late:
            text = f"after RETIRED of epoch {floor} {tag} of epoch {message.epoch} came"
            raise Violation(text, "6.2")
        asked = self.outstanding.pop(message.id, None)
        if asked is None:
            again = message.id in self._answered
            require(not again, f"{tag} came once more for id {message.id}", "4.4")
            known = message.id in self._cancelled
            require(known, f"{tag} came for id {message.id}, which is not outstanding", "4.5")
            return
        self._answered.add(message.id)
        for name in ("epoch", "map_generation", "page", "page_generation", "state_word"):
            sent, got = getattr(asked, name), getattr(message, name)
            require(
                sent == got,
                f"{tag} has {name} {got}, the request's was {sent}: the stamp is "
                "the request's, not that of when it is served",
                "3 TRANSLATED",
            )
        if isinstance(message, Translated):
            self._judge_region(message)

    def _judge_region(self, message: Translated) -> None:
        content = self.history[message.page, message.page_generation]
        same = message.identity == identity_of(content, message.spans)
        require(
            same,
            f"the identity is not that of the spans' bytes of page {message.page} "
            f"in generation {message.page_generation}: it was made from others",
            "5.1.4",
        )
        if self.code is None or self._map is None:
            return  # between RETIRE and RETIRED: nobody will run it
        start, end = message.code_offset, message.code_offset + message.code_size
        inside = end <= self.code.size and start < end
        require(
            inside,
            f"code at {start} to {end} lies outside of a code segment of {self.code.size} bytes",
            "5.2.3",
        )
        self.unchanged()
        for other, (size, _) in self._taken.items():
            apart = end <= other or start >= other + size
            require(
                apart,
                f"code at {start} to {end} lies over code at {other} that was told "
                "before in this epoch: no byte is used twice",
                "7 code segment",
            )
        self._taken[start] = message.code_size, self._read(start, message.code_size)

    def unchanged(self) -> None:
        """All code told of so far is what it was when it was told."""
        for offset, (size, then) in self._taken.items():
            same = self._read(offset, size) == then
            require(
                same,
                f"code at {offset} was not complete when TRANSLATED came: it has changed since",
                "5.1.3",
            )

    def _read(self, offset: int, size: int) -> bytes:
        assert self._map is not None
        return bytes(native.view(self._map[0] + offset, size))

    def _unmap(self) -> None:
        if self._map is not None:
            native.unmap(*self._map)
        self._map = self.code = None

    def close(self) -> None:
        """Say goodbye and give everything back."""
        if self.welcome is not None:
            self.client.send(Bye(self.session, "the check is over"))
        self.client.close()
        self._unmap()
        self.release()

    def release(self) -> None:
        """Give the segments back, once."""
        for segment in (self._ram, self.control.segment):
            native.unmap(segment.address, segment.size)
            os.close(segment.fd)


def show(message: Message) -> str:
    """A message in a few words."""
    if isinstance(message, Error):
        return f"ERROR {message.name} ({message.text})"
    if isinstance(message, Bye):
        return f"BYE ({message.reason})"
    return tag_of(message)


def _word(kind: Any) -> str:
    parts = getattr(kind, "__args__", None) or (kind,)
    return " or ".join(part.__name__.upper() for part in parts)
