"""`python -m tests.deploy.confined UNIT [PLACE=FOLDER...] COMMAND...`: a command, as confined.

Problem: the units must be tried where no systemd runs. What the kernel refuses a process comes from
a few calls that systemd makes before it starts one; the same calls are made here, from the same
lines of the unit: no new privileges, capabilities, network, its mounts (`mounts.py`), and its
filters of system calls, made with the library that systemd makes them with (libseccomp; groups like
@system-service are told by systemd-analyze). What it does by control groups (IPAddressDeny,
SocketBindDeny, DevicePolicy, limits) is not. FOLDER stands for PLACE, as in /run/coldboot=FOLDER.
Without root there are neither mounts nor a network namespace.

Read next: `mounts.py`, `unit_file.py`, `test_systemd.py`.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence

from tests.deploy import mounts, unit_file

ALLOW, REFUSE = 0x7FFF0000, 0x00050000  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO
NOT, EQUAL, MASKED = 1, 4, 7  # SCMP_CMP_*
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 24, 38, 47
CLONE_NEWNET = 0x40000000
NAMESPACES = 0x7E020080  # all CLONE_NEW*
WRITE, EXECUTE, SHM_EXEC = 2, 4, 0o100000
INSTANCE = "one"  # of the machines
FAMILIES = 46  # address families that Linux knows

_libc = ctypes.CDLL(None, use_errno=True)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


class Filter:
    """A filter of system calls: what it does by default, and rules."""

    def __init__(self, default: int) -> None:
        self._library = library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_load.argtypes = [ctypes.c_void_p]
        library.seccomp_rule_add_array.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_void_p,
        ]
        self._context = library.seccomp_init(ctypes.c_uint32(default))

    def add(self, action: int, name: str, *tests: tuple[int, int, int, int]) -> None:
        """`action` for a system call whose arguments pass all tests (argument, operator, a, b)."""
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # of other architectures
            return
        rules = (_Comparison * len(tests))(*(_Comparison(*test) for test in tests))
        status = self._library.seccomp_rule_add_array(
            self._context, action, number, len(tests), rules
        )
        if status != 0:
            raise OSError(-status, f"filter {name}")

    def load(self) -> None:
        """Have the kernel apply it from now on, to children too."""
        status = self._library.seccomp_load(self._context)
        if status != 0:
            raise OSError(-status, "seccomp_load")


@functools.cache
def members(name: str) -> frozenset[str]:
    """The system calls of a group such as @system-service, or the one so named."""
    if not name.startswith("@"):
        return frozenset((name,))
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in shown.stdout.splitlines()[1:]]
    words = [line for line in lines if line and not line.startswith("#")]
    return frozenset().union(*map(members, words))


def allowed(settings: Iterable[str]) -> frozenset[str]:
    """The system calls that SystemCallFilter= lines leave; the first is a list to allow."""
    found = members("@default")
    for line in settings:
        named = frozenset().union(*map(members, line.lstrip("~").split()))
        found = found - named if line.startswith("~") else found | named
    return found | members("@default")


def _check(status: int, what: str) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def confine(unit: Mapping[str, Sequence[str]], lent: Sequence[str]) -> None:
    """Put this process, for good, under what `unit` says. `lent`: PLACE=FOLDER, each."""

    def says(name: str, value: str = "yes") -> bool:
        return unit.get(name, [""])[-1] == value

    filters: list[Filter] = []

    def new(default: int) -> Filter:
        filters.append(Filter(default))
        return filters[-1]

    # Made before they hold: what makes them needs more than they leave.
    calls = new(REFUSE | errno.EPERM)
    for name in sorted(allowed(unit["SystemCallFilter"])):
        calls.add(ALLOW, name)
    families = {getattr(socket, name) for name in unit["RestrictAddressFamilies"][-1].split()}
    sockets = new(ALLOW)
    for family in set(range(FAMILIES)) - families:
        sockets.add(REFUSE | errno.EAFNOSUPPORT, "socket", (0, EQUAL, family, 0))
    if says("MemoryDenyWriteExecute"):
        memory = new(ALLOW)
        both = WRITE | EXECUTE
        memory.add(REFUSE | errno.EPERM, "mmap", (2, MASKED, both, both))
        for name in ("mprotect", "pkey_mprotect"):
            memory.add(REFUSE | errno.EPERM, name, (2, MASKED, EXECUTE, EXECUTE))
        memory.add(REFUSE | errno.EPERM, "shmat", (2, MASKED, SHM_EXEC, SHM_EXEC))
    if says("RestrictNamespaces"):
        spaces = new(ALLOW)
        spaces.add(REFUSE | errno.ENOSYS, "clone3")  # its flags cannot be looked at
        spaces.add(REFUSE | errno.EPERM, "setns")
        for bit in range(32):
            if NAMESPACES >> bit & 1:
                for name in ("clone", "unshare"):
                    spaces.add(REFUSE | errno.EPERM, name, (0, MASKED, 1 << bit, 1 << bit))
    if says("LockPersonality"):
        new(ALLOW).add(REFUSE | errno.EPERM, "personality", (0, NOT, 0, 0))

    os.umask(int(unit["UMask"][-1], 8))
    root = os.geteuid() == 0
    if root:
        mounts.apply(unit, INSTANCE, lent)
    if root and says("PrivateNetwork"):
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
    if root and says("CapabilityBoundingSet", ""):
        for capability in range(64):
            _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those this kernel has not: EINVAL
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
        _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    if says("NoNewPrivileges"):
        _check(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    for one in reversed(filters):  # that of all calls last
        one.load()


if __name__ == "__main__":
    words = sys.argv[2:]
    lent = list(itertools.takewhile(lambda word: "=" in word, words))
    confine(unit_file.read(sys.argv[1]), lent)
    os.execvp(words[len(lent)], words[len(lent) :])
