"""What could not be translated is not tried again, as long as it is the same.

The problem: code that no region can hold is found hot over and over, and each time a worker would
be kept from its work to say the same; and bytes that killed two workers would kill two more with
the next request for them.

Invariants:
- A refusal is remembered for the bytes of the whole page, the slots, the state word, the backend
  and the level: one byte differs, and a worker is asked. So it cannot become stale; advice
  (`known`, `seen`) is left out, for no advice makes an entry possible.
- Remembered are refusals that say something of the bytes; not those that say something of the
  moment (`bytes_moved`, `code_space_full`, a pool that is broken).
- They belong to one machine and one epoch: a retirement of everything forgets them, as it forgets
  translations (`clear`). There are `LIMIT` at most; the oldest goes first.

Read next: `service.py`, which asks; `served.py`, which holds one for each machine.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from jit_proc.job import ADVICE, Job, Refusal
from protocol.messages import Rejected
from protocol.session import Reply, TranslatorAction

LIMIT: Final = 4096
LASTING: Final = frozenset(("not_code", "unsupported", "too_large", "compiler_crashed"))
"""Reasons that follow from the bytes."""

_Key = tuple[bytes, object]


class Refusals:
    """One machine's, in one epoch."""

    def __init__(self) -> None:
        self._known: dict[_Key, Refusal] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, job: Job) -> Refusal | None:
        """What was said of exactly this before."""
        return self._known.get(_key(job)) if self._known else None

    def add(self, job: Job, refusal: Refusal) -> None:
        """Remember what was said."""
        if refusal.reason not in LASTING:
            return
        self._known[_key(job)] = refusal
        if len(self._known) > LIMIT:
            del self._known[next(iter(self._known))]

    def learn(self, job: Job, actions: list[TranslatorAction]) -> list[TranslatorAction]:
        """The actions; what they refuse for good is not tried again."""
        for action in actions:
            said = action.message if isinstance(action, Reply) else None
            if isinstance(said, Rejected):
                self.add(job, Refusal(said.reason, said.text))
        return actions

    def clear(self) -> None:
        """Everything is retired."""
        self._known.clear()


def _key(job: Job) -> _Key:
    rest = tuple(
        getattr(job, name) for name in Job.__dataclass_fields__ if name not in ("content", *ADVICE)
    )
    return blake2b(job.content, digest_size=16).digest(), rest
