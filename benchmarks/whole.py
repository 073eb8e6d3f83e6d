"""Whole runs: from a process's start to its end, with nothing translated before, and with a store.

    python -m benchmarks.suite --whole [--only NAME,...] [--rounds N] [--last SECONDS] [--json FILE]

The problem: a steady phase says nothing of what it costs to come there. So each program gets as
many chunks as QEMU needs `--last` seconds for, found out once, and each round runs it three times,
in turn: on coldboot with an empty store, on coldboot again with the store that run left, on QEMU.

Invariants: no figure is kept of a run that ended badly or one of whose checksums is wrong. CPU
seconds are those of all processes, their start and end included. An empty store has tier 0's
engine: it is made once for a toolchain, not for a store (`coldboot store clear` keeps it).

Read next: `processes.py` (what is counted), `suite.py` (the command line).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import contenders, figures, programs
from benchmarks.contenders import Contender
from benchmarks.figures import geometric_mean, median
from benchmarks.processes import Trace, watch
from benchmarks.programs import Built
from protocol.errors import UserError

COLD, WARM, QEMU = "cold", "warm", "qemu"
WAYS = (COLD, WARM, QEMU)
LAST = 2.5  # seconds that QEMU is to run
LONG = 2.0  # what is shorter on QEMU is named, but no goal speaks of it
DEADLINE = 600.0
MIB = 1 << 20
MARKS = ("<!-- bench whole: begin -->", "<!-- bench whole: end -->")


@dataclass(frozen=True)
class Whole:
    """A run: seconds on the clock, CPU seconds, most resident bytes of the two processes."""

    wall: float
    cpu: float
    translator: float  # of the CPU seconds, those of descendants
    memory_own: int
    memory_translator: int


@dataclass
class WholeRow:
    """A program: how much of it was run, and what each round cost (None: no figure)."""

    program: str
    kind: str
    chunks: int
    rounds: dict[str, list[Whole | None]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def kept(self, way: str) -> list[Whole]:
        """A way's figures."""
        return [one for one in self.rounds.get(way, []) if one is not None]

    def ratio(self, way: str, what: str) -> float:
        """How many times as fast as QEMU, by `wall` or `cpu`: the median over rounds."""
        pairs = zip(self.rounds.get(QEMU, []), self.rounds.get(way, []), strict=False)
        return median(getattr(a, what) / getattr(b, what) for a, b in pairs if a and b)

    @property
    def long(self) -> bool:
        """Whether QEMU needed long enough for a goal to speak of it."""
        return median(one.cpu for one in self.kept(QEMU)) >= LONG


def calibrated(built: Built, qemu: Contender, last: float, folder: Path) -> int:
    """As many chunks as QEMU does in so many of its CPU seconds."""
    run = qemu.run(built.limited(0, folder))
    trace = watch(run.command, seconds=last, environment=run.environment, deadline=DEADLINE)
    steady, first = trace.steady, trace.samples[0] if trace.samples else None
    if steady is None or first is None or steady.own <= 0:
        raise UserError(f"{built.program.name}: QEMU does not run it: {trace.said.strip()[-200:]}")
    after = first.chunks + (last - first.own) * steady.chunks / steady.own
    return max(1, round(after))


def figure(row: WholeRow, way: str, trace: Trace, expected: Sequence[str] | None) -> Whole | None:
    """What a run cost, if it did what it should."""
    whole = trace.whole
    if trace.status != 0 or whole is None:
        row.problems[way] = (trace.said.strip().splitlines() or [f"status {trace.status}"])[-1]
        return None
    if expected is None:
        row.problems[way] = "nothing to check its results with"
        return None
    wrong = figures.wrong_at(trace.checksums, expected)
    if wrong is not None or len(trace.checksums) != len(expected):
        row.problems[way] = f"wrong result in chunk {len(expected) if wrong is None else wrong}"
        return None
    return Whole(whole.wall, whole.own + whole.others, whole.others, *trace.memory)


