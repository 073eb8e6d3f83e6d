"""Who is compared: this project, QEMU, Unicorn, the host itself.

The problem: all are to run the same image, on the same amount of memory, without firmware.

Invariants: a contender is a command and nothing else; it may know a program's image, not its name.

Read next: `suite.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path

from protocol.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MEMORY = 256  # MiB
PEERS = ("qemu", "unicorn", "native")
QEMU = "qemu-system-riscv64"


@dataclass(frozen=True)
class Run:
    """What is to be started: the command, its input, its environment (None: ours)."""

    command: list[str]
    given: bytes = b""
    environment: dict[str, str] | None = None


@dataclass(frozen=True)
class Contender:
    """One column. `kind` is coldboot, qemu, unicorn or native."""

    name: str
    kind: str
    version: str
    words: tuple[str, ...] = ()
    tree: Path = field(default=ROOT)

    def run(self, image: Path) -> Run:
        """How it runs an image."""
        if self.kind == "unicorn":
            task = {"image": str(image), "symbols": {}, "ram": MEMORY << 20}
            command = [sys.executable, "-m", "cpu_proc.compare.unicorn_guest"]
            return Run(command, json.dumps(task).encode(), _environment(ROOT))
        machine = ["-m", f"{MEMORY}M", "-no-reboot", "-nographic", "-bios", str(image)]
        if self.kind == "qemu":
            return Run([*self.words, "-machine", "virt", *machine])
        command = [sys.executable, "-m", "cpu_proc", "run", *machine, *self.words]
        return Run(command, environment=_environment(self.tree))


def coldboot(*words: str, tree: Path = ROOT, name: str = "coldboot") -> Contender:
    """This project, with options of its own; or another tree of its sources."""
    return Contender(name, "coldboot", "this tree" if tree == ROOT else str(tree), words, tree)


def qemu(path: str = QEMU) -> Contender:
    """A QEMU. Raises UserError if it is not there."""
    found = shutil.which(path)
    if found is None:
        raise UserError(f"{path} is not there (Debian: qemu-system-misc)")
    said = subprocess.check_output([found, "--version"], text=True)
    match = re.search(r"version (\S+)", said)
    version = match[1] if match else "?"
    return Contender(f"QEMU {version}", "qemu", version, (found,))


def unicorn() -> Contender:
    """Unicorn, QEMU's CPU as a library. Raises UserError if it is not there."""
    if util.find_spec("unicorn") is None:
        raise UserError("the package unicorn is not installed: pip install 'coldboot[peers]'")
    version = metadata.version("unicorn")
    return Contender(f"Unicorn {version}", "unicorn", version)


def native() -> Contender:
    """The host."""
    version = subprocess.check_output(["gcc", "-dumpfullversion"], text=True).strip()
    return Contender("native", "native", f"gcc {version} -O2")


def tier0() -> Contender:
    """This project without a translator."""
    return coldboot("-translator", "none", name="tier 0")


MAKERS: dict[str, Callable[[], Contender]] = {
    "qemu": qemu,
    "unicorn": unicorn,
    "native": native,
    "tier0": tier0,
}


def peers(names: Sequence[str]) -> list[Contender]:
    """The peers of a list: names, or paths of a QEMU. Raises UserError."""
    found = []
    for name in names:
        if name not in MAKERS and "/" not in name:
            raise UserError(f"no peer is called {name!r}; there are {', '.join(MAKERS)}")
        found.append(MAKERS[name]() if name in MAKERS else qemu(name))
    return found


def _environment(tree: Path) -> dict[str, str]:
    # Not the sources that happen to lie in the current folder.
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
