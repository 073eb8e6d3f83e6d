"""Jobs and regions for the tests of the content store, without a compiler."""

from __future__ import annotations

from jit_proc.job import Job, Region, Times
from protocol.generations import lines_of

CONTEXT = bytes(range(16))


def asked(content: bytes = bytes(4096), **changes: object) -> Job:
    """A job for slot 2 of page 1."""
    job = {"page": 1, "content": content, "entries": (2,), "state_word": 0, "backend": "llvm"}
    return Job(**{**job, **changes})  # type: ignore[arg-type]


def made_of(
    *spans: tuple[int, int],
    entries: tuple[tuple[int, int], ...] | None = None,
    code: bytes = b"code",
) -> Region:
    """A region of these spans; it is entered where each begins, if not said otherwise."""
    entries = entries or tuple((start // 2, 0) for start, _ in spans)
    return Region(code, entries, spans, lines_of(spans), 1, Times())


def page(**bytes_at: int) -> bytes:
    """A page of zeros but for some bytes: `page(at_70=1)`."""
    content = bytearray(4096)
    for place, value in bytes_at.items():
        content[int(place.removeprefix("at_"))] = value
    return bytes(content)
