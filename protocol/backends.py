"""How a backend is named: one word, the same on the command line, in messages and in books.

Problem: a backend has options, and a translation depends on them as much as on the backend. So what
is asked for, what is in force and what code was made with is one word, `llvm` or
`llvm,level=1,passes=sroa`: a spelling that two processes and a person share.

Invariants:
- `spell(*parse(word))` is the canonical spelling: options in alphabetical order, each once.
- A word fits a message's field (128 printable bytes, no blank).

What options mean, and which values they may have, the backend itself says (`jit_proc/backends/`).

Read next: `protocol.session_machine` (`swap`), `jit_proc/backends/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_LENGTH = 128

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9_+.:-]{1,64}")


def parse(word: str) -> tuple[str, dict[str, str]]:
    """Name and options of a backend. Raises ValueError, with a line that says what is wrong."""
    name, *options = word.split(",")
    if not _NAME.fullmatch(name) or len(word) > MAX_LENGTH:
        raise ValueError(f"{word!r} is not a backend: write NAME or NAME,OPTION=VALUE,...")
    found: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not _NAME.fullmatch(key) or not _VALUE.fullmatch(value):
            raise ValueError(f"{option!r} is not an option of a backend: write OPTION=VALUE")
        if key in found:
            raise ValueError(f"option {key} of backend {name} is given twice")
        found[key] = value
    return name, found


def spell(name: str, options: Mapping[str, str]) -> str:
    """The canonical spelling of a backend with these options."""
    return ",".join([name, *(f"{key}={options[key]}" for key in sorted(options))])


def name_of(word: str) -> str:
    """The backend's name alone, of a word that may be anything."""
    return word.split(",", 1)[0]
