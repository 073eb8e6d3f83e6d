"""The systemd units: right, as closed as they say, and enough for what runs in them.

No systemd is started here: the units' own commands run under what the units have the kernel refuse
(`confined.py`).
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.engine_image import cache_folder
from tests.deploy import unit_file
from tests.oracle import require
from tests.system import programs, runner

EXPOSURE = {"coldboot-translator": 1.0, "coldboot-machine@": 1.0, "coldboot-metrics": 1.5}
"""The most that `systemd-analyze security` may say, of 10: below 2 is its best class but one."""

ATTEMPTS = """
import ctypes, mmap, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
memory = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
def call(f, *a):
    if f(*a) in (-1, 2**64 - 1):
        raise OSError(ctypes.get_errno(), "no")
def kernel(number, *a):
    call(libc.syscall, number, *map(ctypes.c_long, a))
attempts = {
    "network": lambda: socket.socket(socket.AF_INET).close(),
    "raw network": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "writable code": lambda: call(libc.mmap, None, 4096, 7, 0x22, -1, 0),
    "code of data": lambda: call(libc.mprotect, ctypes.c_void_p(address), 4096, 5),
    "own namespaces": lambda: call(libc.unshare, 0x04000000),
    "another root": lambda: os.chroot("/"),
    "a mount": lambda: call(libc.mount, b"none", b"/", None, 0x1000 | 0x20, None),
    "another user": lambda: os.setuid(1),
    "another clock": lambda: kernel(227, 0, address),
    "a kernel module": lambda: kernel(313, -1, address, 0),
    "another process": lambda: kernel(101, 16, os.getppid(), 0, 0),
    "a low personality": lambda: call(libc.personality, 0x0040000),
    "one more group": lambda: os.setgroups([0]),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    print(name)
"""
"""Prints what it could do. Kernel calls by number (x86-64): clock_settime, finit_module, ptrace."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, with programs that are there."""
    made = tmp_path_factory.mktemp("units")
    for name in unit_file.NAMES:
        text = (unit_file.FOLDER / f"{name}.service").read_text(encoding="utf-8")
        assert "/opt/coldboot/bin/coldboot " in text
        text = text.replace("/opt/coldboot/bin/coldboot", sys.executable)
        (made / f"{name}.service").write_text(text, encoding="utf-8")
    return made


def confined(name: str, *command: str) -> list[str]:
    return [sys.executable, "-m", "tests.deploy.confined", name, *command]


def test_systemd_finds_no_mistake(folder: Path):
    words = [require("systemd-analyze"), "verify", "--man=no"]
    units = [folder / f"{name.replace('@', '@one')}.service" for name in unit_file.NAMES]
    done = subprocess.run([*words, *units], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("name", unit_file.NAMES)
def test_systemd_finds_it_closed(name: str, folder: Path):
    words = [require("systemd-analyze"), "security", "--offline=yes", "--no-pager"]
    limit = f"--threshold={EXPOSURE[name] * 10:.0f}"
    unit = folder / f"{name}.service"
    done = subprocess.run([*words, limit, unit], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout
    told = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert told is not None, done.stdout
    assert float(told[1]) <= EXPOSURE[name]


@pytest.mark.parametrize("name", unit_file.NAMES)
def test_the_kernel_refuses_what_a_unit_does_without(name: str):
    require("systemd-analyze")
    try_all = [sys.executable, "-c", ATTEMPTS]
    free = subprocess.run(try_all, capture_output=True, text=True, check=True)
    assert {"network", "writable code", "code of data"} <= set(free.stdout.split("\n"))
    done = subprocess.run(
        confined(name, *try_all), capture_output=True, text=True, env=runner.environment(),
        check=True,
    )  # fmt: skip
    network = "network\n" if name == "coldboot-metrics" else ""
    assert (network, "") == (done.stdout, done.stderr)


def test_services_do_their_work_confined(tmp_path: Path):
    """Translator, machine and metrics by the units' own command lines; the guest gets regions."""
    require("systemd-analyze")
    units = {name: unit_file.read(name) for name in unit_file.NAMES}
    run, state = tmp_path / "run", tmp_path / "state"
    for made in (run, state):
        made.mkdir(0o700)
    places = {
        "ipc:///run/coldboot": f"ipc://{run}",
        "/var/cache/coldboot": str(cache_folder()),
        "/var/lib/coldboot/%i": str(state),
    }

    def line(name: str, *arguments: str) -> list[str]:
        words = unit_file.command(units[name], places, *arguments)
        assert "/opt/coldboot/bin/coldboot" == words[0]
        return confined(name, *runner.command(*words[1:]))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment = {**runner.environment(), "NOTIFY_SOCKET": manager.getsockname()}
        log_path = tmp_path / "translator.log"
        with log_path.open("wb") as log:
            words = [*line("coldboot-translator"), "--store", "off"]
            translator = subprocess.Popen(words, env=environment, stderr=log)
        try:
            runner.until(
                lambda: translator.poll() is not None or select.select([manager], [], [], 0)[0],
                "the translator's word",
                explain=log_path.read_text,
            )
            assert translator.poll() is None, log_path.read_text()
            assert b"READY=1" == manager.recv(100)
            text = "main:\n    li s6, 3000\n1:\n    addi s6, s6, -1\n    bnez s6, 1b\n    j PASS\n"
            guest = ["-m", "32M", "-threshold", "1", "-stats", str(programs.elf(text, tmp_path))]
            done = subprocess.run(
                line("coldboot-machine@", *guest), env=runner.environment(),
                capture_output=True, text=True, timeout=runner.DEADLINE, check=False,
            )  # fmt: skip
            assert 0 == done.returncode, done.stderr
            assert re.search(r"translator: .*published [1-9]", done.stderr), done.stderr
            words = [*line("coldboot-metrics"), "--once"]
            asked = subprocess.run(
                words, env=runner.environment(), capture_output=True, text=True, check=False
            )
            assert 0 == asked.returncode, asked.stderr
            assert "coldboot_translator_up 1.0" in asked.stdout
            translator.terminate()
            assert 0 == translator.wait(runner.DEADLINE)
        finally:
            translator.kill()
            translator.wait()


def test_machines_arguments_come_from_a_file():
    unit = unit_file.read("coldboot-machine@")
    assert ["/etc/coldboot/machines/%i.conf"] == unit["EnvironmentFile"]
    assert "$ARGUMENTS" == unit["ExecStart"][0].split()[-1]
    assert os.path.isabs(unit["ExecStart"][0].split()[0])
