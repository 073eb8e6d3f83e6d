"""The content store on disk: an SQLite file that any number of translators share.

The problem: what was translated yesterday, or by another translator a second ago, should not be
translated again; and a file that many processes write, that a power cut or a full disk may cut off
at any byte, must never bring a wrong entry back, stop a translator, or grow without bound.

Why SQLite and not LMDB: measured in `docs/store.md`. LMDB finds faster, but reads through a
mapping: a file that was cut short or damaged ends the process by a signal. SQLite reads by pread
and answers with an error; a search takes tens of microseconds, a translation tens of milliseconds.

Invariants:
- An entry is used only if `store_entry.decode` accepts it for the context asked about: whatever
  SQLite brings back, a wrong one is refused, counted and removed.
- Readers never wait: journal mode WAL, no busy timeout. One transaction a batch; it is there whole
  or not at all, after a `kill -9` too (synchronous=NORMAL: after a power cut a last batch may be
  gone, the file stays sound).
- A file that SQLite calls corrupt, or that has another schema, is removed and begun anew, by one
  process at a time, and only if it still is the file that was found bad (`_discard`).
- The file is opened by SQLite alone, but when it is made: see `_connect`.
- Whatever goes wrong otherwise - no folder, no right, no space - is DiskError, once: who uses this
  goes on without.
- No more than `limit` bytes are used: beyond it those go first that were not used for longest.

A `Disk` belongs to one thread. Read next: `content_store.py` (who uses it), `store_entry.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from jit_proc.store_entry import Entry, EntryError, decode, encode, own_keys
from protocol.logs import get_logger

SCHEMA: Final = 1
FILE: Final = f"translations-{SCHEMA}.sqlite"
DEFAULT_LIMIT: Final = 256 << 20
CANDIDATES: Final = 32  # that are looked at for one slot

_WRITE_PATIENCE = 2.0  # seconds that a writer waits for another one
_LOCK_PATIENCE = 1.0  # seconds that opening takes at most, for others
_KEEP = 0.9  # of the limit is left after an eviction
_PAGE = 4096
_TABLES = """
CREATE TABLE context (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, text TEXT NOT NULL);
CREATE TABLE region (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE,
    context INTEGER NOT NULL, page BLOB NOT NULL, size INTEGER NOT NULL,
    used INTEGER NOT NULL, hits INTEGER NOT NULL);
