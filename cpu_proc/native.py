"""Memory that native code and Python share: mappings, views and words by address.

The problem: `ctypes.from_buffer` refuses read-only maps and Python's `mmap` hides addresses; the
engine needs addresses. Mappings here come from libc and are named by address.

Invariants: nothing in this process is ever mapped both writable and executable. Segments another
process reads are memfds sealed after the one writable mapping exists (`F_SEAL_FUTURE_WRITE`), so no
one can map them writable again; code is mapped `PROT_READ | PROT_EXEC` from descriptors opened for
reading.

Read next: `segments.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os

PAGE = 4096
_TABLE = 2 << 20  # bytes that one page table maps, on x86-64
_MAP_NORESERVE = 0x4000
_MAP_FIXED = 0x10
_MADV_POPULATE_WRITE = 23
_F_ADD_SEALS = 1033
_PR_SET_MDWE, _PR_MDWE_REFUSE_EXEC_GAIN, _PR_MDWE_NO_INHERIT = 65, 1, 2
_F_GET_SEALS = 1034
_SEAL_WRITE = 0x8
SEALS = 0x1 | 0x2 | 0x4 | 0x10  # SEAL, SHRINK, GROW, FUTURE_WRITE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
# Not by `_libc`: to give the interpreter's lock away and wait for it takes longer than the call.
_mremap = ctypes.PyDLL(None, use_errno=True).mremap
_mremap.restype = ctypes.c_void_p
_mremap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
]
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_PROT_NONE = 0
_FAILED = ctypes.c_void_p(-1).value


def refuse_writable_code() -> bool:
    """Have the kernel refuse this process, for good, any memory that was ever writable as code.

    Not its children: there libffi would map what it needs twice, to write and to execute. False on
    kernels that cannot (before Linux 6.6; prctl(2), PR_SET_MDWE).
    """
    how = _PR_MDWE_REFUSE_EXEC_GAIN | _PR_MDWE_NO_INHERIT
    return bool(_libc.prctl(_PR_SET_MDWE, how, 0, 0, 0) == 0)


def function_address(name: str) -> int:
    """Address of a function of libc."""
    return ctypes.cast(getattr(_libc, name), ctypes.c_void_p).value or 0


def _map(
    size: int, protection: int, flags: int, fd: int = -1, offset: int = 0, at: int | None = None
) -> int:
    address = _libc.mmap(at, size, protection, flags, fd, offset)
    if address in (None, _FAILED):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot map {size} bytes: {os.strerror(code)}")
    return int(address)


def map_private(size: int) -> int:
    """Zeroed private memory, for reading and writing; pages appear when they are touched."""
    return _map(
        size,
        mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
    )


def populate(address: int, size: int) -> None:
    """Have pages be there before they are touched, by a whole table at once (madvise(2)). What the
    kernel refuses comes when it is touched. Other threads run meanwhile.
    """
    start = address & -PAGE
    _libc.madvise(start, address + size - start, _MADV_POPULATE_WRITE)


def map_code(path: str, size: int) -> int:
    """Map a code segment for execution. Raises OSError, also for one shorter than that.

    It must be sealed: then it cannot shrink under us, nor be mapped writable any more. It begins
    where a page table does, so that `move` can have it by the table.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size:
            raise OSError(f"{path} ends before byte {size}")
        if _seals(fd) & SEALS != SEALS:
            raise OSError(f"{path} is not sealed")
        protection = mmap.PROT_READ | mmap.PROT_EXEC
        start = reserve(size)
        try:
            return _map(size, protection, mmap.MAP_SHARED | _MAP_FIXED, fd, at=start)
        except OSError:
            unmap(start, size)
            raise
    finally:
        os.close(fd)


def reserve(size: int) -> int:
    """Addresses for `size` bytes, from the beginning of a page table; touching them is a fault."""
    size = -(-size // PAGE) * PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    first = _map(size + _TABLE, _PROT_NONE, flags)
    start = -(-first // _TABLE) * _TABLE
    if start > first:
        unmap(first, start - first)
    unmap(start + size, first + _TABLE - start)
    return start


def move(address: int, size: int, place: int) -> None:
    """Move a mapping to a reserved place: touching it at its old one is a fault from now on.

    Takes a thousandth of the time that giving back each of its pages would. Raises OSError.
    """
    moved = _mremap(address, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, place)
    if moved in (None, _FAILED):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot move {size} bytes: {os.strerror(code)}")


def map_code_copy(path: str, size: int, offset: int) -> int:
    """Map a sealed copy of a file's code for execution: what runs can no longer be changed, through
    the file or by this process. Raises OSError, also for a file shorter than that.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        code = file.read(size)
    if len(code) < size:
        raise OSError(f"{path} ends before byte {offset + size}")
    fd = os.memfd_create("coldboot-engine", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, code)
        fcntl.fcntl(fd, _F_ADD_SEALS, SEALS | _SEAL_WRITE)
        return _map(size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd)
    finally:
        os.close(fd)


def map_sealed(fd: int, size: int) -> int:
    """Map code that somebody handed over for execution; not even who wrote it may change it now.

    Raises OSError, also for what is shorter than that.
    """
    if os.lseek(fd, 0, os.SEEK_END) < size:  # fstat(2) may be given up: `sandbox.py`
        raise OSError(f"code ends before byte {size}")
    wanted = 0x2 | 0x4 | _SEAL_WRITE
    if _seals(fd) & wanted != wanted:
        raise OSError("code is not sealed")
    return _map(size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd)


def _seals(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:  # not of a kind of file that has any
        return 0


def unmap(address: int, size: int) -> None:
    """Remove a mapping: touching it afterwards is a fault."""
    _libc.munmap(address, size)


def view(address: int, size: int) -> memoryview:
    """The bytes at an address, writable if the mapping is."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def words(address: int, count: int) -> ctypes.Array[ctypes.c_uint64]:
    """64-bit words at an address: reading and writing one is a single access."""
    return (ctypes.c_uint64 * count).from_address(address)


class SharedSegment:
    """A sealed memfd that this process alone writes; others open `path` and map it for reading."""

    def __init__(self, name: str, size: int) -> None:
        self.size = -(-size // PAGE) * PAGE
        self.fd = os.memfd_create(f"coldboot-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.size)
        self.address = _map(
            self.size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_NORESERVE, self.fd
        )
        fcntl.fcntl(self.fd, _F_ADD_SEALS, SEALS)

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"
