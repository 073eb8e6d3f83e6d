"""The simulated world: machines, a translator, a network and a clock; and all that can happen.

Problem: an interleaving is a list of choices. So whatever happens is an event, a name and a number
from which it takes its own choices, and an event that cannot happen now does nothing: any part of a
list of events is a list of events, which is what makes shrinking possible.

Invariants:
- A world is a function of its shape and its events. Only events that did something are counted.
- Messages of one connection are delivered in order, but for `late` and `repeat`.
- `settle` is the kind scheduler: everything goes on in turn and time passes when there is nothing
  else to do; whatever came before, all machines must then be served, or there is a deadlock.

Read next: `machine.py`, `translator.py`, `script.py`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from protocol.generations import MASK
from protocol.messages import Message, RetireCause, Segment
from protocol.simulate.image import CodeSegment
from protocol.simulate.machine import VALUES, Machine
from protocol.simulate.network import Connection, Violation
from protocol.simulate.translator import Translator

KEPT = 8  # messages of given-up connections that may still turn up
SETTLE_ROUNDS = 3000
_CAUSES: tuple[RetireCause, ...] = ("overflow", "request", "system_reset", "snapshot_restore")


@dataclass(frozen=True)
class Shape:
    """How large a world is, and where its counters begin. `room`: images a code segment holds."""

    machines: int = 1
    harts: int = 2
    pages: int = 6
    addresses: int = 4
    workers: int = 2
    room: int = 8
    first_epoch: int = 1
    first_generation: int = 0

    @staticmethod
    def draw(rng: random.Random) -> Shape:
        """A shape at random; counters begin near their end in half of them."""
        wraps = rng.random() < 0.5
        return Shape(
            machines=rng.choice((1, 1, 2, 3)),
            harts=rng.choice((1, 2, 2, 4)),
            pages=rng.choice((2, 6, 8)),
            addresses=2,
            workers=rng.choice((1, 2, 3)),
            room=rng.choice((2, 8, 64)),
            first_epoch=MASK - rng.randrange(9) if wraps else 1,
            first_generation=MASK - rng.randrange(30) if wraps else 0,
        )

    def as_dict(self) -> dict[str, int]:
        """Plain data, for a script."""
        return asdict(self)


class World:
    """Everything."""

    backends = ("llvm", "reference", "none")

    def __init__(self, shape: Shape, *, telling: bool = False) -> None:
        self.shape = shape
        self.telling = telling
        self.told: list[str] = []
        self.now = 0.0
        self.steps = 0
        self.meanwhile = 0
        self.connections: dict[bytes, Connection] = {}
        self._links: list[Connection] = []
        self._late: deque[tuple[int, Message]] = deque(maxlen=KEPT)
        self._segments: dict[str, CodeSegment] = {}
        self._numbers = 0
        self._mix = 0
        self._trace = blake2b(digest_size=16)
        self.incarnations = 0
        self.translator: Translator | None = None
        self.machines: list[Machine] = []
        self.start_translator(0)
        for index in range(shape.machines):
            self.machines.append(Machine(self, index))

    # --- for machines and translators ------------------------------------------------------------

    def say(self, text: str) -> None:
        if self.telling:
            self.told.append(text)

    def mix(self, value: int) -> None:
        """Let something observed be part of the trace."""
        self._mix = (self._mix * 1000003 ^ value) & MASK

    @property
    def trace(self) -> str:
        """Hash of all that happened."""
        whole = self._trace.copy()
        counts = [sorted(one.counts.items()) for one in self.machines]
        whole.update(f"{self._mix} {self.now} {counts}".encode())
        return whole.hexdigest()

    def draw_session(self) -> int:
        """A session number never used before."""
        self._numbers += 1
        return self._numbers

    def connect(self, machine: int) -> Connection:
        """A new connection of a machine."""
        self._numbers += 1
        connection = Connection(machine, self._numbers)
        self.connections[connection.peer] = connection
        self._links.append(connection)
        return connection

    def give_up(self, connection: Connection) -> None:
        """A machine closed its end."""
        connection.open = False
        self._lose_answers(connection)
        gone = [one for one in self._links if not one.open and not one.up]
        for one in gone:
            self._links.remove(one)
            del self.connections[one.peer]

    def _lose_answers(self, connection: Connection) -> None:
        """What is on its way to a machine will not arrive: not by this connection."""
        self._late.extend((connection.machine, message) for message in connection.down)
        connection.down.clear()

    def machine(self, pid: int) -> Machine:
        """The machine whose process this is."""
        return self.machines[pid - 100]

    def segment(self, segment: Segment) -> CodeSegment | None:
        """What stands behind a path, if it is still there."""
        return self._segments.get(segment.path)

    def add_segment(self, code: CodeSegment) -> CodeSegment:
        """A translator made a segment."""
        self._segments[code.segment.path] = code
        return code

    def drop_segment(self, code: CodeSegment) -> None:
        """A translator closed it."""
        self._segments.pop(code.segment.path, None)

    def interleave(self, machine: Machine) -> None:
        """Something happens in the machine while the translator reads its memory."""
        arg, self.meanwhile = self.meanwhile, self.meanwhile >> 7
        if arg & 15 < 4:
            self.say("while the translator reads:")
        if arg & 15 == 0:
            machine.dma((arg >> 4) % len(machine.content), 1, (arg >> 8) % VALUES)
        elif arg & 15 < 4:
            machine.step((arg >> 4) % len(machine.harts), arg >> 8)

    # --- events ----------------------------------------------------------------------------------

    def do(self, kind: str, arg: int) -> bool:
        """Let an event happen; whether it did anything. Raises Violation."""
        if not EVENTS[kind][1](self, arg):
            return False
        self.steps += 1
        self._trace.update(b"%s%d;" % (kind.encode(), arg))
        if self.steps & 255 == 0:
            for machine in self.machines:
                machine.sweep()
        return True

    def hart(self, arg: int) -> bool:
        machine = self.machines[arg % len(self.machines)]
        arg >>= 2
        return machine.step(arg % len(machine.harts), arg >> 3)

    def io(self, arg: int) -> bool:
        return self.machines[arg % len(self.machines)].serve()

    def broker(self, arg: int) -> bool:
        return self.translator is not None and self.translator.serve(arg)

    def worker(self, arg: int) -> bool:
        return self.translator is not None and self.translator.work(arg)

    def up(self, arg: int, *, keep: bool = False) -> bool:
        """A message arrives at the translator; with nobody there it waits."""
        ready = [one for one in self._links if one.up]
        if self.translator is None or not ready:
            return False
        connection = ready[arg % len(ready)]
        message = connection.up[0] if keep else connection.up.popleft()
        self.translator.inbox.append((connection.peer, message))
        if self.telling:
            self.say(f"{type(message).__name__} of {connection.name} arrives at the translator")
        return True

    def down(self, arg: int, *, keep: bool = False) -> bool:
        """A message arrives at its machine."""
        ready = [one for one in self._links if one.down]
        if not ready:
            return False
        connection = ready[arg % len(ready)]
        message = connection.down[0] if keep else connection.down.popleft()
        self.machines[connection.machine].inbox.append(message)
        if self.telling:
            self.say(f"{type(message).__name__} arrives at machine {connection.machine}")
        return True

    def repeat(self, arg: int) -> bool:
        return (self.up if arg & 1 else self.down)(arg >> 1, keep=True)

    def late(self, arg: int) -> bool:
        """What was on its way when its connection was given up turns up after all."""
        if not self._late:
            return False
        machine, message = self._late.popleft()
        self.machines[machine].inbox.append(message)
        self.say(f"a late {type(message).__name__} arrives at machine {machine}")
        return True

    def lose(self, arg: int) -> bool:
        """A connection breaks, with all that is on its way."""
        connection = self.machines[arg % len(self.machines)].connection
        connection.up.clear()
        self._lose_answers(connection)
        connection.hung = True
        self.say(f"the connection {connection.name} breaks")
        return True

    def crash(self, arg: int) -> bool:
        """The translator ends, in the middle of whatever it does."""
        if self.translator is None:
            return False
        self.say(f"translator {self.translator.pid} is killed")
        self.translator = None
        for machine in self.machines:
            machine.connection.hung = True
            if arg & 1:
                self._lose_answers(machine.connection)
            arg >>= 1
        return True

    def start_translator(self, arg: int) -> bool:
        if self.translator is not None:
            return False
        self.incarnations += 1
        self.translator = Translator(self, self.incarnations)
        self.say(f"translator {self.translator.pid} begins")
        return True

    def stall(self, arg: int) -> bool:
        """The translator stands still for up to some seconds."""
        if self.translator is None or self.translator.stalled > self.now:
            return False
        self.translator.stalled = self.now + (arg % 64) * 0.1
        self.say(f"the translator stands still until {self.translator.stalled:.3f} s")
        return True

    def tick(self, arg: int) -> bool:
        """Up to some milliseconds pass."""
        self.now += (1 + arg % 32) * 1e-3
        if self.telling:
            self.say(f"it is {self.now:.3f} s")
        return True

    def wait(self, arg: int) -> bool:
        """Time passes to one of the next deadlines."""
        due = self._deadlines()
        if not due:
            return False
        self.now = max(self.now, due[arg % min(2, len(due))])
        self.say(f"it is {self.now:.3f} s")
        return True

    def _deadlines(self) -> list[float]:
        sides = [one.timers.next() for one in self.machines]
        if self.translator is not None:
            sides += [self.translator.timers.next(), self.translator.stalled]
        return sorted(at for at in sides if at is not None and at > self.now)

    def dma(self, arg: int) -> bool:
        machine = self.machines[arg % len(self.machines)]
        arg >>= 2
        page, count = arg % len(machine.content), 1 + (arg >> 4) % 6
        machine.dma(page, count, (arg >> 8) % VALUES)
        return True

    def patch(self, arg: int) -> bool:
        machine = self.machines[arg % len(self.machines)]
        arg >>= 2
        number, page = arg % len(machine.harts), (arg >> 2) % len(machine.content)
        return machine.patch(number, page, 1 + (arg >> 6) % 8, (arg >> 10) % VALUES)

    def _at_safe_point(
        self, arg: int, what: Callable[[Machine, int], None], retires: bool = False
    ) -> bool:
        machine = self.machines[arg % len(self.machines)]
        if len(machine.works) > 4:
            return False
        machine.post(lambda: what(machine, arg >> 2), retires)
        return True

    def remap(self, arg: int) -> bool:
        size = self.shape.addresses

        def work(machine: Machine, arg: int) -> None:
            if arg & 1:
                machine.remap(arg % size, (arg >> 4) % size)
            else:  # another page of the backing comes to the address
                machine.mapping[(arg >> 4) % size] = (arg >> 8) % self.shape.pages
                machine.remap(0, 0)

        return self._at_safe_point(arg, work)

    def reset(self, arg: int) -> bool:
        def work(machine: Machine, arg: int) -> None:
            machine.everything("system_reset")
            machine.load(arg)

        return self._at_safe_point(arg, work, retires=True)

    def force(self, arg: int) -> bool:
        cause = _CAUSES[(arg >> 8) % len(_CAUSES)]
        return self._at_safe_point(arg, lambda machine, _: machine.everything(cause), retires=True)

    def swap(self, arg: int) -> bool:
        machine = self.machines[arg % len(self.machines)]
        machine.wishes.append(("swap", self.backends[(arg >> 2) % 2], None))
        return True

    def ask(self, arg: int) -> bool:
        machine = self.machines[arg % len(self.machines)]
        what = ("engine", "stats", "cancel")[(arg >> 2) % 3]
        page = (arg >> 4) % self.shape.pages
        machine.wishes.append((what, "key" if what == "engine" else page, None))
        return True

    # --- the kind scheduler ----------------------------------------------------------------------

    def settle(self, arg: int) -> bool:
        """Everything goes on until all machines are served. Raises Violation if they never are."""
        if self.translator is None:
            self.start_translator(0)
        self.say("from here on everything goes well")
        for _ in range(SETTLE_ROUNDS):
            busy = False
            while self.up(0):
                busy = True
            busy |= self.broker(1)  # nothing happens while it reads
            while self.worker(256):
                busy = True
            busy |= self.broker(1)
            while self.down(0):
                busy = True
            for machine in self.machines:
                busy |= machine.serve()
                busy |= self._let_harts(machine)
            if busy:
                continue
            if all(map(self._is_served, self.machines)):
                return True
            due = self._deadlines()
            if not due:
                break
            self.now = due[0]
        states = ", ".join(
            f"machine {one.index} is {one.session.state}, {len(one.asked)} slots unanswered"
            for one in self.machines
        )
        raise Violation("no_progress", states)

    @staticmethod
    def _let_harts(machine: Machine) -> bool:
        """Harts come to a safe point and do what waits there."""
        busy = False
        for number, hart in enumerate(machine.harts):
            if hart.storing is not None:
                busy |= machine.step(number, 0)
        if machine.works and machine.waiting is None:
            for hart in machine.harts:
                if hart.running:
                    busy |= machine.gate(hart)
            busy |= machine.gate(machine.harts[0])
        return busy

    @staticmethod
    def _is_served(machine: Machine) -> bool:
        return (
            machine.session.state == "attached"
            and machine.waiting is None
            and not machine.works
            and not machine.session.outstanding
            and not machine.asked
        )


EVENTS: dict[str, tuple[float, Callable[[World, int], bool]]] = {
    "hart": (90, World.hart),
    "io": (25, World.io),
    "broker": (22, World.broker),
    "worker": (15, World.worker),
    "up": (22, World.up),
    "down": (22, World.down),
    "tick": (6, World.tick),
    "dma": (0.7, World.dma),
    "patch": (0.7, World.patch),
    "remap": (0.3, World.remap),
    "reset": (0.1, World.reset),
    "force": (0.1, World.force),
    "swap": (0.1, World.swap),
    "ask": (0.3, World.ask),
    "wait": (0.3, World.wait),
    "repeat": (0.3, World.repeat),
    "late": (0.5, World.late),
    "lose": (0.05, World.lose),
    "crash": (0.1, World.crash),
    "start": (2, World.start_translator),
    "stall": (0.1, World.stall),
    "settle": (0.03, World.settle),
}
"""All that can happen, and how often it is tried."""


def event_names() -> dict[str, Any]:
    """Every kind of event and what its method says of it."""
    return {kind: method.__doc__ or "" for kind, (_, method) in EVENTS.items()}
