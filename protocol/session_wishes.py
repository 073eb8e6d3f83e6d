"""What a machine wants of a translator beside code: its engine, and another backend.

Problem: both are asked for once and answered late or never, by this translator or the next one.

Invariants:
- An engine that is wanted is asked for whenever a translator is met, until it is here, failed, or
  its deadline has passed.
- One swap at a time, which ends in exactly one of SwapReady or SwapFailed. A backend that was
  swapped in is what the next translator is asked for, too; so is one that was wanted without any.

Read next: `protocol.session_machine`, its only user.
"""

from __future__ import annotations

from protocol.backends import name_of
from protocol.messages import Engine, EngineReady, Error, Swap, Swapped
from protocol.session import (
    CancelTimer,
    EngineFailed,
    EngineLoaded,
    MachineAction,
    Send,
    SetTimer,
    SwapFailed,
    SwapReady,
)
from protocol.session_terms import Deadlines


class Wishes:
    """Of one machine. An answer to something that is not wanted has no actions."""

    def __init__(self, backend: str, deadlines: Deadlines) -> None:
        self.backend = backend
        """What is asked for in HELLO."""
        self._deadlines = deadlines
        self._engine: str | None = None
        self._swap: str | None = None

    # --- the engine ------------------------------------------------------------------------------

    def want_engine(self, key: str) -> list[MachineAction]:
        """From now on."""
        self._engine = key
        return [SetTimer("engine", self._deadlines.engine)]

    def ask_engine(self, session: int) -> list[MachineAction]:
        """A translator is there."""
        return [] if self._engine is None else [Send(Engine(session, self._engine))]

    def engine_ready(self, message: EngineReady) -> list[MachineAction]:
        if message.key != self._engine:
            return []
        self._engine = None
        return [EngineLoaded(message.key, message.path), CancelTimer("engine")]

    def engine_failed(self, text: str) -> list[MachineAction]:
        """It will not come."""
        if self._engine is None:
            return []
        key, self._engine = self._engine, None
        return [EngineFailed(key, text)]

    # --- the backend -----------------------------------------------------------------------------

    def ask_swap(
        self, backend: str, session: int | None, backends: tuple[str, ...]
    ) -> list[MachineAction]:
        """`session`: with a translator that has `backends`; None: there is none."""
        if session is None:
            self.backend = backend  # or a machine whose backend nobody has would be stuck with it
            return [SwapFailed(backend, "no translator is attached; the next one is asked for it")]
        if self._swap is not None:
            return [SwapFailed(backend, f"the swap to {self._swap} is still under way")]
        if name_of(backend) not in backends:
            text = f"backend {name_of(backend)} is unknown: use one of {', '.join(backends)}"
            return [SwapFailed(backend, text)]
        self._swap = backend
        return [Send(Swap(session, backend)), SetTimer("swap", self._deadlines.swap)]

    def swapped(self, message: Swapped) -> list[MachineAction]:
        if message.backend != self._swap:
            return []
        self._swap = None
        self.backend = message.backend
        return [SwapReady(message.backend), CancelTimer("swap")]

    def swap_failed(self, text: str) -> list[MachineAction]:
        """It will not come."""
        if self._swap is None:
            return []
        backend, self._swap = self._swap, None
        return [SwapFailed(backend, text)]

    # --- both ------------------------------------------------------------------------------------

    def refused(self, message: Error) -> list[MachineAction]:
        """The translator says why not."""
        if message.name == "engine_failed" and self._engine is not None:
            return [*self.engine_failed(message.text), CancelTimer("engine")]
        if message.name == "unknown_backend" and self._swap is not None:
            return [*self.swap_failed(message.text), CancelTimer("swap")]
        return []

    def timer(self, name: str) -> list[MachineAction]:
        """A deadline has passed."""
        if name == "engine":
            return self.engine_failed("the translator did not deliver the engine in time")
        return self.swap_failed("the translator did not answer in time") if name == "swap" else []
