"""Kernel modules out of a Debian kernel package: found, decompressed, in order of loading.

Problem: a module that is loaded before what it depends on is refused, and the table of
dependencies is made by depmod when a kernel is installed, so a package does not hold one. Each
module names its own dependencies, though.

Invariants: names are the kernel's own (underscores for hyphens, as in /sys/module); in a load
order everything stands after what it depends on, once.

Source: Linux, Documentation/kbuild/modules.rst (the ``.modinfo`` section). Read next: `guests`,
the one user.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Iterable, Mapping
from pathlib import Path

from cpu_proc.debian import AptError


def find(tree: Path) -> dict[str, Path]:
    """All modules below `tree`, compressed or not, by name."""
    paths = (path for path in tree.rglob("*.ko*") if path.suffix in (".ko", ".xz"))
    return {path.name.partition(".ko")[0].replace("-", "_"): path for path in paths}


def in_load_order(available: Mapping[str, Path], wanted: Iterable[str]) -> list[tuple[str, bytes]]:
    """The wanted modules and all they depend on, as name and decompressed content.

    Raises `AptError` when the package does not hold one.
    """
    order: dict[str, bytes] = {}

    def visit(name: str, asked_by: str) -> None:
        if name in order:
            return
        if name not in available:
            raise AptError(f"the kernel package has no module {name}, which {asked_by} needs")
        path = available[name]
        content = path.read_bytes()
        data = lzma.decompress(content) if path.suffix == ".xz" else content
        for dependency in dependencies(data):
            visit(dependency, name)
        order[name] = data

    for name in wanted:
        visit(name, "the initramfs")
    return list(order.items())


def dependencies(module: bytes) -> list[str]:
    """What ``depends=`` in a module's ``.modinfo`` names. Raises `AptError` for other files."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(module)).get_section_by_name(".modinfo")
    except ELFError as error:
        raise AptError(f"a kernel module is not an ELF file: {error}") from error
    if section is None:
        raise AptError("a kernel module says nothing of itself: it has no section .modinfo")
    for line in section.data().split(b"\0"):
        if line.startswith(b"depends="):
            names = line.removeprefix(b"depends=").decode().split(",")
            return [name.replace("-", "_") for name in names if name]
    return []
