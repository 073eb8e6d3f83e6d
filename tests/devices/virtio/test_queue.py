"""The split virtqueue: chains as drivers build them, and rings as broken or hostile drivers do."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.device import AccessFault
from devices.virtio.queue import (
    DESC_INDIRECT,
    DESC_NEXT,
    DESC_WRITE,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    MAX_DESCRIPTORS,
    Chain,
    QueueError,
    VirtQueue,
)
from tests.devices.guest import RAM, Memory

SIZE = 8
AVAILABLE = RAM + 0x1000
USED = RAM + 0x2000
TABLE = RAM + 0x4000
DATA = RAM + 0x1_0000

Descriptor = tuple[int, int, int, int]


class Ring:
    """A queue over memory, and the driver's pen."""

    def __init__(self, features: int = F_INDIRECT_DESC) -> None:
        self.memory = Memory(1 << 20)
        self.queue = VirtQueue(self.memory, SIZE)
        self.queue.features = features
        state = self.queue.state
        state.size, state.descriptors, state.available, state.used = SIZE, RAM, AVAILABLE, USED
        self.queue.enable()

    def describe(self, *descriptors: Descriptor, at: int = RAM) -> None:
        data = b"".join(struct.pack("<QIHH", *descriptor) for descriptor in descriptors)
        self.memory.write(at, data)

    def offer(self, *heads: int) -> None:
        self.memory.write(AVAILABLE + 4, struct.pack(f"<{len(heads)}H", *heads))
        self.memory.write(AVAILABLE + 2, struct.pack("<H", len(heads)))

    def pop(self) -> Chain:
        return next(self.queue.chains())


def test_a_chain_is_gathered_and_scattered() -> None:
    ring = Ring()
    ring.describe(
        (DATA, 3, DESC_NEXT, 2),
        (0, 0, 0, 0),
        (DATA + 0x100, 4, DESC_NEXT, 5),
        (0, 0, 0, 0),
        (0, 0, 0, 0),
        (DATA + 0x200, 2, DESC_NEXT | DESC_WRITE, 1),
    )
    ring.describe((DATA + 0x300, 6, DESC_WRITE, 0), at=RAM + 16)
    ring.memory.write(DATA, b"abc")
    ring.memory.write(DATA + 0x100, b"defg")
    ring.offer(0)
    chain = ring.pop()
    assert (chain.head, chain.readable_length, chain.writable_length) == (0, 7, 8)
    assert chain.read(0, 7) == b"abcdefg"
    assert chain.read(2, 3) == b"cde"
    assert chain.read(5, 100) == b"fg"
    chain.write(1, b"12345")
    assert ring.memory.read(DATA + 0x200, 2) == b"\x001"
    assert ring.memory.read(DATA + 0x300, 6) == b"2345\x00\x00"
    with pytest.raises(QueueError, match="too small"):
        chain.write(4, b"12345")
    ring.queue.push(chain, 6)
    assert ring.memory.read(USED, 12) == struct.pack("<HHII", 0, 1, 0, 6)


def test_chains_come_in_the_order_they_were_offered() -> None:
    ring = Ring()
    ring.describe(*[(DATA + 16 * number, 1, 0, 0) for number in range(SIZE)])
    ring.offer(3, 1, 4)
    heads = []
    for chain in ring.queue.chains():
        heads.append(chain.head)
        ring.queue.push(chain, 0)
    assert heads == [3, 1, 4]
    assert ring.memory.read(USED, 4) == struct.pack("<HH", 0, 3)


def test_an_indirect_table_may_follow_direct_descriptors() -> None:
    ring = Ring()
    ring.describe((DATA, 1, DESC_NEXT, 1), (TABLE, 32, DESC_INDIRECT, 0))
    ring.describe((DATA + 1, 2, DESC_NEXT, 1), (DATA + 8, 4, DESC_WRITE, 0), at=TABLE)
    ring.memory.write(DATA, b"xyz")
    ring.offer(0)
    chain = ring.pop()
    assert chain.read(0, 3) == b"xyz"
    assert chain.writable == [(DATA + 8, 4)]


