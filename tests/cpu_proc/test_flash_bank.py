"""A flash bank's array: when the map changes, what a write retires, what the file holds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cpu_proc.flash_bank import FlashBank
from cpu_proc.memory_map import Backing, MemoryMap, Slot
from devices.cfi_flash import CfiFlash
from protocol.errors import UserError
from protocol.faults import AccessFault

BASE = 0x2000_0000
SIZE = 1 << 19


class File:
    """A file that notes what is done to it."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.done: list[str] = []
        self.error: OSError | None = None

    def read(self, offset: int, length: int) -> bytes:
        self._fail()
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._fail()
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.done.append("flush")
        self._fail()

    def close(self) -> None:
        self.done.append("close")

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Board:
    """A bank in a memory map; `safe_point` does what was posted."""

    def __init__(self, file: File | None = None) -> None:
        self.written: list[tuple[int, int, bytes]] = []
        self.memory = MemoryMap(on_write=self._written)
        self.backing = Backing("flash0", memoryview(bytearray(SIZE)), 0)
        self.work: list[Callable[[], None]] = []
        self.bank = FlashBank(
            self.memory, self.work.append, self.backing, store=file, path="bank.fd"
        )
        self.device = CfiFlash(self.bank, self.bank.remap)
        self.bank.attach(BASE, self.device)

    def _written(self, backing: Backing, offset: int, length: int) -> None:
        assert backing is self.backing
        self.written.append((offset, length, bytes(backing.view[offset : offset + length])))

    def safe_point(self) -> None:
        while self.work:
            self.work.pop(0)()

    @property
    def slot(self) -> Slot:
        slot = self.memory.find(BASE)
        assert slot is not None
        return slot

    def store(self, value: int, offset: int = 0) -> None:
        self.memory.mmio_write(BASE + offset, 4, value)

    def load(self, offset: int = 0) -> int:
        return self.memory.mmio_read(BASE + offset, 4)


@pytest.fixture
def file() -> File:
    return File(b"\x13\x00\x00\x00" + bytes(SIZE - 5) + b"\x01")


@pytest.fixture
def board(file: File) -> Board:
    return Board(file)


def test_a_file_is_memory_from_the_start(board: Board, file: File):
    assert board.backing is board.slot.backing
    assert bytes(file.data) == board.memory.read(BASE, SIZE)
    with pytest.raises(AccessFault):
        board.memory.write(BASE, b"x")


def test_the_map_changes_at_a_safe_point_and_only_there(board: Board):
    generation = board.memory.generation
    board.store(0x70)
    assert board.backing is board.slot.backing
    assert generation == board.memory.generation
    board.safe_point()
    assert None is board.slot.backing
    assert generation + 1 == board.memory.generation
    assert not board.memory.is_memory(BASE, 4)
    board.store(0xFF)
    assert 0x13 == board.load()  # the device answers until the map has changed
    board.safe_point()
    assert board.backing is board.slot.backing
    assert generation + 2 == board.memory.generation


def test_there_and_back_in_one_go_is_no_commit(board: Board):
    generation = board.memory.generation
    for _ in range(3):
        board.store(0x70)
        board.store(0xFF)
    board.safe_point()
    assert generation == board.memory.generation
    board.store(0x70)
    board.safe_point()
    board.store(0xFF)
    board.store(0x90)
    board.safe_point()
    assert generation + 1 == board.memory.generation
    assert 0x89_0089 == board.load()


def test_a_program_retires_whatever_is_mapped(board: Board, file: File):
    board.store(0x40, 8)
    board.store(0x1111_1111, 8)  # before the safe point: still mapped as memory
    board.safe_point()
    board.store(0x40, 12)
    board.store(0x2222_2222, 12)
    assert [(8, 4, b"\x11" * 4), (12, 4, b"\x22" * 4)] == board.written
    assert b"\x11" * 4 + b"\x22" * 4 == file.data[8:16]


def test_an_erase_fills_the_block(board: Board, file: File):
    board.store(0x20, 1 << 18)
    board.store(0xD0, 1 << 18)
    assert [(1 << 18, 1 << 18)] == [(offset, length) for offset, length, _ in board.written]
    assert b"\xff" * (1 << 18) == file.data[1 << 18 :] == board.backing.view[1 << 18 :]
    assert b"\x13\x00" == file.data[:2]


def test_without_a_file_a_bank_is_erased_and_takes_no_memory_until_it_is_used():
    board = Board()
    board.store(0x98)
    assert ord("Q") * 0x1_0001 == board.load(0x40)
    board.store(0xFF)
    board.safe_point()
    assert None is board.slot.backing
    assert not any(board.backing.view)
    assert 0xFFFF_FFFF == board.load(0x40)
    board.safe_point()
    assert board.backing is board.slot.backing
    assert b"\xff" * SIZE == board.memory.read(BASE, SIZE)


def test_a_program_into_an_unused_bank():
    board = Board()
    board.store(0x40, 4)
    board.store(0x1234_5678, 4)
    board.safe_point()
    assert None is board.slot.backing
    board.store(0xFF)
    board.safe_point()
    assert b"\xff" * 4 + b"\x78\x56\x34\x12" + b"\xff" * 4 == board.memory.read(BASE, 12)


def test_a_reset_maps_the_array_and_keeps_it(board: Board):
    board.store(0x40, 4)
    board.store(0x55, 4)
    board.safe_point()
    board.device.reset()
    board.safe_point()
    assert b"\x55\x00\x00\x00" == board.memory.read(BASE + 4, 4)


def test_the_file_is_durable_once_the_bank_is_closed(board: Board, file: File):
    board.bank.close()
    board.bank.close()
    assert ["flush", "close"] == file.done


def test_what_the_host_cannot_do_is_said_in_one_line(board: Board, file: File):
    file.error = OSError(28, "No space left on device")
    board.store(0x40)
    with pytest.raises(UserError, match=r"^-drive if=pflash,file=bank.fd: No space left on device"):
        board.store(0x55)
    with pytest.raises(UserError, match="No space left"):
        board.bank.close()
    assert ["flush", "close"] == file.done
    with pytest.raises(UserError, match="No space left"):
        Board(file)
