"""Chaos from outside while a guest runs: what the guest must not notice.

The problem: a translator may be killed, stopped or replaced at any moment, and everything may be
retired at any safe point; none of it may change one value that a guest computes. So a thread beside
the machine does such things at random moments, as a plan says: the mean seconds between two of a
kind, from the end of the one to the next.

    {"retire": 0.01, "kill": 0.5, "stop": 0.3, "worker": 0.5, "swap": 0.2, "messages": 0.05}

Kinds: `retire` everything at the next safe point; `kill` the translator (SIGKILL); `stop` it for a
moment (SIGSTOP, SIGCONT); kill a `worker` of it; `swap` the backend for another. `messages` is none
of the thread's: what the translator says is held back for up to so many seconds, doubled and lost,
as `protocol.chaos` has it.

Invariants: which things happen, and in which order, follows from the seed; when exactly does not.
What was stopped is continued before the thread ends. Only processes that this machine started are
sent signals.

Read next: `trial.py`, `random_program.py`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import UserError

if TYPE_CHECKING:
    from cpu_proc.machine import Machine
    from protocol.chaos import Chaos

KINDS = ("retire", "kill", "stop", "worker", "swap", "messages")
BACKENDS = ("llvm", "reference", "none", "llvm,level=2")
PAUSE = 0.05  # seconds that a stopped translator is stopped, at most
STEP = 0.02  # seconds between two looks at whether the machine's end has come
CLOSE_PATIENCE = 10.0


class Disturbance:
    """The thread that disturbs a machine: `start`, `stop`."""

    def __init__(self, machine: Machine, plan: Mapping[str, float], seed: int) -> None:
        """For a machine that is not powered on.

        Raises ValueError for an unknown kind or a time that is not positive.
        """
        for kind, seconds in plan.items():
            if kind not in KINDS or seconds <= 0:
                raise ValueError(f"disturbance {kind}={seconds}: kinds are {', '.join(KINDS)}")
        self._machine = machine
        self._plan = {kind: seconds for kind, seconds in plan.items() if kind != "messages"}
        self._messages: Chaos | None = None
        if "messages" in plan:
            from protocol.chaos import Chaos, Plan

            self._messages = Chaos(Plan(seed, longest=plan["messages"]))
            machine.transport = self._messages.wrap
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="disturbance", daemon=True)
        self.done: Counter[str] = Counter()

    def start(self) -> None:
        """Begin. The machine has its first translator, if it is to have one."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and wait until it has ended."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_PATIENCE)
        if self._messages is not None:
            self.done["messages"] = sum(self._messages.counts.values())

    def _main(self) -> None:
        due = {kind: self._gap(kind) for kind in self._plan}
        began = time.monotonic()
        while due and not self._over.is_set():
            kind = min(due, key=lambda k: due[k])
            if self._over.wait(max(0.0, due[kind] - (time.monotonic() - began))):
                break
            if getattr(self, f"_{kind}")():
                self.done[kind] += 1
            due[kind] = time.monotonic() - began + self._gap(kind)

    def _gap(self, kind: str) -> float:
        return self._random.expovariate(1 / self._plan[kind])

    # --- the kinds; each says whether it was done ------------------------------------------------

    def _retire(self) -> bool:
        machine, done = self._machine, threading.Event()

        def retire() -> None:
            machine.retirement.everything("request")
            done.set()

        machine.safe_point.post(retire)
        self._await(done)
        return True

    def _kill(self) -> bool:
        return _signal(self._child(), signal.SIGKILL)

    def _stop(self) -> bool:
        child = self._child()
        if not _signal(child, signal.SIGSTOP):
            return False
        self._over.wait(self._random.uniform(0, PAUSE))
        _signal(child, signal.SIGCONT)
        return True

    def _worker(self) -> bool:
        child = self._child()
        workers = children(child) if child is not None else []
        return bool(workers) and _signal(self._random.choice(workers), signal.SIGKILL)

    def _swap(self) -> bool:
        with contextlib.suppress(UserError):
            self._await(self._machine.request_swap(self._random.choice(BACKENDS)).done)
            return True
        return False

    def _await(self, done: threading.Event) -> None:
        """Wait until something is done, as long as the machine runs. Else, where it takes longer
        than the mean time between two, they would queue and no hart would run any more."""
        while not (self._over.is_set() or done.wait(STEP)):
            pass

    def _child(self) -> int | None:
        link = self._machine.translator
        return link.child_pid if link is not None else None


def children(process: int) -> list[int]:
    """Processes that a process has started and not yet awaited."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _signal(process: int | None, number: signal.Signals) -> bool:
    if process is None:
        return False
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return False
    return True
