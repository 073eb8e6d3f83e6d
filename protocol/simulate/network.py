"""The simulated network: connections that keep order, and lose everything or nothing.

What ZeroMQ promises and no more (`protocol/SPEC.md`, section 2): within a connection order is kept;
across connections nothing is; a connection that breaks takes what is on its way with it. What a
proxy could do besides is here too: a message comes twice, or arrives long after its connection was
given up.

Read next: `world.py`, which decides what arrives when.
"""

from __future__ import annotations

from collections import deque

from protocol.messages import Message

QUEUE = 256  # messages a connection holds in one direction; beyond that a send fails


class Violation(Exception):
    """The contract is broken. `rule`: a word for what; `text`: how it showed."""

    def __init__(self, rule: str, text: str) -> None:
        super().__init__(rule, text)  # both, so that it can be pickled
        self.rule = rule
        self.text = text

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Connection:
    """One connection of a machine; `peer`: its name at the translator's socket."""

    def __init__(self, machine: int, number: int) -> None:
        self.machine = machine
        self.peer = b"m%d-%d" % (machine, number)
        self.name = f"m{machine}-{number}"
        self.up: deque[Message] = deque()  # towards the translator
        self.down: deque[Message] = deque()
        self.open = True  # at the machine's end
        self.hung = False  # the other end is gone

    def send_up(self, message: Message) -> bool:
        """Queue a message of the machine's; False when there is no room."""
        if len(self.up) >= QUEUE:
            return False
        self.up.append(message)
        return True

    def send_down(self, message: Message) -> bool:
        """Queue a message of the translator's; False when the machine is gone."""
        if not self.open or self.hung or len(self.down) >= QUEUE:
            return False
        self.down.append(message)
        return True


class Timers:
    """Deadlines of one process by name."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def set(self, name: str, when: float) -> None:
        self._at[name] = when

    def cancel(self, name: str) -> None:
        self._at.pop(name, None)

    def next(self) -> float | None:
        """When the next one is due."""
        return min(self._at.values()) if self._at else None

    def due(self, now: float) -> list[str]:
        """Remove and return those that are due, in order."""
        names = sorted((at, name) for name, at in self._at.items() if at <= now)
        for _, name in names:
            del self._at[name]
        return [name for _, name in names]
