"""Bytes that a backend is not trusted with any more.

The problem: when two backends differ about a region (`backends/shadow.py`), the one whose code runs
may be wrong about these bytes wherever they come up again: in the next request, in another machine,
under the same backend without a comparison, out of the content store, after a restart. So they are
remembered here, and every region passes by before it is kept or placed.

Invariants:
- A region is held back when it overlaps a place in quarantine whose bytes stand in its page as they
  did: other bytes there are other code.
- What is noted of this project's backends is noted on disk too, under the digest of the toolchain:
  a mended backend is another one, and its quarantine begins empty. A place to write that is missing
  is no error; then it lasts as long as this process.
- It holds `LIMIT` places at most. One more, and nothing of that backend passes: who finds as many
  differences needs no more of them.

Read next: `service.py` (`_answer`), `content_store.py` (`toolchain`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jit_proc import backends
from jit_proc.content_store import ContentStore
from jit_proc.job import Difference
from protocol.backends import is_pair, name_of
from protocol.layout import PAGE_SIZE
from protocol.logs import get_logger
from protocol.session import Job

LIMIT = 4096
QUARANTINED = "some of these bytes are in quarantine"
"""Why a request is refused."""
_MAX_FILE = 64 << 20

log = get_logger("translator")

_Place = tuple[tuple[int, bytes], ...]


class Quarantine:
    """Places by the name of the backend that was wrong; for the broker's thread alone."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: where it is kept; None for nowhere."""
        self._path = path
        self._places: dict[str, list[_Place]] = {}
        self.differences = self.held = 0
        if path is not None:
            self._read(path)

    def __len__(self) -> int:
        return sum(map(len, self._places.values()))

    def add(self, found: Difference, content: bytes) -> None:
        """Two backends were found to differ about code of a page with these contents."""
        self.differences += 1
        place = tuple((start, content[start : start + size]) for start, size in found.spans)
        name = name_of(found.backend)
        if not place or not self._note(name, place):
            return
        if self._path is None or not backends.is_ours(name):
            return
        line = json.dumps(
            {"backend": name, "place": [[at, data.hex()] for at, data in place], "text": found.text}
        )
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, (line + "\n").encode())
            finally:
                os.close(fd)
        except OSError as error:
            log.warning("quarantine_not_written", path=str(self._path), reason=str(error))

    def holds(self, backend: str, content: bytes, spans: Sequence[tuple[int, int]]) -> bool:
        """Whether a region that a backend, as it is spelt, made of these spans is held back."""
        held = any(_overlap(place, spans) for place in self._standing(backend, content))
        self.held += held
        return held

    def holds_entries(self, backend: str, content: bytes, slots: Sequence[int]) -> bool:
        """Whether every region that could be entered at these slots alone would be held back."""
        places = list(self._standing(backend, content))
        held = bool(places) and all(
            any(_overlap(place, [(2 * slot, 2)]) for place in places) for slot in slots
        )
        self.held += held
        return held

    def _standing(self, backend: str, content: bytes) -> Iterator[_Place]:
        """Places whose bytes stand in a page with these contents."""
        places = self._places.get(name_of(backends.makes(backend)), [])
        if len(places) >= LIMIT:
            yield ((0, content),)
        for place in places:
            if all(content[at : at + len(data)] == data for at, data in place):
                yield place

    def counters(self) -> dict[str, int]:
        """For STATS."""
        return {
            "differences": self.differences,
            "quarantined": len(self),
            "quarantine_refused": self.held,
        }

    def _note(self, name: str, place: _Place) -> bool:
        places = self._places.setdefault(name, [])
        if place in places or len(places) >= LIMIT:
            return False
        places.append(place)
        return True

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                lines = file.read(_MAX_FILE).splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("quarantine_not_read", path=str(path), reason=str(error))
            return
        for line in lines:
            try:
                one = json.loads(line)
                place = tuple((int(at), bytes.fromhex(data)) for at, data in one["place"])
                name = str(one["backend"])
            except (ValueError, KeyError, TypeError) as error:
                log.warning("quarantine_line_skipped", path=str(path), reason=repr(error)[:200])
                continue
            if place and all(0 <= at <= at + len(data) <= PAGE_SIZE for at, data in place):
                self._note(name, place)
        if len(self):
            log.info("quarantine_read", path=str(path), places=len(self))


