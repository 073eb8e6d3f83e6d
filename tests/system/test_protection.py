"""No page is ever writable and executable, and each segment has one writer: asked of the kernel.

Read next: `cpu_proc/native.py` and `jit_proc/code_space.py`, which make the segments.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.engine_image import cache_folder
from tests.system import runner
from tests.system.runner import PROMPT, Machine, children, linux, maps

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mremap.restype = ctypes.c_void_p
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
FAILED = ctypes.c_void_p(-1).value
MREMAP_MAYMOVE = 1
F_ADD_SEALS = 1033
READ, WRITE, EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC


@pytest.fixture(scope="module")
def machine(
    guests_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Machine, int]]:
    """A machine at its shell, with regions, and its translator's process."""
    words = [*linux(guests_folder), "-cold"]  # with a worker
    with Machine(words, tmp_path_factory.mktemp("protection")) as one:
        one.expect("BOOT-OK")
        one.expect(PROMPT)
        one.wait_event("region_published", 5)
        yield one, one.translator()


def segments(pid: int) -> dict[str, int]:
    """Memory segments a process holds open: name -> descriptor."""
    found = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(link)
        if target.startswith("/memfd:"):
            found[target.removeprefix("/memfd:").removesuffix(" (deleted)")] = int(link.name)
    return found


def the_code(translator: int) -> str:
    """The path of the code segment, as a machine opens it."""
    return f"/proc/{translator}/fd/{segments(translator)['coldboot-code']}"


def map_at(fd: int, protection: int) -> int | None:
    """A shared mapping of one page; None if the kernel refuses."""
    address = libc.mmap(None, 4096, protection, mmap.MAP_SHARED, fd, 0)
    return None if address == FAILED else int(address)


def test_nothing_is_writable_and_executable(machine: tuple[Machine, int]):
    one, translator = machine
    processes = {one.pid, *children(one.pid)}
    assert translator in processes
    assert 3 <= len(processes), "machine, translator, worker"
    for process in processes:
        both = [line for line in maps(process) if {"w", "x"} <= set(line[0])]
        assert [] == both, f"process {process}"


def test_each_segment_is_mapped_for_writing_by_one_process(machine: tuple[Machine, int]):
    one, translator = machine
    writers: dict[str, set[int]] = {}
    for process in (one.pid, *children(one.pid)):
        for permissions, name in maps(process):
            if "memfd:" in name and permissions[3] == "s":
                writers.setdefault(name, set()).update({process} if "w" in permissions else ())
    engine = [name for name in writers if "coldboot-engine" in name]
    assert 1 == len(engine)
    assert set() == writers.pop(engine[0]), "the engine has no writer at all"
    assert 3 <= len(writers), writers
    assert {1} == {len(processes) for processes in writers.values()}, writers
    owners = {name: processes.pop() for name, processes in writers.items()}
    assert {translator, one.pid} == set(owners.values())


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY])
def test_the_code_cannot_become_writable(flags: int, machine: tuple[Machine, int]):
    _, translator = machine
    fd = os.open(the_code(translator), flags)
    try:
        assert map_at(fd, READ | WRITE) is None
        assert map_at(fd, WRITE) is None
        assert map_at(fd, READ | WRITE | EXECUTE) is None
        address = map_at(fd, READ | EXECUTE)
        assert address is not None, "what a machine does"
        assert -1 == libc.mprotect(address, 4096, READ | WRITE)
        assert -1 == libc.mprotect(address, 4096, READ | WRITE | EXECUTE)
        moved = libc.mremap(address, 4096, 8192, MREMAP_MAYMOVE)
        assert moved != FAILED
        assert -1 == libc.mprotect(moved, 8192, READ | WRITE), "a moved map is no other"
        libc.munmap(moved, 8192)
        with pytest.raises(OSError, match=r"."):
            os.pwrite(fd, b"\x90", 0)
        with pytest.raises(OSError, match=r"."):
            os.ftruncate(fd, 0)
        with pytest.raises(OSError, match=r"."):
            fcntl.fcntl(fd, F_ADD_SEALS, 0)
    finally:
        os.close(fd)


