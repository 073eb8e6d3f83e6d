"""Units of ours as systemd reads them, as far as tests need it.

Read next: `confined.py`, which runs a command as a unit says.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
NAMES = ("coldboot-translator", "coldboot-machine@", "coldboot-metrics")


def read(name: str) -> dict[str, list[str]]:
    """The settings of a unit's [Service] section, each with its values in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (FOLDER / f"{name}.service").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and line and line[0] != "#":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def command(
    unit: Mapping[str, Sequence[str]], places: Mapping[str, str], *arguments: str
) -> list[str]:
    """A unit's ExecStart. `places`: what stands for a folder; `arguments`: $ARGUMENTS."""
    words: list[str] = []
    for word in shlex.split(unit["ExecStart"][-1]):
        for old, new in places.items():
            word = word.replace(old, new)
        words += arguments if word == "$ARGUMENTS" else [word]
    return words
