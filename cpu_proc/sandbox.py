"""A process gives up what it does not need: for one that runs code which may be anything.

The problem: two translations are compared by running them, and one of them is suspected to be
wrong. What a wrong one does to its own process is the process's end; it must not be able to do
anything else. So the process keeps memory and the sockets and pipes it has, and nothing more: no
file can be opened, no process started or signalled, no socket made, nothing mapped that may be
written as well as executed.

Invariants: what is given up is given up for good, and a system call that is not on the list fails
with EPERM; on a host that cannot do this, `enter` raises OSError.

Read next: `comparison.py`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE = 1, 38, 22, 4
_SECCOMP_MODE_FILTER = 2
_AUDIT_ARCH_X86_64 = 0xC000_003E
_RET_ALLOW, _RET_EPERM, _RET_KILL = 0x7FFF_0000, 0x0005_0001, 0x8000_0000
_LOAD, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _ARG2 = 0, 4, 32  # offsets in struct seccomp_data; _ARG2: the third argument
_X32 = 0x4000_0000
_PROT_WRITE, _PROT_EXEC = 2, 4
_MMAP, _MPROTECT = 9, 10

ALLOWED = {
    **{"read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "munmap": 11},
    **{"brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "readv": 19},
    **{"sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "sendto": 44},
    **{
        "recvfrom": 45,
        "sendmsg": 46,
        "recvmsg": 47,
        "exit": 60,
        "fcntl": 72,
        "gettid": 186,
        "futex": 202,
    },
    **{"restart_syscall": 219, "clock_gettime": 228, "exit_group": 231, "getrandom": 318},
}
"""Of x86-64, by number. Mappings are allowed besides, but not for writing and executing at once."""


def enter(memory: int = 4 << 30) -> None:
    """Give up everything else; `memory`: bytes of address space left. Raises OSError."""
    if os.uname().machine != "x86_64" or sys.maxsize < 1 << 32:
        raise OSError("no list of system calls is known for this host")
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    _prctl(libc, _PR_SET_PDEATHSIG, signal.SIGKILL)  # not even a hang outlives who asked
    _prctl(libc, _PR_SET_DUMPABLE, 0)
    _prctl(libc, _PR_SET_NO_NEW_PRIVS, 1)
    program = _program()
    code = ctypes.create_string_buffer(program)
    header = struct.pack("<H6xQ", len(program) // 8, ctypes.addressof(code))
    _prctl(libc, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header))


def _prctl(libc: ctypes.CDLL, what: int, *values: object) -> None:
    if libc.prctl(what, *values, *[0] * (4 - len(values))) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({what}): {os.strerror(ctypes.get_errno())}")


def _program() -> bytes:
    """The filter, as classic BPF: instructions of (operation, if true, if false, value)."""
    mapping = [
        (_LOAD, 0, 0, _ARG2),
        (_JSET, 0, 2, _PROT_WRITE),
        (_JSET, 0, 1, _PROT_EXEC),
        (_RET, 0, 0, _RET_EPERM),
        (_RET, 0, 0, _RET_ALLOW),
    ]
    numbers = list(ALLOWED.values())
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _AUDIT_ARCH_X86_64),
        (_RET, 0, 0, _RET_KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JSET, len(numbers) + 2, 0, _X32),
    ]
    for at, number in enumerate((*numbers, _MMAP, _MPROTECT)):
        left = len(numbers) + 2 - at - 1  # comparisons that follow
        # Behind the comparisons: EPERM, ALLOW, then what looks at a mapping's permissions.
        target = left + (2 if number in (_MMAP, _MPROTECT) else 1)
        steps.append((_JEQ, target, 0, number))
    steps += [(_RET, 0, 0, _RET_EPERM), (_RET, 0, 0, _RET_ALLOW), *mapping]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
