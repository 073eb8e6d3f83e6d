"""A connection that misbehaves by a plan: what the stress tool puts between machine and translator.

Problem: late, doubled and lost messages must be met by every machine, and hardly ever happen on one
computer. `Chaos` wraps the machine's connection and, by a seeded plan, holds back what the
translator says, lets answers to different requests overtake one another, says things twice, sends
things twice, and breaks the connection, whatever was under way being lost with it. What was held
back when a connection ended may still arrive on the next one, as if a queue had kept it.

Invariants:
- What happens to a message follows from the plan's seed and the number of messages before it.
- Messages that are not answers to requests keep their order among themselves: a connection does.
  Answers, which no rule orders, may come at any time, those of an older epoch too.
- Nothing is invented and nothing altered: each message heard is one the translator said.
- No machine of a user has one: it is given to `Machine.transport` by whoever makes the machine.

Read next: `protocol.transport` (`Connection`, what is wrapped), `cpu_proc/translator.py`.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from protocol.codec import CodecError
from protocol.logs import get_logger
from protocol.messages import Message, Rejected, Translated, tag_of
from protocol.transport import Connection, Ready

log = get_logger("chaos")


@dataclass(frozen=True, slots=True)
class Plan:
    """How often what happens: each number a probability, of each message.

    `longest`: seconds an answer is held back at most; other messages a tenth of it, so that
    deadlines of the handshake and of retirements are met unless somebody wants otherwise.
    """

    seed: int
    delay: float = 0.5
    longest: float = 0.1
    duplicate: float = 0.1
    send_twice: float = 0.05
    disconnect: float = 0.002
    leftover: float = 0.5


class Chaos:
    """The plan carried out over all connections of one machine. `counts`: what was done; `heard`:
    messages that the translator said.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.heard = 0
        self._clock = clock
        self._random = random.Random(plan.seed)
        self._left: list[Message | CodecError] = []

    def wrap(self, inner: Connection) -> ChaoticConnection:
        """The connection as the machine shall see it."""
        return ChaoticConnection(self, inner)

    # --- for the connections -------------------------------------------------------------------

    def now(self) -> float:
        return self._clock()

    def happens(self, what: str) -> bool:
        """Whether a thing of the plan happens now."""
        happens: bool = self._random.random() < getattr(self.plan, what)
        self.counts[what] += happens
        return happens

    def how_long(self, answer: bool) -> float:
        """Seconds a message is held back."""
        longest = self.plan.longest if answer else self.plan.longest / 10
        return self._random.uniform(0.0, longest) if self.happens("delay") else 0.0

    def leave(self, held: list[Message | CodecError]) -> None:
        """A connection ended with these held back."""
        self._left += [message for message in held if self.happens("leftover")]

    def take_left(self) -> list[Message | CodecError]:
        """What earlier connections left, for one that begins."""
        left, self._left = self._left, []
        return left


class ChaoticConnection:
    """See `transport.Connection`."""

    def __init__(self, chaos: Chaos, inner: Connection) -> None:
        self._chaos = chaos
        self._inner = inner
        self._order = count()
        self._held: list[tuple[float, int, Message | CodecError]] = []
        self._last = 0.0  # when the last message that is no answer comes
        self._broken = False
        for message in chaos.take_left():
            self._hold(message, chaos.now() + chaos.plan.longest)

    def watch(self, fd: int) -> None:
        self._inner.watch(fd)

    def poll(self, timeout: float) -> Ready:
        if self._broken:
            return Ready(False, frozenset(), True)
        if self._held:
            timeout = min(timeout, max(0.0, self._held[0][0] - self._chaos.now()))
        ready = self._inner.poll(timeout)
        if ready.messages:
            self._listen()
        due = bool(self._held) and self._held[0][0] <= self._chaos.now()
        return Ready(due and not self._broken, ready.fds, ready.disconnected or self._broken)

    def receive(self) -> list[Message | CodecError]:
        now = self._chaos.now()
        due: list[Message | CodecError] = []
        while self._held and self._held[0][0] <= now:
            due.append(heapq.heappop(self._held)[2])
        return due

    def send(self, message: Message) -> bool:
        if self._broken:
            return True  # it is lost, as what is sent into a connection that ends
        sent = self._inner.send(message)
        if sent and self._chaos.happens("send_twice"):
            self._inner.send(message)
        return sent

    def close(self) -> None:
        self._chaos.leave([message for _, _, message in sorted(self._held, key=lambda h: h[:2])])
        self._held.clear()
        self._inner.close()

    def _listen(self) -> None:
        chaos = self._chaos
        for message in self._inner.receive():
            chaos.heard += 1
            if chaos.happens("disconnect"):
                tag = "" if isinstance(message, Exception) else tag_of(message)
                log.info("connection_broken", lost=tag, held=len(self._held))
                self._broken = True
                return
            answer = isinstance(message, Translated | Rejected)
            for _ in range(1 + chaos.happens("duplicate")):
                when = chaos.now() + chaos.how_long(answer)
                if not answer:
                    when = self._last = max(when, self._last)
                self._hold(message, when)

    def _hold(self, message: Message | CodecError, when: float) -> None:
        heapq.heappush(self._held, (when, next(self._order), message))
