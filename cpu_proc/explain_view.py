"""`coldboot explain FILE`: what a run retired, as a table and a timeline.

The problem: a file of retirements is read to answer one question - who changed this code, and when
was it let go of? - among a million other lines, and often it ends in the middle of one, because the
run it tells of was killed. So lines are read one by one, what is whole is counted and shown, and
one line says what is not.

Invariants: a file with anything usable in it is shown, with status 0; without, the error is one
line and status 2. Numbers missing between two events are named. Memory does not grow with the file.

Read next: docs/retirement.md (the format), `explain_file.py` (who writes it).
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from cpu_proc.explain_file import KIND, VERSION
from protocol.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 60  # columns of the timeline
LAST = 20  # events listed
ROWS = 40  # rows of the table
END = ("events", "stores", "t", "epoch", "map_generation")
"""What the last line must tell, as numbers."""

Line = dict[str, Any]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", help="written by coldboot run --explain FILE")
    parser.add_argument("--by", choices=("cause", "page", "hart"), default="cause",
                        help="what the table's rows are (default: cause)")  # fmt: skip
    parser.add_argument("--since", type=float, default=0.0, metavar="S",
                        help="leave out what came before so many seconds of the run")  # fmt: skip
    parser.add_argument("--until", type=float, default=float("inf"), metavar="S",
                        help="leave out what came after")  # fmt: skip
    parser.add_argument("--last", type=int, default=LAST, metavar="N",
                        help=f"list the last N events, 0 for none (default: {LAST})")  # fmt: skip


class Reading:
    """What was read: sums, and what is wrong with the file."""

    def __init__(self) -> None:
        self.head: Line = {}
        self.end: Line = {}
        self.problems: list[str] = []
        self.events = 0
        self.shown: dict[str, Row] = {}
        self.times: list[tuple[float, int]] = []
        self.last: deque[Line] = deque()
        self.listed: list[str] = []
        self._number = 0
        self._missing = 0
        self._damaged = 0

    def take(self, lines: Iterator[bytes], by: str, since: float, until: float, last: int) -> None:
        """Read all lines. Raises UserError if this is no such file."""
        self.last = deque(maxlen=max(last, 0))
        width = Thinner()
        for number, raw in enumerate(lines, 1):
            line = parse(raw)
            if number == 1:
                self._begin(line)
            elif line is None or not raw.endswith(b"\n"):
                self._damaged += 1
            else:
                self._one(line, by, since, until, width)
        self.times = width.times()
        for line in self.last:
            try:
                self.listed.append(one_line(line))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                self._damaged += 1
        if not self.head:
            raise UserError("explain: an empty file tells nothing")
        self._judge()

    def _begin(self, line: Line | None) -> None:
        if line is None or line.get("file") != KIND:
            raise UserError(f"explain: this is no file of {KIND} (coldboot run --explain FILE)")
        if line.get("version") != VERSION:
            found = line.get("version")
            raise UserError(f"explain: the file has version {found}, this program reads {VERSION}")
        self.head = line

    def _one(self, line: Line, by: str, since: float, until: float, width: Thinner) -> None:
        cause, when = line.get("cause"), line.get("t", 0.0)
        if cause == "end":
            if all(isinstance(line.get(name), (int, float)) for name in END):
                self.end = line
            else:
                self._damaged += 1
            return
        if cause == "lost":
            count = line.get("count")
            self._missing += count if isinstance(count, int) else 0
            return
        if not isinstance(cause, str) or not _is_time(when):
            self._damaged += 1
            return
        if isinstance(number := line.get("n"), int):
            self._number = max(self._number, number)
            self.events += 1
        if not since <= when <= until:
            return
        try:
            rows = [(key, int(count)) for key, count in keys(line, by)]
            facts = Facts.of(line)
        except (AttributeError, KeyError, TypeError, ValueError):
            self._damaged += 1
            return
        for key, count in rows:
            self.shown.setdefault(key, Row()).add(facts, count)
        width.add(facts.when, sum(count for _, count in rows))
        self.last.append(line)

    def _judge(self) -> None:
        if self._damaged:
            self.problems.append(f"{self._damaged} line(s) are damaged and were left out")
        gap = max(self._number, int(self.end.get("events", 0))) - self.events
        if gap > 0 and gap >= self._missing:
            self.problems.append(f"{gap} event(s) are missing: more than could be written")
        elif self._missing:
            self.problems.append(f"{self._missing} line(s) are missing: more than could be written")
        if not self.end:
            self.problems.append("the end is missing: the run was killed, or is under way")


class Facts(NamedTuple):
    """What a row takes from a line. `took`: milliseconds until harts and translator were out."""

    when: float
    regions: int
    took: float
    who: str

    @classmethod
    def of(cls, line: Line) -> Facts:
        took = line.get("took_ms", {})
        out = float(took.get("harts_out") or 0.0) + float(took.get("translator") or 0.0)
        return cls(float(line["t"]), int(line.get("retired", {}).get("regions", 0)), out, who(line))


class Row:
    """A row of the table."""

    def __init__(self) -> None:
        self.count = self.regions = 0
        self.first = self.until = 0.0
        self.worst = 0.0
        self.who: Counter[str] = Counter()

    def add(self, facts: Facts, count: int) -> None:
        if not self.who:
            self.first = facts.when
        self.count += count
        self.regions += facts.regions
        self.until = facts.when
        self.worst = max(self.worst, facts.took)
        self.who[facts.who] += count


class Thinner:
    """How much happened when, in at most `2 * WIDTH` steps, whatever the run's length."""

    def __init__(self) -> None:
        self._step = 0.01
        self._counts: Counter[int] = Counter()

    def add(self, when: float, count: int) -> None:
        while when / self._step >= 2 * WIDTH:
            self._step *= 2
            old, self._counts = self._counts, Counter()
            for place, number in old.items():
                self._counts[place // 2] += number
        self._counts[int(when / self._step)] += count

    def times(self) -> list[tuple[float, int]]:
        """Seconds at which a step begins, and what happened in it."""
        last = max(self._counts, default=-1)
        return [(place * self._step, self._counts[place]) for place in range(last + 1)]


def _is_time(when: object) -> bool:
    return isinstance(when, (int, float)) and 0 <= when < 1e9  # not NaN, nor infinite


def parse(raw: bytes) -> Line | None:
    """One line; None if it is none."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def keys(line: Line, by: str) -> Iterator[tuple[str, int]]:
    """The rows that a line counts for, with how much."""
    stores = line["cause"] == "stores"
    if by == "cause":
        yield line["cause"], int(line["count"]) if stores else 1
    elif by == "hart":
        if stores:
            for number, count in enumerate(line["by_hart"]):
                if count:
                    yield f"hart {number}", count
        else:
            number = line["who"].get("hart")
            yield ("no hart" if number is None else f"hart {number}"), 1
    elif stores:
        for page in line["pages"]:
            yield _page(page), page["count"]
        if line["rest"]["count"]:
            yield "other pages", line["rest"]["count"]
    else:
        place = line.get("where")
        yield ("everywhere" if place is None else _page(place)), 1


def _page(place: Line) -> str:
    if place.get("physical"):
        return str(place["physical"][0])
    return f"{place['memory']}+{place['offset']}" if "memory" in place else f"page {place['page']}"


def who(line: Line) -> str:
    """Whoever was behind it, in words."""
    if line["cause"] == "stores":
        return ", ".join(f"hart {i}" for i, n in enumerate(line["by_hart"]) if n)
    said = line["who"]
    pc = said.get("pc", "")
    place = said.get("symbol") or pc
    hart = f"hart {said['hart']}" + (f" at {place}" if place else "") if "hart" in said else ""
    name = said.get("device") or said["by"]
    did = f" {said['did']}" if "did" in said else ""
    return hart + did if said["by"] == "hart" else f"{name}{did}" + (f", {hart}" if hart else "")


def run(arguments: Namespace) -> int:
    """Show the file; the exit status."""
    reading = Reading()
    try:
        with open(arguments.file, "rb") as file:
            reading.take(iter(file), arguments.by, arguments.since, arguments.until, arguments.last)
    except OSError as error:
        raise UserError(f"explain {arguments.file}: {error.strerror}") from error
    except UserError as error:
        raise UserError(error.text.replace("explain:", f"explain {arguments.file}:", 1)) from None
    from rich.console import Console

    show(Console(highlight=False), reading, arguments.by)
    return 0


def show(console: Console, reading: Reading, by: str) -> None:
    """Table, timeline, the last events, and what is wrong."""
    from rich import box
    from rich.table import Table

    unicode = not (console.options.ascii_only or console.legacy_windows)
    style = box.SIMPLE_HEAD if unicode else box.ASCII
    table = Table(box=style, pad_edge=False)
    for name in (by, "times", "regions", "from", "to", "slowest", "mostly by"):
        right = name in ("times", "regions", "from", "to", "slowest")
        table.add_column(name, justify="right" if right else "left")
    rows = sorted(reading.shown.items(), key=lambda item: -item[1].count)
    for name, row in rows[:ROWS]:
        table.add_row(
            name,
            f"{row.count:,}",
            f"{row.regions:,}",
            f"{row.first:.3f} s",
            f"{row.until:.3f} s",
            f"{row.worst:.2f} ms" if row.worst else "",
            row.who.most_common(1)[0][0],
        )
    console.print(table)
    if len(rows) > ROWS:
        console.print(f"and {len(rows) - ROWS} more rows")
    if reading.times:
        console.print(timeline(reading.times, unicode), markup=False, soft_wrap=True)
    for text in reading.listed:
        console.print(text, markup=False, soft_wrap=True)
    if reading.end:
        end = reading.end
        console.print(
            f"{end['events']:,} events and {end['stores']:,} stores to tracked lines in "
            f"{end['t']:.3f} s; at the end epoch {end['epoch']}, map generation "
            f"{end['map_generation']}",
            soft_wrap=True,
        )
    for problem in reading.problems:
        console.print(f"note: {problem}", style="yellow")


def timeline(times: list[tuple[float, int]], unicode: bool) -> str:
    """One line: how much was retired over time, on a scale of roots."""
    most = max(count for _, count in times)
    marks = BARS if unicode else " .:-=+*#@"
    scale = len(marks) - 1
    text = "".join(marks[-(-int(scale * (n / most) ** 0.5 * 1000) // 1000)] for _, n in times)
    step = times[1][0] - times[0][0] if len(times) > 1 else 0.01
    return f"0 s |{text}| {times[-1][0] + step:.2f} s (most in {step:.2g} s: {most:,})"


def one_line(line: Line) -> str:
    """An event, for the list."""
    number = f"#{line['n']}" if "n" in line else "-"
    text = f"{line['t']:10.6f} s {number:>6} {line['cause']:<16} {who(line)}"
    if line["cause"] == "stores":
        pages = ", ".join(f"{_page(page)} ({page['count']})" for page in line["pages"][:4])
        return f"{text}: {line['count']} to {pages}"
    parts = []
    if place := line.get("where"):
        lines = ",".join(map(str, place["lines"]))
        parts.append(f"{_page(place)} line {lines}")
    retired = line.get("retired", {})
    if "regions" in retired:
        parts.append(f"{retired['regions']} region(s)")
    for name, (before, after) in line.get("counters", {}).items():
        if before != after:
            parts.append(f"{name} {before} to {after}")
    parts += [f"went {one['name']} {one['base']}" for one in line.get("went", ())]
    parts += [f"came {one['name']} {one['base']}" for one in line.get("came", ())]
    return f"{text}: {', '.join(parts)}" if parts else text
