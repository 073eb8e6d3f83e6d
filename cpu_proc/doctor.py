"""``coldboot doctor``: what this machine lacks, before something fails for want of it.

Problem: the services need a processor, a kernel and packages with certain abilities; without one
of them they end in the middle of something else. Here each is tried by itself, and what is missing
is said with what to do.

Invariants: nothing is changed on the machine. A check tries the thing itself where that is cheap
(a sealed memfd is made and mapped), not a version number that stands for it. Only what a machine
cannot run without makes the exit status 1; the rest is told as a warning. LLVM is looked up, never
imported.

Read next: `guests` for what is fetched with apt.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import importlib.util
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cpu_proc import debian, guests, loader

State = Literal["ok", "warning", "missing"]

PYTHON = (3, 11)
MEMORY_BYTES = 1 << 30
"""A guest of 512 MiB and a translator fit in this."""

# From linux/fcntl.h; the module fcntl of Python 3.11 does not name the last.
F_SEAL_FUTURE_WRITE = 0x10

# Names in /proc/cpuinfo. Without the first, exactly rounded guest floating point is out of reach:
# fused multiply-add has no substitute that is one instruction long.
CPU_NEEDED = ("sse2", "fma")
CPU_USEFUL = ("avx2", "bmi1", "bmi2", "lzcnt", "popcnt")
CPU_ALIASES = {"lzcnt": "abm"}

PACKAGES = {
    "zmq": "pyzmq",
    "msgpack": "msgpack",
    "llvmlite": "llvmlite",
    "structlog": "structlog",
    "elftools": "pyelftools",
    "rich": "rich",
}
"""Modules that are imported, and the distributions that bring them."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `advice` is empty when all is well."""

    subject: str
    state: State
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``coldboot doctor`` takes no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """``coldboot doctor``: prints the table; 1 when something needed is missing, else 0."""
    return main()


def main() -> int:
    """Look at this machine and print what was found. Returns the exit status."""
    findings = examine()
    _print_table(findings)
    return 1 if any(finding.state == "missing" for finding in findings) else 0


def examine() -> list[Finding]:
    """All findings about this machine, in the order in which they are shown."""
    checks: tuple[Callable[[], Iterable[Finding]], ...] = (
        _check_host,
        _check_cpu,
        _check_seals,
        _check_packages,
        _check_memory,
        _check_guests,
        _check_peer,
    )
    return [finding for check in checks for finding in check()]


def _check_host() -> Iterable[Finding]:
    host = os.uname()
    right = host.sysname == "Linux" and host.machine == "x86_64"
    advice = "" if right else "the translator makes code for x86-64 Linux: use such a machine"
    yield Finding("host", "ok" if right else "missing", f"{host.sysname} {host.machine}", advice)
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= PYTHON:
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "missing", version, "install Python 3.11 or later")


def cpu_features(cpuinfo: str) -> frozenset[str]:
    """The features that every processor in the text of /proc/cpuinfo has, by the kernel's names."""
    lines = [line.partition(":")[2] for line in cpuinfo.splitlines() if line.startswith("flags")]
    return frozenset.intersection(*(frozenset(line.split()) for line in lines or [""]))


