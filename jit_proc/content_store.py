"""The content store: what was translated once is not translated again, by anybody, while it fits.

The problem: the same kernel boots over and over, a reset makes every translation void, several
machines run one image; and translating costs half a millisecond of LLVM an instruction. A result is
a pure function of what `store_entry.py` puts into its key, so it may be used again: in this
translator by every machine (in memory), and by every translator of this user (`store_disk.py`).
Retired code never runs by it: what is found is placed, answered and published as a fresh
translation is, under the counters of the request.

Invariants:
- `find` never waits: not for a worker, nor for another process; it reads memory, then a local file.
- `keep` hands over to a thread that writes in batches; the broker's loop does no disk writing.
- Kept is what this project's own backends made: of others' nothing is known that could be hashed.
- Both levels are bounded, and let go of what was not used for longest.
- Without a usable folder there is memory alone, and one line in the log.
- With a fault switch armed there is no store, so that mistakes are made in fresh translations and
  never outlive the trial; but for the switches that are about the store (`store_entry.SWITCHES`),
  whose names are part of the key.

Read next: `store_entry.py` (keys and bytes), `store_disk.py` (the file), `service.py` (`_serve`).
"""

from __future__ import annotations

import functools
import os
import queue
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from jit_proc import backends
from jit_proc.job import Job, Region
from jit_proc.store_entry import (
    SWITCHES,
    Entry,
    EntryError,
    context_of,
    inside,
    make,
    own_keys,
    search_keys,
    together,
)
from protocol import engine_image, mutants
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.riscv.identity import isa_hash

if TYPE_CHECKING:
    from jit_proc.store_disk import Disk

Mode = Literal["disk", "memory", "off"]

DEFAULT_DISK: Final = 256 << 20
MEMORY_LIMIT: Final = 64 << 20
BATCH_PAUSE: Final = 0.25  # seconds in which what is to be written is collected
CLOSE_LIMIT: Final = 1.5  # seconds that the last batch is given

log = get_logger("store")


class Found(NamedTuple):
    """A region for a job, made of kept ones. `left`: slots asked for that it has no entry for."""

    region: Region
    left: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """All that decides a translation besides its job: a digest, and words for people."""

    digest: bytes
    text: tuple[tuple[str, str], ...]


@functools.cache
def toolchain() -> Toolchain:
    """This installation on this host; found without importing LLVM."""
    digest = blake2b(digest_size=16, person=b"coldboot regions")
    parts = [engine_image.engine_key(isa_hash(), LAYOUT_HASH), ",".join(mutants.all_armed())]
    parts += map(str, engine_image.llvmlite_library())
    root = Path(__file__).resolve().parent.parent
    for folder in (root / "jit_proc" / "backends", root / "protocol"):
        for path in sorted(folder.glob("*.py")):
            parts += [path.name, path.read_text(encoding="utf-8")]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    version = re.search(r"[\"']([0-9][^\"']*)[\"']", engine_image.llvmlite_version())
    names = dict(line.split("=", 1) for line in engine_image.host_cpu().splitlines() if "=" in line)
    text = {
        "isa": isa_hash(),
        "layout": LAYOUT_HASH,
        "llvmlite": version[1] if version else "unknown",
        "cpu": names.get("model name", os.uname().machine),
        "toolchain": digest.hexdigest()[:12],
    }
    if mutants.all_armed():
        text["armed"] = ",".join(mutants.all_armed())
    return Toolchain(digest.digest(), tuple(text.items()))


class Memory:
    """Entries in memory by place key, `limit` bytes at most; the least recently used go first."""

    def __init__(self, limit: int = MEMORY_LIMIT) -> None:
        self._limit = limit
        self._entries: OrderedDict[bytes, tuple[Entry, list[bytes]]] = OrderedDict()
        self._names: dict[bytes, list[bytes]] = {}  # by place key, the oldest first
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, keys: Iterable[bytes]) -> Iterator[Entry]:
        """Entries under one of these keys, the latest of each key first."""
        for key in keys:
            for name in reversed(self._names.get(key, ())):
                yield self._entries[name][0]

    def used(self, entry: Entry) -> None:
        """The entry was of use."""
        if entry.name in self._entries:
            self._entries.move_to_end(entry.name)

    def add(self, context: bytes, entry: Entry) -> None:
        """Keep one more."""
        if entry.name in self._entries:
            return
        keys = list(dict.fromkeys(own_keys(context, entry)))
        self._entries[entry.name] = entry, keys
        for key in keys:
            self._names.setdefault(key, []).append(entry.name)
        self.size += entry.size
        while self.size > self._limit and len(self._entries) > 1:
            name, (old, places) = self._entries.popitem(last=False)
            self.size -= old.size
            for key in places:
                self._names[key].remove(name)
                if not self._names[key]:
                    del self._names[key]


