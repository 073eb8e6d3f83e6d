"""Which jobs a campaign does: streams of descriptions, each a pure function of a seed.

The problem: a campaign must be repeatable, on one machine or on many, and never come to its end
before its time is over. So the n-th job of a seed is the same everywhere; nothing that happens
while a campaign runs has a say in what is done next.

Kinds: `scenarios` (every scenario, in every mode, with 1 to 4 harts, then again in another order),
`random` (programs of `random_program.py`, 30 to 400 operations), `race` (programs of several harts,
`random_race.py`), `chaos` (all three under disturbances from outside), `all` (a mixture).

Read next: `campaign.py`, `job.py`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cpu_proc.stress import random_program, random_race, scenario
from cpu_proc.stress.job import Job
from protocol.errors import UserError
from protocol.mutants import MUTANTS

KINDS = ("scenarios", "random", "race", "chaos", "all")
PATIENCE = 180.0  # seconds of a job; a busy computer is no finding
_MIXTURE = ("scenarios", "random", "chaos", "race", "random", "chaos")
SPANS = {
    "retire": (0.005, 0.2),
    "kill": (0.1, 1.0),
    "stop": (0.1, 0.5),
    "worker": (0.1, 0.8),
    "swap": (0.05, 0.5),
    "messages": (0.01, 0.1),
}
"""Mean seconds between two disturbances of a kind: from, to. (`messages`: how late at most.)"""
_OWN = ("!kill", '"kill', '"swap', '"step', '"regions', '"stop', '"cont')
"""What a scenario asks for that disturbances would make something else of."""


@dataclass(frozen=True)
class Wish:
    """What a campaign is to do. Empty: everything there is."""

    seed: int = 0
    kind: str = "all"
    modes: Sequence[str] = ()
    harts: Sequence[int] = ()
    scenarios: Sequence[str] = ()
    mutants: Sequence[str] = ()

    def check(self) -> None:
        """Raises UserError, naming what there is."""
        known = {
            "--kind": ((self.kind,), KINDS),
            "--mode": (self.modes, tuple(scenario.MODES)),
            "--scenario": (self.scenarios, tuple(scenario.load_all())),
            "--mutant": (self.mutants, tuple(MUTANTS)),
        }
        for option, (names, there) in known.items():
            for name in names:
                if name not in there:
                    listed = ", ".join(there) if len(there) < 10 else f"{there[0]} to {there[-1]}"
                    raise UserError(f"stress: {option} {name}: there are {listed}")
        for number in self.harts:
            if not 1 <= number <= scenario.MAX_HARTS:
                raise UserError(f"stress: --harts {number}: 1 to {scenario.MAX_HARTS} are possible")
        if self.scenarios and self.kind in ("random", "race"):
            raise UserError(f"stress: --scenario and --kind {self.kind} exclude one another")


def jobs(wish: Wish) -> Iterator[Job]:
    """The jobs of a wish, without end."""
    extra = {"mutants": list(wish.mutants)} if wish.mutants else {}
    kind = "scenarios" if wish.scenarios and wish.kind == "all" else wish.kind
    kinds = _MIXTURE if kind == "all" else (kind,)
    streams = {name: _STREAMS[name](wish) for name in set(kinds)}
    for name in itertools.cycle(kinds):
        yield {**next(streams[name]), "patience": PATIENCE, **extra}


def every_scenario(wish: Wish) -> list[Job]:
    """All scenarios in all modes and with all numbers of harts that were asked for."""
    made = scenario.load_all()
    return [
        {"scenario": name, "mode": mode, "harts": harts}
        for name in wish.scenarios or made
        for mode in wish.modes or scenario.MODES
        for harts in wish.harts or range(1, scenario.MAX_HARTS + 1)
        if harts >= made[name].harts or wish.harts
    ]


def _scenarios(wish: Wish) -> Iterator[Job]:
    for turn in itertools.count():
        order = every_scenario(wish)
        random.Random(f"scenarios {wish.seed} {turn}").shuffle(order)
        yield from order


def _random(wish: Wish) -> Iterator[Job]:
    for number in itertools.count():
        rng = random.Random(f"random {wish.seed} {number}")
        operations = round(30 * (400 / 30) ** rng.random())  # small ones more often
        yield {
            "random": rng.randrange(1 << 32),
            "operations": operations,
            "mode": rng.choice(wish.modes or list(scenario.MODES)),
            "harts": rng.choice(wish.harts or (1, 1, 1, 2)),
        }


def _race(wish: Wish) -> Iterator[Job]:
    for number in itertools.count():
        rng = random.Random(f"race {wish.seed} {number}")
        mode = rng.choice(wish.modes or list(scenario.MODES))
        yield {
            "race": rng.randrange(1 << 32),
            # Each patch of a region stops the other harts: few of them take as long.
            "operations": rng.randint(5, 25) if mode == "regions" else rng.randint(30, 600),
            "mode": mode,
            "harts": rng.choice(wish.harts or (2, 2, 3, 4)),
        }


def _chaos(wish: Wish) -> Iterator[Job]:
    streams = [_random(wish), _race(wish)]
    if wish.scenarios:
        streams = []
    made = scenario.load_all()
    streams.append(job for job in _scenarios(wish) if bears_chaos(made[job["scenario"]]))
    for number in itertools.count():
        rng = random.Random(f"chaos {wish.seed} {number}")
        job = next(rng.choice(streams))
        if "random" in job:
            job["operations"] = rng.randint(200, 400)  # it takes some time to be hit
        job["chaos"] = plan(rng, job["mode"])
        job["seed"] = rng.randrange(1 << 32)
        yield job


def plan(rng: random.Random, mode: str) -> dict[str, float]:
    """Disturbances to choose for a mode; without a translator there is little to disturb."""
    kinds = ["retire"] if scenario.MODES[mode].translator == "none" else list(SPANS)
    chosen = rng.sample(kinds, rng.randint(1, len(kinds)))
    spans = {kind: SPANS[kind] for kind in sorted(chosen)}
    drawn = {
        kind: round(low * (high / low) ** rng.random(), 4) for kind, (low, high) in spans.items()
    }
    if mode == "regions":  # the guest waits each time until all is translated again
        return {kind: 20 * mean if kind != "messages" else mean for kind, mean in drawn.items()}
    return drawn


def bears_chaos(made: scenario.Scenario) -> bool:
    """Whether a scenario's own events are all its business: nothing it counts or waits for can be
    brought about, or prevented, by a disturbance."""
    return "icount" not in made.options and not any(word in made.text for word in _OWN)


_STREAMS = {"scenarios": _scenarios, "random": _random, "race": _race, "chaos": _chaos}


def name_of(job: Job) -> str:
    """A job's program, in short: for tables and folders."""
    if "scenario" in job:
        return str(job["scenario"])
    kind = "race" if "race" in job else "random"
    return f"{kind}-{job[kind]}"


def kind_of(job: Job) -> str:
    """A job's kind, as `KINDS` has them."""
    if "chaos" in job:
        return "chaos"
    return "scenarios" if "scenario" in job else "race" if "race" in job else "random"


OPERATIONS = {"random": random_program.OPERATIONS, "race": random_race.OPERATIONS}
