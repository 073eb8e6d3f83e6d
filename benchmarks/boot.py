"""How long Debian's kernel takes from process start to the shell, beside QEMU on the same machine.

Each round boots every way once, one after the other, so that a machine that gets slower or faster
meanwhile treats all alike: QEMU, coldboot with an empty store (tier 0's engine is there: it is made
once for a toolchain), and coldboot with the store that earlier boots left, whose guests rested for
`--rest` seconds at their shells, as guests do: meanwhile the translator makes what it was asked
for. With the kernel's default command line and with `cryptomgr.notests`. Printed are medians and,
last, the ratio to QEMU of the same round, its median; nothing is asserted. "Start" is the time
until the first guest instruction: a run that stops right after it.

    python -m benchmarks.boot [--rounds 5] [--append TEXT] [--fill 3] [--rest 5]
        [--tier0] [--guests DIR]

Needs the guests (`coldboot guests fetch`) and `qemu-system-riscv64`.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MARK = b"BOOT-OK"
DEADLINE = 120.0  # seconds for one boot


def machine_words(guests: Path, append: str, then: str = "true") -> list[str]:
    """The options that QEMU and coldboot share. `then`: a command for the shell."""
    return [
        *("-m", "512M", "-no-reboot", "-nographic"),
        *("-bios", str(guests / "fw_dynamic.bin")),
        *("-kernel", str(guests / "Image")),
        *("-initrd", str(guests / "initramfs.cpio")),
        *("-append", f'console=ttyS0 panic=-1 quiet {append} run="{then}"'),
    ]


def boot(command: Sequence[str], store: Path | None = None) -> tuple[float, float]:
    """Run one boot: (seconds to the shell, CPU seconds of the whole run with its children)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(store)
    )
    assert process.stdout is not None
    seen, reached = b"", None
    while time.perf_counter() - start < DEADLINE:
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            break
        seen = (seen + data)[-65536:]
        if reached is None and MARK in seen:
            reached = time.perf_counter() - start
    code = process.wait(DEADLINE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if reached is None or code != 0:
        raise SystemExit(f"{command[0]} ended with status {code} and no {MARK.decode()}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return reached, cpu


def environment(store: Path | None) -> dict[str, str] | None:
    """Ours, but for where engines and translations are kept."""
    return None if store is None else {**os.environ, "XDG_CACHE_HOME": str(store)}


def empty_store(folder: Path) -> Path:
    """A new store in `folder`, with nothing but the engine, which is made if it is missing."""
    command = [sys.executable, "-m", "jit_proc", "--build-engine"]
    engine = subprocess.check_output(command, text=True).strip()
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "coldboot").mkdir()
    shutil.copy2(engine, place / "coldboot")
    return place


def first_instruction(words: list[str]) -> float:
    """Seconds of a whole coldboot process that stops after its first run of instructions."""
    command = [sys.executable, "-m", "cpu_proc", "run", "--translator", "none", *words]
    start = time.perf_counter()
    subprocess.run([*command, "--max-instructions", "1", "-serial", "null"], check=True)
    return time.perf_counter() - start


Runs = Mapping[str, Sequence[tuple[float, float]]]


def measure(qemu: str, append: str, options: argparse.Namespace) -> Runs:
    """All rounds: seconds to the shell and CPU seconds, by way."""
    coldboot = [sys.executable, "-m", "cpu_proc", "run"]
    words = machine_words(options.guests, append)
    filling = machine_words(options.guests, append, f"sleep {options.rest}")
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="coldboot-boot-") as name:
        folder = Path(name)
        filled = empty_store(folder)
        for _ in range(options.fill):
            boot([*coldboot, *filling], filled)
        boot([qemu, "-machine", "virt", *words])
        for _ in range(options.rounds):
            new = empty_store(folder)
            ways: dict[str, tuple[list[str], Path | None]] = {
                "QEMU": ([qemu, "-machine", "virt"], None),
                "store empty": (coldboot, new),
                "store filled": (coldboot, filled),
            }
            if options.tier0:
                ways["tier 0 alone"] = ([*coldboot, "--translator", "none"], new)
            for way, (command, store) in ways.items():
                results.setdefault(way, []).append(boot([*command, *words], store))
            shutil.rmtree(new)
    return results


def ratios(results: Runs) -> dict[str, float]:
    """Wall time as a multiple of QEMU's in the same round, median over rounds."""
    return {
        way: statistics.median(
            wall / base for (wall, _), (base, _) in zip(runs, results["QEMU"], strict=True)
        )
        for way, runs in results.items()
    }


def table(results: Runs) -> list[str]:
    """One line for each way."""
    lines = [f"{'':<16}{'wall median':>12}{'min':>8}{'max':>8}{'CPU median':>12}{'/ QEMU':>9}"]
    found = ratios(results)
    for way, runs in results.items():
        walls = [wall for wall, _ in runs]
        lines.append(
            f"{way:<16}{statistics.median(walls):>11.2f}s{min(walls):>7.2f}s{max(walls):>7.2f}s"
            f"{statistics.median(cpu for _, cpu in runs):>11.2f}s{found[way]:>8.2f}x"
        )
    return lines


def main() -> int:
    """Print the tables, then the ratios alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--append", action="append", help="added to the command line (default: each of both)"
    )
    parser.add_argument("--fill", type=int, default=3, help="boots that fill the store (default 3)")
    parser.add_argument("--rest", type=int, default=5, help="seconds they rest (default 5)")
    parser.add_argument("--tier0", action="store_true", help="boot without a translator, too")
    parser.add_argument("--guests", type=Path, default=cache / "coldboot" / "guests")
    options = parser.parse_args()
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        raise SystemExit("qemu-system-riscv64 is not installed (Debian: qemu-system-misc)")
    if options.rounds < 1:
        raise SystemExit("--rounds: at least 1")
    version = re.search(r"version (\S+)", subprocess.check_output([qemu, "--version"], text=True))
    summary = []
    for append in options.append or ("", "cryptomgr.notests"):
        results = measure(qemu, append, options)
        title = append or "default command line"
        print(f"\n{title}, QEMU {version[1] if version else '?'}")
        print("\n".join(table(results)), flush=True)
        found = ratios(results)
        summary += [f"{title}, {w}: {found[w]:.2f}x QEMU's wall time" for w in found if w != "QEMU"]
    words = machine_words(options.guests, "")
    starts = [first_instruction(words) for _ in range(options.rounds + 1)][1:]
    print("\n" + "\n".join(summary))
    print(
        f"process start, first instruction, exit: median {statistics.median(starts) * 1e3:.0f} ms "
        f"({min(starts) * 1e3:.0f} to {max(starts) * 1e3:.0f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
