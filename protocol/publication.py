"""The publish rule: whether an answer of the translator may still be used, asked at a safe point.

Problem: an answer is about a moment that is past. Between the request and the store that makes it
code, anything may have moved; what decides stands here, for the machine and for the simulator.

Invariants:
- The rule and the stores that follow it are carried out with all harts out of native code.
- Counters decide; the comparison of bytes is for lines that nobody tracked when they were read, and
  a second line of defence behind the counters. So a switch that takes the counters' check away
  takes this one too: else its mistake could never show.
- Where the design leaves no room for a mistake (nothing here remembers refusals, or where code
  stood), `Shortcuts` is the structure that would; it exists only while the mistake is armed.

Read next: `protocol.generations`; `cpu_proc/translator.py`, which carries it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from protocol.generations import Epoch, Now, identity_of, stale_reason
from protocol.messages import Rejected, Translated
from protocol.mutants import armed

_TRUSTING = ("M21", "M35", "M42", "M47")
"""Switches under which bytes are not compared."""


def why_late(
    message: Translated, now: Now, segment: Epoch | None, content: bytes | bytearray | memoryview
) -> str | None:
    """Why an answer must not be published, or None: a counter that moved, "segment" or "bytes".

    `now`: the counters of the answer's page. `segment`: epoch of the code segment mapped, if any.
    `content`: the page's bytes.
    """
    moved = None if armed("M31") else stale_reason(message.stamp, now)
    if moved is not None:
        return moved
    if segment is None:
        return "segment"
    if armed("M31"):
        return None
    if segment != message.epoch and not armed("M42"):
        return "segment"
    if any(map(armed, _TRUSTING)):
        return None
    if identity_of(content, message.spans) != message.identity and not armed("M27"):
        return "bytes"  # in lines that are tracked only from now on
    return None


class Shortcuts:
    """Answers remembered beyond their time: what no sound machine has.

    M20: a refusal to translate an undecodable word is kept by place alone, and served by making the
    record an illegal instruction. M22: where a region's code stood is kept when its space is
    recycled, and served without asking for it again. M41: answers lie in a queue that outlives the
    connection they came by. The last two are served only where by now stands code of the same slot
    of some page: what a guest must notice is the wrong code, not the machine's end.
    """

    def __init__(self) -> None:
        self._refused: set[tuple[int, int]] = set()  # page, slot
        self._places: dict[tuple[int, int], tuple[int, bytes, tuple[tuple[int, int], ...]]] = {}
        self._answers: deque[Translated] = deque(maxlen=64)
        self._epoch: Epoch | None = None
        self._entries: set[tuple[int, int]] = set()  # slot, offset: in the present code segment

    @staticmethod
    def made() -> Shortcuts | None:
        """One, if a mistake that needs it is armed."""
        return Shortcuts() if any(map(armed, ("M20", "M22", "M41"))) else None

    def refused(self, message: Rejected, content: bytes | bytearray | memoryview) -> None:
        """There is no translation: remember the slots that hold no instruction."""
        if armed("M20"):
            for slot in message.entries:
                if bytes(content[2 * slot : 2 * slot + 2]) in (b"\x00\x00", b"\xff\xff"):
                    self._refused.add((message.page, slot))

    def published(self, message: Translated) -> None:
        """A region is in use: remember where its entries are, and the answer."""
        if message.epoch != self._epoch:
            self._epoch = message.epoch
            self._entries.clear()
        self._entries.update(message.entries)
        if armed("M41"):
            self._answers.append(message)
        if armed("M22"):
            for slot, offset in message.entries:
                self._places[message.page, slot] = offset, message.identity, message.spans

    def is_refused(self, page: int, slot: int) -> bool:
        """Whether the slot once held no instruction."""
        return (page, slot) in self._refused

    def places(
        self, epoch: Epoch, page: int, slots: Iterable[int], content: bytes | bytearray | memoryview
    ) -> list[tuple[int, int]]:
        """Slots of the page, and offsets in the code segment where code for these bytes stood."""
        found: list[tuple[int, int]] = []
        if epoch != self._epoch:  # nothing stands there yet
            return found
        for slot in slots:
            offset, identity, spans = self._places.get((page, slot), (-1, b"", ()))
            if (slot, offset) in self._entries and identity_of(content, spans) == identity:
                found.append((slot, offset))
        return found

    def leftovers(self, session: int) -> list[Translated]:
        """Remove and return answers of other sessions, as far as they would not end the machine."""
        found = [
            one
            for one in self._answers
            if one.session != session and self._entries.issuperset(one.entries)
        ]
        for one in found:
            self._answers.remove(one)
        return found
