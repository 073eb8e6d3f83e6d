"""The command as users meet it: a process, its exit status, and one line when they are wrong."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import cli
from tests.cpu_proc.make_elf import ElfFile, Segment

REPOSITORY = Path(__file__).resolve().parents[2]
RAM = 0x8000_0000


def coldboot(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python -m cpu_proc` in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "cpu_proc", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path_with(REPOSITORY)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def program(**fields: object) -> bytes:
    return bytes(ElfFile([Segment(RAM, bytes(64))], **fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong in one way each, and some that are right."""
    folder = tmp_path_factory.mktemp("files")
    for name, data in {
        "good.elf": program(),
        "text.elf": b"#!/bin/sh\n",
        "x86.elf": program(machine=62),
        "rv32.elf": program(bits=32),
        "truncated.elf": program()[:-8],
        "header.elf": program()[:30],
        "elsewhere.elf": bytes(ElfFile([Segment(0x1000, b"x")])),
        "huge.elf": bytes(ElfFile([Segment(RAM, b"x", 1 << 40)])),
        "empty.bin": b"",
        "two.bin": bytes(2 << 20),
        "disk.img": bytes(4096),
        "kernel.gz": b"\x1f\x8b\x08\x00",
    }.items():
        (folder / name).write_bytes(data)
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    ("words", "start"),
    [
        ("run nowhere.elf", "program nowhere.elf: no such file"),
        ("run folder", "program folder: is a directory"),
        ("run empty.bin", "program empty.bin: is empty"),
        ("run text.elf", "program text.elf: is not an ELF"),
        ("run x86.elf", "program x86.elf: is an ELF for x86-64"),
        ("run rv32.elf", "program rv32.elf: is a 32-bit ELF"),
        ("run truncated.elf", "program truncated.elf: is a truncated ELF"),
        ("run header.elf", "program header.elf: is a truncated ELF"),
        ("run elsewhere.elf", "program elsewhere.elf: its place 0x1000..0x1001 lies outside RAM"),
        ("run huge.elf", "program huge.elf: does not fit RAM"),
        ("run -m 1M two.bin", "program two.bin: does not fit RAM"),
        ("run -bios nowhere.bin", "-bios nowhere.bin: no such file"),
        ("run -bios two.bin -m 1M", "-bios two.bin: does not fit RAM"),
        ("run -kernel nowhere", "-kernel nowhere: no such file"),
        ("run -bios good.elf -kernel kernel.gz", "-kernel kernel.gz: is packed with gzip"),
        ("run -kernel good.elf -initrd nowhere", "-initrd nowhere: no such file"),
        ("run good.elf -initrd disk.img", "-initrd: only together with -kernel"),
        ("run good.elf -m 0", "-m 0: RAM must be"),
        ("run good.elf -m 99T", "-m 99T: RAM must be"),
        ("run good.elf -m lots", "-m lots: a size such as"),
        ("run good.elf -smp 0", "-smp 0: number of harts must be"),
        ("run good.elf -smp 9", "-smp 9: number of harts must be"),
        ("run good.elf -kernle x", "-kernle: unknown option; did you mean -kernel?"),
        ("run good.elf --frobnicate", "--frobnicate: unknown option"),
        ("run good.elf -m", "-m: a value is expected"),
        ("run good.elf -drive file=nowhere.img", "-drive file nowhere.img: no such file"),
        ("run good.elf -drive file=folder", "-drive file folder: is a directory"),
        ("run good.elf -serial file:nowhere/x", "-serial nowhere/x: there is no folder"),
        ("run good.elf --signature nowhere/x", "--signature nowhere/x: there is no folder"),
        ("run good.elf -D folder", "-D folder: is a directory"),
        ("run good.elf --translator host", "--translator host: embedded, none"),
        ("run -device loader,file=nowhere", "-device loader,file nowhere: no such file"),
        ("walk", "walk: unknown command"),
        ("-machine virt", "-machine: unknown command"),
        ("doctor patient", "doctor: unrecognized arguments: patient"),
        ("guests fetc", "guests: argument COMMAND: invalid choice"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words, start, folder):
    result = coldboot(*words.split(), folder=folder)

    assert (2, "") == (result.returncode, result.stdout)
    assert result.stderr.startswith(f"coldboot: {start}")
    assert 1 == result.stderr.count("\n")
    assert result.stderr.endswith("\n")


@pytest.fixture
def busy_disk(tmp_path: Path) -> Iterator[Path]:
    """A file that nobody may write, root included: the code of a running process."""
    sleep = shutil.which("sleep")
    assert sleep is not None
    path = tmp_path / "busy.img"
    shutil.copy(sleep, path)
    process = subprocess.Popen([path, "600"])
    yield path
    process.kill()
    process.wait(240)


def test_a_drive_that_is_not_writable_is_told(busy_disk, folder):
    result = coldboot("run", "good.elf", "-drive", f"file={busy_disk}", folder=folder)

    assert 2 == result.returncode
    assert f"coldboot: -drive file {busy_disk}: is not writable" in result.stderr
    assert "readonly=on" in result.stderr
    assert 1 == result.stderr.count("\n")


def test_a_line_break_in_a_name_stays_in_one_line(folder):
    result = coldboot("run", "two\nlines.elf", folder=folder)

    assert (2, 1) == (result.returncode, result.stderr.count("\n"))


def test_no_command_tells_the_commands():
    result = coldboot()

    assert 2 == result.returncode
    for name in ("run", "guests", "translator", "doctor"):
        assert f"\n  {name} " in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["help"],
        ["-help"],
        ["run", "-help"],
        ["run", "--help"],
        ["ctl", "-help"],
        ["store", "-help"],
    ],
)
def test_help_is_no_mistake(words):
    result = coldboot(*words)

    assert (0, "") == (result.returncode, result.stderr)
    assert result.stdout.startswith("usage: coldboot ")


def test_a_reader_that_leaves_early_sees_no_traceback():
    process = subprocess.Popen(
        f"{sys.executable} -m cpu_proc run -help | head -c 1",
        shell=True,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _, stderr = process.communicate(timeout=240)

    assert b"" == stderr


def test_reading_options_imports_nothing_heavy(folder):
    """The first instruction is due a quarter of a second after the command was typed."""
    code = """
import sys
from cpu_proc import cli, console, loader, memory_map, htif, options
loader.plan(options.parse(["-bios", "two.bin", "-kernel", "two.bin"]))
heavy = {"rich", "elftools", "zmq", "structlog", "argparse", "llvmlite", "msgpack", "asyncio"}
print(*sorted(heavy & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path_with(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )

    assert "" == result.stdout.strip()


@pytest.mark.parametrize(
    ("code", "status"), [(0, 0), (1, 1), (255, 255), (256, 1), (0x1234, 0x34), (1 << 47, 1)]
)
def test_a_failure_is_never_status_0(code, status):
    assert status == cli.exit_status(code)


def test_control_c_is_status_130(monkeypatch):
    def interrupted(words: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._COMMANDS, "run", ("", interrupted))

    assert 128 + signal.SIGINT == cli.main(["run"])


def test_the_translator_is_another_process():
    """`coldboot translator` becomes `python -m jit_proc`, arguments included."""
    code = "import os, sys; from cpu_proc import cli; os.execv = print; cli.main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", code, "translator", "--endpoint", "ipc:///x"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )

    assert "'-m', 'jit_proc', '--endpoint', 'ipc:///x'" in result.stdout
