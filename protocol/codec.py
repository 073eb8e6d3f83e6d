"""Messages to bytes and back: msgpack, and strict.

Problem: bytes come from another process, which may be of another version, broken, or not ours at
all. Decoding them must end in a valid message or in a named error, never in a crash, never in a
message that only looks valid.

A message is the msgpack array ``[tag, version, {field: value}]``: all fields of its class, no
others, none twice. Nested structures are arrays of their fields in order. Texts are str, hashes
bin, numbers int; nothing is float, bool, nil or an extension.

Invariants:
- `decode` raises `CodecError` and nothing else; `encode` never makes bytes that `decode` would
  refuse.
- The version is looked at before tag and fields: an error about versions is not told as one about
  fields.
- What is checked is derived from the types in `protocol.messages`, so there is no second list of
  fields.

Read next: `protocol.messages`; the golden bytes in the tests hold this encoding fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgpack  # type: ignore[import-untyped]

from protocol.fields import ErrorName, Pattern, Range, Size
from protocol.messages import MAX_MESSAGE, MESSAGES, PROTOCOL_VERSION, Message, tag_of


class CodecError(Exception):
    """Bytes that are no message, or a message that must not be sent. `name` is one of `ErrorName`'s
    first nine.
    """

    def __init__(self, name: ErrorName, text: str) -> None:
        self.name: ErrorName = name
        self.text = text
        super().__init__(f"{name}: {text}")


def encode(message: Message) -> bytes:
    """The message's bytes. Raises `CodecError` if a field has a wrong type or value, or the whole
    is too long.
    """
    try:
        tag = tag_of(message)
    except KeyError:
        raise CodecError("unknown_message", f"{type(message).__name__} is no message") from None
    fields = {name: check(getattr(message, name)) for name, check in _checks(type(message)).items()}
    _check_relations(message, tag)
    data: bytes = msgpack.packb([tag, PROTOCOL_VERSION, fields], use_bin_type=True)
    if len(data) > MAX_MESSAGE:
        raise CodecError("oversize", f"{tag} has {len(data)} bytes, the limit is {MAX_MESSAGE}")
    return data


def decode(data: bytes | memoryview) -> Message:
    """The message that these bytes are. Raises `CodecError`, whatever the bytes."""
    if len(data) > MAX_MESSAGE:
        raise CodecError("oversize", f"{len(data)} bytes, the limit is {MAX_MESSAGE}")
    envelope = _unpack(data)
    if type(envelope) is not list or len(envelope) != 3:
        raise CodecError("malformed", "not an array of tag, version and fields")
    tag, version, fields = envelope
    if type(tag) is not str or type(version) is not int or type(fields) is not _Map:
        raise CodecError("malformed", "not an array of tag, version and fields")
    if version != PROTOCOL_VERSION:
        raise CodecError(
            "version_mismatch",
            f"the message is of protocol version {version}, this side speaks {PROTOCOL_VERSION}: "
            "run machine and translator from the same installation",
        )
    cls = MESSAGES.get(tag)
    if cls is None:
        raise CodecError("unknown_message", f"tag {_quote(tag)}")
    checks = _checks(cls)
    values: dict[str, Any] = {}
    for name, value in fields.pairs:
        if type(name) is not str or name not in checks:
            raise CodecError("unknown_field", f"{tag} has no field {_quote(name)}")
        if name in values:
            raise CodecError("malformed", f"{tag} has the field {name} twice")
        values[name] = checks[name](value)
    for name in checks:
        if name not in values:
            raise CodecError("missing_field", f"{tag} lacks the field {name}")
    message = cls(**values)
    _check_relations(message, tag)
    return message


class _Map:
    """A decoded map, its pairs as they came: a dict would hide that a key came twice."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs


def _unpack(data: bytes | memoryview) -> Any:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=True,
            strict_map_key=False,
            object_pairs_hook=_Map,
            ext_hook=_no_extension,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise CodecError("malformed", f"not one msgpack object: {type(error).__name__}") from None


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


def _check_relations(message: Message, tag: str) -> None:
    try:
        message.check()
    except ValueError as error:
        raise CodecError("inconsistent", f"{tag}: {error}") from None


