"""What two processes can do with a code segment, and what the kernel refuses them."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_proc.code_space import (
    ALIGNMENT,
    SEALS,
    CodeSpace,
    CodeSpaceFull,
    open_readonly,
    seals,
)

RETURN_42 = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret


@pytest.fixture
def space() -> Iterator[CodeSpace]:
    made = CodeSpace(64 << 10)
    yield made
    made.close()


def test_published_code_runs_in_another_process(space: CodeSpace) -> None:
    space.publish(b"\xcc")
    offset = space.publish(RETURN_42)
    program = f"""
import ctypes, mmap, os
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
fd = os.open({space.path!r}, os.O_RDONLY)
flags = mmap.PROT_READ | mmap.PROT_EXEC
base = libc.mmap(None, ctypes.c_size_t({space.size}), flags, mmap.MAP_SHARED, fd, ctypes.c_long(0))
print(ctypes.CFUNCTYPE(ctypes.c_int)(base + {offset})())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_reader_sees_what_is_published_after_it_mapped(space: CodeSpace) -> None:
    reader = open_readonly(space.path)
    offset = space.publish(RETURN_42)
    assert reader.read(offset, len(RETURN_42)) == RETURN_42
    reader.close()


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY])
@pytest.mark.parametrize(
    "protection",
    [mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_WRITE | mmap.PROT_EXEC | mmap.PROT_READ],
)
def test_nobody_can_map_it_writable_any_more(space: CodeSpace, flags: int, protection: int) -> None:
    fd = os.open(space.path, flags)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(fd, space.size, mmap.MAP_SHARED, protection)
    finally:
        os.close(fd)


def test_nobody_can_make_a_mapping_writable_later(space: CodeSpace) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(space.size)
    fd = os.open(space.path, os.O_RDWR)
    base = ctypes.c_void_p(
        libc.mmap(
            None, size, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_SHARED, fd, ctypes.c_long(0)
        )
    )
    os.close(fd)
    try:
        assert libc.mprotect(base, size, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    finally:
        libc.munmap(base, size)


def test_nobody_can_write_shrink_grow_or_unseal_it(space: CodeSpace) -> None:
    fd = os.open(space.path, os.O_RDWR)
    try:
        for attempt in (
            lambda: os.write(fd, b"x"),
            lambda: os.pwrite(fd, b"x", 100),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, space.size * 2),
        ):
            with pytest.raises(PermissionError):
                attempt()
        assert seals(fd) == SEALS
    finally:
        os.close(fd)


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=40))
def test_images_are_aligned_and_never_overlap(images: list[bytes]) -> None:
    space = CodeSpace(8192)
    try:
        placed: dict[int, bytes] = {}
        for image in images:
            free = space.free
            try:
                offset = space.publish(image)
            except CodeSpaceFull:
                assert len(image) > free
                continue
            assert offset % ALIGNMENT == 0
            placed[offset] = image
        ends = 0
        for offset in sorted(placed):
            assert offset >= ends
            ends = offset + len(placed[offset])
            assert space.read(offset, len(placed[offset])) == placed[offset]
        assert space.images == len(placed)
    finally:
        space.close()


def test_a_full_space_says_so_and_stays_as_it_is(space: CodeSpace) -> None:
    space.publish(bytes(space.size - 100))
    used = space.used
    with pytest.raises(CodeSpaceFull, match="200 bytes"):
        space.publish(bytes(200))
    assert space.used == used
    assert space.publish(b"\xc3") + 1 == space.used  # a smaller one still fits


def test_gaps_hold_traps(space: CodeSpace) -> None:
    space.publish(b"\xc3")
    space.publish(b"\xc3")
    assert space.read(0, 65) == b"\xc3" + b"\xcc" * 63 + b"\xc3"


@pytest.mark.parametrize("size", [0, -1, (1 << 31) + 1])
def test_refuses_absurd_sizes(size: int) -> None:
    with pytest.raises(ValueError, match="code space of"):
        CodeSpace(size)


def test_rounds_up_to_pages_and_refuses_what_was_never_published(space: CodeSpace) -> None:
    small = CodeSpace(1)
    assert small.size == mmap.PAGESIZE
    small.close()
    with pytest.raises(ValueError, match="never published"):
        space.read(0, 1)
    with pytest.raises(ValueError, match="empty image"):
        space.publish(b"")


def test_close_gives_the_descriptor_back_once() -> None:
    space = CodeSpace(4096)
    path = space.path
    space.close()
    space.close()
    assert not Path(path).exists()


def test_the_translator_reads_ram_and_cannot_write_it(space: CodeSpace) -> None:
    space.publish(bytes(range(16)))
    segment = open_readonly(space.path, 4096)
    assert segment.word(8) == int.from_bytes(bytes(range(8, 16)), "little")
    assert segment.word(2, 2) == 0x0302
    with pytest.raises(TypeError):
        segment.memory[0:1] = b"x"
    for offset, length in ((4095, 2), (-1, 1), (0, 4097)):
        with pytest.raises(ValueError, match="outside the segment"):
            segment.read(offset, length)
    segment.close()


def test_segments_that_could_shrink_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "ram"
    file.write_bytes(bytes(8192))
    with pytest.raises(ValueError, match="not sealed"):
        open_readonly(str(file))
    with pytest.raises(ValueError, match="not a memory segment"):
        open_readonly("/dev/null")
    fd = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)
    with pytest.raises(ValueError, match="not sealed"):
        open_readonly(f"/proc/self/fd/{fd}")
    os.close(fd)


def test_segments_smaller_than_promised_are_refused(space: CodeSpace) -> None:
    with pytest.raises(ValueError, match="not 131072"):
        open_readonly(space.path, 128 << 10)
