"""Checks of the handshake: HELLO, ATTACH, and what is refused by name.

Read next: `garbage.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack  # type: ignore[import-untyped]

from cpu_proc.conformance.content import bakes
from cpu_proc.conformance.peer import Peer, show
from cpu_proc.conformance.programs import small
from cpu_proc.conformance.rules import Bench, check, require
from protocol.codec import encode
from protocol.generations import Stamp
from protocol.layout import LAYOUT_HASH
from protocol.messages import (
    PROTOCOL_VERSION,
    Attached,
    Bye,
    Cancel,
    Engine,
    Error,
    Message,
    Ping,
    Retire,
    Segment,
    Stats,
    Swap,
    Welcome,
    tag_of,
)
from protocol.riscv.identity import isa_hash

FEATURES = ("avx2", "no-such-feature", "sse4.2")


def parts(message: Message) -> list[Any]:
    """Tag, version and fields of a message's bytes, to be changed."""
    found: list[Any] = msgpack.unpackb(encode(message))
    return found


def packed(*envelope: Any) -> bytes:
    """Bytes that may be a message."""
    data: bytes = msgpack.packb(list(envelope))
    return data


@check("handshake.welcome", "4.1", "HELLO is answered by WELCOME, which has the same hashes")
def welcome(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        peer.send(peer.hello(host_features=FEATURES))
        peer.welcome = found = peer.wait(Welcome)
        for what, theirs, ours in (
            ("layout hash", found.layout_hash, LAYOUT_HASH),
            ("instruction set hash", found.isa_hash, isa_hash()),
        ):
            require(theirs == ours, f"WELCOME's {what} is {theirs}, HELLO's was {ours}")
        more = set(found.host_features) - set(FEATURES)
        require(
            not more,
            f"WELCOME has host features HELLO had not: {', '.join(sorted(more))}",
            "3 WELCOME",
        )


@check("handshake.twice", "4.6", "HELLO and ATTACH that come twice have the same answer")
def twice(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        first = peer.attach()
        assert peer.attach_message is not None
        peer.send(peer.hello())
        again = peer.wait(Welcome)
        require(again == peer.welcome, "the second WELCOME differs from the first")
        peer.send(peer.attach_message)
        second = peer.wait(Attached)
        require(second == first, "the second ATTACHED differs from the first")


def _refused(bench: Bench, name: str, clause: str, **changes: Any) -> None:
    with bench.peer(attach=False) as peer:
        peer.send(peer.hello(**changes))
        found = peer.wait(Welcome | Error, errors=True)  # type: ignore[arg-type]
        named = isinstance(found, Error) and found.name == name
        require(named, f"{show(found)} came to HELLO with {changes}, not ERROR {name}", clause)
        require(found.session == peer.session, "the ERROR is of another session", clause)


@check(
    "handshake.version",
    "2.3",
    "another version is refused by `version_mismatch`, before tag and fields are looked at",
)
def version(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        tag, _, fields = parts(peer.hello())
        for case in ((tag, fields), ("MESSAGE_OF_ANOTHER_DAY", {"field": -1})):
            for number in (PROTOCOL_VERSION + 1, PROTOCOL_VERSION - 1, 2**40):
                peer.send_frames(packed(case[0], number, case[1]))
                peer.error("version_mismatch", session=0)


@check("handshake.layout", "4.1", "another layout is refused by `layout_mismatch`")
def layout(bench: Bench) -> None:
    _refused(bench, "layout_mismatch", "4.1", layout_hash="0" * 16)


@check("handshake.isa", "4.1", "another instruction set is refused by `isa_mismatch`")
def isa(bench: Bench) -> None:
    _refused(bench, "isa_mismatch", "4.1", isa_hash="0" * 16)


@check("handshake.host", "4.1", "a host it makes no code for is refused by `unsupported_host`")
def host(bench: Bench) -> None:
    _refused(bench, "unsupported_host", "4.1", host="vax")


@check("handshake.backend", "4.9", "an unknown backend or option is refused by `unknown_backend`")
def backend(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        names = peer.greet().backends
    _refused(bench, "unknown_backend", "4.9", backend="nobody-has-this-one")
    _refused(bench, "unknown_backend", "4.9", backend=f"{names[0]},nobody-has-this-option=1")
    with bench.peer(attach=False, backend=names[-1]) as peer:
        peer.send(peer.hello())
        found = peer.wait(Welcome | Error, errors=True)  # type: ignore[arg-type]
        if isinstance(found, Welcome):  # it may need options, and say so
            peer.welcome = found
            own = found.backends[0]
            require(
                own == names[-1],
                f"HELLO asks for {names[-1]}, WELCOME names {own} first",
                "3 WELCOME",
            )


@check("handshake.segments", "4.2", "segments that cannot be mapped are refused by `attach_failed`")
def segments(bench: Bench) -> None:
    with bench.peer() as good:
        assert good.attach_message is not None
        for change in ({"ram": "99999"}, {"ctrl": "99999"}):
            with bench.peer(attach=False) as bad:
                bad.greet()
                base = good.attach_message
                [(field, number)] = change.items()
                one: Segment = getattr(base, field)
                path = one.path.rsplit("/", 1)[0] + "/" + number
                wrong: Any = {field: Segment(path, one.size), "session": bad.session}
                bad.send(replace(base, **wrong))
                bad.error("attach_failed", session=bad.session)
        small_one = Segment(good.attach_message.ram.path, good.attach_message.ram.size * 64)
        with bench.peer(attach=False) as bad:
            bad.greet()
            bad.send(replace(good.attach_message, session=bad.session, ram=small_one))
            bad.error("attach_failed", session=bad.session)
        _still_serves(good)


def _still_serves(peer: Peer) -> None:
    peer.write(1, small(7))
    peer.answer(peer.translate(1))


@check("handshake.order", "4.2", "a request before ATTACHED is answered by ERROR `not_attached`")
def order(bench: Bench) -> None:
    with bench.peer(attach=False) as peer:
        peer.greet()
        id = peer.translate(0)
        found = peer.error("not_attached", session=peer.session)
        require(found.id == id, f"the ERROR is about request {found.id}, not {id}")
        peer.outstanding.clear()


@check(
    "session.unknown",
    "4.3",
    "a number that is not known, or another connection's, is "
    "answered by `unknown_session`; CANCEL and BYE are dropped",
)
def unknown(bench: Bench) -> None:
    with bench.peer() as owner, bench.peer(attach=False) as stranger:
        for number in (owner.session, owner.session ^ 2):
            asked = (
                Ping(number, 1),
                Retire(number, owner.epoch + 1, "system_reset"),
                Swap(number, "llvm"),
                Stats(number),
                Engine(number, "0" * 32),
            )
            for message in (Cancel(number, 1), Bye(number, "not mine"), *asked):
                stranger.send(message)
                if message in asked:
                    stranger.session = number
                    found = stranger.wait(Error, errors=True)
                    require(
                        found.name == "unknown_session", f"{show(found)} came to {tag_of(message)}"
                    )
            stranger.translate(0, stamp=Stamp(owner.epoch, 1, 0, 0, 0))
            stranger.error("unknown_session", session=number)
        require(not stranger.drain(), "CANCEL or BYE of an unknown session was answered")
        owner.write(0, small(3))
        owner.answer(owner.translate(0))


@check("session.in_use", "4.3", "a session's number in use is not given to another connection")
def in_use(bench: Bench) -> None:
    with bench.peer() as owner, bench.peer(attach=False) as stranger:
        stranger.send(stranger.hello(session=owner.session))
        stranger.session = owner.session
        stranger.error("session_in_use", "unknown_session")
        owner.write(0, small(4))
        owner.answer(owner.translate(0))


@check("session.apart", "4.3", "two sessions do not mix: bytes, ids, code and retirements")
def apart(bench: Bench) -> None:
    with bench.peer() as one, bench.peer() as other:
        require(one.code != other.code, "two sessions have one code segment", "6.2")
        regions = []
        for number in range(40, 44):
            for peer, salt in ((one, 0), (other, 1)):
                peer.write(5, small(2 * number + salt))
            ids = [(peer, peer.translate(5)) for peer in (one, other)]
            made = [peer.translated(id) for peer, id in ids]
            regions.append([peer.bytes_of(a) for (peer, _), a in zip(ids, made, strict=True)])
        baked = bakes(one)
        for mine, theirs in regions:
            require(
                mine != theirs or not baked,
                "different bytes of one page index have the same code in two sessions",
                "5.1.2",
            )
        other.write(6, small(99))
        one.retire()
        waiting = other.translate(6)
        one.retire()
        other.translated(waiting)
        other.unchanged()


@check("session.limit", "4.1", "a machine too many is refused by name, later served")
def limit(bench: Bench) -> None:
    peers = [Peer(bench, pages=1) for _ in range(70)]
    try:
        for peer in peers:
            peer.send(peer.hello())
        full = 0
        for peer in peers:
            found: Welcome | Error = peer.wait(Welcome | Error, errors=True)  # type: ignore[arg-type]
            if isinstance(found, Error):
                full += 1
                require(found.name == "too_many_sessions", f"{show(found)} came to HELLO")
            else:
                peer.welcome = found
    finally:
        for peer in peers:
            peer.close()
    with bench.peer() as after:
        after.barrier()
