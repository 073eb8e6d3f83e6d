"""Programs for Debian's kernel to run: a JIT and a stress tool, each with the libraries it needs.

Problem: a translator is hurt by guests that write code, and the sharpest of them are programs that
people really use: LuaJIT compiles at run time, stress-ng has tests made of self-modification. They
are dynamically linked, and a package's dependencies reach far beyond what the linker needs (a
graphics stack of several hundred megabytes, for stress-ng).

How: a fixed list of packages each, of which only the program and the closure of its ``NEEDED``
libraries is kept. Each becomes a cpio archive, to be put behind ``initramfs.cpio``: Linux unpacks
concatenated archives in order.

Invariants: those of `guests` (complete or not, by a manifest written last); an archive holds every
library its program is linked with, the dynamic linker included, or making it fails by name.

Source: System V ABI, chapter 5 (``DT_NEEDED``). Read next: `guests`, `cpio`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cpu_proc import cpio, debian
from cpu_proc.guests import GUEST_SUITE, MANIFEST, Report, fill
from protocol.errors import UserError

RECIPE = 1
"""Bumped when what is fetched changes, so that a folder of an older version is fetched anew."""


@dataclass(frozen=True)
class Program:
    """A program: its path in its package, and the packages that it and its libraries come from."""

    path: str
    packages: tuple[str, ...]


PROGRAMS: Mapping[str, Program] = {
    "luajit": Program("usr/bin/luajit", ("luajit", "libc6", "libgcc-s1")),
    "stress-ng": Program(
        "usr/bin/stress-ng",
        (
            *("stress-ng", "libacl1", "libapparmor1", "libbsd0", "libc6", "libcrypt1", "libdrm2"),
            *("libegl1", "libexpat1", "libgbm1", "libgcc-s1", "libgles2", "libglvnd0", "libgmp10"),
            *("libjpeg62-turbo", "libjudydebian1", "libkmod2", "liblzma5", "libmd0", "libmpfr6"),
            *("libsctp1", "libssl3t64", "libstdc++6", "libxxhash0", "libzstd1", "zlib1g"),
        ),
    ),
}


def archive_path(folder: Path, name: str) -> Path:
    """Where the archive of a program lies, in the folder of the guests."""
    return folder / "programs" / f"{name}.cpio"


def is_complete(folder: Path) -> bool:
    """Whether `folder`, that of the guests, holds an archive of every program."""
    programs = folder / "programs"
    try:
        manifest = json.loads((programs / MANIFEST).read_text(encoding="utf-8"))
        return bool(
            manifest["recipe"] == RECIPE
            and set(manifest["files"]) == {f"{name}.cpio" for name in PROGRAMS}
            and all((programs / n).stat().st_size == s for n, s in manifest["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def fetch(folder: Path, report: Report) -> bool:
    """Make `folder`, that of the guests, complete with programs. Whether there was anything to do.

    Raises `UserError` as `guests.fetch` does.
    """
    return fill(folder, is_complete, _fetch_aside, report)


def _fetch_aside(folder: Path, work: Path, report: Report) -> None:
    for name in ("apt", "packages", "result"):
        (work / name).mkdir()
    files = {}
    for package in _download(work, report):
        tree = work / "trees" / debian.version(package).partition(" ")[0]
        tree.mkdir(parents=True)
        debian.unpack(package, tree)
        files[tree.name] = tree
    report("making the programs' archives", 0.0)
    for name, program in PROGRAMS.items():
        trees = [files[package] for package in program.packages if package in files]
        (work / "result" / f"{name}.cpio").write_bytes(archive(program.path, trees))
    made = sorted((work / "result").glob("*.cpio"))
    manifest = {"recipe": RECIPE, "files": {path.name: path.stat().st_size for path in made}}
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / MANIFEST).unlink(missing_ok=True)
    for path in made:
        path.replace(programs / path.name)
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (work / MANIFEST).replace(programs / MANIFEST)
    report("making the programs' archives", 100.0)


def _download(work: Path, report: Report) -> list[Path]:
    """Fetch the packages from the first mirror that has them."""
    mirrors = debian.mirrors()
    if not mirrors:
        raise UserError(
            "guests fetch: no Debian mirror is configured in /etc/apt, and the programs are "
            "Debian's packages: fetch them on a Debian machine and copy the folder"
        )
    apt = debian.PrivateApt(work / "apt", GUEST_SUITE.architecture)
    names = sorted({name for program in PROGRAMS.values() for name in program.packages})
    complaint: debian.AptError | None = None
    for mirror in mirrors[:3]:
        try:
            apt.update(mirror, (GUEST_SUITE,), lambda done: report("reading package lists", done))
            return apt.download(
                names, work / "packages", lambda done: report("downloading programs", done)
            )
        except debian.AptError as error:
            complaint = complaint or error
    assert complaint is not None
    raise complaint


def archive(program: str, trees: Iterable[Path]) -> bytes:
    """The cpio archive of a program at a path in one of the unpacked packages, with its libraries.

    Raises `AptError` when the program or a library is in none of them.
    """
    trees = list(trees)
    found = [tree / program for tree in trees if (tree / program).is_file()]
    if not found:
        raise debian.AptError(f"no package holds {program}")
    libraries: dict[str, Path] = {}
    for tree in trees:
        for path in sorted(tree.rglob("*.so*")):
            if path.is_file():
                libraries.setdefault(path.name, path)
    order: dict[str, Path] = {}

    def visit(path: Path) -> None:
        for name in needed(path):
            if name in order:
                continue
            if name not in libraries:
                raise debian.AptError(f"no package holds the library {name}, for {path.name}")
            order[name] = libraries[name]
            visit(libraries[name])

    visit(found[0])
    return cpio.archive(
        [
            cpio.file(program, found[0].read_bytes(), 0o755),
            *(cpio.file(f"lib/{name}", order[name].read_bytes(), 0o755) for name in sorted(order)),
        ]
    )


def needed(path: Path) -> list[str]:
    """The libraries an ELF file asks the dynamic linker for. Raises `AptError` for other files."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    try:
        with path.open("rb") as file:
            section = ELFFile(file).get_section_by_name(".dynamic")
            if not isinstance(section, DynamicSection):
                return []
            tags = section.iter_tags("DT_NEEDED")
            return [str(tag.needed) for tag in tags]  # type: ignore[attr-defined]
    except ELFError as error:
        raise debian.AptError(f"{path.name} is not an ELF file: {error}") from error
