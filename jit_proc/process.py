"""Small debts to the operating system: a parent's end, no writable code, a service manager.

The problem: a translator or worker that outlives the machine it was started for burns a core for
nobody. The kernel can tell a child of its parent's death, even one that LLVM keeps busy (prctl(2),
PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from protocol import mutants

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send `with_signal` to this process when its parent, process `parent`, ends.

    Sends it at once if that has already happened. Raises OSError when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(with_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the call above
        os.kill(os.getpid(), with_signal)


def give_up_writable_code() -> None:
    """Make every page that is both writable and executable executable only.

    libffi keeps the callbacks that llvmlite makes while it is imported in such a page. All of them
    are made when a worker has warmed up; a later one would end the process, which is expendable.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        if "w" in permissions and "x" in permissions:
            start, end = (int(part, 16) for part in span.split("-"))
            if libc.mprotect(start, end - start, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
                raise OSError(ctypes.get_errno(), f"mprotect of {span}")


def tell_service_manager(state: str) -> None:
    """`READY=1` or `STOPPING=1` to whoever started this as a service (sd_notify(3)), if anybody.

    An abstract socket is spelt with @. A manager that does not listen is no reason to end.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def child_environment() -> dict[str, str]:
    """This process's environment, with which a child Python finds these packages too."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def start_worker(
    lifter: str | None, engine: str | None, nice: int | None, *, urgent: bool = False
) -> subprocess.Popen[bytes]:
    """A worker's process (`worker.py`); None: its own defaults. `urgent`: it gives way to other
    processes only once it is ready.
    """
    command = [sys.executable, "-m", "jit_proc.worker", "--parent", str(os.getpid())]
    for name, value in (("--lifter", lifter), ("--engine", engine), ("--nice", nice)):
        if value is not None:
            command += [name, str(value)]
    if urgent:
        command.append("--urgent")
    if armed := mutants.all_armed():
        command += ["--armed", ",".join(armed)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=child_environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for pipe in (process.stdout, process.stderr):
        os.set_blocking(pipe.fileno(), False)
    return process
