"""Programs for guests: closures of libraries, archives, folders kept whole.

Read next: `test_guests`.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cpu_proc import debian, guest_programs
from cpu_proc.guest_programs import Program
from cpu_proc.guests import Report
from protocol.errors import UserError
from tests.oracle import require


def silent(step: str, done: float) -> None:
    pass


def link(target: Path, *needs: Path) -> None:
    """A shared object that is linked with `needs`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    empty = target.with_suffix(".o")
    subprocess.run(["as", "-o", empty, "-"], input=b"", check=True, timeout=240)
    words = ["ld", "-shared", "--no-as-needed", "-soname", target.name, "-o"]
    subprocess.run([*words, *map(str, (target, empty, *needs))], check=True, timeout=240)
    empty.unlink()


@pytest.fixture
def trees(tmp_path: Path) -> list[Path]:
    """Three unpacked packages: a program, its library, and what that needs beside a stranger."""
    require("as", "ld")
    first, second, third = (tmp_path / name for name in ("program", "library", "deeper"))
    link(third / "usr/lib/libdeep.so.2")
    link(third / "usr/lib/libstranger.so.1")
    link(second / "usr/lib/host/libnear.so.1", third / "usr/lib/libdeep.so.2")
    link(first / "usr/bin/tool", second / "usr/lib/host/libnear.so.1")
    return [first, second, third]


def test_an_archive_holds_the_program_and_what_it_is_linked_with(trees: list[Path]):
    data = guest_programs.archive("usr/bin/tool", trees)
    for name in (b"usr/bin/tool\0", b"lib/libnear.so.1\0", b"lib/libdeep.so.2\0"):
        assert name in data
    assert b"libstranger" not in data


def test_a_missing_library_is_named(trees: list[Path]):
    with pytest.raises(debian.AptError, match=r"library libdeep.so.2, for libnear.so.1"):
        guest_programs.archive("usr/bin/tool", trees[:2])
    with pytest.raises(debian.AptError, match="no package holds usr/bin/tool"):
        guest_programs.archive("usr/bin/tool", trees[1:])


def test_a_file_that_is_no_elf_is_named(tmp_path: Path):
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(debian.AptError, match="script is not an ELF file"):
        guest_programs.needed(tmp_path / "script")


@pytest.fixture
def packages(trees: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Packages of the trees instead of fetched ones; gives the list of fetches."""
    require("dpkg-deb")
    made = []
    for tree in trees:
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {tree.name}\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\n"
            "Description: x\n"
        )
        words = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(tree), str(tmp_path)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=240)
        made.append(tmp_path / f"{tree.name}_1.0_all.deb")
    calls: list[Path] = []

    def download(work: Path, report: Report) -> list[Path]:
        calls.append(work)
        return made

    monkeypatch.setattr(guest_programs, "_download", download)
    program = Program("usr/bin/tool", ("program", "library", "deeper"))
    monkeypatch.setattr(guest_programs, "PROGRAMS", {"tool": program})
    return calls


def test_a_folder_is_filled_once_and_again_when_harmed(tmp_path: Path, packages: list[Path]):
    folder = tmp_path / "guests"
    assert guest_programs.fetch(folder, silent) is True
    assert guest_programs.fetch(folder, silent) is False
    path = guest_programs.archive_path(folder, "tool")
    assert path.read_bytes().startswith(b"070701")
    path.write_bytes(b"")
    assert not guest_programs.is_complete(folder)
    assert guest_programs.fetch(folder, silent) is True
    assert 2 == len(packages)
    assert [] == list(folder.glob(".fetch-*"))


def test_no_mirror_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "mirrors", list)
    with pytest.raises(UserError, match="no Debian mirror is configured in /etc/apt"):
        guest_programs.fetch(tmp_path / "guests", silent)
