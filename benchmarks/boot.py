"""How long Debian's kernel takes from process start to the shell, beside QEMU on the same machine.

Each round runs every contender once, one after the other, so that a machine that gets slower or
faster meanwhile treats all alike; medians and the ratio of each pair are printed, and nothing is
asserted. "Start" is the time until the first guest instruction: a run that stops right after it.

    python benchmarks/boot.py [--rounds 5] [--append "cryptomgr.notests"] [--guests DIR]

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
import time
from collections.abc import Sequence
from pathlib import Path

MARK = b"BOOT-OK"
DEADLINE = 120.0  # seconds for one boot


def machine_words(guests: Path, append: str) -> list[str]:
    """The options that QEMU and coldboot share."""
    return [
        *("-m", "512M", "-no-reboot", "-nographic"),
        *("-bios", str(guests / "fw_dynamic.bin")),
        *("-kernel", str(guests / "Image")),
        *("-initrd", str(guests / "initramfs.cpio")),
        *("-append", f'console=ttyS0 panic=-1 quiet {append} run="true"'),
    ]


def boot(command: Sequence[str]) -> tuple[float, float]:
    """Run one boot: (seconds to the shell, CPU seconds of the whole run with its children)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
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


def first_instruction(words: list[str]) -> float:
    """Seconds of a whole coldboot process that stops after its first run of instructions."""
    command = [sys.executable, "-m", "cpu_proc", "run", "--translator", "none", *words]
    start = time.perf_counter()
    subprocess.run([*command, "--max-instructions", "1", "-serial", "null"], check=True)
    return time.perf_counter() - start


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--append", default="cryptomgr.notests", help="added to the command line")
    parser.add_argument("--guests", type=Path, default=cache / "coldboot" / "guests")
    options = parser.parse_args()
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        raise SystemExit("qemu-system-riscv64 is not installed (Debian: qemu-system-misc)")
    words = machine_words(options.guests, options.append)
    coldboot = [sys.executable, "-m", "cpu_proc", "run"]
    contenders = {
        "qemu": [qemu, "-machine", "virt", *words],
        "coldboot": [*coldboot, *words],
        "coldboot, tier 0 alone": [*coldboot, "--translator", "none", *words],
    }
    starts = [first_instruction(words) for _ in range(options.rounds + 1)][1:]
    for command in contenders.values():
        boot(command)  # warm: caches of files and engine
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, command in contenders.items():
            results[name].append(boot(command))
    version = re.search(r"version (\S+)", subprocess.check_output([qemu, "--version"], text=True))
    print(
        f"QEMU {version[1] if version else '?'}, kernel command line: {options.append or 'default'}"
    )
    print(f"{'':<24}{'wall median':>12}{'min':>8}{'max':>8}{'CPU median':>12}{'wall / qemu':>13}")
    for name, runs in results.items():
        walls = [wall for wall, _ in runs]
        pairs = [wall / base for (wall, _), (base, _) in zip(runs, results["qemu"], strict=True)]
        print(
            f"{name:<24}{statistics.median(walls):>11.2f}s{min(walls):>7.2f}s{max(walls):>7.2f}s"
            f"{statistics.median(cpu for _, cpu in runs):>11.2f}s{statistics.median(pairs):>12.2f}x"
        )
    print(
        f"process start, first instruction, exit: median {statistics.median(starts) * 1e3:.0f} ms "
        f"({min(starts) * 1e3:.0f} to {max(starts) * 1e3:.0f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
