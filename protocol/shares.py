"""Whose turn it is: workers' time, shared evenly between the machines that want some.

Problem: one machine may ask for thousands of regions, or for regions that take long, while another
one waits for the loop it is in. Turns alone are not fair: a turn of one may take a hundred times a
turn of another. And what a job takes is known when it is done.

Solution: start-time fair queueing (Goyal, Vin, Cheng 1996). Each session has a mark, the time up to
which it was served; the least mark is next, and moves on by what the job took. Until that is known,
by what its jobs usually take.

Invariants:
- Of two sessions that always want something, neither is ahead by more than one job of each worker.
- Who wanted nothing for a while is not behind for it, and saved nothing up: it begins at the mark
  of who was served last. So a session that asks for its first region waits for what is with the
  workers already, and for no queue of another.
- Of equals the one that was served longest ago comes first.

Read next: `protocol.session_translator`, which asks; `jit_proc/service.py`, which measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

UNKNOWN = 10_000.0
"""Microseconds that a session's first job is taken to last."""

_WEIGHT = 0.25  # of the latest job in what is usual


class Shares:
    """The marks of all sessions, in microseconds of a worker."""

    def __init__(self) -> None:
        self._marks: dict[int, float] = {}
        self._usual: dict[int, float] = {}
        self._served: dict[int, int] = {}  # when last, in turns
        self._now = 0.0
        self._turns = count()

    def enter(self, session: int) -> None:
        """A session began."""
        self._marks[session] = self._now
        self._usual[session] = UNKNOWN
        self._served[session] = next(self._turns)

    def leave(self, session: int) -> None:
        """It is over."""
        for one in (self._marks, self._usual, self._served):
            one.pop(session, None)

    def order(self, sessions: Iterable[int]) -> list[int]:
        """The sessions, whose turn it is first."""
        return sorted(sessions, key=lambda one: (self._start(one), self._served[one]))

    def taken(self, session: int) -> float:
        """A job of it goes to a worker; what it is taken to last, for `done`."""
        start = self._now = self._start(session)
        usual = self._usual[session]
        self._marks[session] = start + usual
        self._served[session] = next(self._turns)
        return usual

    def done(self, session: int, taken_for: float, microseconds: float) -> None:
        """The job is done, or given up, after so long."""
        if session in self._marks:
            self._marks[session] += microseconds - taken_for
            self._usual[session] += _WEIGHT * (microseconds - self._usual[session])

    def _start(self, session: int) -> float:
        return max(self._now, self._marks[session])
