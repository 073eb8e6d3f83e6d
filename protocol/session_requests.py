"""The two tables of translation requests: `Requests` at the machine, `Jobs` at the translator.

Problem: a request lives on both sides until it is answered, cancelled, or everything is retired.
Each side must find it by id, the machine also by what it is about (so that nothing is asked twice),
the translator also by heat (so that the hottest comes first).

Invariants:
- `Requests`: a slot of a page under a state word belongs to one request at most.
- `Jobs`: a job is queued or running, never both; dead entries in the heap never outnumber live ones
  by more than `_SLACK`, so that a flood of requests and cancellations stays bounded.

Read next: `protocol.session_machine` and `protocol.session_translator`, their only users.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from protocol.generations import Stamp
from protocol.messages import Translate
from protocol.session import Job, RequestFailed

_SLACK = 64


class Requests:
    """The machine's requests that are not answered yet."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[Translate, int]] = {}
        self._by_slot: dict[tuple[int, int, int], int] = {}  # (page, state word, slot): id

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, request: Translate, beat: int) -> None:
        """A request was sent, at this heartbeat; none of its slots is asked for already."""
        self._by_id[request.id] = request, beat
        for slot in request.entries:
            self._by_slot[request.page, request.state_word, slot] = request.id

    def asked(self, stamp: Stamp, slot: int) -> Translate | None:
        """The request that asks for the slot under the stamp's page and state word, if any."""
        id = self._by_slot.get((stamp.page, stamp.state_word, slot))
        return None if id is None else self._by_id[id][0]

    def has(self, id: int) -> bool:
        """Whether a request is not answered yet."""
        return id in self._by_id

    def about(self, page: int) -> list[Translate]:
        """All requests about a page."""
        return [request for request, _ in self._by_id.values() if request.page == page]

    def before(self, beat: int) -> list[Translate]:
        """All requests sent before a heartbeat."""
        return [request for request, sent in self._by_id.values() if sent < beat]

    def remove(self, id: int) -> Translate | None:
        """Forget a request; what it was, or None if it is not known."""
        found = self._by_id.pop(id, None)
        if found is None:
            return None
        request = found[0]
        for slot in request.entries:
            del self._by_slot[request.page, request.state_word, slot]
        return request

    def clear(self) -> None:
        """Forget all."""
        self._by_id.clear()
        self._by_slot.clear()


def outside(slots: Iterable[int], spans: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """The slots that lie in none of the spans."""
    inside = {slot for start, size in spans for slot in range(start // 2, (start + size) // 2)}
    return tuple(slot for slot in slots if slot not in inside)


def failed(request: Translate, reason: str) -> RequestFailed:
    """What becomes of its slots."""
    return RequestFailed(request.page, request.state_word, request.entries, reason)


class Jobs:
    """A session's jobs at the translator: waiting by heat, or with a worker."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Job]] = []  # (-heat, id, job); may hold dead ones
        self.queued: dict[int, Job] = {}
        self.running: dict[int, Job] = {}

    def all(self) -> Iterable[Job]:
        """Every job, in whatever state."""
        return (*self.queued.values(), *self.running.values())

    def add(self, job: Job) -> None:
        """Let a job wait."""
        self.queued[job.request.id] = job
        heapq.heappush(self._heap, (-job.request.heat, job.request.id, job))

    def take(self) -> Job | None:
        """The hottest job (of equals the oldest); it is running now."""
        while self._heap:
            _, id, job = heapq.heappop(self._heap)
            if self.queued.get(id) is job:
                del self.queued[id]
                self.running[id] = job
                return job
        return None

    def take_one(self, id: int) -> None:
        """The job of this id, which waits, is running now."""
        self.running[id] = self.queued.pop(id)
        self._sweep()

    def is_live(self, job: Job) -> bool:
        """Whether the job is running and wanted."""
        return self.running.get(job.request.id) is job

    def finish(self, job: Job) -> bool:
        """The job ended: whether it was live."""
        if not self.is_live(job):
            return False
        del self.running[job.request.id]
        return True

    def cancel(self, id: int) -> Job | None:
        """Forget a job; what it was, or None if it is not known."""
        job = self.queued.pop(id, None)
        if job is None:
            return self.running.pop(id, None)
        self._sweep()
        return job

    def _sweep(self) -> None:
        if len(self._heap) > 2 * len(self.queued) + _SLACK:
            self._heap = [one for one in self._heap if self.queued.get(one[1]) is one[2]]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self.queued.clear()
        self.running.clear()
