"""A process in the sandbox tries what it may not."""

from __future__ import annotations

import subprocess
import sys

from tests.system import runner

TRIES = """
import ctypes, mmap, os, socket
from cpu_proc import sandbox
from cpu_proc.native import map_private

pipe = os.pipe()
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RWX = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
sandbox.enter()
tries = {
    "open": lambda: os.open("/dev/null", os.O_RDONLY),
    "list": lambda: os.listdir("/"),
    "unlink": lambda: os.unlink("/nonexistent"),
    "socket": lambda: socket.socket(),
    "fork": lambda: os.fork(),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "kill": lambda: os.kill(parent, 0),
    "memfd": lambda: os.memfd_create("x"),
    "rwx": lambda: mmap.mmap(-1, 4096, ANONYMOUS, RWX),
}
for name, attempt in tries.items():
    try:
        attempt()
        os.write(1, f"{name} is possible\\n".encode())
    except OSError as error:
        if error.errno != 1:
            os.write(1, f"{name}: {error}\\n".encode())
page = map_private(4096)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
if libc.mprotect(page, 4096, RWX) != -1 or ctypes.get_errno() != 1:
    os.write(1, b"mprotect is possible\\n")
os.write(pipe[1], b"x")
os.write(1, b"reads " + os.read(pipe[0], 1) + b"\\n")
os._exit(0)
"""


def test_nothing_is_left_but_memory_and_what_is_open():
    done = subprocess.run(
        [sys.executable, "-c", TRIES],
        capture_output=True, text=True, timeout=240, check=False, env=runner.environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "reads x\n", "")