class _Writer:
    """The thread that writes: what it is given within `BATCH_PAUSE` seconds, in one transaction."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._given: queue.SimpleQueue[tuple[bytes, str, Entry] | bytes | None]
        self._given = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.broken = ""
        self.size = 0
        self.refused = 0

    def give(self, one: tuple[bytes, str, Entry] | bytes) -> None:
        """Have an entry written, or the use of one (its name) counted."""
        if self.broken:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="store", daemon=True)
            self._thread.start()
        self._given.put(one)

    def close(self) -> None:
        """Write what is left, for `CLOSE_LIMIT` seconds at most."""
        self._closing.set()
        self._given.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_LIMIT)

    def _run(self) -> None:
        from jit_proc.store_disk import Damaged, Disk, DiskError

        disk: Disk | None = None
        try:
            while self._write_batch(disk := disk or Disk(self._folder, self._limit)):
                pass
        except Damaged:
            try:  # once more, with a new file
                disk = Disk(self._folder, self._limit)
                while self._write_batch(disk):
                    pass
            except DiskError as error:
                self._give_up(error)
        except DiskError as error:
            self._give_up(error)
        finally:
            if disk is not None:
                disk.close()

    def _write_batch(self, disk: Disk) -> bool:
        """Wait for something to write, and write it; whether there will be more."""
        entries: list[tuple[bytes, str, Entry]] = []
        used: Counter[bytes] = Counter()
        one = self._given.get()
        self._closing.wait(BATCH_PAUSE)
        while one is not None:
            if isinstance(one, bytes):
                used[one] += 1
            else:
                entries.append(one)
            try:
                one = self._given.get_nowait()
            except queue.Empty:
                break
        if entries or used:
            self.size = disk.write(entries, used)
        return one is not None

    def _give_up(self, error: Exception) -> None:
        self.broken = str(error)
        log.warning("store_not_written", folder=str(self._folder), reason=str(error))


class ContentStore:
    """Translations by what they were made from; for the broker's thread alone."""

    def __init__(
        self,
        folder: Path | None,
        made_by: Toolchain,
        *,
        memory: int = MEMORY_LIMIT,
        limit: int = DEFAULT_DISK,
    ) -> None:
        """`folder`: where the file is; None for memory alone. `memory`, `limit`: bytes."""
        self._made_by = made_by
        self._memory = Memory(memory)
        self._folder = folder
        self._limit = limit
        self._disk: Disk | None = None
        self._writer = _Writer(folder, limit) if folder is not None else None
        self._trouble = 0
        self.hits = self.misses = self.refused = self.instructions = 0
        self._open()

    @property
    def folder(self) -> Path | None:
        """Where the file is; None for memory alone."""
        return self._folder

    @property
    def toolchain(self) -> str:
        """What makes the translations, as a short word."""
        return dict(self._made_by.text)["toolchain"]

    def _open(self) -> None:
        if self._folder is None:
            return
        from jit_proc.store_disk import Disk, DiskError

        for _ in range(2):  # a damaged file is gone afterwards
            try:
                self._disk = Disk(self._folder, self._limit, patience=0)
                return
            except DiskError as error:
                problem = error
        self._without(problem)

    def _without(self, problem: Exception) -> None:
        """From here on in memory alone."""
        log.warning("store_in_memory_only", folder=str(self._folder), reason=str(problem))
        if self._disk is not None:
            self._disk.close()
        self._disk = None
        if self._writer is not None:
            self._writer.broken = self._writer.broken or str(problem)

    def is_warm(self) -> bool:
        """Whether there is anything of this toolchain, so that a worker may not be needed soon."""
        if len(self._memory):
            return True
        if self._disk is None:
            return False
        from jit_proc.store_disk import DiskError

        try:
            return self._disk.count(dict(self._made_by.text)["toolchain"]) > 0
        except DiskError as error:
            self._stumbled(error)
            return False

    def find(self, job: Job, *, disk: bool = True) -> Found | None:
        """What is kept for the job, as far as something is; `disk`: look there, too."""
        if not backends.is_ours(job.backend):
            return None
        context = context_of(self._made_by.digest, job)
        chosen: list[Region] = []
        covered: set[int] = set()
        for slot in job.entries:
            if slot in covered:
                continue
            entry = self._search(context, slot, job, disk)
            if entry is not None:
                chosen.append(entry.region)
                covered.update(entry.slots)
        if not chosen:
            self.misses += disk
            return None
        self.hits += 1
        region = together(chosen)
        self.instructions += region.instructions
        left = (s for s in job.entries if s not in covered and not inside(s, region.spans))
        return Found(region, tuple(left))

    def _search(self, context: bytes, slot: int, job: Job, disk: bool) -> Entry | None:
        keys = search_keys(context, slot, job.content)
        found = self._fitting(self._memory.find(keys), slot, job)
        if found is not None:
            self._memory.used(found)
        elif disk and self._disk is not None:
            from jit_proc.store_disk import DiskError

            before = self._disk.refused
            try:
                found = self._fitting(self._disk.find(context, keys), slot, job)
            except DiskError as error:
                self._stumbled(error)
            else:
                self.refused += self._disk.refused - before
            if found is not None:
                self._memory.add(context, found)
                if self._writer is not None:
                    self._writer.give(found.name)
        return found

    @staticmethod
    def _fitting(candidates: Iterable[Entry], slot: int, job: Job) -> Entry | None:
        for entry in candidates:
            if slot in entry.served and entry.is_among(job.known):
                continue  # it is in use already, and the slot is hot all the same
            if entry.matches(job.content, job.page) and slot in entry.slots:
                return entry
        return None

    def _stumbled(self, error: Exception) -> None:
        """Reading failed. A damaged file was removed: begin with a new one, but not for ever."""
        from jit_proc.store_disk import Damaged

        self.refused += 1
        self._trouble += 1
        if isinstance(error, Damaged) and self._trouble < 3:
            self._open()
        elif self._trouble >= 3:
            self._without(error)

    def keep(self, job: Job, region: Region) -> None:
        """Keep what was made for a job; what is inconsistent is not kept."""
        if not backends.is_ours(job.backend):
            return
        context = context_of(self._made_by.digest, job)
        try:
            entry = make(context, job, region)
        except EntryError as error:
            log.error("entry_inconsistent", page=job.page, reason=str(error))
            return
        self._memory.add(context, entry)
        if self._writer is not None and self._disk is not None:
            self._writer.give((context, self._describe(job), entry))

    def _describe(self, job: Job) -> str:
        from jit_proc.store_disk import describe

        return describe(**dict(self._made_by.text), backend=job.backend, state=job.state_word)

    def counters(self) -> dict[str, int]:
        """For STATS."""
        return {
            "store_hits": self.hits,
            "store_misses": self.misses,
            "store_instructions": self.instructions,
            "store_refused": self.refused,
            "store_regions": len(self._memory),
            "store_memory_bytes": self._memory.size,
            "store_disk_bytes": self._writer.size if self._writer is not None else 0,
        }

    def close(self) -> None:
        """Write what is not written yet, let go of the file."""
        if self._writer is not None:
            self._writer.close()
        if self._disk is not None:
            self._disk.close()


def made(folder: Path, mode: Mode, limit: int = DEFAULT_DISK) -> ContentStore | None:
    """The store that is asked for; None if there is to be none."""
    armed = mutants.all_armed()
    if set(armed) & set(SWITCHES):
        mode = "disk" if "M45" in armed else "memory"
    elif armed:
        mode = "off"
    if mode == "off":
        return None
    return ContentStore(folder if mode == "disk" else None, toolchain(), limit=limit)
