"""Keys of kept translations, what the fault switches leave out of them, and the bytes on disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_proc import store_entry
from jit_proc.job import Job
from jit_proc.store_entry import EntryError
from protocol import mutants
from tests.jit_proc.kept_jobs import CONTEXT, asked, made_of, page


@pytest.fixture
def arm():
    yield mutants.arm
    mutants.arm(())


def found(entry: store_entry.Entry, made_under: bytes, job: Job, slot: int = 2) -> bool:
    """Whether a search of both steps would take the entry for the job."""
    context = store_entry.context_of(b"tools", job)
    keys = set(store_entry.search_keys(context, slot, job.content))
    return bool(keys & set(store_entry.own_keys(made_under, entry))) and entry.matches(
        job.content, job.page
    )


def taken(job: Job, other: Job, *spans: tuple[int, int]) -> bool:
    """Whether what was made for `job` is taken for `other`."""
    context = store_entry.context_of(b"tools", job)
    return found(store_entry.make(context, job, made_of(*spans)), context, other)


FAR = ((4, 4), (100, 8))


def test_bytes_beside_the_spans_do_not_matter():
    assert taken(asked(), asked(page(at_0=1, at_8=1, at_99=1, at_108=1, at_4095=1)), *FAR)
    assert taken(asked(), asked(page=77), *FAR)
    assert taken(asked(), asked(entries=(2, 9)), *FAR)


@pytest.mark.parametrize("place", [4, 7, 100, 107])
def test_every_byte_of_the_spans_matters(place: int):
    assert not taken(asked(), asked(page(**{f"at_{place}": 1})), *FAR)


@pytest.mark.parametrize("other", [asked(state_word=1), asked(backend="llvm,level=2")])
def test_all_else_matters(other: Job):
    assert not taken(asked(), other, *FAR)
    assert store_entry.context_of(b"tools", asked()) != store_entry.context_of(b"other", asked())


@pytest.mark.parametrize(
    ("mutant", "wrongly", "told_apart"),
    [
        ("M43", asked(page(at_70=1)), asked(page(at_5=1))),
        ("M43", asked(page(at_70=1), page=7), asked(state_word=1)),
        ("M26", asked(page(at_5=1)), asked(page=2)),
        ("M45", asked(state_word=1), asked(page(at_70=1))),
        ("M45", asked(state_word=1), asked(backend="llvm,level=2")),
    ],
)
def test_what_a_switch_leaves_out(mutant: str, wrongly: Job, told_apart: Job, arm):
    assert not taken(asked(), wrongly, (4, 100))
    arm([mutant])
    assert taken(asked(), wrongly, (4, 100))
    assert not taken(asked(), told_apart, (4, 100))


def test_equal_hashes_of_four_bits_are_soon_found(arm):
    others = [asked(bytes([n]) * 4096) for n in range(1, 200)]
    assert not any(taken(asked(), other, (4, 100)) for other in others)
    arm(["M25"])
    assert 0 < sum(taken(asked(), other, (4, 100)) for other in others) < 50


def entries_of(spans: Iterable[tuple[int, int]]) -> list[int]:
    return [slot for start, size in spans for slot in range(start // 2, (start + size) // 2)]


@st.composite
def pages_and_spans(draw: st.DrawFn) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    edges = sorted(draw(st.sets(st.integers(0, 2048), min_size=2, max_size=8)))
    spans = tuple((2 * a, 2 * (b - a)) for a, b in zip(edges[::2], edges[1::2], strict=False))
    seed = draw(st.binary(min_size=16, max_size=16))
    return (seed * 256), spans


@given(pages_and_spans(), st.data())
def test_whatever_is_kept_is_found_from_each_of_its_slots(given_, data):
    content, spans = given_
    slots = sorted(data.draw(st.sets(st.sampled_from(entries_of(spans)), min_size=1, max_size=5)))
    job = asked(content, entries=tuple(slots))
    region = made_of(*spans, entries=tuple((slot, 0) for slot in slots))
    context = store_entry.context_of(b"tools", job)
    entry = store_entry.make(context, job, region)
    assert all(found(entry, context, job, slot) for slot in slots)
    assert store_entry.decode(context, store_entry.encode(context, entry)) == _without_index(entry)


def _without_index(entry: store_entry.Entry) -> store_entry.Entry:
    return replace(entry, index=0)


ENTRY = store_entry.make(CONTEXT, asked(page(at_70=1)), made_of((4, 100), code=b"code" * 9))
BYTES = store_entry.encode(CONTEXT, ENTRY)


def test_each_flipped_bit_is_refused():
    for place in range(len(BYTES)):
        for bit in range(8):
            bad = bytearray(BYTES)
            bad[place] ^= 1 << bit
            with pytest.raises(EntryError):
                store_entry.decode(CONTEXT, bytes(bad))


def test_every_truncation_and_extension_is_refused():
    for length in range(len(BYTES)):
        with pytest.raises(EntryError):
            store_entry.decode(CONTEXT, BYTES[:length])
    with pytest.raises(EntryError):
        store_entry.decode(CONTEXT, BYTES + b"\0")


def test_another_contexts_entry_is_refused():
    with pytest.raises(EntryError):
        store_entry.decode(bytes(16), BYTES)


@pytest.mark.parametrize(
    "region",
    [
        made_of((4, 100), entries=((1, 0),)),  # outside of the spans
        made_of((4, 100), entries=((2, 4),)),  # outside of the code
        made_of((4, 100), entries=((3, 0), (2, 0))),
        made_of((4, 5), entries=((2, 0),)),
        made_of((8, 4), (4, 4)),
        made_of((4090, 8)),
    ],
)
def test_inconsistent_regions_are_not_kept(region):
    with pytest.raises(EntryError):
        store_entry.make(CONTEXT, asked(), region)


def test_several_regions_become_one():
    one = made_of((0, 8), (20, 4), code=b"A" * 65)
    other = made_of((4, 16), entries=((2, 1), (4, 2)), code=b"BBB")
    joined = store_entry.together([one, other])
    assert ((0, 0), (2, 129), (4, 130), (10, 0)) == joined.entries
    assert ((0, 24),) == joined.spans
    assert b"A" * 65 + b"\xcc" * 63 + b"BBB" == joined.code
    assert 2 == joined.instructions
    assert one is store_entry.together([one])


def test_what_was_asked_for_within_a_region_finds_it():
    job = asked(page(at_70=1), entries=(2, 20, 1000))
    entry = store_entry.make(CONTEXT, job, made_of((4, 100), entries=((2, 0),)))
    assert entry.served == (20,)
    again = store_entry.decode(CONTEXT, store_entry.encode(CONTEXT, entry))
    assert again.slots == [2, 20]
    assert set(store_entry.search_keys(CONTEXT, 20, job.content)) & set(
        store_entry.own_keys(CONTEXT, again)
    )