def test_an_indirect_table_may_be_longer_than_the_queue() -> None:
    ring = Ring()
    count = MAX_DESCRIPTORS - 1
    ring.describe((TABLE, 16 * count, DESC_INDIRECT, 0))
    ring.describe(
        *[(DATA, 1, DESC_NEXT, number + 1) for number in range(count - 1)],
        (DATA, 1, 0, 0),
        at=TABLE,
    )
    ring.offer(0)
    assert ring.pop().readable_length == count


def test_buffers_of_no_bytes_are_skipped() -> None:
    ring = Ring()
    ring.describe((0, 0, DESC_NEXT, 1), (DATA, 2, DESC_NEXT, 2), (0, 0, DESC_WRITE, 0))
    ring.offer(0)
    chain = ring.pop()
    assert (chain.readable, chain.writable) == ([(DATA, 2)], [])


NEXT_TO_1 = (DATA, 1, DESC_NEXT, 1)


@pytest.mark.parametrize(
    ("descriptors", "reason"),
    [
        ([(DATA, 1, DESC_NEXT, 0)], "loop"),
        ([NEXT_TO_1, (DATA, 1, DESC_NEXT, 0)], "loop"),
        ([(DATA, 1, DESC_NEXT, SIZE)], "descriptor 8 of a table of 8"),
        ([(DATA, 1, DESC_WRITE | DESC_NEXT, 1), (DATA, 1, 0, 0)], "after a writable"),
        ([(TABLE, 0, DESC_INDIRECT, 0)], "table of 0 bytes"),
        ([(TABLE, 17, DESC_INDIRECT, 0)], "table of 17 bytes"),
        ([(TABLE, 16, DESC_INDIRECT | DESC_NEXT, 1)], "indirect"),
        ([(DATA, 0xFFFF_FFFF, DESC_NEXT, 1), (DATA, 2, 0, 0)], "4294967296 bytes"),
    ],
)
def test_a_malformed_chain_is_refused(descriptors: list[Descriptor], reason: str) -> None:
    ring = Ring()
    ring.describe(*descriptors)
    ring.offer(0)
    with pytest.raises(QueueError, match=reason):
        ring.pop()


def test_an_indirect_table_in_an_indirect_table_is_refused() -> None:
    ring = Ring()
    ring.describe((TABLE, 16, DESC_INDIRECT, 0))
    ring.describe((TABLE, 16, DESC_INDIRECT, 0), at=TABLE)
    ring.offer(0)
    with pytest.raises(QueueError, match="indirect"):
        ring.pop()


def test_an_indirect_table_that_was_not_agreed_on_is_refused() -> None:
    ring = Ring(features=0)
    ring.describe((TABLE, 16, DESC_INDIRECT, 0))
    ring.offer(0)
    with pytest.raises(QueueError, match="indirect"):
        ring.pop()


def test_a_head_beyond_the_table_is_refused() -> None:
    ring = Ring()
    ring.offer(SIZE)
    with pytest.raises(QueueError, match="descriptor 8"):
        ring.pop()


def test_an_index_beyond_the_ring_is_refused() -> None:
    ring = Ring()
    ring.memory.write(AVAILABLE + 2, struct.pack("<H", SIZE + 1))
    with pytest.raises(QueueError, match="available index 9"):
        ring.pop()


@pytest.mark.parametrize("address", [0, RAM - 1, RAM + (1 << 20), (1 << 64) - 1])
def test_a_table_that_is_not_memory_faults(address: int) -> None:
    ring = Ring()
    ring.describe((address, 16, DESC_INDIRECT, 0))
    ring.offer(0)
    with pytest.raises(AccessFault):
        ring.pop()


