"""The systemd units: right, as closed as they say, and enough for what runs in them.

No systemd is started here: the units' own commands run under what the units have the kernel refuse
(`confined.py`), and, for root, with the files that the units leave them (`mounts.py`).
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.engine_image import engine_key, engine_path
from protocol.layout import LAYOUT_HASH
from protocol.riscv.identity import isa_hash
from tests.deploy import mounts, unit_file
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
    "another process": lambda: kernel(101, 0x4206, os.getppid(), 0, 0),
    "a low personality": lambda: call(libc.personality, 0x0040000),
    "one more group": lambda: os.setgroups([0]),
}
def own_program():
    own = ("/tmp", "/var/lib/coldboot/one", "/run/coldboot/machines", "/var/cache/coldboot")
    for folder in own:
        try:
            with open(f"{folder}/program", "w") as file:
                file.write("#!/bin/sh")
        except OSError:
            continue
        os.chmod(f"{folder}/program", 0o755)
        try:
            os.waitpid(os.posix_spawn(f"{folder}/program", ["program"], {}), 0)
            return
        except OSError:
            pass
        finally:
            os.unlink(f"{folder}/program")
    raise PermissionError
def write(path):
    with open(path, "w"):
        pass
def opened(path):
    os.close(os.open(path, os.O_WRONLY))
def there(*paths):
    if not any(map(os.path.lexists, paths)):
        raise FileNotFoundError
def may_write(path):
    if not os.access(path, os.W_OK):
        raise PermissionError
files = {
    "the store": lambda: write("/var/cache/coldboot/poison"),
    "the counts' folder": lambda: write("/run/coldboot/machines/file"),
    "the translator's folder": lambda: write("/run/coldboot/file"),
    "the machine's folder": lambda: write("/var/lib/coldboot/one/file"),
    "the system": lambda: opened("/etc/passwd"),
    "the installation": lambda: opened(os.__file__),
    "the kernel's settings": lambda: opened("/proc/sys/kernel/domainname"),
    "control groups": lambda: may_write("/sys/fs/cgroup"),
    "the kernel's log": lambda: there("/dev/kmsg"),
    "others' files": lambda: there(*os.environ["OTHERS"].split(":")),
    "a program of its own": own_program,
}
if "OTHERS" in os.environ:
    attempts.update(files)
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    print(name)
"""
"""Prints what it could do. Kernel calls by number (x86-64): clock_settime, finit_module, ptrace (to
seize, which does not stop the process that runs the tests where that is not refused).
What is about files is tried where OTHERS names some that are not the service's.
"""

OWN_FILES = {
    "coldboot-translator": {"the store", "the counts' folder", "the translator's folder"},
    "coldboot-machine@": {"the counts' folder", "the machine's folder"},
    "coldboot-metrics": {"network"},
}
"""What each may do of that."""

ROOT = os.geteuid() == 0
"""Whether mounts can be made."""


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


def confined(name: str, *command: str, lent: dict[str, Path] | None = None) -> list[str]:
    """A command as a unit's process; `lent`: folders that stand for the unit's."""
    places = [f"{place}={folder}" for place, folder in (lent or {}).items()]
    return [sys.executable, "-m", "tests.deploy.confined", name, *places, *command]


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


def hidden() -> list[Path]:
    """Files in users' folders, but those that tests are run from."""
    found = [one for home in ("/home", "/root") for one in Path(home).glob("*")]
    return [one for one in found if not any(str(one) in path for path in mounts.INSTALLATION)]


@pytest.mark.parametrize("name", unit_file.NAMES)
def test_the_kernel_refuses_what_a_unit_does_without(name: str, tmp_path: Path):
    require("systemd-analyze")
    try_all = [sys.executable, "-c", ATTEMPTS]
    free = subprocess.run(try_all, capture_output=True, text=True, check=True)
    assert {"network", "writable code", "code of data"} <= set(free.stdout.split("\n"))
    environment, lent, expected = runner.environment(), {}, OWN_FILES[name]
    if ROOT:
        others = [tmp_path, *hidden()]
        environment["OTHERS"] = ":".join(map(str, others))
        for place in ("/run/coldboot", "/var/cache/coldboot", "/var/lib/coldboot/one"):
            lent[place] = tmp_path / place.replace("/", "_")
            lent[place].mkdir()
        (lent["/run/coldboot"] / "machines").mkdir()
    else:
        expected = expected & {"network"}
    done = subprocess.run(
        confined(name, *try_all, lent=lent), capture_output=True, text=True, env=environment,
        check=True,
    )  # fmt: skip
    assert (expected, "") == (set(done.stdout.splitlines()), done.stderr)


