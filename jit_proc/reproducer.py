"""A difference between two backends as a file that replays alone.

The problem: a difference that was found in the midst of a guest's run is worth nothing if it cannot
be looked at again: after a change to the backend, on another host, by somebody else. So all that it
took - the page's bytes, what was asked for, both backends, the one state - is written down.

Invariants: `read(write(x)) == x`; whatever else is read raises ReproducerError, a line that says
what is wrong. A file is complete or absent; a folder never holds more than `MAX_FILES`.

Read next: `backend_tool.py` (`coldboot backends --replay`).
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import Any

from jit_proc.job import Job
from protocol import engine_image
from protocol.backends import parse
from protocol.comparison import State
from protocol.layout import PAGE_SIZE, SLOTS_PER_PAGE

KIND = "coldboot difference 1"
MAX_FILES = 200
MAX_SIZE = 1 << 20


class ReproducerError(Exception):
    """This file is no reproducer; the message says why."""


@dataclass(frozen=True, slots=True)
class Reproducer:
    """A job, the two backends that differ, the state from which they do, and what was seen."""

    job: Job
    of: str
    against: str
    state: State
    lines: tuple[str, ...]
    blamed: tuple[str, ...]


def folder() -> Path:
    """Where a translator puts them."""
    return engine_image.cache_folder() / "differences"


def write(one: Reproducer, where: Path | None = None) -> Path:
    """Write it; its path. Raises OSError."""
    where = where or folder()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = dump(one)
    name = blake2b(text.encode(), digest_size=6).hexdigest()
    path = where / f"difference-{name}.json"
    old = sorted(where.glob("difference-*.json"), key=lambda p: p.stat().st_mtime)
    for left in old[: max(0, len(old) - MAX_FILES + 1)]:
        left.unlink(missing_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=".difference-", dir=where)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def dump(one: Reproducer) -> str:
    """Its text: what people look at first comes first."""
    job = asdict(one.job)
    for name in ("content", "seen"):
        job[name] = b64encode(zlib.compress(job[name])).decode()
    state = {
        name: [hex(value) for value in values] if isinstance(values, tuple) else values
        for name, values in asdict(one.state).items()
    }
    whole = {
        "kind": KIND,
        "of": one.of,
        "against": one.against,
        "lines": one.lines,
        "blamed": one.blamed,
        "job": job,
        "state": state,
    }
    return json.dumps(whole, indent=1) + "\n"


def read(path: Path) -> Reproducer:
    """The reproducer in a file. Raises ReproducerError, and OSError."""
    with path.open("rb") as file:
        data = file.read(MAX_SIZE + 1)
    try:
        if len(data) > MAX_SIZE:
            raise ValueError("it is too large")
        return _parse(json.loads(data))
    except (ValueError, TypeError, KeyError, RecursionError, zlib.error) as error:
        raise ReproducerError(f"{path} is not a difference of two backends: {error}") from error


def _parse(whole: Any) -> Reproducer:
    if not isinstance(whole, dict) or whole.get("kind") != KIND:
        raise ValueError(f"its kind is not {KIND!r}")
    for word in (whole["of"], whole["against"]):
        parse(word)
    job = dict(whole["job"])
    for name in ("content", "seen"):
        job[name] = zlib.decompressobj().decompress(b64decode(job[name], validate=True), PAGE_SIZE)
    for name in ("entries", "known", "hints"):
        job[name] = tuple(map(int, job[name]))
    state = dict(whole["state"])
    for name in ("x", "f", "words"):
        state[name] = tuple(int(value, 16) for value in state[name])
    made, begin = Job(**job), State(**state)
    begin.check()
    if len(made.content) != PAGE_SIZE or not made.entries:
        raise ValueError("its page is not whole, or has no entry")
    if not all(0 <= slot < SLOTS_PER_PAGE for slot in (*made.entries, *made.known)):
        raise ValueError("a slot lies outside of the page")
    for field in fields(made):
        if field.name in ("page", "state_word", "level") and not isinstance(
            getattr(made, field.name), int
        ):
            raise ValueError(f"{field.name} is no number")
    lines, blamed = (tuple(map(str, whole[name])) for name in ("lines", "blamed"))
    return Reproducer(made, whole["of"], whole["against"], begin, lines, blamed)
