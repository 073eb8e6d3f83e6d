"""What all messages share, and the book in which every kind of message stands.

Problem: messages are declared in more than one file, by who says them; codec and specification want
one list of all.

Invariant: a tag stands for one kind of message.

Read next: `protocol.messages` (machine and translator), `protocol.job_messages` (an agent and a
remote translator).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, TypeVar

from protocol.fields import U64
from protocol.generations import lines_of
from protocol.layout import PAGE_SIZE
from protocol.plain import dataclass

Sender = Literal["machine", "translator", "both", "agent", "remote"]


@dataclass(frozen=True, slots=True)
class Message:
    """What all messages share. `session`: number the machine drew for this connection; 0 outside of
    any.
    """

    session: U64

    def check(self) -> None:
        """Raise ValueError if fields contradict each other."""


class Description(NamedTuple):
    """What is known of a kind of message beyond its fields."""

    tag: str
    sender: Sender
    since: int


MESSAGES: dict[str, type[Message]] = {}
"""Every kind of message by its tag, in the order of a session's life."""

DESCRIPTIONS: dict[type[Message], Description] = {}

_M = TypeVar("_M", bound=Message)


def message(tag: str, sender: Sender, since: int = 1) -> Callable[[type[_M]], type[_M]]:
    """Register a kind of message under its tag."""

    def register(cls: type[_M]) -> type[_M]:
        if tag in MESSAGES:
            raise ValueError(f"two messages have the tag {tag}")
        MESSAGES[tag] = cls
        DESCRIPTIONS[cls] = Description(tag, sender, since)
        return cls

    return register


def check_ascending(field: str, slots: Sequence[int]) -> None:
    """Raise ValueError unless each is greater than the one before."""
    if any(a >= b for a, b in pairwise(slots)):
        raise ValueError(f"{field} are not ascending")


def check_region(
    entries: Sequence[tuple[int, int]],
    code: range,
    spans: Sequence[tuple[int, int]],
    lines: int,
) -> None:
    """Raise ValueError unless entries, the place of the code, spans and lines fit together."""
    check_ascending("entries", [slot for slot, _ in entries])
    for slot, offset in entries:
        if offset not in code:
            raise ValueError(f"entry of slot {slot} lies outside of the region's code")
        if not any(start <= 2 * slot < start + length for start, length in spans):
            raise ValueError(f"entry at slot {slot} lies outside of the spans")
    previous = -1
    for start, length in spans:
        if start % 2 or length % 2 or start + length > PAGE_SIZE:
            raise ValueError(f"span {start}+{length} is not halfwords of one page")
        if start <= previous:
            raise ValueError(f"span {start}+{length} is not beyond the one before")
        previous = start + length
    if lines_of(spans) & ~lines:
        raise ValueError("lines do not cover the spans")
