"""What the content store gives: boots of Debian's kernel with it empty, filled, and read from disk.

Each round: a translator with an empty store serves one machine, which boots and then sits at its
shell for a while, so that all it found hot is translated; then a second machine that boots the
same; a new translator, with what the first left on disk, serves a third. Seconds from a machine's
start to the shell, and the share of its regions that came from the store.

    python -m benchmarks.store [--rounds 3] [--settle 15] [--append "cryptomgr.notests"]

Needs the guests (`coldboot guests fetch`).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.boot import DEADLINE, MARK, machine_words

_COUNTS = re.compile(rb"^translator: (.*)$", re.M)


@contextmanager
def translator(folder: Path) -> Iterator[str]:
    """A translator that keeps in `folder` what it makes; where it listens."""
    with tempfile.TemporaryDirectory(prefix="coldboot-store-") as place:
        endpoint = f"ipc://{place}/translator"
        words = ["--endpoint", endpoint, "--cache", str(folder), "--log-level", "warning"]
        process = subprocess.Popen([sys.executable, "-m", "jit_proc", *words])
        try:
            deadline = time.monotonic() + DEADLINE
            while not Path(place, "translator").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the translator does not start")
                time.sleep(0.01)
            yield endpoint
        finally:
            process.terminate()
            process.wait()


def boot(words: list[str], endpoint: str) -> tuple[float, int, int]:
    """One machine: (seconds to the shell, regions published, of these from the store)."""
    command = [sys.executable, "-m", "cpu_proc", "run", "-stats", "-translator", endpoint, *words]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    seen, reached = b"", 0.0
    while data := os.read(process.stdout.fileno(), 65536):
        seen += data
        if not reached and MARK in seen:
            reached = time.perf_counter() - start
    found = _COUNTS.search(seen)
    if process.wait(DEADLINE) != 0 or not reached or found is None:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return reached, counted(found[1], "published"), counted(found[1], "from_store")


def counted(line: bytes, name: str) -> int:
    """A count in the line of --stats."""
    found = re.search(rf"\b{name} (\d+)".encode(), line)
    return int(found[1]) if found else 0


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--append", default="cryptomgr.notests", help="added to the command line")
    parser.add_argument("--guests", type=Path, default=cache / "coldboot" / "guests")
    parser.add_argument("--settle", type=int, default=15, help="seconds at the first's shell")
    options = parser.parse_args()
    words = machine_words(options.guests, options.append)
    lazy = machine_words(options.guests, options.append, f"sleep {options.settle}")
    rows: dict[str, list[tuple[float, int, int]]] = {}
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="coldboot-store-") as name:
            folder = Path(name)
            with translator(folder) as endpoint:
                rows.setdefault("first machine, store empty", []).append(boot(lazy, endpoint))
                rows.setdefault("second machine", []).append(boot(words, endpoint))
            with translator(folder) as endpoint:
                rows.setdefault("next day: from disk", []).append(boot(words, endpoint))
    print(f"{'':<30}{'to the shell':>14}{'min':>8}{'regions':>10}{'from the store':>16}")
    for title, runs in rows.items():
        times = [seconds for seconds, _, _ in runs]
        published, kept = (sum(run[i] for run in runs) for i in (1, 2))
        print(
            f"{title:<30}{statistics.median(times):>12.2f} s{min(times):>6.2f} s"
            f"{published / len(runs):>10.0f}{kept / max(published, 1):>15.0%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