Check = Callable[[Any], Any]
"""Takes a value as it came (or as it is to be sent), returns it as the message holds it, or raises
`CodecError`.
"""


_CHECKS: dict[type[Message], dict[str, Check]] = {}


def _checks(cls: type[Message]) -> dict[str, Check]:
    """The checks of a kind of message, by field, in the order of declaration; made at first use."""
    checks = _CHECKS.get(cls)
    if checks is None:
        hints = get_type_hints(cls, include_extras=True)
        names = cls.__dataclass_fields__
        checks = {name: _check_for(hints[name], f"{tag_of(cls)}.{name}") for name in names}
        _CHECKS[cls] = checks
    return checks


def _check_for(hint: Any, where: str) -> Check:
    """The check that a type stands for."""
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    if get_origin(hint) is Literal:
        return _literal(frozenset(get_args(hint)), where)
    if get_origin(hint) is tuple:
        item, _ = get_args(hint)
        return _array(_check_for(item, f"{where}[]"), _one(extras, Size), where)
    if hint is int:
        return _integer(_one(extras, Range), where)
    if hint is str:
        patterns = [extra for extra in extras if isinstance(extra, Pattern)]
        return _text(_one(extras, Size), patterns, where)
    if hint is bytes:
        return _binary(_one(extras, Size), where)
    hints = get_type_hints(hint, include_extras=True)
    return _struct(hint, [_check_for(hints[n], f"{where}.{n}") for n in hint._fields], where)


def _one(extras: tuple[Any, ...], kind: type[Any]) -> Any:
    """The outermost bound of a kind: every type that travels has one."""
    found = [extra for extra in extras if isinstance(extra, kind)]
    if not found:
        raise TypeError(f"a message's field lacks its {kind.__name__}")
    return found[-1]


def _wrong_type(where: str, value: Any, wanted: str) -> CodecError:
    return CodecError("wrong_type", f"{where} is {type(value).__name__}, not {wanted}")


def _integer(bounds: Range, where: str) -> Check:
    low, high = bounds

    def check(value: Any) -> Any:
        if type(value) is not int:
            raise _wrong_type(where, value, "an integer")
        if not low <= value <= high:
            raise CodecError("out_of_range", f"{where} is {value:#x}, not in {low:#x}..{high:#x}")
        return value

    return check


def _text(size: Size, patterns: list[Pattern], where: str) -> Check:
    regexes = [re.compile(pattern.regex) for pattern in patterns]

    def check(value: Any) -> Any:
        if type(value) is not str:
            raise _wrong_type(where, value, "text")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise CodecError("out_of_range", f"{where} is not Unicode text") from None
        if not size.low <= length <= size.high:
            raise CodecError(
                "out_of_range", f"{where} has {length} bytes, not {size.low}..{size.high}"
            )
        if not all(regex.fullmatch(value) for regex in regexes):
            raise CodecError("out_of_range", f"{where} is {_quote(value)}, not of its form")
        return value

    return check


def _binary(size: Size, where: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not bytes:
            raise _wrong_type(where, value, "bytes")
        if not size.low <= len(value) <= size.high:
            raise CodecError(
                "out_of_range", f"{where} has {len(value)} bytes, not {size.low}..{size.high}"
            )
        return value

    return check


def _literal(names: frozenset[str], where: str) -> Check:
    def check(value: Any) -> Any:
        if type(value) is not str:
            raise _wrong_type(where, value, "text")
        if value not in names:
            raise CodecError("out_of_range", f"{where} is {_quote(value)}, not one of its names")
        return value

    return check


def _array(item: Check, size: Size, where: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(where, value, "an array")
        if not size.low <= len(value) <= size.high:
            raise CodecError(
                "out_of_range", f"{where} has {len(value)} items, not {size.low}..{size.high}"
            )
        return tuple([item(one) for one in value])

    return check


def _struct(cls: Any, checks: list[Check], where: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(where, value, "an array")
        if len(value) != len(checks):
            raise CodecError(
                "wrong_type", f"{where} has {len(value)} items, {cls.__name__} has {len(checks)}"
            )
        return cls._make(one(item) for one, item in zip(checks, value, strict=True))

    return check


def _quote(value: Any) -> str:
    """A foreign value for an error's text: short and printable."""
    return ascii(value)[:60]
