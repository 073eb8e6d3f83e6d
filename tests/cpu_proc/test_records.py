"""Records from the machine's side: a write, a publication and a retirement, on real memory."""

from __future__ import annotations

import ctypes
import functools

import pytest

from cpu_proc import engine as engines
from cpu_proc import native
from cpu_proc.records import Records, lines_of
from cpu_proc.segments import ControlSegment
from protocol.layout import (
    PAGE,
    RECORD_ARRAY_HOST,
    RECORD_ARRAY_PAGE,
    RECORD_ARRAY_STRIDE,
    SLOTS_PER_PAGE,
)

FILLED, CODE = 0x2000, 0x7000_0000
ENGINE = engines.load()
DECODE = ENGINE.address("h_decode")
PAGES = 8
ALL = 2**64 - 1


class World:
    """Records whose native side is played here: `fill` is what executing a page does."""

    def __init__(self) -> None:
        self.control = ControlSegment(1, PAGES)
        self.records = Records(self.control, arrays=4)
        self.records.decode = DECODE
        note_write = ENGINE.note_write()
        self.records.note_write = functools.partial(note_write, self.control.hart_addresses[0])
        drop_arrays = ENGINE.drop_arrays()
        self.records.drop_arrays = functools.partial(drop_arrays, self.control.hart_addresses[0])
        self.next = self.start = self.records.start

    def fill(self, page: int, *slots: int) -> None:
        """Execute instructions of two bytes at these slots."""
        if not self.word(page, "records"):
            words = native.words(self.next, RECORD_ARRAY_STRIDE // 8)
            for slot in range(SLOTS_PER_PAGE):
                words[2 * slot] = DECODE
            words[RECORD_ARRAY_PAGE // 8] = self.control.pages_address + page * PAGE.size
            self.set(page, "records", self.next)
            self.next += RECORD_ARRAY_STRIDE
        for slot in slots:
            self.set(page, "lines", self.word(page, "lines") | lines_of(2 * slot, 2))
            self.array(page)[2 * slot] = FILLED

    def array(self, page: int) -> ctypes.Array[ctypes.c_uint64]:
        return native.words(self.word(page, "records"), 2 * SLOTS_PER_PAGE)

    def handler(self, page: int, slot: int) -> int:
        return int(self.array(page)[2 * slot])

    def word(self, page: int, name: str) -> int:
        return int(self.control.pages[(page * PAGE.size + PAGE.offset(name)) // 8])

    def set(self, page: int, name: str, value: int) -> None:
        self.control.pages[(page * PAGE.size + PAGE.offset(name)) // 8] = value

    def filled(self, page: int) -> list[int]:
        return [s for s in range(SLOTS_PER_PAGE) if self.handler(page, s) != DECODE]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("offset", "length", "lines"),
    [(0, 1, 1), (63, 1, 1), (63, 2, 3), (64, 64, 2), (60, 72, 7), (4095, 1, 1 << 63)],
)
def test_lines_of_a_range(offset, length, lines):
    assert lines_of(offset, length) == lines
    assert lines_of(0, 4096) == ALL


# --- written ----------------------------------------------------------------------------------


def test_a_write_to_tracked_lines_bumps_the_generation_and_forgets_what_it_touches(world):
    world.fill(3, *range(0, 64))
    assert world.records.written(3, 20, 4) is True
    assert world.records.generation(3) == 1
    # Bytes 20 to 23 are slots 10 and 11; the instruction at slot 9 may reach into them.
    assert set(range(64)) - set(world.filled(3)) == {9, 10, 11}


@pytest.mark.parametrize(
    ("offset", "length", "gone"),
    [
        (0, 1, set(range(32))),  # from a line's start on: what is behind is likely to follow
        (1, 1, {0}),
        (2, 1, {0, 1}),
        (3, 1, {0, 1}),
        (5, 2, {1, 2, 3}),
        (0, 8, set(range(32))),
        (126, 2, {62, 63}),
    ],
)
def test_every_record_that_holds_a_written_byte_is_forgotten(world, offset, length, gone):
    world.fill(1, *range(0, 64))
    world.records.written(1, offset, length)
    assert set(range(64)) - set(world.filled(1)) == gone


def test_a_write_to_lines_that_nothing_was_made_from_changes_nothing(world):
    world.fill(3, 0, 31)
    assert world.records.written(3, 64, 4000) is False
    assert world.records.written(2, 0, 4096) is False
    assert world.records.generation(3) == world.records.generation(2) == 0
    assert world.filled(3) == [0, 31]


def test_a_write_of_the_whole_page_forgets_all_of_it(world):
    world.fill(0, 0, 700, 2047)
    assert world.records.written(0, 0, 4096)
    assert world.filled(0) == []
    assert world.records.generation(0) == 1


def test_a_write_to_a_page_without_records_but_with_lines_still_counts(world):
    world.set(2, "lines", 1)
    assert world.records.written(2, 0, 8)
    assert world.records.generation(2) == 1


# --- regions ----------------------------------------------------------------------------------


def test_a_publication_is_one_store_a_record_and_tracks_its_lines(world):
    world.fill(2, 5)
    region = world.records.publish(2, 0b110, [(5, CODE), (40, CODE + 16)])
    assert region is not None
    assert (world.handler(2, 5), world.handler(2, 40)) == (CODE, CODE + 16)
    assert world.word(2, "region_lines") == 0b110
    assert world.word(2, "lines") == 0b111
    assert world.records.region_count == 1
    assert world.records.entry_slots(2) == {5, 40}


def test_nothing_is_published_into_a_page_without_records_or_lines(world):
    assert world.records.publish(2, 1, [(0, CODE)]) is None
    world.fill(2)
    assert world.records.publish(2, 1, [(0, CODE)]) is None
    assert world.records.region_count == 0
    assert world.word(2, "lines") == world.word(2, "region_lines") == 0


def test_a_write_to_any_of_its_lines_takes_a_region_back(world):
    world.fill(2, 5)
    world.records.publish(2, 0b1110, [(5, CODE), (40, CODE + 16)])
    world.records.written(2, 3 * 64 + 8, 1)
    assert (world.handler(2, 5), world.handler(2, 40)) == (DECODE, DECODE)
    assert world.word(2, "region_lines") == 0
    assert world.records.regions == {}
    assert world.records.region_count == 0


def test_a_write_to_other_lines_leaves_it(world):
    world.fill(2, 5, 200)
    world.records.publish(2, 0b0010, [(5, CODE)])
    assert world.records.written(2, 400, 8)
    assert world.handler(2, 5) == CODE
    assert world.word(2, "region_lines") == 0b0010
    assert world.handler(2, 200) == DECODE


def test_of_two_regions_only_the_one_whose_lines_were_written_goes(world):
    world.fill(2, 0)
    world.records.publish(2, 0b0011, [(0, CODE), (1, CODE + 8)])
    world.records.publish(2, 0b0110, [(40, CODE + 64)])
    assert world.records.retire_regions(2, 0b0001) == 1
    assert (world.handler(2, 0), world.handler(2, 40)) == (DECODE, CODE + 64)
    assert world.word(2, "region_lines") == 0b0110
    assert world.records.retire_regions(2, 0b0010) == 1
    assert world.records.retire_regions(2, ALL) == 0
    assert world.word(2, "region_lines") == 0


def test_a_record_that_has_gone_to_a_newer_region_stays_with_it(world):
    world.fill(2, 0)
    world.records.publish(2, 0b0001, [(0, CODE), (3, CODE + 8)])
    world.records.publish(2, 0b0010, [(0, CODE + 64)])
    assert world.records.retire_regions(2, 0b0001) == 1
    assert (world.handler(2, 0), world.handler(2, 3)) == (CODE + 64, DECODE)


def test_a_record_that_a_store_made_undecoded_is_left_so(world):
    world.fill(2, 0)
    world.records.publish(2, 1, [(0, CODE)])
    world.array(2)[0] = FILLED  # the native side stored, and executed the new instruction
    world.records.retire_regions(2, 1)
    assert world.handler(2, 0) == FILLED


# --- watched lines ----------------------------------------------------------------------------


def test_watched_lines_stay_watched_through_everything(world):
    world.records.watch(4, 100, 8)
    assert world.word(4, "lines") == world.word(4, "region_lines") == 0b10
    world.fill(4, 0)
    world.records.publish(4, 0b1, [(0, CODE)])
    assert world.word(4, "region_lines") == 0b11
    assert world.records.written(4, 0, 256)
    assert world.word(4, "region_lines") == 0b10
    world.records.drop_all([(world.start, world.next)])
    assert world.word(4, "lines") == world.word(4, "region_lines") == 0b10


def test_a_watched_range_may_cross_lines(world):
    world.records.watch(0, 60, 8)
    assert world.word(0, "region_lines") == 0b11


# --- everything -------------------------------------------------------------------------------


def test_dropping_everything_leaves_no_pointer_but_keeps_generations(world):
    world.fill(1, 0)
    world.fill(5, 7)
    world.records.publish(5, 1, [(7, CODE)])
    world.records.written(1, 0, 2)
    assert world.records.drop_all([(world.start, world.next)]) == 2
    for page in (1, 5):
        assert [world.word(page, n) for n in ("records", "lines", "region_lines")] == [0, 0, 0]
    assert world.records.generation(1) == 1
    assert (world.records.regions, world.records.region_count) == ({}, 0)


def test_dropping_the_arrays_of_several_harts(world):
    world.fill(1, 0)
    world.fill(2, 0)
    middle = world.start + RECORD_ARRAY_STRIDE
    assert world.records.drop_all([(world.start, world.start), (middle, world.next)]) == 1
    assert world.word(1, "records") == world.start
    assert world.word(2, "records") == 0


def test_a_scratch_array_belongs_to_no_page_and_never_begins_to_be_tracked(world):
    memory = native.map_private(4096)
    scratch = world.records.make_scratch(0x3000, memory, memory + 64)
    assert scratch == world.start
    assert world.records.start == world.start + RECORD_ARRAY_STRIDE
    words = native.words(scratch, RECORD_ARRAY_STRIDE // 8)
    assert (words[2], words[4]) == (0x3000, 0x3000)
    assert words[RECORD_ARRAY_HOST // 8] == memory
    assert words[RECORD_ARRAY_PAGE // 8] == memory + 64
    assert native.words(memory + 64, 4)[PAGE.offset("lines") // 8] == ALL
    assert world.records.page_of(memory + 64) is None


def test_arrays_are_found_by_their_records(world):
    assert world.records.start % RECORD_ARRAY_STRIDE == 0
    world.fill(3, 0)
    array = world.word(3, "records")
    assert [world.records.slot_of(array + 16 * s) for s in (0, 1, 2047)] == [0, 1, 2047]
    base = world.control.pages_address
    assert world.records.page_of(base + 3 * PAGE.size) == 3
    assert world.records.page_of(base - PAGE.size) is None
    assert world.records.page_of(base + PAGES * PAGE.size) is None


def test_a_region_goes_when_a_new_one_is_entered_at_all_of_its_slots(world):
    world.fill(2, 5)
    world.records.publish(2, 0b0110, [(5, CODE), (40, CODE + 16)])
    world.records.publish(2, 0b1000, [(70, CODE + 32)])
    world.records.publish(2, 0b0011, [(5, CODE + 48), (40, CODE + 64), (41, CODE + 80)])
    assert world.records.region_count == 2
    assert world.records.entry_slots(2) == {5, 40, 41, 70}
    assert world.handler(2, 5) == CODE + 48
    world.records.written(2, 0, 1)
    assert [world.handler(2, slot) for slot in (5, 40, 41, 70)] == [DECODE] * 3 + [CODE + 32]


def test_slots_seen_are_those_whose_records_are_filled(world):
    assert world.records.seen_slots(2) == b""
    world.fill(2, 5)
    world.records.publish(2, 1 << 4, [(130, CODE)])
    seen = int.from_bytes(world.records.seen_slots(2), "little")
    assert len(world.records.seen_slots(2)) == 256
    assert seen >> 130 & 1
    assert not seen >> 131 & 1
