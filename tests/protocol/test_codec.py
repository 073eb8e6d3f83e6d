"""The codec: golden bytes, round trips, and named errors for everything else."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import CodecError, decode, encode
from protocol.fields import Pattern, Range, Size
from protocol.messages import MAX_MESSAGE, MESSAGES, PROTOCOL_VERSION, Message, Ping, tag_of
from tests.protocol.examples import EXAMPLES, GOLDEN, golden_text

LINES = GOLDEN.read_text().splitlines()


def raw(message: Message) -> list[Any]:
    """A message's envelope, to be spoiled."""
    envelope = msgpack.unpackb(encode(message), raw=False)
    assert isinstance(envelope, list)
    return envelope


def refused(data: bytes) -> str:
    with pytest.raises(CodecError) as caught:
        decode(data)
    return caught.value.name


def test_encoding_is_that_of_the_golden_file():
    assert golden_text() == GOLDEN.read_text(), "the encoding changed: raise PROTOCOL_VERSION"


@pytest.mark.parametrize(("line", "message"), list(zip(LINES, EXAMPLES, strict=True)), ids=str)
def test_golden_bytes_decode_to_their_message(line: str, message: Message):
    tag, data = line.split()
    assert tag == tag_of(message)
    assert decode(bytes.fromhex(data)) == message


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values within a field's bounds."""
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    size = next((e for e in reversed(extras) if isinstance(e, Size)), None)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        assert size
        return st.lists(values(get_args(hint)[0]), min_size=size.low, max_size=size.low + 3).map(
            tuple
        )
    if hint is int:
        low, high = next(e for e in extras if isinstance(e, Range))
        return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
    if hint is bytes:
        assert size
        return st.binary(min_size=size.low, max_size=size.high)
    if hint is str:
        assert size
        for extra in extras:
            if isinstance(extra, Pattern):
                return st.from_regex(extra.regex, fullmatch=True).filter(
                    lambda text: size.low <= len(text.encode()) <= size.high
                )
        return st.text(max_size=size.high // 4)
    hints = get_type_hints(hint, include_extras=True)
    return st.tuples(*(values(hints[name]) for name in hint._fields)).map(lambda t: hint(*t))


def messages() -> st.SearchStrategy[Message]:
    def of(cls: type[Message]) -> st.SearchStrategy[Message]:
        hints = get_type_hints(cls, include_extras=True)
        fields = {f.name: values(hints[f.name]) for f in dataclasses.fields(cls)}
        return st.builds(cls, **fields)

    return st.sampled_from(list(MESSAGES.values())).flatmap(of)


@given(messages())
def test_a_message_comes_back_as_it_was_or_is_not_sent(message: Message):
    try:
        message.check()
    except ValueError:
        with pytest.raises(CodecError, match="inconsistent"):
            encode(message)
    else:
        assert decode(encode(message)) == message


@given(st.binary(max_size=300))
def test_any_bytes_end_in_an_error(data: bytes):
    refused(data)


@given(st.sampled_from(EXAMPLES), st.data())
def test_spoiled_bytes_end_in_a_message_or_an_error(message: Message, data: st.DataObject):
    spoiled = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(spoiled))
    except CodecError:
        return
    assert decode(encode(found)) == found


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.integers(-(2**63), 2**64 - 1)
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
        ),
        max_leaves=8,
    ),
    st.sampled_from(EXAMPLES),
    st.data(),
)
def test_a_field_of_any_value_ends_in_a_message_or_an_error(
    value: Any, message: Message, data: st.DataObject
):
    envelope = raw(message)
    envelope[2][data.draw(st.sampled_from(sorted(envelope[2])))] = value
    packed = msgpack.packb(envelope, use_bin_type=True)
    try:
        found = decode(packed)
    except CodecError:
        return
    assert encode(found) == encode(decode(packed))


@given(st.sampled_from(EXAMPLES), st.integers(0, 400))
def test_truncated_bytes_are_malformed(message: Message, length: int):
    data = encode(message)
    if length < len(data):
        assert refused(data[:length]) == "malformed"


def test_bytes_behind_a_message_are_malformed():
    assert refused(encode(Ping(1, 2)) + b"\0") == "malformed"


