"""Cpio archives in the "newc" form, the form in which Linux takes its first root filesystem.

Problem: an initramfs holds device nodes and files of root, which only root can make on the host.
Written straight as bytes it needs neither root nor a cpio program, and the same entries always
give the same bytes.

Invariants: parents come before what they hold (Linux silently drops an entry whose folder is not
there yet; missing ones are added); owner is root, times are zero, inode numbers count up, so
nothing of the host gets in. Archives may be concatenated: Linux unpacks them in order, later
entries replace earlier ones.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Read next: `initramfs`,
the one user.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Entry:
    """One file of an archive. `mode` holds type and permissions, as in ``st_mode``.

    `name` is relative to the root, without a leading slash. `data` is a file's content or a
    symbolic link's target; `device` is (major, minor) of a device node.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, permissions: int = 0o755) -> Entry:
    """A folder."""
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file; 0o755 as `permissions` makes it executable."""
    return Entry(name, stat.S_IFREG | permissions, data)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link. `target` is written as it is: absolute means absolute in the guest."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(name, stat.S_IFCHR | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries in this order, with missing parent folders put before them.

    Raises `ValueError` for a name that is absolute, empty, holds a NUL or ``..``, or occurs twice,
    and for data of 4 GiB or more, which the form cannot express.
    """
    parts: list[bytes] = []
    seen: set[str] = set()

    def add(entry: Entry) -> None:
        seen.add(entry.name)
        parts.append(_record(entry, inode=len(seen)))

    for entry in entries:
        _check(entry, seen)
        steps = entry.name.split("/")
        for depth in range(1, len(steps)):
            parent = "/".join(steps[:depth])
            if parent not in seen:
                add(directory(parent))
        add(entry)
    parts.append(_record(Entry(TRAILER, 0), inode=0))
    return b"".join(parts)


def _check(entry: Entry, seen: set[str]) -> None:
    """Refuse what Linux would unpack to somewhere else than was meant, or not at all."""
    steps = entry.name.split("/")
    if "\0" in entry.name or any(step in ("", ".", "..") for step in steps):
        raise ValueError(f"cpio: {entry.name!r} is not a plain relative name")
    if entry.name == TRAILER:
        raise ValueError(f"cpio: the name {TRAILER} ends an archive")
    if entry.name in seen:
        raise ValueError(f"cpio: {entry.name!r} occurs twice (or after something it holds)")
    if len(entry.data) >= 1 << 32:
        raise ValueError(f"cpio: {entry.name!r} is {len(entry.data)} bytes, the limit is 4 GiB")


def _record(entry: Entry, inode: int) -> bytes:
    """Header, name and data of one entry, each padded to a multiple of four bytes."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # major and minor number of the filesystem it came from
        0,
        *entry.device,
        len(name),
        0,  # checksum: only the "070702" form has one
    )
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
