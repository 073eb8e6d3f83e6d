"""Backends: each turns a job, complete in itself, into code that may stand anywhere, or refuses it.

The problem: what makes code must be exchangeable while a machine runs: to be measured against
another, to be distrusted, to be replaced. So a backend is a small thing with a name, options, and
one function, and nothing else in the translator knows which one is at work.

Invariants:
- `translate` is a pure function of the job and the settings: what it is given is all it reads.
- Its code has a handler's signature (`handlers.PARAMS`), is position independent, and stands for
  the guest bytes in its spans, no others.
- Naming a backend and judging its options needs no compiler: this package is imported by the
  broker, `translate` runs in workers, and imports there what it needs.

Backends: `llvm` (what runs fast), `reference` (what is trusted), `none` (what tier 0 does alone),
`remote` (what another host does), `shadow` (two of them, compared), and those that installed
packages offer by an entry point of the group `coldboot.backends`.

Read next: `protocol/backends.py` (how one is spelt), `llvm.py`, `reference.py`, `worker.py`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jit_proc.job import Job, Region
from protocol.backends import AGAINST, OF, is_pair, name_of, parse
from protocol.logs import get_logger

log = get_logger("translator")

DEFAULT = "llvm"
GROUP = "coldboot.backends"  # of entry points: `NAME = "module:object"`


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a backend. `values`: what it may be, for people; `pattern`: for the program."""

    name: str
    values: str
    pattern: str
    text: str


class Backend(Protocol):
    """What a backend is: `name` and `summary` for people, its options, and how it translates."""

    name: str
    summary: str
    options: tuple[Option, ...]

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """Code for the job. `settings`: options given, by name, already judged by `complaint`.

        Raises `job.Untranslatable` when there is to be none; anything else is a failure of this
        one job. It may take the process with it: the worker is expendable.
        """
        ...


_BUILT_IN = {
    "llvm": "jit_proc.backends.llvm:LLVM",
    "reference": "jit_proc.backends.reference:REFERENCE",
    "none": "jit_proc.backends.none:NONE",
    "shadow": "jit_proc.backends.shadow:SHADOW",
    "remote": "jit_proc.backends.remote:REMOTE",
}


@functools.cache
def _table() -> dict[str, str]:
    """`module:object` of each backend by name: ours, then others'. None of them is imported."""
    table = dict(_BUILT_IN)
    if not any(map(_may_offer, sys.path)):
        return table
    import importlib.metadata

    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            name, options = parse(point.name)
        except ValueError:
            name, options = "", {}
        if not name or options or name in _BUILT_IN:
            what = "taken" if name in _BUILT_IN else "no name of a backend"
            log.warning("backend_left_out", name=point.name, object=point.value, reason=what)
            continue
        table[name] = point.value
    return table


def _may_offer(place: str) -> bool:
    """Whether a package in a folder of the path may have entry points of ours.

    Only then `importlib.metadata` is asked: to import it takes a third of a translator's start.
    """
    if not os.path.isdir(place or "."):
        return os.path.exists(place)  # an archive
    with contextlib.suppress(OSError):
        for name in os.listdir(place or "."):
            if name.endswith((".dist-info", ".egg-info", ".egg")):
                path = os.path.join(place, name, "entry_points.txt")
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    if GROUP.encode() in file.read():
                        return True
                if name.endswith(".egg"):
                    return True
    return False


def names() -> tuple[str, ...]:
    """The names of all backends, the default first."""
    return tuple(_table())


def is_ours(word: str) -> bool:
    """Whether a backend, as it is spelt, is part of this project, and works here: what it makes may
    be kept. What another host made is kept there: here nothing may outlive the trust in its key.

    One that is made of two is only if they are.
    """
    if not is_pair(word):
        return name_of(word) in _BUILT_IN and name_of(word) != "remote"
    name, settings = parse(word)
    return name in _BUILT_IN and is_ours(settings[OF]) and is_ours(settings[AGAINST])


def makes(word: str) -> str:
    """The backend, as it is spelt, whose code runs in the end: of one made of two the first."""
    return parse(word)[1][OF] if is_pair(word) else word


def find(name: str) -> Backend:
    """The backend of this name. Raises KeyError, or what a module of others raises on import."""
    module, _, attribute = _table()[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)
    return backend


def complaint(word: str) -> str:
    """What is wrong with a backend as it is spelt, in a line; empty if nothing is."""
    try:
        name, settings = parse(word)
    except ValueError as error:
        return str(error)
    if name not in _table():
        return f"backend {name} is unknown: use one of {', '.join(names())}"
    try:
        known = {option.name: option for option in find(name).options}
    except Exception as error:
        return f"backend {name} ({_table()[name]}) cannot be loaded: {error}"
    two = is_made_of_two(name)
    if two != (OF in settings):
        example = f"{name}:llvm,reference" if two else name
        return f"backend {name} is {'' if two else 'not '}made of two others: write {example}"
    for key in (OF, AGAINST) if two else ():
        inner = name_of(settings[key])
        if is_made_of_two(inner) or inner in ("none", "remote"):
            return f"backend {name}: {inner} is nothing to compare"
        if why := complaint(settings.pop(key)):
            return why
    for key, value in settings.items():
        option = known.get(key)
        if option is None:
            has = f"it has {', '.join(known)}" if known else "it has none"
            return f"backend {name} has no option {key}: {has}"
        if not re.fullmatch(option.pattern, value):
            return f"backend {name}: {key}={value} is not possible: {option.values}"
    together = getattr(find(name), "complaint", None)
    why = together(settings) if together is not None else ""
    return f"backend {name}: {why}" if why else ""


def is_made_of_two(name: str) -> bool:
    """Whether a backend is spelt with two others behind a colon."""
    return name == "shadow"


def listing() -> str:
    """All backends with their options, for people."""
    lines = []
    for name in names():
        try:
            backend = find(name)
        except Exception as error:
            lines.append(f"{name:<30}cannot be loaded: {error}")
            continue
        spelt = f"{name}:BACKEND,BACKEND" if is_made_of_two(name) else name
        lines.append(f"{spelt:<30}{backend.summary}")
        for option in backend.options:
            lines.append(f"  {f'{option.name}={option.values}':<28}{option.text}")
    return "\n".join([*lines, ""])