def one_round(
    built: Built, row: WholeRow, machine: Contender, qemu: Contender, folder: Path, engine: Path
) -> None:
    """Run it each way once. `engine`: what lies in an empty store."""
    image = built.limited(row.chunks, folder)
    traces = {}
    with tempfile.TemporaryDirectory(prefix="coldboot-store-", dir=folder) as store:
        place = Path(store, "coldboot")
        place.mkdir()
        shutil.copy2(engine, place)
        for way, who in ((COLD, machine), (WARM, machine), (QEMU, qemu)):
            run = who.run(image)
            if who is machine:
                run = replace(run, environment=_with_store(run, Path(store)))
            traces[way] = watch(run.command, environment=run.environment, deadline=DEADLINE)
    expected: Sequence[str] | None = None
    if built.native is not None:
        expected = subprocess.check_output([built.native, str(row.chunks)], text=True).split()
    elif traces[QEMU].status == 0:
        expected = traces[QEMU].checksums
    for way in WAYS:
        row.rounds.setdefault(way, []).append(figure(row, way, traces[way], expected))


def _with_store(run: contenders.Run, store: Path) -> dict[str, str]:
    return {**(run.environment or {}), "XDG_CACHE_HOME": str(store)}


def engine(machine: Contender) -> Path:
    """Where tier 0's engine lies; it is made if it is missing."""
    run = machine.run(Path())
    command = [run.command[0], "-m", "jit_proc", "--build-engine"]
    done = subprocess.run(command, env=run.environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"the engine cannot be built: {done.stderr.strip()[-500:]}")
    return Path(done.stdout.strip())


def measure(
    options: Namespace, machine: Contender, qemu: Contender, tell: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """All programs; after each round, what is known by then."""
    with tempfile.TemporaryDirectory(prefix="coldboot-bench-") as name:
        folder = Path(name)
        work = []
        built = [programs.build(program) for program in programs.wanted(options.only)]
        image = engine(machine)
        for one in built:
            chunks = calibrated(one, qemu, options.last, folder)
            work.append((one, WholeRow(one.program.name, one.program.kind, chunks)))
        found = {
            "versions": {COLD: machine.version, QEMU: qemu.version},
            "rows": [row for _, row in work],
        }
        for number in range(options.rounds):
            for one, row in work:
                tell(f"round {number + 1} of {options.rounds}: {row.program}")
                one_round(one, row, machine, qemu, folder, image)
            tell("")
            yield found


def markdown(found: Mapping[str, Any]) -> str:
    """The table, and what the goals speak of."""
    head = (
        f"| program | cold, s | CPU | warm, s | CPU | QEMU {found['versions'][QEMU]}, s | CPU "
        "| cold x QEMU | CPU | warm x QEMU | CPU | MiB: machine + translator | QEMU |"
    )
    lines = [head, f"|---{'|---:' * 12}|"]
    rows: Sequence[WholeRow] = found["rows"]
    for row in rows:
        cells = [row.program]
        for way in WAYS:
            for what in ("wall", "cpu"):
                cells.append(_text(median(getattr(one, what) for one in row.kept(way))))
        for way in (COLD, WARM):
            cells += [_text(row.ratio(way, what)) for what in ("wall", "cpu")]
        own, translator = (
            max((getattr(one, name) for one in row.kept(COLD)), default=0) // MIB
            for name in ("memory_own", "memory_translator")
        )
        other = max((one.memory_own for one in row.kept(QEMU)), default=0) // MIB
        lines.append(f"| {' | '.join(cells)} | {own} + {translator} | {other} |")
    lines.append("")
    for way, title in ((COLD, "store empty"), (WARM, "store filled")):
        texts = []
        for what, name in (("wall", "on the clock"), ("cpu", "by CPU seconds")):
            ratios = {row.program: row.ratio(way, what) for row in rows if row.kept(way)}
            slow = [p for row in rows if row.long and ratios.get(p := row.program, 1) < 1]
            text = f"{_text(geometric_mean(ratios.values()))} {name}"
            texts.append(text + (f" (below 1.0: {', '.join(slow)})" if slow else ""))
        lines.append(f"- {title}, times as fast as QEMU, geometric mean: {'; '.join(texts)}")
    short = [row.program for row in rows if not row.long]
    if short:
        lines.append(f"- QEMU runs less than {LONG:g} s: {', '.join(short)}")
    for row in rows:
        lines += [f"- {row.program}, {way}: {text}" for way, text in row.problems.items()]
    return "\n".join(lines)


def _text(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def as_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """All that was measured."""
    return {**found, "rows": [asdict(row) for row in found["rows"]]}


def from_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `as_json` made."""
    rows = []
    for raw in found["rows"]:
        rounds = {
            way: [Whole(**one) if one else None for one in costs]
            for way, costs in raw["rounds"].items()
        }
        rows.append(WholeRow(**{**raw, "rounds": rounds}))
    return {**found, "rows": rows}
