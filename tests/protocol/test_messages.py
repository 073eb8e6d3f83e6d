"""Messages: every kind is described, bounded, and refuses fields that contradict each other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.messages import DESCRIPTIONS, MESSAGES, Entry, Message, Segment, Span, tag_of
from tests.protocol.examples import EXAMPLES

BY_TAG = {tag_of(message): message for message in EXAMPLES}


def test_there_is_an_example_of_every_message():
    assert list(BY_TAG) == list(MESSAGES)


@pytest.mark.parametrize("message", EXAMPLES, ids=tag_of)
def test_a_message_is_frozen_described_plain_data(message: Message):
    cls: Any = type(message)
    assert cls.__doc__
    assert DESCRIPTIONS[cls].since >= 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.session = 0  # type: ignore[misc]
    assert hash(message) == hash(dataclasses.replace(message))
    message.check()


@pytest.mark.parametrize(
    ("tag", "change", "text"),
    [
        ("HELLO", {"session": 0}, "session 0"),
        ("ATTACH", {"ram": Segment("/proc/1/fd/5", 4096)}, "not of process"),
        ("ATTACH", {"ctrl": Segment("/proc/4711/fd/6", 4095)}, "whole number of pages"),
        ("ATTACHED", {"code": Segment("/proc/4712/fd/9", 0)}, "whole number of pages"),
        ("TRANSLATE", {"entries": (4, 0)}, "ascending"),
        ("TRANSLATE", {"entries": (4, 4)}, "ascending"),
        ("TRANSLATED", {"entries": (Entry(4, 0x1000), Entry(0, 0x1000))}, "ascending"),
        ("TRANSLATED", {"entries": (Entry(0, 0x0FFF),)}, "outside of the region's code"),
        ("TRANSLATED", {"entries": (Entry(0, 0x1200),)}, "outside of the region's code"),
        ("TRANSLATED", {"entries": (Entry(31, 0x1000),)}, "outside of the spans"),
        ("TRANSLATED", {"lines": 0b01}, "do not cover"),
        ("TRANSLATED", {"spans": (Span(0, 64), Span(62, 4))}, "beyond the one before"),
        ("TRANSLATED", {"spans": (Span(0, 64), Span(64, 4))}, "beyond the one before"),
        ("TRANSLATED", {"spans": (Span(0, 9),)}, "halfwords of one page"),
        ("TRANSLATED", {"spans": (Span(0, 10), Span(4094, 4))}, "halfwords of one page"),
        ("RETIRED", {"code": Segment("/proc/4711/fd/9", 4096)}, "not of process"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(tag: str, change: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(BY_TAG[tag], **change).check()


def test_a_request_and_its_answers_have_one_stamp():
    assert BY_TAG["TRANSLATE"].stamp == BY_TAG["TRANSLATED"].stamp == BY_TAG["REJECTED"].stamp  # type: ignore[attr-defined]
