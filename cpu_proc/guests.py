"""``coldboot guests fetch``: unmodified guests from Debian, ready to run.

Problem: to boot something real one needs firmware, a kernel and a root filesystem for riscv64, and
they should be the ones that everybody runs, neither shipped with this program nor built by it.

What it leaves in the folder: ``Image`` (Debian 13's kernel), ``initramfs.cpio`` (busybox, see
`initramfs`), ``fw_dynamic.bin`` and ``fw_jump.bin`` (OpenSBI), ``u-boot.bin`` (for M-mode),
``edk2-code.fd`` and ``edk2-vars.fd`` (UEFI firmware, for two flash banks; the second is a template
to be copied), ``modules/*.ko`` (decompressed), ``busybox``, and ``manifest.json``, which says what
was fetched; then ``programs/*.cpio``, to be put behind the initramfs (see `guest_programs`).

Invariants:
- A folder whose manifest fits its files is complete: a second call does nothing. Files are made
  aside and moved in place, the manifest last, so an interrupted call leaves nothing that looks
  complete.
- Two calls at once on a folder: the second waits, then finds the work done.
- Nothing outside the folder is written.

Read next: `debian` (how apt is used), `initramfs`, `kernel_modules`, `guest_programs`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cpu_proc import debian, initramfs, kernel_modules
from protocol.errors import UserError

KERNEL = "linux-image-riscv64"
# OpenSBI and U-Boot are guest binaries in packages for all architectures. Debian 12's come first:
# the figures for real guests were measured with its OpenSBI 1.1; a mirror that has dropped Debian
# 12 gives Debian 13's.
FIRMWARE = ("opensbi", "u-boot-qemu")
EDK2 = "qemu-efi-riscv64"
GUEST_SUITE = debian.Suite("trixie", "riscv64", "stable")
FIRMWARE_SUITE = debian.Suite("bookworm", "amd64")

FIRMWARE_FILES = {
    "fw_dynamic.bin": "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin",
    "fw_jump.bin": "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin",
    "u-boot.bin": "usr/lib/u-boot/qemu-riscv64/u-boot.bin",
    "edk2-code.fd": "usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd",
    "edk2-vars.fd": "usr/share/qemu-efi-riscv64/RISCV_VIRT_VARS.fd",
}

# crc32c_generic stands before ext4, which asks for it by an alias that only depmod's tables
# resolve.
INITRAMFS_MODULES = ("virtio_mmio", "virtio_blk", "virtio_rng", "crc32c_generic", "ext4")
MORE_MODULES = ("virtio_net", "test_bpf", "test_static_keys", "efivarfs")

RECIPE = 1
"""Bumped when what is made of the packages changes, so that an older folder is fetched anew."""

SPACE_BYTES = 900 << 20
MANIFEST = "manifest.json"

Report = Callable[[str, float], None]
"""Told the step in progress, and how much of it is done in percent."""


def default_folder() -> Path:
    """``coldboot/guests`` in the user's cache folder (XDG Base Directory Specification)."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
    return base / "coldboot" / "guests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``coldboot guests``."""
    commands = parser.add_subparsers(dest="guests_command", metavar="COMMAND", required=True)
    fetch_parser = commands.add_parser(
        "fetch",
        help="fetch a Debian kernel, busybox, OpenSBI, U-Boot and edk2 for riscv64",
        description="Fetch a Debian kernel, busybox, OpenSBI, U-Boot, edk2, LuaJIT and stress-ng "
        "for riscv64 with this machine's apt, and make a small initramfs of them. What is already "
        "there is kept.",
    )
    fetch_parser.add_argument(
        "--dir",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where to leave the files (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """``coldboot guests fetch``: prints the files' paths; progress goes to stderr."""
    folder: Path = arguments.dir.expanduser().absolute()
    from cpu_proc import guest_programs

    with _reporting() as report:
        fetch(folder, report)
        guest_programs.fetch(folder, report)
    for name in sorted(_manifest(folder)["files"]):
        if "/" not in name:
            print(folder / name)
    for name in guest_programs.PROGRAMS:
        print(guest_programs.archive_path(folder, name))
    return 0


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds everything that `fetch` would leave there."""
    try:
        manifest = _manifest(folder)
        wanted = {*FIRMWARE_FILES, *(f"modules/{n}.ko" for n in INITRAMFS_MODULES + MORE_MODULES)}
        return bool(
            manifest["recipe"] == RECIPE
            and manifest["initramfs"] == initramfs.recipe()
            and wanted <= manifest["files"].keys()
            and all(
                (folder / name).stat().st_size == size for name, size in manifest["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def fetch(folder: Path, report: Report) -> bool:
    """Make `folder` complete. Returns whether there was anything to do.

    Raises `UserError` when this machine has no apt, no mirror answers, or the folder cannot be
    written.
    """
    return fill(folder, is_complete, _fetch_aside, report)


def fill(
    folder: Path,
    complete: Callable[[Path], bool],
    make: Callable[[Path, Path, Report], None],
    report: Report,
) -> bool:
    """Unless `folder` is complete, have `make(folder, work, report)` do it, one process at a time.

    `work` is a folder of its own beside the result, gone afterwards. Whether there was anything to
    do. Raises `UserError` as `fetch` does.
    """
    if complete(folder):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if complete(folder):
                return False
            _require_space(folder)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
                make(folder, Path(work), report)
    except debian.AptError as error:
        raise UserError(
            f"guests fetch: apt could not get riscv64 packages of {GUEST_SUITE.name}: {error}; "
            "look at the network and at /etc/apt, then run it again"
        ) from error
    except OSError as error:
        raise UserError(
            f"guests fetch: {error.filename or folder}: {error.strerror or error}; "
            "name another folder with --dir"
        ) from error
    return True


def _manifest(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _require_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < SPACE_BYTES:
        raise UserError(
            f"guests fetch: {folder} has {free >> 20} MiB free, {SPACE_BYTES >> 20} MiB are needed "
            "for a while: make room, or name another folder with --dir"
        )


def _fetch_aside(folder: Path, work: Path, report: Report) -> None:
    """Do everything in `work`, then move the results to `folder`."""
    for name in ("apt", "packages", "tree", "result/modules"):
        (work / name).mkdir(parents=True)
    packages = _download(work, report)
    tree, result = work / "tree", work / "result"
    versions = []
    for number, package in enumerate(packages):
        report("unpacking", 100.0 * number / len(packages))
        debian.unpack(package, tree)
        versions.append(debian.version(package))
    report("unpacking", 100.0)

    report("making the initramfs", 0.0)
    _place_kernel(tree, result / "Image")
    for name, path in FIRMWARE_FILES.items():
        _copy_sparsely(_single(tree, path), result / name)
    busybox = _single(tree, "**/bin/busybox").read_bytes()
    (result / "busybox").write_bytes(busybox)
    (result / "busybox").chmod(0o755)
    available = kernel_modules.find(tree)
    needed = kernel_modules.in_load_order(available, INITRAMFS_MODULES)
    (result / "initramfs.cpio").write_bytes(initramfs.build(busybox, needed))
    for module, data in kernel_modules.in_load_order(available, INITRAMFS_MODULES + MORE_MODULES):
        (result / "modules" / f"{module}.ko").write_bytes(data)

    files = sorted(path for path in result.rglob("*") if path.is_file())
    manifest = {
        "recipe": RECIPE,
        "initramfs": initramfs.recipe(),
        "packages": sorted(versions),
        "files": {str(path.relative_to(result)): path.stat().st_size for path in files},
    }
    (result / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "modules").mkdir(exist_ok=True)
    for made in [*files, result / MANIFEST]:
        made.replace(folder / made.relative_to(result))
    report("making the initramfs", 100.0)


def _download(work: Path, report: Report) -> list[Path]:
    """Fetch the packages from the first mirror that has them."""
    mirrors = debian.mirrors()
    if not mirrors:
        raise UserError(
            "guests fetch: no Debian mirror is configured in /etc/apt, and the guests are Debian's "
            "packages: fetch them on a Debian machine and copy the folder"
        )
    apt = debian.PrivateApt(work / "apt", GUEST_SUITE.architecture)
    complaint: debian.AptError | None = None
    for mirror in mirrors[:3]:
        for suites in ((GUEST_SUITE, FIRMWARE_SUITE), (GUEST_SUITE,)):
            try:
                apt.update(mirror, suites, lambda done: report("reading package lists", done))
            except debian.AptError as error:
                complaint = complaint or error
                continue
            report("reading package lists", 100.0)
            suffix = f"/{FIRMWARE_SUITE.name}" if FIRMWARE_SUITE in suites else ""
            # The metapackage's dependencies would pull some forty packages: only its one kernel is
            # wanted.
            kernels = [name for name in apt.depends(KERNEL) if name.startswith("linux-image-")]
            if len(kernels) != 1:
                raise debian.AptError(
                    f"{KERNEL} depends on {kernels or 'nothing'}, not on one kernel"
                )
            names = [kernels[0], "busybox-static", EDK2, *(name + suffix for name in FIRMWARE)]
            packages = apt.download(
                names, work / "packages", lambda done: report("downloading packages", done)
            )
            report("downloading packages", 100.0)
            return packages
    assert complaint is not None
    raise complaint


def _copy_sparsely(source: Path, target: Path) -> None:
    """Copy a file without the zeros at its end, which take no room: flash is mostly that."""
    data = source.read_bytes()
    with open(target, "wb") as file:
        file.write(data.rstrip(b"\0"))
        file.truncate(len(data))


def _single(tree: Path, pattern: str) -> Path:
    """The one file that fits; packages that are laid out otherwise are an error that names it."""
    paths = [path for path in tree.glob(pattern) if path.is_file()]
    if len(paths) != 1:
        raise debian.AptError(f"the packages hold {len(paths)} files {pattern}, one was expected")
    return paths[0]


def _place_kernel(tree: Path, target: Path) -> None:
    """Copy the kernel, which must be a raw Image.

    Source: Linux, Documentation/arch/riscv/boot-image-header.rst.
    """
    kernel = _single(tree, "boot/vmlinu[xz]-*")
    with open(kernel, "rb") as file:
        if file.read(0x38)[0x30:0x35] != b"RISCV":
            raise debian.AptError(f"{kernel.name} is not a raw riscv64 Image")
    shutil.copyfile(kernel, target)


@contextlib.contextmanager
def _reporting() -> Iterator[Report]:
    """Progress for people: bars on a terminal, else one plain line a step, both on stderr."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def report(step: str, done: float) -> None:
            if step not in begun:
                begun.add(step)
                print(f"guests: {step}", file=sys.stderr, flush=True)

        yield report
        return

    # Imported here: an up-to-date folder should be found so without paying for it.
    bars: Any = None
    tasks: dict[str, Any] = {}

    def report_bar(step: str, done: float) -> None:
        nonlocal bars
        if bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed

            columns = (TextColumn("{task.description:<22}"), BarColumn(), TaskProgressColumn())
            bars = Progress(*columns, Elapsed(), console=Console(stderr=True))
            bars.start()
        if step not in tasks:
            tasks[step] = bars.add_task(step, total=100.0)
        bars.update(tasks[step], completed=done)

    try:
        yield report_bar
    finally:
        if bars is not None:
            bars.stop()
