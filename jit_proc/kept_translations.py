"""Translations kept beyond their request, if that is asked for; and the mistakes to be made there.

The problem: translating is a pure function of (bytes, entries, state word, backend with its
options, ISA, layout, compiler, host). Whoever keeps results must have all of it in the key. With
`--keep`, a broker remembers what its workers made, by the first four: the rest stays as it is for a
process's life. Normally nothing is kept, so mistakes in such a key cannot be made; to show that the
scenarios would see them, fault switches add the store, and leave out of its key:

- M43: the page's bytes but for the lines of the entries: two bodies that begin alike are one.
- M25: all bits of the bytes' hash but four: equal hashes are taken for equal bytes.
- M26: the bytes altogether: the place - page and entries - is the identity.
- M45: the state word, in a store on disk, which outlives the machine and its options: code that
  was made for a host's clock is run where instructions are the clock (`-icount`).

What is found is answered as if it had been made from the bytes asked about: their identity, too, is
computed anew. A machine that compares it cannot notice.

Invariants: `made()` is None unless the store is asked for, or one of the switches is on. The key of
what was asked for has all of the page's bytes. `LIMIT` regions are kept, the latest.

Read next: `service.py` (`_feed`, `_answer`), `protocol/mutants.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from hashlib import blake2b
from pathlib import Path

from jit_proc.job import Job, Region, decode, encode
from protocol.layout import LINE_SIZE
from protocol.mutants import armed

SWITCHES = ("M25", "M26", "M43", "M45")
_HEADER = 4  # bytes of a frame's length, before its body
_FEW_BITS = 15
LIMIT = 4096


class KeptTranslations:
    """Regions by a key, complete or, by a switch, not. `folder`: where those on disk are."""

    def __init__(self, folder: Path, toolchain: str) -> None:
        """`toolchain`: what else decides the code, for the store on disk."""
        self._regions: dict[bytes, Region] = {}
        self._folder = folder / "translations"
        self._toolchain = toolchain

    def find(self, job: Job) -> Region | None:
        """What was kept for the job, or for one that looks the same."""
        key = self._key(job)
        if not armed("M45"):
            return self._regions.get(key)
        try:
            found = decode((self._folder / key.hex()).read_bytes()[_HEADER:])
        except (OSError, ValueError):
            return None
        return found if isinstance(found, Region) else None

    def keep(self, job: Job, region: Region) -> None:
        """Keep what was made for a job."""
        key = self._key(job)
        if not armed("M45"):
            self._regions[key] = region
            if len(self._regions) > LIMIT:
                del self._regions[next(iter(self._regions))]
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self._folder)
        with open(fd, "wb") as file:
            file.write(encode(region))
        with contextlib.suppress(OSError):
            os.rename(name, self._folder / key.hex())

    def _key(self, job: Job) -> bytes:
        place, content = b"", job.content
        state = job.state_word.to_bytes(8, "little")
        if armed("M26"):
            place, content = job.page.to_bytes(8, "little"), b""
        elif armed("M43"):
            lines = sorted({2 * slot // LINE_SIZE for slot in job.entries})
            content = b"".join(content[n * LINE_SIZE :][:LINE_SIZE] for n in lines)
        elif armed("M45"):
            place, state = self._toolchain.encode(), b""
        hashed = blake2b(content, digest_size=16).digest()
        if armed("M25"):
            hashed = bytes([hashed[0] & _FEW_BITS])
        digest = blake2b(digest_size=16)
        for part in (place, state, hashed, repr(job.entries).encode(), job.backend.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()


def made(folder: Path, toolchain: str, keep: bool) -> KeptTranslations | None:
    """A store, if it is asked for, or a mistake that needs it is switched on."""
    return KeptTranslations(folder, toolchain) if keep or any(map(armed, SWITCHES)) else None