class Unproven:
    """Regions that live in a machine's code though nothing was compared, by session.

    When bytes go into quarantine, a region made from them may have been placed before: for the
    machine under a backend that compares a sample, or for another one. Of a session that has more
    than `LIMIT` of them no more is known than that; nor of what was placed before any backend
    compared something (`_blind`, by session: the backends).
    """

    def __init__(self) -> None:
        self._regions: dict[int, set[tuple[str, _Place]]] = {}
        self._blind: dict[int, set[str]] = {}
        self._comparing = False

    def placed(
        self, session: int, backend: str, content: bytes, spans: Sequence[tuple[int, int]]
    ) -> None:
        """A region was answered without a comparison."""
        self._comparing = self._comparing or is_pair(backend)
        if not self._comparing:
            self._blind.setdefault(session, set()).add(backend)
            return
        regions = self._regions.setdefault(session, set())
        if len(regions) <= LIMIT:
            regions.add((backend, tuple((at, content[at : at + size]) for at, size in spans)))

    def forget(self, session: int) -> None:
        """Everything of a machine was retired, or it is gone."""
        self._regions.pop(session, None)
        self._blind.pop(session, None)

    def suspects(self, found: Difference, content: bytes) -> list[int]:
        """The sessions in which a region may live that was made of some of these bytes."""
        place = tuple((at, content[at : at + size]) for at, size in found.spans)
        name = name_of(found.backend)

        def is_made_by_it(backend: str) -> bool:
            return name_of(backends.makes(backend)) == name

        seen = {
            session
            for session, regions in self._regions.items()
            if len(regions) > LIMIT
            or any(is_made_by_it(by) and _shares(place, region) for by, region in regions)
        }
        blind = {session for session, by in self._blind.items() if any(map(is_made_by_it, by))}
        return sorted(seen | blind)


def _shares(place: _Place, region: _Place) -> bool:
    """Whether they overlap, and have the same bytes wherever they do."""
    common = [
        data[low - at : high - at] == other[low - start : high - start]
        for at, data in place
        for start, other in region
        if (low := max(at, start)) < (high := min(at + len(data), start + len(other)))
    ]
    return bool(common) and all(common)


def _overlap(place: _Place, spans: Sequence[tuple[int, int]]) -> bool:
    return any(
        start < at + len(data) and at < start + size for at, data in place for start, size in spans
    )


class Doubts:
    """What a translator has come to doubt: the quarantine, and what lives that was never compared.

    `compared`: states from which regions were compared. `alone`: regions that were to be, but the
    other backend refused.
    """

    def __init__(self, folder: Path, kept: ContentStore | None) -> None:
        """The quarantine is on disk where translations are."""
        on_disk = kept is not None and kept.folder is not None
        name = f"quarantine-{kept.toolchain}.jsonl" if kept is not None else ""
        self.quarantine = Quarantine(folder / name if on_disk else None)
        self.unproven = Unproven()
        self.compared = self.alone = 0

    def differ(self, job: Job, content: bytes, found: Difference) -> list[int]:
        """Two backends can be told apart by a region; the sessions that cannot go on as they are.

        They have code of these bytes that was compared with nothing: sent away, they retire
        everything, and come back.
        """
        self.compared += found.compared
        self.quarantine.add(found, content)
        log.error(
            "backends_differ",
            session=job.session,
            page=job.request.page,
            backend=found.backend,
            difference=found.text,
            reproducer=found.file,
            spans=found.spans,
        )
        suspects = self.unproven.suspects(found, content)
        for suspect in suspects:
            log.error("machine_sent_away", session=suspect, difference=found.text)
            self.unproven.forget(suspect)
        return suspects

    def counters(self) -> dict[str, int]:
        """For STATS."""
        told = {"states_compared": self.compared, "not_comparable": self.alone}
        return {**told, **self.quarantine.counters()}
