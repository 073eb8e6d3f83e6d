"""The memory map: what is where, what a store tells, and what a commit promises."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_proc.memory_map import BULK, Backing, MapError, MemoryMap, Slot
from protocol.faults import AccessFault

PAGE = 4096
RAM = 0x8000_0000


class Echo:
    """A device that notes its accesses and who held the lock."""

    name = "echo"
    size = 0x100

    def __init__(self) -> None:
        self.accesses: list[tuple[object, ...]] = []
        self.memory_map: MemoryMap | None = None
        self.locked: list[bool] = []

    def read(self, offset: int, size: int) -> int:
        self._note("read", offset, size)
        return offset + 1

    def write(self, offset: int, size: int, value: int) -> None:
        self._note("write", offset, size, value)

    def _note(self, *access: object) -> None:
        self.accesses.append(access)
        if self.memory_map is not None:
            lock = self.memory_map.lock
            taken: list[bool] = []
            other = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
            other.start()
            other.join()
            self.locked.append(not taken[0])


def backing(pages: int, first_page: int = 0, name: str = "ram") -> Backing:
    return Backing(name, memoryview(bytearray(pages * PAGE)), first_page)


class TestMap:
    def test_each_address_has_its_slot(self):
        memory_map = MemoryMap()
        ram = memory_map.add_ram(RAM, 4 * PAGE, backing(4))
        uart = memory_map.add_device(0x1000_0000, Echo())

        assert ram is memory_map.find(RAM)
        assert ram is memory_map.find(RAM + 4 * PAGE - 1)
        assert uart is memory_map.find(0x1000_0000)
        for hole in (0, 0x1000_0000 - 1, 0x1000_0000 + PAGE, RAM - 1, RAM + 4 * PAGE, 2**64 - 1):
            assert memory_map.find(hole) is None
        assert (uart, ram) == memory_map.slots

    @pytest.mark.parametrize("base", [RAM, RAM + 3 * PAGE, RAM - PAGE])
    def test_overlaps_are_refused_and_change_nothing(self, base):
        memory_map = MemoryMap()
        memory_map.add_ram(RAM, 4 * PAGE, backing(4))
        before, generation = memory_map.slots, memory_map.generation

        with pytest.raises(MapError, match="overlaps"):
            memory_map.add_ram(base, 2 * PAGE, backing(2))

        assert (before, generation) == (memory_map.slots, memory_map.generation)

    @pytest.mark.parametrize(
        "slot",
        [
            Slot("odd base", RAM + 8, PAGE, backing(1)),
            Slot("odd size", RAM, 100, backing(1)),
            Slot("empty", RAM, 0, backing(1)),
            Slot("nothing behind it", RAM, PAGE),
            Slot("too long", RAM, 2 * PAGE, backing(1)),
            Slot("too far in", RAM, PAGE, backing(1), PAGE),
            Slot("too high", 1 << 56, PAGE, backing(1)),
        ],
    )
    def test_slots_that_cannot_be_are_refused(self, slot):
        with pytest.raises(MapError):
            MemoryMap().commit(add=[slot])

    def test_every_commit_bumps_the_generation_and_tells_before_it_returns(self):
        told: list[tuple[int, int]] = []
        memory_map = MemoryMap(
            on_commit=lambda generation: told.append((generation, len(memory_map.slots)))
        )

        ram = memory_map.add_ram(RAM, PAGE, backing(1))
        memory_map.add_device(0, Echo())
        memory_map.commit(remove=[ram])

        assert [(1, 1), (2, 2), (3, 1)] == told
        assert 3 == memory_map.generation

    def test_a_commit_replaces_in_one_step(self):
        memory_map = MemoryMap()
        flash = backing(2, name="flash")
        array = memory_map.add_rom(0x2000_0000, 2 * PAGE, flash)
        command = Slot("flash", 0x2000_0000, 2 * PAGE, device=Echo())

        memory_map.commit(add=[command], remove=[array])

        assert command is memory_map.find(0x2000_0000)
        assert 2 == memory_map.generation

    def test_what_is_not_mapped_cannot_be_removed(self):
        with pytest.raises(MapError, match="is not mapped"):
            MemoryMap().commit(remove=[Slot("ram", RAM, PAGE, backing(1))])

    def test_pages_are_counted_in_the_backing(self):
        memory = backing(4, first_page=100)

        assert [100, 100, 101] == [memory.page(offset) for offset in (0, PAGE - 1, PAGE)]


class TestMemory:
    def test_spans_cross_slots(self):
        memory_map = MemoryMap()
        low, high = backing(1, name="low"), backing(1, name="high")
        memory_map.add_ram(RAM, PAGE, low)
        memory_map.add_ram(RAM + PAGE, PAGE, high)

        memory_map.write(RAM + PAGE - 2, b"abcd")

        assert b"abcd" == memory_map.read(RAM + PAGE - 2, 4)
        assert (b"ab", b"cd") == (bytes(low.view[-2:]), bytes(high.view[:2]))

    def test_a_store_tells_the_backings_bytes_after_it_stored_them(self):
        told: list[tuple[str, int, int, bytes]] = []
        memory_map = MemoryMap(
            on_write=lambda b, at, n: told.append((b.name, at, n, bytes(b.view[at : at + n])))
        )
        memory_map.add_ram(RAM, PAGE, backing(4), PAGE)
        memory_map.add_ram(RAM + PAGE, PAGE, backing(1, name="other"))

        memory_map.write(RAM + 16, b"xyz")
        memory_map.write(RAM + PAGE - 1, b"12")

        assert [
            ("ram", PAGE + 16, 3, b"xyz"),
            ("ram", 2 * PAGE - 1, 1, b"1"),
            ("other", 0, 1, b"2"),
        ] == told

    def test_one_backing_mapped_twice_is_the_same_bytes(self):
        memory_map = MemoryMap()
        memory = backing(2)
        memory_map.add_ram(RAM, 2 * PAGE, memory)
        memory_map.add_ram(RAM + 16 * PAGE, PAGE, memory, PAGE)

        memory_map.write(RAM + PAGE + 5, b"hi")

        assert b"hi" == memory_map.read(RAM + 16 * PAGE + 5, 2)

    @pytest.mark.parametrize(
        "address", [RAM - 1, RAM + PAGE - 1, RAM + PAGE, 0x1000_0000, 2**64 - 1]
    )
    def test_what_is_not_memory_faults_and_nothing_is_stored(self, address):
        told: list[object] = []
        memory_map = MemoryMap(on_write=lambda *what: told.append(what))
        memory = backing(1)
        memory_map.add_ram(RAM, PAGE, memory)
        memory_map.add_device(0x1000_0000, Echo())

        with pytest.raises(AccessFault):
            memory_map.write(address, b"xy")
        with pytest.raises(AccessFault):
            memory_map.read(address, 2)

        assert not any(memory.view)
        assert [] == told
        assert not memory_map.is_memory(address, 2)

    def test_rom_is_read_by_all_and_written_by_the_loader_only(self):
        told: list[int] = []
        memory_map = MemoryMap(on_write=lambda b, at, n: told.append(at))
        memory_map.add_rom(0x1000, PAGE, backing(1))

        with pytest.raises(AccessFault):
            memory_map.write(0x1000, b"x")
        memory_map.write_rom(0x1010, b"boot")

        assert b"boot" == memory_map.read(0x1010, 4)
        assert [0x10] == told
        assert memory_map.is_memory(0x1000, PAGE)
        assert not memory_map.is_memory(0x1000, PAGE, write=True)

    @pytest.mark.parametrize("sealed", [False, True])
    def test_long_stores_reach_a_memfd_sealed_or_not(self, sealed):
        size = 3 * BULK
        descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        mapping = mmap.mmap(descriptor, size)
        if sealed:
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
        told: list[tuple[int, int, int]] = []
        memory_map = MemoryMap(on_write=lambda b, at, n: told.append((at, n, b.view[at])))
        memory = Backing("ram", memoryview(mapping), 0, descriptor)
        memory_map.add_ram(RAM, size - PAGE, memory, PAGE)
        data = b"image" * (BULK // 4)

        memory_map.write_rom(RAM + 3, data)
        os.close(descriptor)

        assert data == memory_map.read(RAM + 3, len(data))
        assert bytes(3) == memory_map.read(RAM, 3)
        assert [(PAGE + 3, len(data), ord("i"))] == told

    def test_nothing_is_read_and_written_anywhere(self):
        memory_map = MemoryMap()

        memory_map.write(0, b"")

        assert b"" == memory_map.read(0, 0)

    @given(
        st.lists(st.sampled_from(range(8)), unique=True, max_size=8),
        st.lists(st.tuples(st.integers(0, 9 * 64), st.binary(min_size=1, max_size=150))),
    )
    def test_it_behaves_as_a_dictionary_of_bytes(self, pages, stores):
        """Pages of one backing in any order: `model` says which address has which byte."""
        unit = PAGE // 64  # addresses below count in these, so that spans are long
        memory_map = MemoryMap()
        memory = backing(8)
        for index, page in enumerate(pages):
            memory_map.add_ram(RAM + index * PAGE, PAGE, memory, page * PAGE)
        model: dict[int, int] = {RAM + at: 0 for at in range(len(pages) * PAGE)}

        for at, data in stores:
            address, long = RAM + at * unit, data * unit
            addresses = range(address, address + len(long))
            if addresses[-1] in model and addresses[0] in model:
                memory_map.write(address, long)
                model.update(zip(addresses, long, strict=True))
                assert long == memory_map.read(address, len(long))
            else:
                with pytest.raises(AccessFault):
                    memory_map.write(address, long)

        assert bytes(model.values()) == memory_map.read(RAM, len(model))


class TestDevices:
    def test_a_device_sees_offsets_under_the_lock(self):
        memory_map = MemoryMap()
        echo = Echo()
        echo.memory_map = memory_map
        memory_map.add_device(0x1000_0000, echo)

        assert 9 == memory_map.mmio_read(0x1000_0008, 4)
        memory_map.mmio_write(0x1000_0001, 1, 0x55)

        assert [("read", 8, 4), ("write", 1, 1, 0x55)] == echo.accesses
        assert [True, True] == echo.locked

    @pytest.mark.parametrize("address", [0, 0x1000_0100, 0x1000_00FE, RAM])
    def test_holes_and_the_end_of_a_window_fault(self, address):
        memory_map = MemoryMap()
        echo = Echo()
        memory_map.add_device(0x1000_0000, echo)
        memory_map.add_ram(RAM, PAGE, backing(1))

        with pytest.raises(AccessFault):
            memory_map.mmio_read(address, 4)
        with pytest.raises(AccessFault):
            memory_map.mmio_write(address, 4, 0)
        assert [] == echo.accesses

    def test_a_store_to_flash_in_read_array_mode_reaches_its_device(self):
        memory_map = MemoryMap()
        echo = Echo()
        slot = Slot("flash", 0, PAGE, backing(1), readonly=True, device=echo)
        memory_map.commit(add=[slot])

        memory_map.mmio_write(4, 2, 0x90)

        assert [("write", 4, 2, 0x90)] == echo.accesses
        assert bytes(4) == memory_map.read(4, 4)

    def test_a_shared_lock_is_used(self):
        lock = threading.RLock()

        assert lock is MemoryMap(lock).lock