def test_a_ring_that_the_device_feeds_itself_ends() -> None:
    """Buffers lie over the available index: each answer makes more work."""
    ring = Ring()
    ring.describe((AVAILABLE + 2, 2, DESC_WRITE, 0))
    ring.offer(0)
    served = 0

    def serve() -> None:
        nonlocal served
        for chain in ring.queue.chains():
            served += 1
            chain.write(0, struct.pack("<H", served + 1 & 0xFFFF))
            ring.queue.push(chain, 2)

    with pytest.raises(QueueError, match="in one go"):
        serve()
    assert served == 1 << 16


@pytest.mark.parametrize("maximum", [0, 3, 2048])
def test_a_queue_has_a_possible_size(maximum: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        VirtQueue(Memory(), maximum)


@pytest.mark.parametrize("align", [3, 0x1001])
def test_a_legacy_ring_has_a_possible_alignment(align: int) -> None:
    queue = VirtQueue(Memory(), SIZE)
    queue.state.size = SIZE
    with pytest.raises(QueueError, match="alignment"):
        queue.set_legacy_ring(1, 0x1000, align)


def test_the_legacy_layout() -> None:
    queue = VirtQueue(Memory(), 256)
    queue.state.size = 256
    queue.set_legacy_ring(0x80000, 0x1000, 0x1000)
    state = queue.state
    assert (state.descriptors, state.available, state.used) == (
        0x8000_0000,
        0x8000_1000,
        0x8000_2000,
    )


flags = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 0xFFFF])
places = st.one_of(
    st.sampled_from([RAM, AVAILABLE, USED, TABLE, DATA, RAM + (1 << 20) - 8, 0, (1 << 64) - 4]),
    st.integers(0, (1 << 64) - 1),
)
lengths = st.one_of(st.sampled_from([0, 1, 16, 32, 48, 0xFFFF_FFFF]), st.integers(0, 0xFFFF_FFFF))
descriptors = st.tuples(places, lengths, flags, st.integers(0, SIZE))


@given(
    st.lists(descriptors, max_size=SIZE),
    st.lists(descriptors, max_size=4),
    st.lists(st.integers(0, SIZE), max_size=SIZE),
    st.sampled_from([0, F_INDIRECT_DESC, F_INDIRECT_DESC | F_EVENT_IDX]),
)
@settings(max_examples=400, deadline=None)
def test_garbage_is_refused_or_served_but_ends(
    table: list[Descriptor], indirect: list[Descriptor], heads: list[int], features: int
) -> None:
    ring = Ring(features)
    ring.describe(*table)
    ring.describe(*indirect, at=TABLE)
    ring.offer(*heads)
    try:
        for chain in ring.queue.chains():
            data = chain.read(0, 4096)
            assert len(data) == min(4096, chain.readable_length)
            chain.write(0, bytes(min(64, chain.writable_length)))
            ring.queue.push(chain, 0)
        ring.queue.take_signal()
    except (QueueError, AccessFault):
        pass


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=SIZE), st.data())
@settings(deadline=None)
def test_any_cut_of_a_buffer_reads_and_writes_the_same(
    pieces: list[bytes], data: st.DataObject
) -> None:
    ring = Ring()
    whole = b"".join(pieces)
    offset = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - offset))
    readable, writable = [], []
    for number, piece in enumerate(pieces):
        readable.append((DATA + 64 * number, len(piece)))
        writable.append((DATA + 0x1000 + 64 * number, len(piece)))
        ring.memory.write(readable[-1][0], piece)
    chain = Chain(ring.memory, 0, readable, writable)
    assert chain.read(offset, length) == whole[offset : offset + length]
    chain.write(offset, whole[offset : offset + length])
    back = b"".join(ring.memory.read(*segment) for segment in writable)
    assert back == bytes(offset) + whole[offset : offset + length] + bytes(
        len(whole) - offset - length
    )
