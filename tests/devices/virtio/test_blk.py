"""The block device as Linux and U-Boot use it, and the file behind it."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.virtio import mmio
from devices.virtio.blk import PIECE, SECTOR, RawDisk, VirtioBlk
from protocol.errors import UserError
from tests.devices.guest import Buffer, Driver, Slot

IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
OK, IOERR, UNSUPP = 0, 1, 2
F_RO, F_FLUSH = 1 << 5, 1 << 9
SECTORS = 64
OPENING = bytes(range(256)) * 2


class Spy:
    """A disk in memory that counts flushes and can fail."""

    readonly = False

    def __init__(self, sectors: int = SECTORS) -> None:
        self.data = bytearray(sectors * SECTOR)
        self.sectors = sectors
        self.flushes = 0
        self.largest = 0
        self.failing = False

    def read(self, offset: int, length: int) -> bytes:
        self.check(length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self.check(len(data))
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self.check(0)
        self.flushes += 1

    def check(self, length: int) -> None:
        self.largest = max(self.largest, length)
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(OPENING + bytes((SECTORS - 1) * SECTOR))
    return path


@pytest.fixture
def disk(image: Path) -> Iterator[RawDisk]:
    disk = RawDisk(image)
    yield disk
    disk.close()


def start(slot: Slot, wanted: int = ~0) -> Driver:
    driver = Driver(slot)
    driver.start(wanted)
    return driver


def header(kind: int, sector: int = 0) -> Buffer:
    return Buffer(struct.pack("<IIQ", kind, 0, sector))


def request(driver: Driver, *buffers: Buffer, indirect: bool = False) -> tuple[int, int, int]:
    """Do a request with a status byte at its end: status, bytes written, head."""
    head = driver.add([*buffers, Buffer(room=1)], indirect=indirect)
    driver.kick()
    ((answered, written),) = driver.take_used()
    assert answered == head
    return driver.result(head, len(buffers), 1)[0], written, head


def test_the_configuration_space_says_what_the_disk_is(
    make_slot: Callable[..., Slot], disk: RawDisk
) -> None:
    slot = make_slot(VirtioBlk(disk))
    device = slot.device
    assert slot.get(mmio.DEVICE_ID) == 2
    capacity = device.read(mmio.CONFIG + 4, 4) << 32 | device.read(mmio.CONFIG, 4)
    assert capacity == SECTORS
    assert device.read(mmio.CONFIG + 12, 4) == 254, "seg_max"
    assert device.read(mmio.CONFIG + 20, 4) == 512, "blk_size"
    assert not slot.get(mmio.DEVICE_FEATURES) & F_RO


@pytest.mark.parametrize("indirect", [False, True])
def test_reading(make_slot: Callable[..., Slot], disk: RawDisk, indirect: bool) -> None:
    driver = start(make_slot(VirtioBlk(disk)))
    status, written, head = request(
        driver, header(IN), Buffer(room=512), Buffer(room=1024), indirect=indirect
    )
    assert (status, written) == (OK, 1537)
    assert driver.result(head, 1, 512) == OPENING
    assert driver.result(head, 2, 1024) == bytes(1024)


@pytest.mark.parametrize("indirect", [False, True])
def test_writing_reaches_the_file(
    make_slot: Callable[..., Slot], disk: RawDisk, image: Path, indirect: bool
) -> None:
    driver = start(make_slot(VirtioBlk(disk)))
    status, written, _ = request(
        driver, header(OUT, 2), Buffer(b"A" * 512), Buffer(b"B" * 512), indirect=indirect
    )
    assert (status, written) == (OK, 1)
    assert image.read_bytes() == OPENING + bytes(512) + b"A" * 512 + b"B" * 512 + bytes(60 * 512)
    assert request(driver, header(FLUSH))[0] == OK


def test_any_layout_of_a_request_will_do(make_slot: Callable[..., Slot], disk: RawDisk) -> None:
    driver = start(make_slot(VirtioBlk(disk)))
    raw = header(IN).data
    head = driver.add([Buffer(raw[:5]), Buffer(raw[5:]), Buffer(room=100), Buffer(room=413)])
    driver.kick()
    assert driver.take_used() == [(head, 513)]
    assert driver.result(head, 2, 100) + driver.result(head, 3, 413) == OPENING + b"\0"


def test_a_driver_with_many_requests_gets_all_answers(make_slot: Callable[..., Slot]) -> None:
    slot = make_slot(VirtioBlk(Spy()))
    driver = Driver(slot, size=64)
    driver.start()
    heads = [
        driver.add([header(OUT, number), Buffer(bytes([number]) * 512), Buffer(room=1)])
        for number in range(20)
    ]
    driver.kick()
    assert driver.take_used() == [(head, 1) for head in heads]
    assert slot.line.rises == 1
    status, _, head = request(driver, header(IN, 7), Buffer(room=512))
    assert status == OK
    assert driver.result(head, 1, 512) == b"\x07" * 512


@pytest.mark.parametrize(
    ("identity", "expected"),
    [("", bytes(20)), ("root", b"root".ljust(20, b"\0")), ("x" * 30, b"x" * 20)],
)
def test_the_identity(make_slot: Callable[..., Slot], identity: str, expected: bytes) -> None:
    driver = start(make_slot(VirtioBlk(Spy(), identity=identity)))
    status, written, head = request(driver, header(GET_ID), Buffer(room=20))
    assert (status, written) == (OK, 21)
    assert driver.result(head, 1, 20) == expected


@pytest.mark.parametrize("sector", [SECTORS - 1, SECTORS, 1 << 55, (1 << 64) - 1])
@pytest.mark.parametrize("kind", [IN, OUT])
def test_a_request_beyond_the_end_fails(
    make_slot: Callable[..., Slot], kind: int, sector: int
) -> None:
    driver = start(make_slot(VirtioBlk(Spy())))
    data = Buffer(room=1024) if kind == IN else Buffer(bytes(1024))
    assert request(driver, header(kind, sector), data)[0] == IOERR
    assert not driver.broken


def test_a_part_of_a_sector_fails(make_slot: Callable[..., Slot]) -> None:
    driver = start(make_slot(VirtioBlk(Spy())))
    assert request(driver, header(OUT), Buffer(bytes(513)))[0] == IOERR
    assert request(driver, header(IN), Buffer(room=100))[0] == IOERR


def test_an_unknown_request_is_unsupported(make_slot: Callable[..., Slot]) -> None:
    driver = start(make_slot(VirtioBlk(Spy())))
    assert request(driver, header(11), Buffer(bytes(16)))[0] == UNSUPP


def test_an_error_of_the_host_is_an_error_of_the_disk(make_slot: Callable[..., Slot]) -> None:
    spy = Spy()
    driver = start(make_slot(VirtioBlk(spy)))
    spy.failing = True
    assert request(driver, header(IN), Buffer(room=512))[0] == IOERR
    assert request(driver, header(OUT), Buffer(bytes(512)))[0] == IOERR
    assert request(driver, header(FLUSH))[0] == IOERR
    spy.failing = False
    assert request(driver, header(FLUSH))[0] == OK


def test_without_flush_the_disk_is_write_through(make_slot: Callable[..., Slot]) -> None:
    spy = Spy()
    driver = start(make_slot(VirtioBlk(spy)), ~F_FLUSH)
    request(driver, header(OUT), Buffer(bytes(512)))
    assert spy.flushes == 1


def test_with_flush_the_driver_decides(make_slot: Callable[..., Slot]) -> None:
    spy = Spy()
    driver = start(make_slot(VirtioBlk(spy)))
    request(driver, header(OUT), Buffer(bytes(512)))
    assert spy.flushes == 0
    request(driver, header(FLUSH))
    assert spy.flushes == 1


def test_a_large_request_moves_in_pieces(make_slot: Callable[..., Slot]) -> None:
    spy = Spy(sectors=4096)
    driver = start(make_slot(VirtioBlk(spy)))
    data = bytes(range(256)) * (5 * 1024) + bytes(512)
    assert len(data) > PIECE
    assert request(driver, header(OUT, 3), Buffer(data))[0] == OK
    assert spy.data[3 * 512 : 3 * 512 + len(data)] == data
    driver.buffers = driver.used + 0x1000
    status, _, head = request(driver, header(IN, 3), Buffer(room=len(data)))
    assert status == OK
    assert driver.result(head, 1, len(data)) == data
    assert spy.largest == PIECE


def test_a_read_only_disk_refuses_writes(make_slot: Callable[..., Slot], image: Path) -> None:
    image.chmod(0o400)
    disk = RawDisk(image, readonly=True)
    slot = make_slot(VirtioBlk(disk))
    driver = start(slot)
    assert driver.features & F_RO
    assert request(driver, header(OUT), Buffer(b"x" * 512))[0] == IOERR
    status, _, head = request(driver, header(IN), Buffer(room=512))
    assert status == OK
    assert driver.result(head, 1, 512) == OPENING
    assert request(driver, header(FLUSH))[0] == OK
    disk.close()


@pytest.mark.parametrize(
    "buffers",
    [
        [Buffer(bytes(16))],
        [Buffer(bytes(15)), Buffer(room=1)],
        [Buffer(room=513)],
    ],
    ids=["no room for a status", "half a header", "no header"],
)
def test_what_is_no_request_breaks_the_device(
    make_slot: Callable[..., Slot], buffers: list[Buffer]
) -> None:
    driver = start(make_slot(VirtioBlk(Spy())))
    driver.add(buffers)
    driver.kick()
    assert driver.broken
    assert driver.take_used() == []


@pytest.mark.parametrize("kind", [IN, OUT])
def test_data_that_is_not_in_memory_breaks_the_device(
    make_slot: Callable[..., Slot], kind: int
) -> None:
    driver = start(make_slot(VirtioBlk(Spy())))
    data = Buffer(room=512) if kind == IN else Buffer(bytes(512))
    driver.add([header(kind), data, Buffer(room=1)])
    driver.describe(driver.descriptors + 16, 0x1000, 512, 3 if kind == IN else 1, 2)
    driver.kick()
    assert driver.broken


def test_a_file_that_ends_inside_a_sector(make_slot: Callable[..., Slot], tmp_path: Path) -> None:
    path = tmp_path / "odd.img"
    path.write_bytes(b"x" * 700)
    disk = RawDisk(path)
    assert disk.sectors == 2
    driver = start(make_slot(VirtioBlk(disk)))
    status, _, head = request(driver, header(IN, 1), Buffer(room=512))
    assert status == OK
    assert driver.result(head, 1, 512) == b"x" * 188 + bytes(324)
    assert request(driver, header(OUT, 1), Buffer(b"y" * 512))[0] == OK
    assert path.read_bytes() == b"x" * 512 + b"y" * 512
    disk.close()


def test_a_disk_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.img cannot be opened.*No such file"):
        RawDisk(tmp_path / "nothing.img")


def test_two_machines_cannot_write_to_one_disk(image: Path) -> None:
    disk = RawDisk(image)
    with pytest.raises(UserError, match="in use by another machine"):
        RawDisk(image)
    with pytest.raises(UserError, match="in use by another machine"):
        RawDisk(image, readonly=True)
    disk.close()
    readers = [RawDisk(image, readonly=True), RawDisk(image, readonly=True)]
    for reader in readers:
        reader.close()