@pytest.mark.parametrize(
    ("envelope", "name"),
    [
        (None, "malformed"),
        ({}, "malformed"),
        ([], "malformed"),
        (["PING", PROTOCOL_VERSION], "malformed"),
        ([b"PING", PROTOCOL_VERSION, {}], "malformed"),
        (["PING", "1", {}], "malformed"),
        (["PING", True, {}], "malformed"),
        (["PING", PROTOCOL_VERSION, [["session", 1], ["token", 2]]], "malformed"),
        (["PING", PROTOCOL_VERSION + 1, {"session": 1, "color": 3}], "version_mismatch"),
        (["TELEPORT", PROTOCOL_VERSION + 1, {}], "version_mismatch"),
        (["TELEPORT", PROTOCOL_VERSION, {}], "unknown_message"),
        (["ping", PROTOCOL_VERSION, {"session": 1, "token": 2}], "unknown_message"),
        (["PING", PROTOCOL_VERSION, {"session": 1}], "missing_field"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": 2, "color": 3}], "unknown_field"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": 2, 3: 3}], "unknown_field"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": 2.0}], "wrong_type"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": math.nan}], "wrong_type"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": True}], "wrong_type"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": None}], "wrong_type"),
        (["PING", PROTOCOL_VERSION, {"session": 1, "token": "2"}], "wrong_type"),
        (["PING", PROTOCOL_VERSION, {"session": -1, "token": 2}], "out_of_range"),
        (["BYE", PROTOCOL_VERSION, {"session": 1, "reason": b"bye"}], "wrong_type"),
        (["BYE", PROTOCOL_VERSION, {"session": 1, "reason": "x" * 1025}], "out_of_range"),
        (["BYE", PROTOCOL_VERSION, {"session": 1, "reason": "\u20ac" * 342}], "out_of_range"),
        (["RETIRE", PROTOCOL_VERSION, {"session": 1, "epoch": 2, "cause": "?"}], "out_of_range"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(envelope: Any, name: str):
    assert refused(msgpack.packb(envelope, use_bin_type=True)) == name


def test_a_field_that_comes_twice_is_malformed():
    fields = b"\x83" + b"\xa7session\x01" * 2 + b"\xa5token\x02"
    assert refused(b"\x93\xa4PING" + bytes([PROTOCOL_VERSION]) + fields) == "malformed"


def test_a_structure_of_wrong_length_has_a_wrong_type():
    envelope = raw(EXAMPLES[2])
    envelope[2]["ram"] = [*envelope[2]["ram"], 1]
    assert refused(msgpack.packb(envelope)) == "wrong_type"


def test_extensions_and_deep_nesting_are_malformed():
    assert (
        refused(msgpack.packb(["PING", PROTOCOL_VERSION, {"token": msgpack.ExtType(5, b"x")}]))
        == "malformed"
    )
    assert refused(msgpack.packb(["PING", PROTOCOL_VERSION, {"token": msgpack.Timestamp(1)}])) in (
        "malformed",
        "wrong_type",
    )
    assert refused(b"\x91" * 2000) == "malformed"
    assert (
        refused(b"\xdd\xff\xff\xff\xff") == "malformed"
    )  # an array of 2**32 - 1, of which none come


def test_what_is_too_long_is_refused_unread():
    assert refused(b"\x93" * (MAX_MESSAGE + 1)) == "oversize"


def test_the_largest_answer_fits_a_message():
    largest = dataclasses.replace(
        EXAMPLES[7],
        code_offset=2**40,
        code_size=2**20,
        entries=tuple((slot, 2**40 + slot) for slot in range(0, 2048)),
        spans=((0, 4096),),
        lines=2**64 - 1,
    )  # type: ignore[call-arg]
    assert len(encode(largest)) < MAX_MESSAGE
    scattered = dataclasses.replace(
        largest,
        entries=tuple((slot, 2**40 + slot) for slot in range(0, 2048, 2)),
        spans=tuple((4 * n, 2) for n in range(1024)),
    )  # type: ignore[call-arg]
    assert len(encode(scattered)) < MAX_MESSAGE


def test_what_breaks_the_protocol_is_not_sent():
    with pytest.raises(CodecError, match="out_of_range"):
        encode(Ping(1, -1))
    with pytest.raises(CodecError, match="wrong_type"):
        encode(Ping(1, "2"))  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="unknown_message"):
        encode(Message(1))
