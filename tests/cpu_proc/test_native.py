"""Mappings: what is written is never executed, and a sealed segment stays its one writer's."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import native
from cpu_proc.native import SharedSegment
from tests.oracle import MISSING
from tests.system.runner import environment

PAGE = 4096
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
READ, WRITE, EXEC = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC


def protection(address: int) -> str:
    """`rwxp`-like rights of the mapping at an address; empty when nothing is there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        start, end = (int(v, 16) for v in span.split("-"))
        if start <= address < end:
            return rights
    return ""


def protect(address: int, size: int, rights: int) -> int:
    """mprotect; 0 or the error's number."""
    return 0 if libc.mprotect(address, size, rights) == 0 else ctypes.get_errno()


@pytest.fixture
def segment() -> Iterator[SharedSegment]:
    made = SharedSegment("test", 5000)
    yield made
    native.unmap(made.address, made.size)
    os.close(made.fd)


@contextlib.contextmanager
def opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


# --- sealed segments --------------------------------------------------------------------------


def test_a_segment_is_whole_pages_and_its_maker_writes_it(segment):
    assert segment.size == 8192
    native.view(segment.address, segment.size)[5:8] = b"abc"
    assert os.pread(segment.fd, 3, 5) == b"abc"
    assert protection(segment.address) == "rw-s"


def test_a_sealed_segment_cannot_be_mapped_writable_again(segment):
    for flags in (os.O_RDWR, os.O_RDONLY):
        with opened(segment.path, flags) as fd:
            mapped = mmap.mmap(fd, segment.size, mmap.MAP_SHARED, READ)
            mapped.close()
            with pytest.raises(PermissionError):
                mmap.mmap(fd, segment.size, mmap.MAP_SHARED, READ | WRITE)
    with pytest.raises(PermissionError):
        mmap.mmap(segment.fd, segment.size, mmap.MAP_SHARED, READ | WRITE)


def test_a_reader_s_mapping_cannot_become_writable(segment):
    address = native.map_code(segment.path, segment.size)
    assert protection(address) == "r-xs"
    assert protect(address, segment.size, READ | WRITE) == errno.EACCES
    assert protect(address, segment.size, READ | WRITE | EXEC) == errno.EACCES
    native.unmap(address, segment.size)
    assert protection(address) == ""


def test_a_sealed_segment_is_not_written_through_its_descriptor(segment):
    with pytest.raises(PermissionError):
        os.pwrite(segment.fd, b"x", 0)
    with opened(segment.path, os.O_RDWR) as fd, pytest.raises(PermissionError):
        os.write(fd, b"x")


@pytest.mark.parametrize("size", [0, 4096, 1 << 20])
def test_a_sealed_segment_keeps_its_size(segment, size):
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, size)


def test_seals_stay(segment):
    with pytest.raises(PermissionError):
        fcntl.fcntl(segment.fd, 1033, 0x8)  # F_ADD_SEALS, F_SEAL_WRITE
    assert fcntl.fcntl(segment.fd, 1034) == native.SEALS


def test_what_the_maker_writes_a_reader_sees(segment):
    address = native.map_code(segment.path, segment.size)
    native.words(segment.address, 1)[0] = 0x1122_3344_5566_7788
    assert native.words(address, 1)[0] == 0x1122_3344_5566_7788
    native.unmap(address, segment.size)


# --- code -------------------------------------------------------------------------------------


def test_a_shared_code_segment_that_is_not_sealed_is_refused(tmp_path):
    path = tmp_path / "code"
    path.write_bytes(bytes(4096))
    with pytest.raises(OSError, match="code is not sealed"):
        native.map_code(str(path), 4096)
    fd = os.memfd_create("code", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 4096)
        fcntl.fcntl(fd, 1033, native.SEALS & ~0x10)  # all but the one that matters
        with pytest.raises(OSError, match="is not sealed"):
            native.map_code(f"/proc/self/fd/{fd}", 4096)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("size", "offset"), [(8192, 0), (4096, 4096), (4097, 0)])
def test_code_that_ends_early_is_refused(tmp_path, size, offset):
    path = tmp_path / "code"
    path.write_bytes(bytes(4096))
    with pytest.raises(OSError, match=f"code ends before byte {offset + size}"):
        native.map_code_copy(str(path), size, offset)


def test_code_of_a_file_is_read_and_executed_only(tmp_path):
    path = tmp_path / "code"
    path.write_bytes(bytes(4096) + bytes.fromhex("48c7c02a000000c3").ljust(4096, b"\xcc"))
    address = native.map_code_copy(str(path), 4096, 4096)
    assert protection(address) == "r-xs"
    assert ctypes.CFUNCTYPE(ctypes.c_uint64)(address)() == 42
    native.unmap(address, 4096)


def test_a_file_that_is_not_there_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        native.map_code(str(tmp_path / "none"), 4096)


# --- plain memory -----------------------------------------------------------------------------


def test_private_memory_is_zeros_at_first():
    address = native.map_private(1 << 40)  # pages appear when they are touched
    assert protection(address) == "rw-p"
    words = native.words(address + (1 << 39), 2)
    assert list(words) == [0, 0]
    words[1] = 2**64 - 1
    native.view(address, 4)[:] = b"wxyz"
    assert bytes(native.view(address + (1 << 39) + 8, 8)) == b"\xff" * 8
    assert bytes(native.view(address, 4)) == b"wxyz"
    native.unmap(address, 1 << 40)
    assert protection(address) == ""


def test_memory_that_cannot_be_had_is_an_oserror():
    with pytest.raises(OSError, match="cannot map 0 bytes"):
        native.map_private(0)


def test_functions_of_libc_have_addresses():
    address = native.function_address("getpid")
    assert ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid()


def test_memory_that_can_be_written_never_becomes_code():
    """In a process of its own: there is no way back."""
    program = """
import ctypes, mmap, sys
from cpu_proc import native
if not native.refuse_writable_code():
    sys.exit(3)
libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
assert libc.mprotect(address, 4096, mmap.PROT_READ | mmap.PROT_EXEC) == -1
assert ctypes.get_errno() == 13
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    sys.exit(0)
sys.exit("writable and executable memory was given")
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), check=False)
    if done.returncode == 3:
        pytest.skip(f"{MISSING}prctl(PR_SET_MDWE), of Linux 6.6 and later")
    assert done.returncode == 0


def test_pages_that_were_populated_are_there_and_no_others():
    segment = SharedSegment("ram", 64 * PAGE)
    assert os.fstat(segment.fd).st_blocks == 0
    native.populate(segment.address + 4 * PAGE + 100, 3 * PAGE)
    assert os.fstat(segment.fd).st_blocks * 512 == 4 * PAGE
    native.populate(segment.address + (1 << 46), PAGE)  # where nothing is: nothing happens
    assert os.pread(segment.fd, 64 * PAGE, 0) == bytes(64 * PAGE)
