"""What a check is: a rule of the protocol, its clause, and a function that tries to see it broken.

The problem: somebody who writes a translator wants to know which sentence of `protocol/SPEC.md` it
does not keep, not that "something timed out". So each check names its clause and says the rule in a
line, and what it finds is raised as a `Violation` that tells what came in place of what.

Invariants:
- A check judges by messages, by bytes of the code segment, and by what a guest reports; never by
  how long something took, but for deadlines that the protocol has too.
- A check that cannot be made (the backend refuses the code) is skipped with a reason, not passed.
- Names are unique, `GROUP.WORD`, in the order in which they are run.

Read next: `peer.py`, then the checks: `handshake.py`, `garbage.py`, `requests.py`, `content.py`,
`retirement.py`, `lifetime.py`, `guests.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from cpu_proc.conformance.peer import Peer
    from cpu_proc.conformance.target import Target

Verdict = Literal["passed", "failed", "skipped"]


class Violation(Exception):
    """A rule was broken. `clause`: of SPEC.md, if it is another one than the check's own."""

    def __init__(self, text: str, clause: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.clause = clause


class Skipped(Exception):
    """The check cannot be made here; the text says why."""


@dataclass
class Bench:
    """What checks are given. `deadline`: seconds for any answer; `retire_deadline`: for RETIRED;
    `backend`: the one wanted, as in HELLO. `refused`: requests that were rejected.
    """

    target: Target
    backend: str = ""
    deadline: float = 20.0
    retire_deadline: float = 2.0
    translated: int = 0
    """Regions seen by all checks."""
    refused: int = 0

    @contextlib.contextmanager
    def peer(self, *, attach: bool = True, **options: Any) -> Iterator[Peer]:
        """A machine, attached unless told otherwise; it says goodbye at the end."""
        from cpu_proc.conformance.peer import Peer

        peer = Peer(self, **options)
        try:
            if attach:
                peer.attach()
            yield peer
        finally:
            peer.close()


class Check(NamedTuple):
    """A rule and how it is tried. `restarts`: needs a translator that the kit itself started."""

    name: str
    clause: str
    rule: str
    function: Callable[[Bench], None]
    restarts: bool


CHECKS: dict[str, Check] = {}


def check(
    name: str, clause: str, rule: str, *, restarts: bool = False
) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Register a check."""

    def register(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        if name in CHECKS:
            raise ValueError(f"two checks are called {name}")
        CHECKS[name] = Check(name, clause, rule, function, restarts)
        return function

    return register


@dataclass
class Result:
    """What came of a check. `finding`: what was wrong, or why it was skipped."""

    name: str
    clause: str
    rule: str
    verdict: Verdict
    finding: str = ""
    seconds: float = 0.0


GROUPS = (*("handshake", "session", "garbage", "requests", "content", "retire", "life", "restart"),)
"""What names begin with, in the order in which checks are run."""


def load_all() -> dict[str, Check]:
    """All checks of the protocol, in the order in which they are run."""
    from cpu_proc.conformance import (  # noqa: F401
        content,
        garbage,
        handshake,
        lifetime,
        requests,
        retirement,
    )

    ordered = sorted(CHECKS, key=lambda name: GROUPS.index(name.partition(".")[0]))
    return {name: CHECKS[name] for name in ordered}


def require(condition: bool, text: str, clause: str = "") -> None:
    """Raise a Violation if something does not hold."""
    if not condition:
        raise Violation(text, clause)
