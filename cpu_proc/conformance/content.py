"""Checks of the code: made from the bytes it names, from nothing else, and complete.

Read next: `retirement.py`.
"""

from __future__ import annotations

import random

from cpu_proc.conformance.peer import OWN_REFUSALS, Peer
from cpu_proc.conformance.programs import alike, parted, small
from cpu_proc.conformance.rules import Bench, Skipped, check, require
from protocol.messages import Rejected, Translated

BODIES = 20  # more than a hash of four bits can tell apart
SEED = 7


def _made(peer: Peer, page: int, entries: tuple[int, ...] = (0,)) -> tuple[Translated, bytes]:
    answer = peer.translated(peer.translate(page, entries))
    return answer, peer.bytes_of(answer)


def bakes(peer: Peer) -> bool:
    """Whether the backend's code holds what instructions say: other bytes, other code."""
    codes = set()
    for page in (50, 51, 52):
        peer.write(page, small(page))
        codes.add(_made(peer, page)[1])
    return len(codes) > 1


@check("content.read_anew", "5.1.1", "bytes are read for each request: none are kept from before")
def read_anew(bench: Bench) -> None:
    with bench.peer() as peer:
        for number in (1, 2, 3, 2):
            peer.write(4, small(number))
            _made(peer, 4)


@check(
    "content.differs",
    "5.1.2",
    "what was made from other bytes is not used for these, however alike they are",
)
def differs(bench: Bench) -> None:
    with bench.peer() as peer:
        if not bakes(peer):
            raise Skipped("the code of all instructions is the same")
        for body in (small, alike):
            seen: dict[bytes, int] = {}
            for number in [*range(BODIES), 0, 1, 2]:
                peer.write(4, body(number))
                _, code = _made(peer, 4)
                other = seen.setdefault(code, number)
                require(
                    other == number,
                    f"bodies {other} and {number} of one page differ in an "
                    "instruction's immediate, and have the same code",
                )


@check("content.pure", "5.1.2", "the same job has the same code, whoever asks, and wherever")
def pure(bench: Bench) -> None:
    with bench.peer() as one, bench.peer() as other:
        for body in (small(1000), alike(1001), parted(1002)):
            codes = []
            for peer, page in ((one, 3), (one, 3), (one, 12), (other, 5)):
                peer.write(page, body)
                answer, code = _made(peer, page)
                places = tuple((slot, at - answer.code_offset) for slot, at in answer.entries)
                codes.append((answer.spans, answer.lines, places, code))
            for again, where in zip(
                codes[1:], ("again", "for another page", "for another session"), strict=True
            ):
                require(again == codes[0], f"the same bytes, asked for {where}, have other code")


@check("content.spans", "5.1.4", "the spans name every byte that the code depends on")
def spans(bench: Bench) -> None:
    chance = random.Random(SEED)
    with bench.peer() as peer:
        for body in (small(77), alike(78), parted(79)):
            peer.write(7, body)
            first, code = _made(peer, 7)
            named: set[int] = set()
            for start, length in first.spans:
                named.update(range(start, start + length))
            for filling in (chance.randbytes(4096), bytes(4096), b"\xff" * 4096):
                mixed = bytes(b if n in named else filling[n] for n, b in enumerate(body))
                peer.write(7, mixed)
                found = peer.answer(peer.translate(7))
                told = f"its spans are {', '.join(f'{s}+{n}' for s, n in first.spans)}"
                require(
                    isinstance(found, Translated),
                    f"{told}; with other bytes outside of them the page is refused",
                )
                assert isinstance(found, Translated)
                same = peer.bytes_of(found) == code
                require(same, f"{told}; with other bytes outside of them the code differs")


@check("content.complete", "5.1.3", "TRANSLATED is sent when all of the code stands in the segment")
def complete(bench: Bench) -> None:
    with bench.peer() as peer:
        for number in range(8):
            peer.write(4, alike(100 + number))
            peer.write(5, small(100 + number))
            ids = [peer.translate(4), peer.translate(5)]
            for id in ids:
                peer.translated(id)
                peer.unchanged()
        peer.barrier()
        peer.unchanged()


def refused(peer: Peer, page: int) -> None:
    """Have no code refused; the check is skipped if it is translated."""
    peer.write(page, bytes(4096))
    found = peer.answer(peer.translate(page))
    if not isinstance(found, Rejected) or found.reason not in OWN_REFUSALS:
        raise Skipped("illegal instructions are not refused")


@check("content.refusals", "7 negative result", "a refusal holds for the bytes it was about")
def refusals(bench: Bench) -> None:
    with bench.peer() as peer:
        peer.write(3, small(5))
        _made(peer, 3)
        refused(peer, 4)
        peer.write(4, small(5))
        found = peer.answer(peer.translate(4))
        require(
            isinstance(found, Translated),
            "code is refused where no code was before, and translated elsewhere",
        )
