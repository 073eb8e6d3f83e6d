"""What the content store keeps of a translation, its keys, and its bytes on disk.

The problem: translating is a pure function of its job, but of the page's 4096 bytes only those of
the region's spans had influence. A store keyed by whole pages would miss whenever data beside the
code differ; one keyed by the spans' bytes cannot be asked, for the spans are known afterwards. And
the same code is asked for by another slot, or by several at once, on another day. So a search has
two steps: a slot's *place key* (context, slot, the first bytes there) leads to a few candidates,
and a candidate is taken if every byte it was made from stands in the page.

- *Context*: all that decides the code besides guest bytes: the toolchain (`store.toolchain`),
  the backend with its options, the state word. Every field of `Job` but its page, its content and
  its entries is in it, one that is added later too.
- *Place key*: one for each entry of a region, and for each slot in its code that was asked for but
  is no entry (`loops.py`), of up to 16 bytes from there to the end of its span.
  As many as there are: a search tries 16, 8, 4 and 2.

The fault switches of this store stand here, each where its mistake would be made:

- M43: compared are the lines of the entries alone: two bodies that begin alike are one.
- M25: compared are four bits of the bytes' hash: equal hashes are taken for equal bytes.
- M26: nothing is compared: the place - page and slot - is the identity.
- M45: the state word is left out of the context: code that was made for a host's clock is run where
  instructions are the clock (`-icount`).

Invariants:
- `decode(encode(x)) == x`; of any other bytes, and of another context's, it raises EntryError.
- What is found is answered for the bytes asked about: their identity is computed anew, and the
  publish rule is the same as for a fresh translation.

On disk: magic (8 bytes), BLAKE2b-128 digest of context and payload, payload (msgpack).

Read next: `store_disk.py`, `content_store.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Final

import msgpack  # type: ignore[import-untyped]

from jit_proc.job import ADVICE, Job, Region, Times
from protocol.generations import lines_of
from protocol.layout import LINE_SIZE, PAGE_SIZE
from protocol.mutants import armed

MAGIC: Final = b"CBREGN\0\2"
KEY_SIZE: Final = 16
PREFIXES: Final = (16, 8, 4, 2)
SWITCHES: Final = ("M25", "M26", "M43", "M45")
ALIGNMENT: Final = 64  # of an image's start (`link.MAX_ALIGNMENT`)

_FEW_BITS = 15
_HEAD = len(MAGIC) + KEY_SIZE
_LARGE = 1 << 24  # bytes of code that one region cannot have


class EntryError(Exception):
    """These bytes are not an entry of this context; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A translation and the guest bytes it was made from: those of its spans, one after another.

    `name` identifies it: context, places and bytes. `page`: hash of the whole page it was made
    from, by which regions made together are found together. `index`: the page's, for M26 alone.
    `served`: slots that were asked for and lie in its code, though it is not entered there.
    """

    name: bytes
    region: Region
    guest: bytes
    page: bytes
    index: int = 0
    served: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Bytes it takes, about."""
        return len(self.region.code) + len(self.guest) + 64 * len(self.region.entries) + 512

    @property
    def slots(self) -> list[int]:
        """Slots for which it was made: whoever asks for one of them gets it."""
        return [*(slot for slot, _ in self.region.entries), *self.served]

    def is_among(self, known: Iterable[int]) -> bool:
        """Whether it is entered at none but these slots."""
        return {slot for slot, _ in self.region.entries}.issubset(known)

    def matches(self, content: bytes, index: int = 0) -> bool:
        """Whether it stands for code of a page with these contents."""
        if armed("M26"):
            return index == self.index
        if armed("M25"):
            now = b"".join(content[start : start + size] for start, size in self.region.spans)
            return not (_digest(now)[0] ^ _digest(self.guest)[0]) & _FEW_BITS
        seen = {2 * slot // LINE_SIZE for slot, _ in self.region.entries} if armed("M43") else None
        at = 0
        for start, size in self.region.spans:
            if seen is not None:
                for offset in range(start, start + size):
                    there = self.guest[at + offset - start]
                    if offset // LINE_SIZE in seen and content[offset] != there:
                        return False
            elif content[start : start + size] != self.guest[at : at + size]:
                return False
            at += size
        return True


def _digest(*parts: bytes) -> bytes:
    digest = blake2b(digest_size=KEY_SIZE)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def context_of(toolchain: bytes, job: Job) -> bytes:
    """The key of all that decides a job's code besides guest bytes."""
    parts = [toolchain]
    for field in fields(job):
        if field.name in ("page", "content", "entries", *ADVICE):
            continue
        if field.name == "state_word" and armed("M45"):
            continue
        parts.append(f"{field.name}={getattr(job, field.name)!r}".encode())
    return _digest(*parts)


def page_of(content: bytes) -> bytes:
    """The hash of a whole page."""
    return _digest(content)


def make(context: bytes, job: Job, region: Region) -> Entry:
    """The entry of a job's result. Raises EntryError when the region is inconsistent."""
    guest = b"".join(job.content[start : start + size] for start, size in region.spans)
    _check(region, guest)
    entered = {slot for slot, _ in region.entries}
    served = tuple(s for s in job.entries if s not in entered and inside(s, region.spans))
    entries = repr((region.entries, served)).encode()
    place = job.page.to_bytes(8, "little") if armed("M26") else b""
    name = _digest(context, entries, repr(region.spans).encode(), guest, place)
    plain = replace(region, times=Times(), compared=0)
    return Entry(name, plain, guest, page_of(job.content), job.page, served)


def inside(slot: int, spans: Iterable[tuple[int, int]]) -> bool:
    """Whether a slot lies in one of the spans."""
    return any(start <= 2 * slot < start + size for start, size in spans)


def own_keys(context: bytes, entry: Entry) -> list[bytes]:
    """The place keys under which an entry is found, one for each slot that it was made for."""
    found = []
    at = {}
    offset = 0
    for start, size in entry.region.spans:
        at[start, size] = offset
        offset += size
    for slot in entry.slots:
        for (start, size), where in at.items():
            if start <= 2 * slot < start + size:
                inside = where + 2 * slot - start
                left = where + size - inside
                length = next(n for n in PREFIXES if n <= left)
                found.append(_place(context, slot, entry.guest[inside : inside + length]))
    return found


def search_keys(context: bytes, slot: int, content: bytes) -> list[bytes]:
    """The place keys of a slot of a page with these contents."""
    start = 2 * slot
    if any(map(armed, SWITCHES[:3])):
        return [_place(context, slot, b"")]
    return [
        _place(context, slot, content[start : start + n])
        for n in PREFIXES
        if start + n <= PAGE_SIZE
    ]


def _place(context: bytes, slot: int, first: bytes) -> bytes:
    if any(map(armed, SWITCHES[:3])):
        first = b""
    return blake2b(slot.to_bytes(2, "little") + first, key=context, digest_size=KEY_SIZE).digest()


def encode(context: bytes, entry: Entry) -> bytes:
    """The entry's bytes on disk."""
    region = entry.region
    payload: bytes = msgpack.packb(
        [
            entry.name,
            entry.page,
            entry.guest,
            region.entries,
            region.spans,
            region.lines,
            region.instructions,
            region.code,
            entry.served,
        ]
    )
    return MAGIC + _digest(context, payload) + payload


def decode(context: bytes, data: bytes) -> Entry:
    """The entry that these bytes are. Raises EntryError when they are none of this context."""
    payload = data[_HEAD:]
    if data[: len(MAGIC)] != MAGIC or data[len(MAGIC) : _HEAD] != _digest(context, payload):
        raise EntryError(f"{len(data)} bytes are no entry, or a damaged one")
    try:
        name, page, guest, entries, spans, lines, instructions, code, served = msgpack.unpackb(
            payload, use_list=False
        )
        region = Region(code, entries, spans, lines, instructions, Times())
        _check(region, guest)
        if not all(inside(slot, spans) for slot in served):
            raise EntryError("it serves a slot outside of its spans")
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise EntryError(f"an entry of {len(data)} bytes makes no sense: {error!r}") from error
    return Entry(name, region, guest, page, served=served)


def _check(region: Region, guest: bytes) -> None:
    """Raise EntryError unless offsets, lengths and lines agree with each other."""
    end = 0
    covered: list[range] = []
    for start, size in region.spans:
        if start % 2 or size % 2 or size <= 0 or start < end or start + size > PAGE_SIZE:
            raise EntryError(f"span {start}+{size} is not a run of halfwords of one page")
        end = start + size
        covered.append(range(start, end))
    slots = [slot for slot, _ in region.entries]
    if not slots or slots != sorted(set(slots)):
        raise EntryError("its entries are not ascending")
    for slot, place in region.entries:
        if not any(2 * slot in run for run in covered):
            raise EntryError(f"entry at slot {slot} lies outside of the spans")
        if not 0 <= place < len(region.code):
            raise EntryError(f"entry of slot {slot} lies outside of the code")
    if len(guest) != sum(map(len, covered)) or len(region.code) > _LARGE:
        raise EntryError("its lengths do not agree")
    if lines_of(region.spans) & ~region.lines or not 0 <= region.lines < 1 << 64:
        raise EntryError("its lines do not cover the spans")
    if not 0 <= region.instructions < 1 << 32:
        raise EntryError(f"{region.instructions} instructions are not possible")


def together(regions: Sequence[Region]) -> Region:
    """Several regions of one page as one: their images one behind the other, what they share once.

    Where two can be entered at one slot, the first one is.
    """
    if len(regions) == 1:
        return regions[0]
    code = bytearray()
    entries: dict[int, int] = {}
    lines = 0
    for region in regions:
        code += b"\xcc" * (-len(code) % ALIGNMENT)
        for slot, place in region.entries:
            entries.setdefault(slot, len(code) + place)
        code += region.code
        lines |= region.lines
    return Region(
        code=bytes(code),
        entries=tuple(sorted(entries.items())),
        spans=tuple(_union(span for region in regions for span in region.spans)),
        lines=lines,
        instructions=sum(region.instructions for region in regions),
        times=Times(),
    )


def _union(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans ascending, those that touch or overlap as one."""
    start = end = -1
    for offset, size in sorted(spans):
        if offset > end:
            if end > start >= 0:
                yield start, end - start
            start, end = offset, offset + size
        else:
            end = max(end, offset + size)
    if end > start >= 0:
        yield start, end - start
