"""Generations: order through a wrap, the publish rule, and the identity of bytes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.generations import (
    HALF,
    MASK,
    Now,
    Stamp,
    bump,
    identity_of,
    is_current,
    is_older,
    lines_of,
    stale_reason,
)

VALUES = st.integers(0, MASK)
SPANS = st.lists(
    st.tuples(st.integers(0, 2047).map(lambda n: 2 * n), st.integers(1, 40).map(lambda n: 2 * n)),
    max_size=5,
).map(lambda spans: [(start, min(length, 4096 - start)) for start, length in spans])


def test_a_counter_wraps_and_says_so():
    assert bump(5) == (6, False)
    assert bump(MASK) == (0, True)


@given(VALUES, st.integers(1, 1000))
def test_an_epoch_is_older_than_its_followers_through_a_wrap(epoch: int, steps: int):
    later = (epoch + steps) & MASK
    assert is_older(epoch, later)
    assert not is_older(later, epoch)
    assert not is_older(epoch, epoch)


@given(VALUES)
def test_epochs_half_the_range_apart_trust_neither(epoch: int):
    other = (epoch + HALF) & MASK
    assert is_older(epoch, other)
    assert is_older(other, epoch)


@given(VALUES, VALUES, VALUES, VALUES)
def test_a_stamp_is_current_until_any_counter_moves(epoch: int, maps: int, page: int, word: int):
    stamp = Stamp(epoch, maps, 7, page, word)
    now = Now(epoch, maps, page)
    assert is_current(stamp, now)
    assert is_current(dataclasses.replace(stamp, state_word=~word & MASK), now)
    for counter in ("epoch", "map_generation", "page_generation"):
        moved, _ = bump(getattr(now, counter))
        later = dataclasses.replace(now, **{counter: moved})
        assert stale_reason(stamp, later) == counter
        assert not is_current(stamp, later)


@given(SPANS)
def test_lines_are_those_that_bytes_of_spans_lie_in(spans: list[tuple[int, int]]):
    touched = {byte // 64 for start, length in spans for byte in range(start, start + length)}
    assert lines_of(spans) == sum(1 << line for line in touched)


def test_identity_depends_on_the_spans_bytes_and_places_and_on_nothing_else():
    page = bytes(range(256)) * 16
    spans = [(0, 8), (64, 4)]
    same = identity_of(page, spans)
    assert len(same) == 16
    assert same == identity_of(memoryview(bytearray(page)), spans)
    assert same == identity_of(page[:8] + b"data" + page[12:], spans)
    for other in (
        identity_of(page[:7] + b"!" + page[8:], spans),
        identity_of(page, [(0, 8), (320, 4)]),  # the same bytes elsewhere
        identity_of(page, [(0, 4), (4, 4), (64, 4)]),
        identity_of(page, [(0, 8)]),
    ):
        assert other != same


def test_identity_is_that_of_the_specification():
    page = bytes(4096)
    assert identity_of(page, [(0, 4)]).hex() == "789ebb8c3b098cbc46fd9afe7239b77b"


@pytest.mark.parametrize(("spans", "lines"), [([], 0), ([(62, 4)], 3), ([(0, 4096)], MASK)])
def test_lines_at_the_edges(spans: list[tuple[int, int]], lines: int):
    assert lines_of(spans) == lines
