"""How a backend is named: one word, the same on the command line, in messages and in books.

Problem: a backend has options, and a translation depends on them as much as on the backend. So what
is asked for, what is in force and what code was made with is one word, `llvm` or
`llvm,level=1,passes=sroa`: a spelling that two processes and a person share. A backend that is made
of two others names them behind a colon, `shadow:llvm,reference,sample=1`; there a slash stands
before each option of theirs: `shadow:llvm/level=2,reference`.

Invariants:
- `spell(*parse(word))` is the canonical spelling: options in alphabetical order, each once.
- A word fits a message's field (128 printable bytes, no blank).
- The two are options like others, `OF` and `AGAINST`, each spelt as a word of its own.

What options mean, and which values they may have, the backend itself says (`jit_proc/backends/`).

Read next: `protocol.session_machine` (`swap`), `jit_proc/backends/__init__.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_LENGTH = 128
OF, AGAINST = "of", "against"  # options of a backend that is made of two

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_VALUE = re.compile(r"[A-Za-z0-9_+.:/-]{1,100}")


def parse(word: str) -> tuple[str, dict[str, str]]:
    """Name and options of a backend. Raises ValueError, with a line that says what is wrong."""
    head, *options = word.split(",")
    name, colon, first = head.partition(":")
    if not _NAME.fullmatch(name) or len(word) > MAX_LENGTH:
        raise ValueError(f"{word!r} is not a backend: write NAME or NAME,OPTION=VALUE,...")
    found: dict[str, str] = {}
    if colon:
        if not options:
            raise ValueError(f"{word!r} is not a backend: write {name}:BACKEND,BACKEND")
        for key, inner in ((OF, first), (AGAINST, options.pop(0))):
            found[key] = spell(*parse(_plain(inner)))
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not _NAME.fullmatch(key) or not _VALUE.fullmatch(value):
            raise ValueError(f"{option!r} is not an option of a backend: write OPTION=VALUE")
        if key in found or (colon and key in (OF, AGAINST)):
            raise ValueError(f"option {key} of backend {name} is given twice")
        if key in (OF, AGAINST):
            raise ValueError(f"option {key} of backend {name}: write {name}:BACKEND,BACKEND")
        found[key] = value
    return name, found


def _plain(inner: str) -> str:
    if ":" in inner.split("/")[0]:
        raise ValueError(f"{inner!r} is made of two backends itself: that is not possible here")
    return inner.replace("/", ",")


def spell(name: str, options: Mapping[str, str]) -> str:
    """The canonical spelling of a backend with these options."""
    rest = [f"{key}={options[key]}" for key in sorted(options) if key not in (OF, AGAINST)]
    if OF in options:
        two = (options[key].replace(",", "/") for key in (OF, AGAINST))
        return ",".join([f"{name}:{next(two)}", *two, *rest])
    return ",".join([name, *rest])


def name_of(word: str) -> str:
    """The backend's name alone, of a word that may be anything."""
    return word.split(",", 1)[0].split(":", 1)[0]


def is_pair(word: str) -> bool:
    """Whether a backend, as it is spelt, is made of two others; values may have colons, too."""
    return ":" in word.split(",", 1)[0]
