"""Virtio block device: a disk in a raw file.

Problem: a guest reads and writes sectors; what it has flushed must survive the emulator and, as far
as the host can promise it, the host.

Invariants:
- Data moves in pieces of at most `PIECE` bytes, whatever a request asks for.
- A request either ends with a status byte, or breaks the device (no room for one, no header, an
  address that is not memory).
- A driver that did not accept FLUSH gets a write-through disk: each write is on the host's disk
  before it is answered (section 5.2.6.2).
- One machine writes to a file: it is locked, shared for reading, exclusive for writing.
- A file that ends inside a sector reads zeros to the sector's end.

Source: VIRTIO Version 1.2, section 5.2.
Read next: `mmio` for what surrounds it.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from devices.virtio.queue import Chain, QueueError, VirtQueue
from protocol.errors import UserError
from protocol.logs import get_logger

SECTOR = 512
PIECE = 1 << 20
QUEUE_SIZE = 256
ID_LENGTH = 20

T_IN, T_OUT, T_FLUSH, T_GET_ID = 0, 1, 4, 8
S_OK, S_IOERR, S_UNSUPP = 0, 1, 2
F_SEG_MAX, F_RO, F_BLK_SIZE, F_FLUSH = 1 << 2, 1 << 5, 1 << 6, 1 << 9

_HEADER = struct.Struct("<IIQ")  # type, reserved, sector

log = get_logger("virtio-blk")


class Disk(Protocol):
    """Where the sectors are. Offsets and lengths are bytes. Methods may raise `OSError`."""

    @property
    def sectors(self) -> int:
        """Size in sectors of 512 bytes."""
        ...

    @property
    def readonly(self) -> bool:
        """Whether writes are refused."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """All of `length` bytes."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`."""
        ...

    def flush(self) -> None:
        """Make what was written durable."""
        ...


class RawDisk:
    """A raw file or block device as a disk, locked while open."""

    def __init__(self, path: Path | str, *, readonly: bool = False) -> None:
        """Raises `UserError` if it cannot be opened, or if another machine has it."""
        self.readonly = readonly
        try:
            self._fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            hint = "" if readonly else " for writing (attach it read-only if that is enough)"
            raise UserError(f"disk {path} cannot be opened{hint}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            size = os.lseek(self._fd, 0, os.SEEK_END)
        except BlockingIOError as error:
            os.close(self._fd)
            raise UserError(
                f"disk {path} is in use by another machine: stop that one or make a copy"
            ) from error
        except OSError as error:
            os.close(self._fd)
            raise UserError(f"disk {path} cannot be used: {error.strerror}") from error
        self.sectors = -(-size // SECTOR)

    def read(self, offset: int, length: int) -> bytes:
        """All of `length` bytes; zeros beyond the end of the file."""
        pieces = []
        while length:
            piece = os.pread(self._fd, length, offset) or bytes(length)
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def write(self, offset: int, data: bytes) -> None:
        """All of `data`."""
        view = memoryview(data)
        while view:
            done = os.pwrite(self._fd, view, offset)
            view = view[done:]
            offset += done

    def flush(self) -> None:
        """fdatasync(2)."""
        if not self.readonly:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Release the file and its lock."""
        os.close(self._fd)


@dataclass
class VirtioBlkState:
    """Nothing: requests are finished before anyone can look, and the disk is not the device."""


class VirtioBlk:
    """The backend. `identity`: up to 20 characters of ASCII, the disk's serial number."""

    name = "virtio-blk"
    device_id = 2
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self, disk: Disk, *, identity: str = "") -> None:
        self.state = VirtioBlkState()
        self.features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (F_RO if disk.readonly else 0)
        # capacity, size_max, seg_max (header and status need two descriptors), geometry, blk_size
        self.config = struct.pack("<QIIHBBI", disk.sectors, 0, QUEUE_SIZE - 2, 0, 0, 0, SECTOR)
        self._disk = disk
        self._identity = identity.encode("ascii", "replace")[:ID_LENGTH].ljust(ID_LENGTH, b"\0")

    def attach(self, serve: Callable[[int], None], config_changed: Callable[[], None]) -> None:
        """Requests are served while the driver notifies; nothing happens later."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing in it can be written."""

    def process(self, index: int, queue: VirtQueue) -> None:
        """Serve every request in the queue."""
        for chain in queue.chains():
            if not chain.writable_length:
                raise QueueError("a request without room for its status")
            header = chain.read(0, _HEADER.size)
            if len(header) < _HEADER.size:
                raise QueueError(f"a request with a header of {len(header)} bytes")
            kind, _, sector = _HEADER.unpack(header)
            try:
                status, filled = self._serve(chain, kind, sector, queue.features)
            except OSError as error:
                log.warning("disk_access_failed", sector=sector, reason=error.strerror)
                status, filled = S_IOERR, 0
            # The status is the last byte (section 5.2.6), but what counts as written is a prefix.
            chain.write(chain.writable_length - 1, bytes([status]))
            whole = filled == chain.writable_length - 1
            queue.push(chain, filled + 1 if whole else filled)

    def reset(self) -> None:
        """Nothing to do."""

    def restore(self, state: VirtioBlkState) -> None:
        """Nothing to do but to keep the object."""
        self.state = state

    def _serve(self, chain: Chain, kind: int, sector: int, features: int) -> tuple[int, int]:
        """Do one request: its status, and the bytes of data filled in."""
        room = chain.writable_length - 1
        if kind == T_IN:
            if not self._in_range(sector, room):
                return S_IOERR, 0
            for at in range(0, room, PIECE):
                data = self._disk.read(sector * SECTOR + at, min(PIECE, room - at))
                chain.write(at, data)
            return S_OK, room
        if kind == T_OUT:
            length = chain.readable_length - _HEADER.size
            if self._disk.readonly or not self._in_range(sector, length):
                return S_IOERR, 0
            for at in range(0, length, PIECE):
                data = chain.read(_HEADER.size + at, min(PIECE, length - at))
                self._disk.write(sector * SECTOR + at, data)
            if not features & F_FLUSH:
                self._disk.flush()
            return S_OK, 0
        if kind == T_FLUSH:
            self._disk.flush()
            return S_OK, 0
        if kind == T_GET_ID:
            data = self._identity[:room]
            chain.write(0, data)
            return S_OK, len(data)
        return S_UNSUPP, 0

    def _in_range(self, sector: int, length: int) -> bool:
        return length % SECTOR == 0 and sector + length // SECTOR <= self._disk.sectors