CREATE INDEX region_used ON region (used);
CREATE TABLE body (region INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE place (key BLOB NOT NULL, region INTEGER NOT NULL,
    PRIMARY KEY (key, region)) WITHOUT ROWID;
CREATE INDEX place_region ON place (region);
"""
_DAMAGED = {
    sqlite3.SQLITE_ERROR,  # a table or a column is missing
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_RANGE,
}

log = get_logger("store")


class DiskError(Exception):
    """The file cannot be used; the message says why."""


class Damaged(DiskError):
    """The file was found bad; it is gone, and a new one can be made."""


class Row(NamedTuple):
    """What `coldboot store info` tells of one context. Bytes; `used` in seconds since 1970."""

    text: str
    regions: int
    size: int
    hits: int
    used: int


class Disk:
    """One connection to the file in `folder`. All methods raise DiskError."""

    def __init__(
        self, folder: Path, limit: int = DEFAULT_LIMIT, *, patience: float = _WRITE_PATIENCE
    ) -> None:
        """Open the file, or make it. `patience`: seconds to wait for another writer."""
        self.folder = folder
        self.path = folder / FILE
        self.limit = limit
        self.refused = 0
        self._contexts: dict[bytes, int] = {}
        self._inode = 0
        with _translated(self):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _only_one(folder):
                self._base = self._connect(patience)

    def _connect(self, patience: float) -> sqlite3.Connection:
        # Only a file that is not there yet: closing a descriptor of one that SQLite has open in
        # this process would drop SQLite's locks (fcntl(2), "Advisory record locking"), and another
        # process that closes would take itself for the last, and remove the log under us.
        with contextlib.suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self.path, flags, 0o600))
        status = self.path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise DiskError(f"{self.path} is, or can be written by, somebody else's")
        self._inode = status.st_ino
        base = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
                base.execute(f"PRAGMA {pragma}")
            if base.execute("PRAGMA user_version").fetchone() == (0,):
                found = base.execute("SELECT count(*) FROM sqlite_schema").fetchone()
                if found != (0,):
                    raise sqlite3.DatabaseError("it has another schema")
                base.execute(f"PRAGMA page_size={_PAGE}")
                base.execute("PRAGMA auto_vacuum=INCREMENTAL")
                base.execute("PRAGMA journal_mode=WAL")
                base.executescript(f"BEGIN;{_TABLES}PRAGMA user_version={SCHEMA};COMMIT;")
            elif base.execute("PRAGMA user_version").fetchone() != (SCHEMA,):
                raise sqlite3.DatabaseError("it has another schema")
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")
            base.execute("PRAGMA journal_size_limit=4194304")
        except BaseException:
            base.close()
            raise
        return base

    # --- reading -------------------------------------------------------------------------------

    def find(self, context: bytes, keys: Iterable[bytes]) -> Iterator[Entry]:
        """Sound entries under one of the place keys, the latest first. Bad ones are counted."""
        keys = list(keys)
        marks = ",".join("?" * len(keys))
        with _translated(self):
            rows = self._base.execute(
                f"SELECT DISTINCT region FROM place WHERE key IN ({marks})"
                " ORDER BY region DESC LIMIT ?",
                (*keys, CANDIDATES),
            ).fetchall()
        for (number,) in rows:
            entry = self._load(context, number)
            if entry is not None:
                yield entry

    def _load(self, context: bytes, number: object) -> Entry | None:
        with _translated(self):
            row = self._base.execute("SELECT data FROM body WHERE region=?", (number,)).fetchone()
        try:
            return decode(context, bytes(row[0]) if row is not None else b"")
        except (EntryError, TypeError, ValueError) as error:
            self.refused += 1
            log.warning("entry_refused", region=str(number), reason=str(error))
            with contextlib.suppress(DiskError):
                self._remove([number])
            return None

    # --- writing -------------------------------------------------------------------------------

    def write(
        self,
        entries: Iterable[tuple[bytes, str, Entry]],
        used: Mapping[bytes, int] | None = None,
    ) -> int:
        """Add entries (context, what it is in words, entry), in one transaction, and count uses.

        `used`: hits by an entry's name. Returns the bytes in use afterwards, having evicted what
        is too much.
        """
        now = int(time.time())
        with _translated(self), self._transaction():
            for context, text, entry in entries:
                self._insert(context, text, entry, now)
            for name, hits in (used or {}).items():
                self._base.execute(
                    "UPDATE region SET used=?, hits=hits+? WHERE name=?", (now, hits, name)
                )
        return self._evict()

    def _insert(self, context: bytes, text: str, entry: Entry, now: int) -> None:
        execute = self._base.execute
        row = execute("SELECT id FROM context WHERE key=?", (context,)).fetchone()
        if row is None:
            row = (
                execute("INSERT INTO context (key, text) VALUES (?, ?)", (context, text)).lastrowid,
            )
        data = encode(context, entry)
        done = execute(
            "INSERT OR IGNORE INTO region (name, context, page, size, used, hits)"
            " VALUES (?, ?, ?, ?, ?, 0)",
            (entry.name, row[0], entry.page, len(data), now),
        )
        if done.rowcount != 1:
            return  # another translator was first
        number = done.lastrowid
        execute("INSERT OR REPLACE INTO body (region, data) VALUES (?, ?)", (number, data))
        self._base.executemany(
            "INSERT OR IGNORE INTO place (key, region) VALUES (?, ?)",
            [(key, number) for key in own_keys(context, entry)],
        )

    def _remove(self, numbers: Iterable[object]) -> None:
        chosen = [(number,) for number in numbers]
        with _translated(self), self._transaction():
            for table, column in (("place", "region"), ("body", "region"), ("region", "id")):
                self._base.executemany(f"DELETE FROM {table} WHERE {column}=?", chosen)

    def _evict(self) -> int:
        """Remove what was not used for longest until enough is free; the bytes in use then."""
        size = self.size
        while size > self.limit:
            with _translated(self):
                rows = self._base.execute(
                    "SELECT id, size FROM region ORDER BY used, id LIMIT 512"
                ).fetchall()
            chosen, excess = [], size - int(self.limit * _KEEP)
            for number, length in rows:
                if excess <= 0:
                    break
                chosen.append(number)
                excess -= length
            if not chosen:
                break
            self._remove(chosen)
            with _translated(self):
                self._base.execute("PRAGMA incremental_vacuum").fetchall()
            log.info("store_evicted", regions=len(chosen), bytes=size)
            size = self.size
        return size

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._base.execute("ROLLBACK")
            raise

    # --- the whole -----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes in use, free pages of the file not counted."""
        with _translated(self):
            one = self._base.execute
            pages = one("PRAGMA page_count").fetchone()[0]
            free = one("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * _PAGE

    def count(self, context_text: str = "") -> int:
        """How many regions there are, of one kind of context or of all."""
        with _translated(self):
            row = self._base.execute(
                "SELECT count(*) FROM region WHERE context IN"
                " (SELECT id FROM context WHERE instr(text, ?))",
                (context_text,),
            ).fetchone()
        return int(row[0])

    def rows(self) -> list[Row]:
        """What there is, by context, the largest first."""
        with _translated(self):
            rows = self._base.execute(
                "SELECT text, count(*), sum(size), sum(hits), max(used) FROM region"
                " JOIN context ON context.id = region.context GROUP BY context.id ORDER BY 3 DESC"
            ).fetchall()
        return [Row(*row) for row in rows]

    def verify(self) -> tuple[int, int]:
        """Check the file and every entry: (sound ones, bad ones removed). Raises Damaged."""
        with _translated(self):
            said = self._base.execute("PRAGMA integrity_check(1)").fetchone()
            if said != ("ok",):
                raise sqlite3.DatabaseError(f"integrity_check: {said}")
            rows = self._base.execute(
                "SELECT region.id, region.name, context.key, body.data FROM region"
                " LEFT JOIN context ON context.id = region.context"
                " LEFT JOIN body ON body.region = region.id"
            )
            good, bad = 0, []
            for number, name, context, data in rows:
                try:
                    entry = decode(bytes(context), bytes(data))
                    if entry.name != name:
                        raise EntryError("it has another name")
                    good += 1
                except (EntryError, TypeError, ValueError):
                    bad.append(number)
            lost = self._base.execute(
                "SELECT region FROM body WHERE region NOT IN (SELECT id FROM region)"
            ).fetchall()
        bad += [number for (number,) in lost]
        if bad:
            self._remove(bad)
        return good, len(bad)

    def clear(self) -> int:
        """Remove every entry, and give the space back; how many there were."""
        with _translated(self):
            with self._transaction():
                count = self._base.execute("SELECT count(*) FROM region").fetchone()[0]
                for table in ("place", "body", "region", "context"):
                    self._base.execute(f"DELETE FROM {table}")
            self._base.execute("PRAGMA incremental_vacuum").fetchall()
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return int(count)

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self._base.close()

    def _discard(self, reason: str) -> None:
        """The file is bad: remove it, unless another process did already."""
        if hasattr(self, "_base"):
            self.close()
        try:
            with _only_one(self.folder):
                if self.path.stat().st_ino == self._inode:
                    remove(self.folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DiskError(f"{self.path} is damaged ({reason}) and stays: {error}") from error
        log.warning("store_discarded", path=str(self.path), reason=reason)


def remove(folder: Path) -> None:
    """Remove the file, with what SQLite keeps beside it. Raises OSError."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / (FILE + suffix))


def describe(**parts: object) -> str:
    """What a context is, for people: kept beside its key."""
    return json.dumps(parts, separators=(",", ":"))


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """While the file is opened, made or removed. OSError after `_LOCK_PATIENCE` seconds."""
    fd = os.open(folder / ".translations.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # who has it may be stopped: nobody waits for that for ever
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def _translated(disk: Disk) -> Iterator[None]:
    """Turn SQLite's errors into DiskError; of a damaged file, get rid of it."""
    try:
        yield
    except sqlite3.ProgrammingError as error:  # it was closed, as no more use
        raise DiskError(f"{disk.path}: {error}") from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _DAMAGED:
            disk._discard(str(error))
            raise Damaged(str(error)) from error
        raise DiskError(f"{disk.path}: {error}") from error
    except OSError as error:
        raise DiskError(f"{disk.path}: {error.strerror or error}") from error
    except (OverflowError, UnicodeDecodeError, TypeError, IndexError) as error:
        disk._discard(repr(error))  # values of kinds that were never written
        raise Damaged(repr(error)) from error
