"""Runs of the simulator: drawn from a seed, written down, repeated, and shrunk.

Problem: a run that breaks the contract after ten thousand steps explains nothing. But it is a list
of events, and an event that cannot happen does nothing, so leaving events out makes another run;
what is left when no part can be left out any more is the story.

Invariants:
- A run is a function of its script: shape and events. Two runs of one seed have the same trace.
- Shrinking keeps the rule that is broken, and ends after a number of steps, not of seconds.

Read next: `world.py`; `cli.py`, the command.
"""

from __future__ import annotations

import json
import random
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, replace
from itertools import accumulate

from protocol.errors import UserError
from protocol.mutants import MUTANTS
from protocol.simulate.network import Violation
from protocol.simulate.world import EVENTS, Shape, World

Event = tuple[str, int]

SHRINK_STEPS = 3_000_000
"""Steps that shrinking may cost: some twenty seconds."""


@dataclass(frozen=True)
class Script:
    """A run: everything in it, and the mistakes that were armed."""

    shape: Shape
    events: tuple[Event, ...]
    mutants: tuple[str, ...] = ()
    seed: int | None = None

    def dump(self) -> str:
        """As JSON, an event a line."""
        head = {"shape": self.shape.as_dict(), "mutants": self.mutants, "seed": self.seed}
        events = ",\n".join(json.dumps(event) for event in self.events)
        return json.dumps(head)[:-1] + ', "events": [\n' + events + "\n]}\n"

    @staticmethod
    def parse(text: str, where: str) -> Script:
        """The reverse of `dump`. Raises UserError."""
        try:
            data = json.loads(text)
            shape = Shape(**{name: int(value) for name, value in data["shape"].items()})
            events = tuple((str(kind), int(arg)) for kind, arg in data["events"])
            mutants = tuple(str(name) for name in data["mutants"])
            seed = data["seed"]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{where}: this is not a script of simulate ({error!r})") from error
        unknown = [kind for kind, _ in events if kind not in EVENTS]
        unknown += [name for name in mutants if name not in MUTANTS]
        if unknown:
            raise UserError(f"{where}: {unknown[0]} is unknown to this version of simulate")
        smallest = min(shape.as_dict()[name] for name in _SIZES)
        if smallest < 1 or shape.addresses > shape.pages or shape.pages > 255:
            raise UserError(f"{where}: no world has this shape: {shape}")
        return Script(shape, events, mutants, seed)


_SIZES = ("machines", "harts", "pages", "addresses", "workers", "room")


@dataclass(frozen=True)
class Outcome:
    """What came of a run. `trace`: hash of all that happened. `counts`: of all machines."""

    steps: int
    trace: str
    violation: Violation | None
    counts: Counter[str]
    told: tuple[str, ...] = ()


def draw(seed: int, steps: int) -> tuple[Script, Outcome]:
    """Let things happen at random until there were `steps`, and then settle."""
    rng = random.Random(seed)
    world = World(Shape.draw(rng))
    kinds = list(EVENTS)
    weights = list(accumulate(weight for weight, _ in EVENTS.values()))
    events: list[Event] = []
    violation = None
    try:
        while world.steps < steps:
            event = kinds[bisect(weights, rng.random() * weights[-1])], rng.getrandbits(32)
            events.append(event)
            if not world.do(*event):
                events.pop()
        events.append(("settle", 0))
        world.do("settle", 0)
    except Violation as broken:
        violation = broken
    return Script(world.shape, tuple(events), seed=seed), _outcome(world, violation)


def replay(script: Script, *, telling: bool = False) -> Outcome:
    """Let the same happen again. The script's mistakes must be armed, or not, by the caller."""
    world = World(script.shape, telling=telling)
    try:
        for number, (kind, arg) in enumerate(script.events):
            if telling:
                before = len(world.told)
                try:
                    world.do(kind, arg)
                finally:
                    world.told[before:] = _numbered(number, kind, world.told[before:])
            else:
                world.do(kind, arg)
    except Violation as broken:
        return _outcome(world, broken)
    return _outcome(world, None)


def _numbered(number: int, kind: str, lines: list[str]) -> list[str]:
    return [f"{number:6} {kind:7} {line}" for line in lines or [""]]


def _outcome(world: World, violation: Violation | None) -> Outcome:
    counts = sum((machine.counts for machine in world.machines), Counter[str]())
    return Outcome(world.steps, world.trace, violation, counts, tuple(world.told))


class _Shrinker:
    """Delta debugging (Zeller and Hildebrandt, 2002) over a script's events."""

    def __init__(self, script: Script, rule: str, steps: int) -> None:
        self.script = script
        self._rule = rule
        self._left = steps

    def _fails(self, script: Script) -> bool:
        if self._left <= 0:
            return False
        outcome = replay(script)
        self._left -= len(script.events) + 1
        return outcome.violation is not None and outcome.violation.rule == self._rule

    def _try(self, events: tuple[Event, ...]) -> bool:
        smaller = replace(self.script, events=events)
        if not self._fails(smaller):
            return False
        self.script = smaller
        return True

    def events(self) -> None:
        """Leave out ever smaller parts, until not one event can go."""
        size = max(1, len(self.script.events) // 2)
        while True:
            at, gone = 0, False
            while at < len(self.script.events):
                events = self.script.events
                if self._try(events[:at] + events[at + size :]):
                    gone = True
                else:
                    at += size
            if size == 1 and not gone:
                return
            size = size if gone and size == 1 else max(1, size // 2)

    def shape(self) -> None:
        """Make the world smaller."""
        for name, least in (("machines", 1), ("harts", 1), ("workers", 1), ("pages", 2)):
            for value in range(least, self.script.shape.as_dict()[name]):
                shape = replace(self.script.shape, **{name: value})
                smaller = replace(self.script, shape=shape)
                if self._fails(smaller):
                    self.script = smaller
                    break

    def arguments(self) -> None:
        """Make the events' numbers small."""
        for at in range(len(self.script.events)):
            for bits in (0, 4, 8, 12, 16, 24):
                kind, arg = self.script.events[at]
                small = arg & ((1 << bits) - 1)
                events = self.script.events
                if small == arg or self._try((*events[:at], (kind, small), *events[at + 1 :])):
                    break


def shrink(script: Script, rule: str, steps: int = SHRINK_STEPS) -> Script:
    """A script that breaks the same rule, as short as can be had in about so many steps."""
    shrinker = _Shrinker(script, rule, steps)
    shrinker.events()
    shrinker.arguments()
    shrinker.shape()
    shrinker.events()
    return shrinker.script