def test_the_machines_memory_cannot_be_written_by_others(machine: tuple[Machine, int]):
    one, _ = machine
    owned = segments(one.pid)
    assert {"coldboot-ram", "coldboot-ctrl"} <= set(owned)
    for name in ("coldboot-ram", "coldboot-ctrl"):
        fd = os.open(f"/proc/{one.pid}/fd/{owned[name]}", os.O_RDWR)
        try:
            assert map_at(fd, READ | WRITE) is None
            address = map_at(fd, READ)
            assert address is not None, "what a translator does"
            assert -1 == libc.mprotect(address, 4096, READ | WRITE)
            libc.munmap(address, 4096)
            with pytest.raises(OSError, match=r"."):
                os.pwrite(fd, b"\x90", 0)
        finally:
            os.close(fd)


def test_after_a_reset_the_old_code_is_mapped_nowhere(guests_folder: Path, tmp_path: Path):
    with Machine(linux(guests_folder, append='run="reboot -f"'), tmp_path) as one:
        inodes = set()
        for number in range(1, 4):
            one.wait_event("system_reset_done", number)
            found = executable_segments(one.pid)
            assert len(found) <= 1, found
            inodes |= found
        assert 2 <= len(inodes), "each epoch has a segment of its own"


def executable_segments(pid: int) -> set[str]:
    """Inodes of shared segments that a process could execute, but for the engine's."""
    found = set()
    for line in runner.map_lines(pid):
        parts = line.split(None, 5)
        if "x" in parts[1] and parts[1][3] == "s" and "engine" not in parts[5]:
            found.add(parts[4])
    return found


def test_code_is_executable_in_the_machine_alone(machine: tuple[Machine, int]):
    one, _ = machine
    for process in (one.pid, *children(one.pid)):
        ours = [
            (permissions, name)
            for permissions, name in maps(process)
            if "x" in permissions and "memfd:coldboot" in name
        ]
        assert bool(ours) == (process == one.pid), f"process {process}: {ours}"
        assert all("w" not in permissions for permissions, _ in ours)


def test_a_worker_has_none_of_the_segments(machine: tuple[Machine, int]):
    """What translates gets bytes and gives bytes: no guest memory, no code segment, no socket."""
    one, translator = machine
    workers = [process for process in children(one.pid) if process != translator]
    assert workers
    for worker in workers:
        assert {} == {n: fd for n, fd in segments(worker).items() if n.startswith("coldboot")}
        assert [] == [name for _, name in maps(worker) if "memfd:coldboot" in name]


def test_no_process_has_a_network_socket(machine: tuple[Machine, int]):
    one, _ = machine
    for process in (one.pid, *children(one.pid)):
        inodes = {
            line.split()[9]
            for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")
            for line in Path(f"/proc/{process}/net/{kind}").read_text().splitlines()[1:]
        }
        open_ones = {target[8:-1] for target in targets(process) if target.startswith("socket:[")}
        assert set() == inodes & open_ones, f"process {process}"


def test_files_open_for_writing_are_those_that_were_asked_for(machine: tuple[Machine, int]):
    """The machine's: its log, its standard error. The translator's: what it keeps, and its lock."""
    one, _ = machine
    log, errors = str(one.log_path), str(one.error_path)
    for process in (one.pid, *children(one.pid)):
        for link in Path(f"/proc/{process}/fd").iterdir():
            target, flags = os.readlink(link), (link.parent.parent / "fdinfo" / link.name)
            mode = int(flags.read_text().split("flags:")[1].split()[0], 8) & os.O_ACCMODE
            if mode == os.O_RDONLY or not target.startswith("/") or target.startswith("/dev/"):
                continue
            if target.startswith("/memfd:"):
                continue  # the segments, looked at above
            kept = target.startswith(str(cache_folder()) + "/") or target.endswith(".lock")
            assert target in (log, errors) or (process != one.pid and kept), (process, target)


def targets(pid: int) -> list[str]:
    """What a process's descriptors lead to."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
