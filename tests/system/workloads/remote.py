"""Debian's kernel on code that another host makes, over a line that delays and loses:

    python -m tests.system.workloads remote --delay 20 --loss 1 --rounds 3

Each round boots in turn on tier 0 alone, on a local translator, and on a remote one with and
without `else=llvm`, all from empty stores; then `sha256sum` runs over 4 MB again and again. Told
are the medians of the seconds until the shell, of the first sums' and of the last sums', of the
machine's CPU seconds (those of its translator aside), and the regions published. Every sum must be
the same.

It takes root (`tests/system/far_host.py`).

Read next: docs/remote.md.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from cpu_proc.guests import default_folder
from protocol import keys
from protocol.transport import new_pair
from tests.system import runner
from tests.system.far_host import FarHost, Unavailable

PORT = 7714
COLUMNS = ("shell", "first sums", "last sums", "whole", "CPU", "published")


def measure(words: list[str | Path], folder: Path, sums: int) -> tuple[set[str], dict[str, float]]:
    """One boot: the sums that came, and its figures."""
    begin = time.monotonic()
    # Where the kernel puts a program decides which lookups its pages share: alike in all.
    guest = runner.linux(default_folder(), *words, append="norandmaps")
    with runner.Machine([*guest, "-stats"], folder) as machine:
        machine.expect(runner.PROMPT, 600)
        shell = time.monotonic() - begin
        came, took = set(), []
        for _ in range(sums):
            start = time.monotonic()
            came.add(machine.command("head -c 4000000 /dev/zero | sha256sum", seconds=600))
            took.append(time.monotonic() - start)
        whole = time.monotonic() - begin
        fields = Path(f"/proc/{machine.pid}/stat").read_text().rpartition(") ")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        machine.send("poweroff -f\r")
        machine.wait(600)
        published = re.search(r"published (\d+)", machine.errors)
    few = max(1, sums // 5)
    figures = (
        shell,
        statistics.mean(took[:few]),
        statistics.mean(took[-few:]),
        whole,
        cpu,
        float(published[1]) if published else 0.0,
    )
    return came, dict(zip(COLUMNS, figures, strict=True))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.workloads remote")
    parser.add_argument("--delay", type=float, default=20.0, help="ms each way (default 20)")
    parser.add_argument("--loss", type=float, default=1.0, help="percent each way (default 1)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sums", type=int, default=20, help="in each run (default 20)")
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="coldboot-remote-"))
    sides = Path(runner.socket_folder())
    here, far = (keys.make(sides / name, new_pair) for name in ("here", "far"))
    keys.authorize(here, far.folder / keys.PUBLIC, "far")
    keys.authorize(far, here.folder / keys.PUBLIC, "here")
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    sums: set[str] = set()
    try:
        with FarHost(delay=options.delay / 1000, loss=options.loss / 100) as host:
            backend = f"remote,host={host.address},port={PORT},keys={here.folder}"
            kinds: dict[str, list[str | Path]] = {
                "tier 0": ["-translator", "none"],
                "local": ["-cold"],
                "remote": ["-cold", "-backend", backend],
                "remote, else=llvm": ["-cold", "-backend", f"{backend},else=llvm"],
            }
            listen: list[str | Path] = [
                *("--listen", f"tcp://{host.address}:{PORT}", "--keys", far.folder),
                *("--store", "off", "--workers", "1"),
            ]
            for _ in range(options.rounds):
                for kind, words in kinds.items():
                    with runner.Translator(folder, *listen, prefix=host.prefix):
                        came, figures = measure(words, folder, options.sums)
                    sums |= came
                    for name, value in figures.items():
                        found[kind][name].append(value)
                    print(kind, {name: round(value, 2) for name, value in figures.items()})
    except Unavailable as error:
        print(f"not on this machine: {error}", file=sys.stderr)
        return 2
    print(f"\n{options.delay:g} ms and {options.loss:g} % each way, medians of {options.rounds}:")
    print(f"{'':<20}" + "".join(f"{name:>12}" for name in COLUMNS))
    for kind, values in found.items():
        print(
            f"{kind:<20}" + "".join(f"{statistics.median(values[name]):>12.2f}" for name in COLUMNS)
        )
    print("all sums alike" if len(sums) == 1 else f"DIFFERENT SUMS: {sums}")
    return int(len(sums) != 1)


if __name__ == "__main__":
    sys.exit(main())
