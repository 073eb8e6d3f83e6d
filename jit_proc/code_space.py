"""The code segment of one session and one epoch: written here, executed elsewhere.

The problem: the machine process must run code that this process makes, and no process may ever
hold a page both writable and executable. A memfd is mapped writable once, here, and then sealed:
from that moment the kernel refuses every further writable mapping and every `write()`, in this
process too (fcntl(2), F_SEAL_FUTURE_WRITE).

Invariants:

- One writer, this process, through the one mapping made before the seals. Readers map PROT_READ |
  PROT_EXEC.
- `publish` returns an offset only after all bytes there are written. The offset reaches the
  machine by message, so on x86-64 (stores of one CPU are seen in order, Intel SDM volume 3,
  section 9.2) what it points to is complete.
- An offset is never given out twice: space is never reused inside an epoch. A full segment is
  `CodeSpaceFull`; the machine then bumps its epoch and gets a new segment.
- Gaps between images are filled with int3.

Also here: `open_readonly`, the translator's view of the machine's segments (RAM, control words),
which it must read and must not be able to write.

Read next: `service.py` (who owns a CodeSpace), `link.py` (what is published).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from typing import Final

from protocol.placement import ALIGNMENT as ALIGNMENT
from protocol.placement import CodeSpaceFull as CodeSpaceFull
from protocol.placement import Placement

DEFAULT_SIZE: Final = 64 << 20

# fcntl.F_ADD_SEALS and its flags are not all in Python 3.11's fcntl module (linux/fcntl.h).
_F_ADD_SEALS: Final = 1033
_F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 0x01
F_SEAL_SHRINK: Final = 0x02
F_SEAL_GROW: Final = 0x04
F_SEAL_FUTURE_WRITE: Final = 0x10
SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE

_MAX_SIZE: Final = 1 << 31  # distances inside the segment fit in 32 bits


class CodeSpace:
    """A sealed memfd that only this object can write; see the module's invariants."""

    def __init__(self, size: int = DEFAULT_SIZE, name: str = "coldboot-code") -> None:
        """Make a segment of `size` bytes, rounded up to whole pages. Raises ValueError when out of
        range, OSError.
        """
        if not 0 < size <= _MAX_SIZE:
            raise ValueError(
                f"code space of {size} bytes; from 1 byte to {_MAX_SIZE >> 20} MiB is possible"
            )
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._placement = Placement(self.size)
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.size)
            self._memory = mmap.mmap(
                self.fd, self.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
            )
            fcntl.fcntl(self.fd, _F_ADD_SEALS, SEALS)
        except BaseException:
            os.close(self.fd)
            raise

    @property
    def used(self) -> int:
        """Bytes taken, from the start."""
        return self._placement.used

    @property
    def images(self) -> int:
        """How many images were published."""
        return self._placement.images

    @property
    def path(self) -> str:
        """Where another process of the same user opens the segment, as long as it is not closed."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @property
    def free(self) -> int:
        """Bytes that are left for the next image."""
        return self.size - self._placement.following

    def publish(self, code: bytes, page: int = -1, generation: int = 0) -> int:
        """Copy `code` in and return its offset, a multiple of 64. Raises CodeSpaceFull and then
        changes nothing. `page`, `generation`: what it was made from.
        """
        offset, writes = self._placement.place(code, page, generation)
        for start, data in writes:
            self._memory[start : start + len(data)] = data
        return offset

    def read(self, offset: int, length: int) -> bytes:
        """The published bytes from `offset` on: for listings and comparisons."""
        if not 0 <= offset <= offset + length <= self.used:
            raise ValueError(f"{length} bytes at {offset:#x} were never published")
        return self._memory[offset : offset + length]

    def close(self) -> None:
        """Give the segment up. Its memory lives on only as long as the machine keeps it mapped."""
        if self.fd >= 0:
            self._memory.close()
            os.close(self.fd)
            self.fd = -1


def seals(fd: int) -> int:
    """The F_SEAL_* bits set on the memfd `fd`."""
    return fcntl.fcntl(fd, _F_GET_SEALS)


class ReadOnlySegment:
    """A shared mapping of another process's segment, for reading only; the writer's changes are
    seen at once.
    """

    def __init__(self, memory: mmap.mmap, size: int, path: str) -> None:
        self.memory = memory
        self.size = size
        self.path = path

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes from `offset`. Raises ValueError when they are not all inside
        the segment.
        """
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(
                f"{length} bytes at {offset:#x} lie outside the segment {self.path}"
                f" of {self.size} bytes"
            )
        return self.memory[offset : offset + length]

    def word(self, offset: int, size: int = 8) -> int:
        """The little-endian word of `size` bytes at `offset`."""
        return int.from_bytes(self.read(offset, size), "little")

    def close(self) -> None:
        """Unmap it."""
        self.memory.close()


def open_readonly(path: str, size: int | None = None) -> ReadOnlySegment:
    """Map the machine's segment at `path` (`/proc/PID/fd/N`) for reading; all of it, or `size`
    bytes.

    Raises OSError when it cannot be opened, ValueError when it is not a sealed segment of at least
    `size` bytes: a file that can shrink would end this process by SIGBUS at the next read, at its
    owner's will.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            raise ValueError(f"{path} is not a memory segment")
        try:
            sealed = seals(fd)
        except OSError:
            sealed = 0
        if not sealed & F_SEAL_SHRINK:
            raise ValueError(f"the segment {path} is not sealed against shrinking (F_SEAL_SHRINK)")
        length = status.st_size if size is None else size
        if not 0 < length <= status.st_size:
            raise ValueError(f"the segment {path} has {status.st_size} bytes, not {length}")
        memory = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ)
    finally:
        os.close(fd)
    return ReadOnlySegment(memory, length, path)
