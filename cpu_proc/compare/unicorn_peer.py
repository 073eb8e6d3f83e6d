"""Unicorn: QEMU's CPU as a library, to which its user adds the machine.

The problem: Unicorn has no devices and one hart, and much of what retires code is its user's duty.
So the scenarios run under such a user, `unicorn_guest.py`, in a process of its own, that keeps to
Unicorn's documentation: the guest's own stores are Unicorn's business; what the host writes into
memory is followed by `ctl_remove_cache`. What it cannot offer is `not possible`.

Read next: `unicorn_guest.py`, docs/compare.md.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

from cpu_proc.compare.peer import IMPOSSIBLE, Cell, Dialogue, Guest, Impossible, Peer, end, reader

MARK = "not-possible"
DEVICES = ("pflash", "disk", "boot-remap", "icount")


class Unicorn(Peer):
    """The package `unicorn`, if it is installed."""

    name = "unicorn"

    def missing(self) -> str:
        """Whether the package is there."""
        if util.find_spec("unicorn") is None:
            return "the package unicorn is not installed: pip install 'coldboot[peers]'"
        return ""

    def version(self) -> str:
        """As installed."""
        return f"Unicorn {metadata.version('unicorn')}"

    def run(self, guest: Guest) -> Cell:
        """Run the guest in a child process, which also does what the guest asks for."""
        if guest.harts > 1:
            return Cell(IMPOSSIBLE, f"one hart, not {guest.harts}")
        if lacking := guest.needs(*DEVICES):
            return Cell(IMPOSSIBLE, f"no such device: {', '.join(lacking)}")
        program = guest.program()
        image = guest.folder / "program.bin"
        image.write_bytes(program.data)
        task = {
            "image": str(image),
            "symbols": program.symbols,
            "ram": (6 << 30) if guest.needs("bigram") else (64 << 20),
        }
        errors = guest.folder / "unicorn.log"
        root = Path(__file__).resolve().parents[2]
        with errors.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cpu_proc.compare.unicorn_guest"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=root,
            )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it ended at once: its log says why
                process.stdin.write(json.dumps(task).encode())
                process.stdin.close()
            cell = _Dialogue(guest, reader(process.stdout.fileno()), lambda data: None).go()
            status = None if cell.kind == "late" else process.wait()
        finally:
            end(process)
            process.stdout.close()
        if cell.kind == "ended" and status:
            said = errors.read_text(errors="replace").strip().splitlines()
            return Cell("crashed", said[-1] if said else f"status {status}")
        return cell


class _Dialogue(Dialogue):
    """The child answers for itself; only what it cannot do comes here."""

    def _hear(self, line: str) -> None:
        if line.startswith(MARK):
            raise Impossible(line.removeprefix(MARK).strip())
        if not line.startswith("!"):
            super()._hear(line)
