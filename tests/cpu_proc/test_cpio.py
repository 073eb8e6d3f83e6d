"""Archives are read back by a reader written from Linux's description, and by cpio itself."""

from __future__ import annotations

import io
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_proc import cpio
from tests.oracle import require


class Read(NamedTuple):
    """One entry as a reader sees it."""

    name: str
    mode: int
    data: bytes
    device: tuple[int, int]


def read_archive(data: bytes) -> list[Read]:
    """Linux, Documentation/driver-api/early-userspace/buffer-format.rst."""
    stream = io.BytesIO(data)
    found: list[Read] = []

    def align() -> None:
        assert set(stream.read(-stream.tell() % 4)) <= {0}

    while True:
        assert stream.read(6) == b"070701"
        fields = [int(stream.read(8), 16) for _ in range(13)]
        _, mode, uid, gid, _, _, size, _, _, major, minor, name_size, check = fields
        assert (uid, gid, check) == (0, 0, 0)
        name = stream.read(name_size)
        assert name.endswith(b"\0")
        align()
        content = stream.read(size)
        assert len(content) == size
        align()
        if name == b"TRAILER!!!\0":
            assert stream.read() == b""
            return found
        found.append(Read(name[:-1].decode(), mode, content, (major, minor)))


def test_each_kind_of_entry_is_read_back():
    entries = [
        cpio.directory("dev"),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", b"#!/bin/sh\n", 0o755),
        cpio.symlink("sh", "busybox"),
    ]
    assert read_archive(cpio.archive(entries)) == [
        Read("dev", stat.S_IFDIR | 0o755, b"", (0, 0)),
        Read("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
        Read("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0)),
        Read("sh", stat.S_IFLNK | 0o777, b"busybox", (0, 0)),
    ]


def test_missing_parents_come_first_and_once():
    names = [
        entry.name
        for entry in read_archive(cpio.archive([cpio.file("a/b/c", b""), cpio.file("a/d", b"")]))
    ]
    assert names == ["a", "a/b", "a/b/c", "a/d"]


def test_a_given_parent_keeps_its_permissions():
    read = read_archive(cpio.archive([cpio.directory("tmp", 0o1777), cpio.file("tmp/x", b"")]))
    assert [oct(entry.mode & 0o7777) for entry in read] == ["0o1777", "0o644"]


@pytest.mark.parametrize("name", ["", "/etc", "a//b", "../up", "a/.", "nul\0", "TRAILER!!!"])
def test_a_name_that_linux_would_take_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="cpio: "):
        cpio.archive([cpio.file(name, b"")])


def test_a_name_that_occurs_twice_is_refused():
    with pytest.raises(ValueError, match="'a' occurs twice"):
        cpio.archive([cpio.file("a/b", b""), cpio.directory("a")])


@given(
    st.dictionaries(
        st.text(
            st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
        ).filter(lambda name: name not in (".", "..", cpio.TRAILER)),
        st.binary(max_size=40),
        max_size=8,
    )
)
def test_any_names_and_contents_are_read_back(files):
    read = read_archive(cpio.archive(cpio.file(name, data) for name, data in files.items()))
    assert {entry.name: entry.data for entry in read} == files


def test_the_same_entries_give_the_same_bytes():
    entries = [cpio.file("a", b"1"), cpio.directory("b")]
    assert cpio.archive(entries) == cpio.archive(entries)


def test_the_cpio_program_unpacks_it(tmp_path: Path):
    program = require("cpio")
    data = cpio.archive([cpio.file("bin/tool", b"x" * 5, 0o755), cpio.symlink("bin/sh", "tool")])
    command = [program, "--extract", "--quiet", "--no-absolute-filenames"]
    subprocess.run(command, input=data, cwd=tmp_path, check=True, timeout=240)
    tool = tmp_path / "bin" / "tool"
    assert tool.read_bytes() == b"xxxxx"
    assert tool.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin" / "sh").readlink() == Path("tool")