def _check_cpu() -> Iterable[Finding]:
    try:
        features = cpu_features(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError as error:
        advice = "mount /proc"
        yield Finding("processor", "missing", f"/proc/cpuinfo: {error.strerror}", advice)
        return
    yield judge_cpu(features)


def judge_cpu(features: frozenset[str]) -> Finding:
    """What a processor with these features is good for."""

    def lacking(names: Iterable[str]) -> list[str]:
        return [name for name in names if CPU_ALIASES.get(name, name) not in features]

    needed, useful = lacking(CPU_NEEDED), lacking(CPU_USEFUL)
    if needed:
        advice = "guest floating point needs them: use another machine, or pass the host's CPU on"
        return Finding("processor", "missing", f"no {', '.join(needed)}", advice)
    if useful:
        return Finding("processor", "warning", f"no {', '.join(useful)}", "guests run slower")
    return Finding("processor", "ok", ", ".join(CPU_NEEDED + CPU_USEFUL))


def _check_seals() -> Iterable[Finding]:
    """Make a segment as the services share them, and see that a reader cannot write it."""
    subject = "sealed memory"
    advice = (
        "Linux 5.1 or later, vm.memfd_noexec=0, and no seccomp filter on memfd_create are needed"
    )
    try:
        descriptor = os.memfd_create("coldboot-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        yield Finding(subject, "missing", f"memfd_create: {error.strerror}", advice)
        return
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE):  # the writer's own map comes before the seal
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            executable = mmap.PROT_READ | mmap.PROT_EXEC
            mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, executable).close()
            try:
                mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_WRITE).close()
            except PermissionError:
                yield Finding(subject, "ok", "a reader may execute, not write")
            else:
                yield Finding(subject, "missing", "a sealed segment could be written", advice)
    except OSError as error:
        yield Finding(subject, "missing", f"{error.strerror}", advice)
    finally:
        os.close(descriptor)


def _check_packages() -> Iterable[Finding]:
    for module, distribution in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            advice = f"install it: python -m pip install {distribution}"
            yield Finding(distribution, "missing", f"no module {module}", advice)
        else:
            yield Finding(distribution, "ok", _version(distribution))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def _check_memory() -> Iterable[Finding]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        yield Finding("memory", "warning", "unknown", "mount /proc")
        return
    available = int(line.split()[1]) << 10
    found = f"{available >> 20} MiB available"
    if available < MEMORY_BYTES:
        advice = "give guests less memory than the default 512 MiB"
        yield Finding("memory", "warning", found, advice)
    else:
        yield Finding("memory", "ok", found)


def _check_guests() -> Iterable[Finding]:
    folder = guests.default_folder()
    if guests.is_complete(folder):
        yield Finding("guests", "ok", str(folder))
    else:
        advice = "run: coldboot guests fetch"
        yield Finding("guests", "warning", f"not in {folder}", advice)
    firmware = loader.default_firmware()
    if firmware:
        yield Finding("firmware", "ok", firmware)
    else:
        advice = "for -bios default run: coldboot guests fetch, or install the package opensbi"
        yield Finding("firmware", "warning", "no OpenSBI", advice)
    programs = [name for name in debian.PROGRAMS if shutil.which(name) is None]
    if programs:
        advice = "fetch the guests on a Debian machine and copy the folder"
        yield Finding("apt", "warning", f"no {', '.join(programs)}", advice)
    elif not debian.mirrors():
        advice = "guests cannot be fetched: /etc/apt names no Debian mirror"
        yield Finding("apt", "warning", "no mirror", advice)
    elif not debian.KEYRING.exists():
        advice = "install the package debian-archive-keyring"
        yield Finding("apt", "warning", f"no {debian.KEYRING}", advice)
    else:
        yield Finding("apt", "ok", "a Debian mirror and its keyring")


def _check_peer() -> Iterable[Finding]:
    path = shutil.which("qemu-system-riscv64")
    if path is None:
        advice = "only for comparisons and tests: install the package qemu-system-misc"
        yield Finding("QEMU", "warning", "no qemu-system-riscv64", advice)
    else:
        yield Finding("QEMU", "ok", path)


def _print_table(findings: Iterable[Finding]) -> None:
    if importlib.util.find_spec("rich") is None:  # one of the things that may be missing
        for finding in findings:
            print(f"{finding.subject}: {finding.state}: {finding.found} {finding.advice}".rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    styles = {"ok": "green", "warning": "yellow", "missing": "bold red"}
    table = Table(box=box.SIMPLE)
    for heading in ("", "state", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        style = styles[finding.state]
        row = (finding.subject, f"[{style}]{finding.state}[/]")
        table.add_row(*row, escape(finding.found), escape(finding.advice))
    Console().print(table)