def test_services_do_their_work_confined(tmp_path: Path):
    """Translator, machine and metrics by the units' own command lines; the guest gets regions."""
    require("systemd-analyze")
    units = {name: unit_file.read(name) for name in unit_file.NAMES}
    run, state, cache = (tmp_path / name for name in ("run", "state", "coldboot"))
    for made in (run, state, cache):
        made.mkdir(0o700)
    engine = engine_path(engine_key(isa_hash(), LAYOUT_HASH))
    if engine.exists():
        shutil.copy2(engine, cache)  # it need not be built; but for that, the cache is new
    folders = {"/run/coldboot": run, "/var/cache/coldboot": cache, "/var/lib/coldboot/one": state}
    seen = {place: Path(place) if ROOT else folder for place, folder in folders.items()}

    def line(name: str, *arguments: str) -> list[str]:
        words = unit_file.command(units[name], {"%i": "one"}, *arguments)
        assert "/opt/coldboot/bin/coldboot" == words[0]
        if ROOT:
            return confined(name, *runner.command(*words[1:]), lent=folders)
        for place, folder in folders.items():
            words = [word.replace(place, str(folder)) for word in words]
        return confined(name, *runner.command(*words[1:]))

    def surroundings(name: str, **more: str) -> dict[str, str]:
        own = dict(one.split("=", 1) for one in units[name].get("Environment", []))
        if not ROOT:
            own = {"XDG_CACHE_HOME": str(tmp_path)}
        return {**runner.environment(), **own, **more}

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(run / "notify"))
        word = str(seen["/run/coldboot"] / "notify")
        environment = surroundings("coldboot-translator", NOTIFY_SOCKET=word)
        log_path = tmp_path / "translator.log"
        with log_path.open("wb") as log:
            translator = subprocess.Popen(line("coldboot-translator"), env=environment, stderr=log)
        try:
            runner.until(
                lambda: translator.poll() is not None or select.select([manager], [], [], 0)[0],
                "the translator's word",
                explain=log_path.read_text,
            )
            assert translator.poll() is None, log_path.read_text()
            assert b"READY=1" == manager.recv(100)
            text = "main:\n    li s6, 3000\n1:\n    addi s6, s6, -1\n    bnez s6, 1b\n    j PASS\n"
            program = seen["/var/lib/coldboot/one"] / programs.elf(text, state).name
            extra = ["-stats", str(program)]
            guest = ["-m", "32M", "-threshold", "1", *extra]
            done = subprocess.run(
                line("coldboot-machine@", *guest), env=surroundings("coldboot-machine@"),
                capture_output=True, text=True, timeout=runner.DEADLINE, check=False,
            )  # fmt: skip
            assert 0 == done.returncode, done.stderr
            assert re.search(r"translator: .*published [1-9]", done.stderr), done.stderr
            words = [*line("coldboot-metrics"), "--once"]
            asked = subprocess.run(
                words, env=surroundings("coldboot-metrics"), capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            assert 0 == asked.returncode, asked.stderr
            assert "coldboot_translator_up 1.0" in asked.stdout
            translator.terminate()
            assert 0 == translator.wait(runner.DEADLINE)
            assert list(cache.glob("translations*")), "the store, of a translator that may write"
            assert (state / "console.log").exists()
        finally:
            translator.kill()
            translator.wait()


@pytest.mark.parametrize("name", unit_file.NAMES)
def test_each_restriction_is_explained(name: str):
    text = (runner.REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in text.splitlines() if line.startswith("| `"))
    own = unit_file.read(name)
    restrictions = list(own)[list(own).index("NoNewPrivileges") :]
    missing = [key for key in ("UMask", *restrictions) if f"`{key}" not in table]
    assert len(restrictions) > 25
    assert [] == missing


def test_machines_arguments_come_from_a_file():
    unit = unit_file.read("coldboot-machine@")
    assert ["/etc/coldboot/machines/%i.conf"] == unit["EnvironmentFile"]
    assert "$ARGUMENTS" == unit["ExecStart"][0].split()[-1]
    assert os.path.isabs(unit["ExecStart"][0].split()[0])
