"""What systemd does to a unit's process by mounts, done here: ProtectSystem= and its like.

Problem: most of what a unit takes away is files, and no process of the unit's can be tried without
that. So the same mounts are made in a mount namespace of the process's own, from the same lines of
the unit; nothing of it is seen outside.

Invariants: before anything is mounted, no mount of the namespace hands on to another one; folders
that are lent are held open before they are covered; only root can do this.

Read next: `confined.py`, which does the rest.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

CLONE_NEWNS = 0x00020000
NOSUID, NODEV, NOEXEC = 2, 4, 8
BIND, RECURSIVE, PRIVATE = 0x1000, 0x4000, 0x40000  # MS_*
MOUNT_SETATTR = 442  # the system call
AT_RECURSIVE = 0x8000
READ_ONLY, NO_EXEC = 1, 8  # MOUNT_ATTR_*

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALLATION = {str(REPOSITORY), sys.prefix, sys.base_prefix}
"""What stands for /opt/coldboot in the tests."""

OWN = {"RuntimeDirectory": "/run", "StateDirectory": "/var/lib", "CacheDirectory": "/var/cache"}
"""Settings that name folders a unit may write to, and where they are."""

NODES = ("null", "zero", "full", "random", "urandom", "tty")

_libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    words = [word.encode() if word is not None else None for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), data.encode()), f"mount {target}")


def _change(target: str, on: int = 0, off: int = 0, recursive: bool = False) -> None:
    """Turn attributes of a mount on and off."""
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    status = _libc.syscall(
        MOUNT_SETATTR, -100, target.encode(), flags, attributes, ctypes.sizeof(attributes)
    )
    _check(status, f"mount_setattr {target}")


def _bind(source: str, target: str) -> None:
    _mount(source, target, None, BIND | RECURSIVE)


def _empty(target: str) -> None:
    if os.path.isdir(target) and not os.path.islink(target):
        _mount("none", target, "tmpfs", NOSUID | NODEV)


def _lend(held: Mapping[str, int]) -> None:
    """Show folders that are held open at their places, where something covers them."""
    for place, descriptor in sorted(held.items()):
        os.makedirs(place, exist_ok=True)
        _bind(f"/proc/self/fd/{descriptor}", place)


def writable(unit: Mapping[str, Sequence[str]], instance: str) -> list[str]:
    """The folders of a unit that it may write to."""
    return [
        f"{base}/{value.replace('%i', instance)}"
        for setting, base in OWN.items()
        for value in unit.get(setting, ())
    ]


def apply(unit: Mapping[str, Sequence[str]], instance: str, lent: Iterable[str]) -> None:
    """Give this process the files that `unit` leaves it. `lent`: PLACE=FOLDER, each."""

    def says(name: str, value: str = "yes") -> bool:
        return unit.get(name, [""])[-1] == value

    places = dict(one.split("=", 1) for one in lent)
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", "/", None, PRIVATE | RECURSIVE)
    held = {place: os.open(folder, os.O_PATH) for place, folder in places.items()}
    installed = {path: os.open(path, os.O_PATH) for path in INSTALLATION}
    for place in ("/run", "/var/lib", "/var/cache"):
        _empty(place)  # of other services
    if says("ProtectHome"):
        for place in ("/home", "/root"):
            _empty(place)
    if says("PrivateTmp"):
        for place in ("/tmp", "/var/tmp"):
            _empty(place)
    if says("PrivateDevices"):
        nodes = {name: os.open(f"/dev/{name}", os.O_PATH) for name in NODES}
        _mount("none", "/dev", "tmpfs", NOSUID)
        for name, descriptor in nodes.items():
            Path("/dev", name).touch()
            _mount(f"/proc/self/fd/{descriptor}", f"/dev/{name}", None, BIND)
        os.symlink("/proc/self/fd", "/dev/fd")
        os.mkdir("/dev/shm")
        _mount("none", "/dev/shm", "tmpfs", NOSUID | NODEV)
    covered = {path: at for path, at in installed.items() if not os.path.exists(path)}
    _lend(covered)
    _lend(held)
    for descriptor in (*held.values(), *installed.values()):
        os.close(descriptor)
    options = [f"hidepid={unit['ProtectProc'][-1]}"]
    options += ["subset=pid"] * says("ProcSubset", "pid")
    _mount("proc", "/proc", "proc", NOSUID | NODEV | NOEXEC, ",".join(options))
    if says("ProtectKernelTunables") and os.path.isdir("/proc/sys"):
        _bind("/proc/sys", "/proc/sys")
    own, code = writable(unit, instance), []
    for place in own:
        os.makedirs(place, exist_ok=True)
        _bind(place, place)
    if "ExecPaths" in unit:
        named = [path for path in unit["ExecPaths"][-1].split() if os.path.exists(path)]
        code = sorted({os.path.realpath(path) for path in (*named, *INSTALLATION)})
        for path in code:
            _bind(path, path)
    if says("ProtectSystem", "strict"):
        _change("/", on=READ_ONLY, recursive=True)
        free = ["/proc", *own] + ["/tmp", "/var/tmp"] * says("PrivateTmp")
        for place in free:
            _change(place, off=READ_ONLY)
    if says("NoExecPaths", "/"):
        _change("/", on=NO_EXEC, recursive=True)
        for path in code:
            _change(path, off=NO_EXEC, recursive=True)
    os.chdir("/")
