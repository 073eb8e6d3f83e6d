"""Checks of what is no message: each is answered by name, and nobody else notices.

Read next: `requests.py`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from cpu_proc.conformance.handshake import packed, parts
from cpu_proc.conformance.peer import Peer
from cpu_proc.conformance.programs import small
from cpu_proc.conformance.rules import Bench, check, require
from protocol.codec import CodecError, decode, encode
from protocol.messages import (
    MAX_MESSAGE,
    PROTOCOL_VERSION,
    Error,
    Message,
    Ping,
    Retire,
    Stats,
    Translate,
)
from protocol.transport import HARD_LIMIT

FRAMES = 600
SEED = 20


def _wrong(peer: Peer) -> Iterator[tuple[str, tuple[bytes, ...], tuple[str, ...]]]:
    """What is wrong, its frames, and the names that fit."""
    ping = encode(Ping(peer.session, 5))
    tag, version, fields = parts(Ping(peer.session, 5))

    def changed(**more: Any) -> tuple[bytes]:
        return (packed(tag, version, {**fields, **more}),)

    asked = parts(Translate(peer.session, 1, 1, 1, 0, 0, 0, (1, 2), 1, 0, (), b""))
    yield "an empty frame", (b"",), ("malformed",)
    yield "bytes that are no msgpack", (b"\xc1\xff\x00",), ("malformed",)
    yield "half a message", (ping[: len(ping) // 2],), ("malformed",)
    yield "a message and a byte", (ping + b"\0",), ("malformed",)
    yield "two frames", (ping, ping), ("malformed",)
    yield "nil", (packed()[:0] + b"\xc0",), ("malformed",)
    yield "an array of two", (packed(tag, version),), ("malformed",)
    yield "a tag that is a number", (packed(7, version, fields),), ("malformed",)
    yield "an unknown tag", (packed("PIGN", version, fields),), ("unknown_message",)
    yield "an unknown field", changed(colour=1), ("unknown_field",)
    yield "a field too few", (packed(tag, version, {"token": 1}),), ("missing_field",)
    yield "text for a number", changed(token="1"), ("wrong_type",)
    yield "a float for a number", changed(token=1.0), ("wrong_type",)
    yield "true for a number", changed(token=True), ("wrong_type",)
    yield "a negative number", changed(token=-1), ("out_of_range",)
    twice = bytes([0x93]) + packed(tag)[1:] + packed(version)[1:]
    pair = packed("token")[1:] + b"\x01"
    yield (
        "a field twice",
        (twice + b"\x83" + packed("session")[1:] + b"\x01" + 2 * pair,),
        ("malformed",),
    )
    wrong = {**asked[2], "entries": [2, 1]}
    yield "entries that do not ascend", (packed(asked[0], version, wrong),), ("inconsistent",)
    wrong = {**asked[2], "entries": [4096]}
    yield "an entry outside of its page", (packed(asked[0], version, wrong),), ("out_of_range",)
    wrong = {**asked[2], "entries": []}
    yield "no entries", (packed(asked[0], version, wrong),), ("out_of_range",)


@check(
    "garbage.named",
    "2.4",
    "what is no message is answered by ERROR with session 0, id 0 and the name of what is wrong",
)
def named(bench: Bench) -> None:
    with bench.peer() as peer:
        for what, frames, names in _wrong(peer):
            peer.send_frames(*frames)
            found = peer.wait(Error, clause="2.4", errors=True)
            fits = found.session == 0 and found.id == 0
            require(fits, f"{what}: ERROR has session {found.session:#x} and id {found.id}, not 0")
            require(found.name in names, f"{what}: ERROR {found.name} came, not {names[0]}")
        _serves(peer)


@check("garbage.oversize", "2.5", "a message longer than the limit is answered by ERROR `oversize`")
def oversize(bench: Bench) -> None:
    with bench.peer() as peer:
        for size in (MAX_MESSAGE + 1, 4 * MAX_MESSAGE):
            peer.send_frames(b"\xda" + bytes(size - 1))
            peer.error("oversize", session=0)
        _serves(peer)


@check(
    "garbage.flood",
    "2.5",
    "a message beyond 16 times the limit closes its connection, and others are served",
)
def flood(bench: Bench) -> None:
    with bench.peer() as other, bench.peer(attach=False) as peer:
        peer.greet()
        peer.send_frames(bytes(HARD_LIMIT + 1))
        for _ in range(int(bench.deadline / 0.1)):
            peer.hear(0.1)
            if peer.lost or peer.rest:
                break
        require(peer.lost, "its connection stayed open")
        peer.welcome = None
        _serves(other)


@check("garbage.random", "2.4", "random frames are each refused, and nobody else notices")
def any_bytes(bench: Bench) -> None:
    chance = random.Random(SEED)
    with bench.peer() as other, bench.peer(attach=False) as peer:
        peer.lenient = True  # some of what follows makes sense, and opens a session
        bases: list[Message] = [
            peer.hello(),
            Ping(peer.session, 1),
            Stats(peer.session),
            Retire(peer.session, 2, "system_reset"),
            Translate(peer.session, 1, 1, 1, 0, 0, 0, (1, 2), 1, 0, (), b""),
        ]
        refused = 0
        for number in range(FRAMES):
            frame = bytearray(encode(bases[number % len(bases)]))
            for _ in range(chance.randint(1, 4)):
                frame[chance.randrange(len(frame))] = chance.randrange(256)
            if chance.random() < 0.2:
                del frame[chance.randrange(len(frame)) :]
            try:
                decode(bytes(frame))
            except CodecError:
                refused += 1
            peer.send_frames(bytes(frame))
        peer.send_frames(packed("LAST", PROTOCOL_VERSION, {}))  # one more
        heard, last = 0, False
        while not last:
            found = peer.wait(Error, errors=True)
            heard += found.session == 0
            last = heard > refused or (found.name == "unknown_message" and "LAST" in found.text)
            require(heard <= refused + 1, f"{heard} errors came for {refused + 1} frames")
        require(heard >= refused, f"{heard} of {refused + 1} bad frames were answered")
        _serves(other)


@check("garbage.direction", "2.4", "what only a translator may say is not obeyed, and ends nothing")
def direction(bench: Bench) -> None:
    from protocol.messages import Attached, Pong, Rejected, Segment, Swapped

    with bench.peer() as peer:
        s = peer.session
        pid = peer.hello().pid
        for message in (
            Pong(s, 1, 1),
            Swapped(s, "llvm"),
            Rejected(s, 1, 1, 1, 0, 0, 0, (1,), "unsupported", ""),
            Attached(s, 1, Segment(f"/proc/{pid}/fd/0", 4096), "llvm", pid),
            Error(s, "malformed", 0, "nonsense"),
        ):
            peer.send(message)
        peer.barrier()
        _serves(peer)


def _serves(peer: Peer) -> None:
    """A request is answered."""
    peer.write(2, small(11))
    peer.answer(peer.translate(2))
    peer.barrier()
