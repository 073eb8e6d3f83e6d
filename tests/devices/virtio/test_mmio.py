"""The transport as drivers see it: discovery, features, status, interrupts, and what breaks it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.device import AccessFault
from devices.virtio import mmio
from devices.virtio.mmio import VirtioMmio
from devices.virtio.queue import F_EVENT_IDX, F_INDIRECT_DESC, QueueError, VirtQueue
from devices.virtio.rng import VirtioRng
from tests.devices.guest import RAM, Buffer, Driver, Line, Memory, Slot

ACCEPTED = mmio.ACKNOWLEDGE | mmio.DRIVER | mmio.FEATURES_OK


class Echo:
    """A backend of two queues: gives back what it reads, and has a config space."""

    name = "echo"
    device_id = 63
    features = 1 << 5
    queue_sizes = (16, 8)

    def __init__(self) -> None:
        self.config = b"\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a"
        self.state = 0
        self.written: list[tuple[int, bytes]] = []
        self.served: list[int] = []

    def attach(self, serve: Callable[[int], None], config_changed: Callable[[], None]) -> None:
        self.serve = serve
        self.config_changed = config_changed

    def write_config(self, offset: int, data: bytes) -> None:
        self.written.append((offset, data))

    def process(self, index: int, queue: VirtQueue) -> None:
        self.served.append(index)
        for chain in queue.chains():
            data = chain.read(0, chain.readable_length)
            if data == b"break":
                raise QueueError("asked to")
            chain.write(0, data)
            queue.push(chain, len(data))

    def reset(self) -> None:
        self.state = 0

    def restore(self, state: int) -> None:
        self.state = state


def modern(backend: mmio.Backend | None) -> Slot:
    line, memory = Line(), Memory()
    return Slot(VirtioMmio(line, memory, backend), line, memory)


def echo(driver: Driver, data: bytes, **how: bool) -> int:
    head = driver.add([Buffer(data), Buffer(room=32)], **how)
    driver.kick()
    return head


def test_an_empty_slot_is_found_empty(make_slot: Callable[..., Slot], legacy: bool) -> None:
    slot = make_slot(None)
    assert slot.get(mmio.MAGIC_VALUE) == 0x74726976
    assert slot.get(mmio.VERSION) == (1 if legacy else 2)
    assert slot.get(mmio.DEVICE_ID) == 0
    for offset in range(0, 0x100, 4):
        slot.set(offset, 0xFFFF_FFFF)
    assert [slot.get(offset) for offset in range(8, 0x120, 4)] == [0] * 70
    slot.device.reset()
    assert not slot.line.level


def test_discovery(make_slot: Callable[..., Slot], legacy: bool) -> None:
    slot = make_slot(Echo())
    assert slot.get(mmio.MAGIC_VALUE) == 0x74726976
    assert slot.get(mmio.VERSION) == (1 if legacy else 2)
    assert slot.get(mmio.DEVICE_ID) == 63
    features = 0
    for sel in range(3):
        slot.set(mmio.DEVICE_FEATURES_SEL, sel)
        features |= slot.get(mmio.DEVICE_FEATURES) << 32 * sel
    own = mmio.F_ANY_LAYOUT if legacy else mmio.F_VERSION_1
    assert features == 1 << 5 | F_INDIRECT_DESC | F_EVENT_IDX | own
    sizes = []
    for index in range(3):
        slot.set(mmio.QUEUE_SEL, index)
        sizes.append(slot.get(mmio.QUEUE_NUM_MAX))
    assert sizes == [16, 8, 0]


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("event_idx", [False, True])
def test_buffers_go_round(make_slot: Callable[..., Slot], indirect: bool, event_idx: bool) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start(~0 if event_idx else ~F_EVENT_IDX)
    for number in range(50):
        data = b"hello %d" % number
        head = echo(driver, data, indirect=indirect)
        assert slot.line.level
        assert driver.take_interrupt() == mmio.USED_BUFFER
        assert not slot.line.level
        assert driver.take_used() == [(head, len(data))]
        assert driver.result(head, 1, 32) == data.ljust(32, b"\xee")
        driver.buffers = driver.used + 0x1000
    assert not driver.broken


def test_both_queues_work(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    first = Driver(slot)
    first.start()
    second = Driver(slot, index=1, place=RAM + 0x10_0000)
    second.set_queue_up()
    head = echo(second, b"two")
    assert second.take_used() == [(head, 3)]
    assert first.take_used() == []


def test_the_ring_wraps_its_indices(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    # As if 65,534 buffers had gone round.
    state = copy.deepcopy(slot.device.state)
    queue = state.queues[0]
    queue.next_available = queue.next_used = queue.signalled_used = 0xFFFE
    slot.device.restore(state)
    driver.available_index = driver.seen_used = 0xFFFE
    slot.memory.write(driver.available + 2, b"\xfe\xff")
    slot.memory.write(driver.used + 2, b"\xfe\xff")
    driver.ask_for_interrupt_at(0xFFFE)
    for number in range(5):
        head = echo(driver, b"x" * number)
        assert driver.take_interrupt() == mmio.USED_BUFFER
        assert driver.take_used() == [(head, number)]
    assert driver.available_index == 3


def test_features_that_were_not_offered_are_refused() -> None:
    slot = modern(Echo())
    slot.set(mmio.STATUS, mmio.ACKNOWLEDGE | mmio.DRIVER)
    slot.set(mmio.DRIVER_FEATURES_SEL, 1)
    slot.set(mmio.DRIVER_FEATURES, 1)
    slot.set(mmio.DRIVER_FEATURES_SEL, 0)
    slot.set(mmio.DRIVER_FEATURES, 1 << 6)
    slot.set(mmio.STATUS, ACCEPTED)
    assert slot.get(mmio.STATUS) == mmio.ACKNOWLEDGE | mmio.DRIVER
    slot.set(mmio.DRIVER_FEATURES, 1 << 5)
    slot.set(mmio.STATUS, ACCEPTED)
    assert slot.get(mmio.STATUS) == ACCEPTED


def test_a_modern_driver_must_accept_version_1() -> None:
    slot = modern(Echo())
    slot.set(mmio.STATUS, ACCEPTED)
    assert slot.get(mmio.STATUS) == mmio.ACKNOWLEDGE | mmio.DRIVER


def test_features_are_settled_with_features_ok() -> None:
    slot = modern(Echo())
    driver = Driver(slot)
    driver.start(mmio.F_VERSION_1)
    slot.set(mmio.DRIVER_FEATURES_SEL, 0)
    slot.set(mmio.DRIVER_FEATURES, F_INDIRECT_DESC)
    echo(driver, b"x", indirect=True)
    assert driver.broken, "indirect descriptors were not agreed on"


def test_nothing_is_consumed_before_driver_ok_and_all_of_it_after() -> None:
    backend = Echo()
    slot = modern(backend)
    driver = Driver(slot)
    driver.start()
    slot.set(mmio.STATUS, 0)
    slot.set(mmio.DRIVER_FEATURES_SEL, 1)
    slot.set(mmio.DRIVER_FEATURES, 1)
    slot.set(mmio.STATUS, ACCEPTED)
    driver = Driver(slot)
    driver.set_queue_up()
    backend.served.clear()
    head = echo(driver, b"early")
    assert backend.served == []
    slot.set(mmio.STATUS, ACCEPTED | mmio.DRIVER_OK)
    assert driver.take_used() == [(head, 5)]
    assert slot.line.level


def test_the_page_size_outlives_the_drivers_reset() -> None:
    # Linux tells it once, before it first writes 0 to Status (drivers/virtio/virtio_mmio.c).
    line, memory = Line(), Memory()
    slot = Slot(VirtioMmio(line, memory, Echo(), legacy=True), line, memory)
    slot.set(mmio.GUEST_PAGE_SIZE, 0x1000)
    slot.set(mmio.STATUS, 0)
    slot.set(mmio.QUEUE_NUM, 8)
    slot.set(mmio.QUEUE_ALIGN, 0x1000)
    slot.set(mmio.QUEUE_PFN, RAM >> 12)

    assert slot.device.state.queues[0].descriptors == RAM
    assert slot.get(mmio.STATUS) == 0


def test_a_ring_needs_a_page_size() -> None:
    line, memory = Line(), Memory()
    slot = Slot(VirtioMmio(line, memory, Echo(), legacy=True), line, memory)
    slot.set(mmio.QUEUE_NUM, 8)
    slot.set(mmio.QUEUE_ALIGN, 0x1000)
    slot.set(mmio.QUEUE_PFN, RAM >> 12)

    assert slot.get(mmio.STATUS) == mmio.DEVICE_NEEDS_RESET


def test_a_legacy_driver_may_begin_early() -> None:
    line, memory = Line(), Memory()
    slot = Slot(VirtioMmio(line, memory, Echo(), legacy=True), line, memory)
    slot.set(mmio.STATUS, mmio.ACKNOWLEDGE | mmio.DRIVER)
    driver = Driver(slot)
    driver.set_queue_up()
    head = echo(driver, b"early")
    assert driver.take_used() == [(head, 5)]


def test_the_driver_can_do_without_interrupts(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start(~F_EVENT_IDX)
    slot.memory.write(driver.available, b"\x01\x00")
    head = echo(driver, b"quiet")
    assert driver.take_used() == [(head, 5)]
    assert slot.line.rises == 0
    slot.memory.write(driver.available, b"\x00\x00")
    echo(driver, b"loud")
    assert slot.line.rises == 1


def test_with_event_idx_the_driver_says_when(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    driver.ask_for_interrupt_at(2)
    echo(driver, b"1")
    echo(driver, b"2")
    assert slot.line.rises == 0
    echo(driver, b"3")
    assert slot.line.rises == 1


def test_with_event_idx_the_device_asks_for_the_next_kick(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    for _ in range(3):
        echo(driver, b"x")
    assert slot.memory.read(driver.used + 4 + 8 * driver.size, 2) == b"\x03\x00"


def test_a_reset_by_the_driver_starts_afresh(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    echo(driver, b"x")
    assert slot.line.level
    slot.set(mmio.STATUS, 0)
    assert not slot.line.level
    assert (slot.get(mmio.STATUS), slot.get(mmio.INTERRUPT_STATUS)) == (0, 0)
    assert slot.get(mmio.QUEUE_READY) == 0
    assert slot.get(mmio.QUEUE_PFN) == 0
    driver = Driver(slot)
    driver.start()
    head = echo(driver, b"again")
    assert driver.take_used() == [(head, 5)]


def test_a_mistake_breaks_the_device_until_it_is_reset(make_slot: Callable[..., Slot]) -> None:
    backend = Echo()
    slot = make_slot(backend)
    driver = Driver(slot)
    driver.start()
    echo(driver, b"break")
    assert driver.broken
    assert driver.take_interrupt() == mmio.CONFIG_CHANGE
    backend.served.clear()
    echo(driver, b"x")
    assert backend.served == []
    slot.set(mmio.STATUS, ACCEPTED | mmio.DRIVER_OK)
    assert driver.broken, "only a reset mends it"
    driver = Driver(slot)
    driver.start()
    head = echo(driver, b"mended")
    assert driver.take_used() == [(head, 6)]


def test_the_backend_can_tell_of_input_and_of_changes(make_slot: Callable[..., Slot]) -> None:
    backend = Echo()
    slot = make_slot(backend)
    backend.config_changed()
    assert not slot.line.level, "nobody listens yet"
    driver = Driver(slot)
    driver.start()
    head = driver.add([Buffer(b"later"), Buffer(room=8)])
    backend.serve(0)
    assert driver.take_interrupt() == mmio.USED_BUFFER
    assert driver.take_used() == [(head, 5)]
    generation = slot.get(mmio.CONFIG_GENERATION)
    backend.config_changed()
    assert driver.take_interrupt() == mmio.CONFIG_CHANGE
    if not slot.device.legacy:
        assert slot.get(mmio.CONFIG_GENERATION) == generation + 1


def test_configuration_space_in_all_sizes(make_slot: Callable[..., Slot]) -> None:
    backend = Echo()
    device = make_slot(backend).device
    assert device.read(mmio.CONFIG, 4) == 0x04030201
    assert device.read(mmio.CONFIG + 6, 2) == 0x0807
    assert device.read(mmio.CONFIG + 9, 1) == 0x0A
    assert device.read(mmio.CONFIG + 8, 4) == 0x0A09
    assert device.read(mmio.CONFIG + 0x800, 4) == 0
    device.write(mmio.CONFIG + 2, 2, 0xFFFF_BEEF)
    device.write(mmio.CONFIG + 8, 4, 1)
    assert backend.written == [(2, b"\xef\xbe")]


@pytest.mark.parametrize(
    ("offset", "size"), [(0x0, 1), (0x0, 2), (0x0, 8), (0x50, 2), (0x100, 8), (0x101, 2)]
)
def test_other_accesses_fault(make_slot: Callable[..., Slot], offset: int, size: int) -> None:
    device = make_slot(Echo()).device
    with pytest.raises(AccessFault):
        device.read(offset, size)
    with pytest.raises(AccessFault):
        device.write(offset, size, 0)


def test_a_queue_that_does_not_exist_is_ignored(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(Echo())
    Driver(slot).start()
    slot.set(mmio.QUEUE_SEL, 7)
    slot.set(mmio.QUEUE_NUM, 8)
    slot.set(mmio.QUEUE_PFN, 8)
    slot.set(mmio.QUEUE_READY, 1)
    slot.set(mmio.QUEUE_NOTIFY, 7)
    assert slot.get(mmio.QUEUE_READY) == 0
    assert not slot.line.level


@pytest.mark.parametrize("size", [0, 3, 32, 0x1_0000, 0xFFFF_FFFF])
def test_an_impossible_queue_size_breaks_the_device(size: int) -> None:
    slot = modern(Echo())
    slot.set(mmio.QUEUE_NUM, size)
    slot.set(mmio.QUEUE_READY, 1)
    assert slot.get(mmio.STATUS) & mmio.DEVICE_NEEDS_RESET
    assert slot.get(mmio.QUEUE_READY) == 0


@pytest.mark.parametrize(
    "register", [mmio.QUEUE_DESC_LOW, mmio.QUEUE_DRIVER_LOW, mmio.QUEUE_DEVICE_LOW]
)
def test_a_ring_that_is_not_aligned_breaks_the_device(register: int) -> None:
    slot = modern(Echo())
    slot.set(mmio.QUEUE_NUM, 8)
    slot.set(register, 0x8000_0001)
    slot.set(mmio.QUEUE_READY, 1)
    assert slot.get(mmio.STATUS) & mmio.DEVICE_NEEDS_RESET


def test_a_queue_in_use_stays_where_it_is() -> None:
    slot = modern(Echo())
    driver = Driver(slot)
    driver.start()
    slot.set(mmio.QUEUE_NUM, 2)
    slot.set(mmio.QUEUE_DESC_LOW, 0)
    slot.set(mmio.QUEUE_READY, 1)
    head = echo(driver, b"still")
    assert driver.take_used() == [(head, 5)]


def test_a_queue_can_be_taken_out_of_use(make_slot: Callable[..., Slot], legacy: bool) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    slot.set(mmio.QUEUE_PFN if legacy else mmio.QUEUE_READY, 0)
    echo(driver, b"nobody")
    assert driver.take_used() == []
    assert not driver.broken


def test_there_are_no_shared_memory_regions() -> None:
    slot = modern(Echo())
    assert [slot.get(offset) for offset in range(0xB0, 0xC0, 4)] == [0xFFFF_FFFF] * 4


def test_a_restored_state_goes_on(make_slot: Callable[..., Slot], legacy: bool) -> None:
    slot = make_slot(Echo())
    driver = Driver(slot)
    driver.start()
    echo(driver, b"before")
    driver.take_used()
    line = Line()
    other = VirtioMmio(line, slot.memory, Echo(), legacy=legacy)
    other.restore(copy.deepcopy(slot.device.state))
    assert line.level
    driver.slot = Slot(other, line, slot.memory)
    driver.take_interrupt()
    head = echo(driver, b"after", indirect=True)
    assert driver.take_used() == [(head, 5)]
    assert line.rises == 2


@given(
    st.lists(
        st.tuples(st.integers(0, 0x7F).map(lambda word: 4 * word), st.integers(0, 0xFFFF_FFFF)),
        max_size=40,
    ),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_sequence_of_writes_is_too_strange(writes: list[tuple[int, int]], legacy: bool) -> None:
    line, memory = Line(), Memory(0x1000)
    device = VirtioMmio(line, memory, VirtioRng(), legacy=legacy)
    for offset, value in writes:
        device.write(offset, 4, value)
        device.read(offset, 4)
        assert line.level == (device.read(mmio.INTERRUPT_STATUS, 4) != 0)
