"""The machines a translator serves: their memory, their code segments, their processes.

The problem: each session holds mappings of another process's memory, a code segment and a
descriptor; all of it must be given back when the session ends, however it ends, and a segment must
be there at once when a machine retires everything, for its harts run in tier 0 until it is.

Invariants:

- A machine that ends without a word is noticed by its process's end (a pidfd).
- A retired segment is put away, where nothing can be placed in it any more, before the new one is
  told; it is closed by `tidy`, while nobody waits.

Read next: `service.py`, which calls this; `machine_view.py`, `code_space.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jit_proc.code_space import CodeSpace
from jit_proc.machine_view import MachineView
from jit_proc.refusals import Refusals
from protocol.messages import Attach, Segment


@dataclass
class ServedMachine:
    """What is held for one session. `arrived`: when each request came, by id (monotonic);
    `fresh`: ids of requests that were not looked for in the content store yet.
    """

    peer: bytes
    view: MachineView
    code: CodeSpace
    process: int  # a pidfd: readable when the machine has ended
    arrived: dict[int, float] = field(default_factory=dict)
    fresh: deque[int] = field(default_factory=deque)
    refusals: Refusals = field(default_factory=Refusals)

    def close(self) -> None:
        """Give everything back."""
        self.view.close()
        self.code.close()
        os.close(self.process)


class Served:
    """All machines that are attached, by session."""

    def __init__(self, code_space: int) -> None:
        """`code_space`: bytes of a segment."""
        self._size = code_space
        self._machines: dict[int, ServedMachine] = {}
        self._spare: CodeSpace | None = None
        self._put_away: list[CodeSpace] = []

    def __getitem__(self, session: int) -> ServedMachine:
        return self._machines[session]

    def get(self, session: int) -> ServedMachine | None:
        """The machine of a session, if it is attached."""
        return self._machines.get(session)

    def __iter__(self) -> Iterator[tuple[int, ServedMachine]]:
        return iter(list(self._machines.items()))

    def take_fresh(self, limit: int) -> list[tuple[int, int]]:
        """At most `limit` requests that were not looked for yet, a machine's in turn."""
        taken: list[tuple[int, int]] = []
        while len(taken) < limit and (some := [one for one in self if one[1].fresh]):
            for session, machine in some[: limit - len(taken)]:
                taken.append((session, machine.fresh.popleft()))
                self._machines[session] = self._machines.pop(session)  # next time the last one
        return taken

    def attach(self, session: int, peer: bytes, attach: Attach) -> ServedMachine:
        """Map what ATTACH names, with an empty code segment. Raises OSError or ValueError."""
        with contextlib.ExitStack() as undo:
            process = os.pidfd_open(attach.pid)
            undo.callback(os.close, process)
            view = MachineView(attach)
            undo.callback(view.close)
            machine = ServedMachine(peer, view, CodeSpace(self._size), process)
            undo.pop_all()
        self._machines[session] = machine
        return machine

    def renew(self, session: int) -> tuple[int, int]:
        """Replace the code segment by an empty one; (images, bytes) of the old. Raises OSError."""
        machine = self._machines[session]
        old, space = machine.code, self._spare
        machine.code = space if space is not None else CodeSpace(self._size)
        self._spare = None
        images, used = old.images, old.used
        self._put_away.append(old)
        machine.arrived.clear()
        machine.fresh.clear()
        machine.refusals.clear()
        return images, used

    def forget(self, session: int) -> ServedMachine | None:
        """Give back all that is held for a session; what that was."""
        machine = self._machines.pop(session, None)
        if machine is not None:
            machine.close()
        return machine

    def tidy(self) -> None:
        """While nobody waits: close what was put away, have a segment ready for a retirement."""
        for space in self._put_away:
            space.close()
        self._put_away.clear()
        if self._machines and self._spare is None:
            with contextlib.suppress(OSError):  # who needs one will be told
                self._spare = CodeSpace(self._size)

    def close(self) -> None:
        """Give back what is held for nobody."""
        for space in self._put_away:
            space.close()
        self._put_away.clear()
        if self._spare is not None:
            self._spare.close()
            self._spare = None


def segment(code: CodeSpace) -> Segment:
    """How a code segment is named to the machine."""
    return Segment(code.path, code.size)
