"""The table scenario x emulator: in a terminal, as Markdown, as JSON.

The problem: the table is read by people who did not run it, so each cell says what was seen (the
first wrong value beside the right one, or why a guest could not be run), and the head says with
which version.

Invariant: Markdown is a function of the cells alone; a file that has the two marker lines keeps
all that stands outside of them.

Read next: `cli.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpu_proc.compare.peer import IMPOSSIBLE, Cell, Peer
from cpu_proc.stress.scenario import Scenario
from protocol.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

BEGIN = "<!-- compare: made by coldboot compare --markdown README.md -->"
END = "<!-- compare: end -->"
STYLES = {"passed": "green", "stale": "bold red", IMPOSSIBLE: "dim"}
FAILED = "other failures"


@dataclass
class Comparison:
    """What came of all guests: `cells` by scenario and peer. `heads`: peers' names and versions."""

    heads: dict[str, str]
    mode: str
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def passed(self, peer: str) -> bool:
        """Whether all guests that were run on a peer passed."""
        return all(row[peer].kind == "passed" for row in self.cells.values() if peer in row)

    def joined(self, earlier: Comparison, order: Sequence[str]) -> Comparison:
        """With what was seen earlier and not now; scenarios in the given order, unknown ones go."""
        heads = {**self.heads, **earlier.heads, **self.heads}
        heads = {name: heads[name] for name in sorted(heads, key=_column)}
        known = [name for name in order if name in self.cells or name in earlier.cells]
        cells = {n: {**earlier.cells.get(n, {}), **self.cells.get(n, {})} for n in known}
        return Comparison(heads, self.mode, cells)


def _column(name: str) -> tuple[int, str]:
    order = ("tier0", "regions", "qemu", "unicorn", "spike")
    kind = name.partition("-")[0]
    return (order.index(kind) if kind in order else len(order)), name


def text(cell: Cell) -> str:
    """A cell in a few words."""
    found = re.fullmatch(r"report \d+: (\d+) where ([\d or]+) was expected", cell.detail)
    if cell.kind == "stale" and found:
        return f"stale: {found[1]}, not {found[2]}"
    if cell.kind in ("passed", "late"):
        return cell.kind
    trap = re.fullmatch(r"trap (\d+) \d+", cell.detail)
    if cell.kind == "trap" and trap:
        return f"trap {trap[1]}"
    return f"{cell.kind}: {cell.detail}" if cell.detail else cell.kind


def rich_table(comparison: Comparison, scenarios: Mapping[str, Scenario]) -> RichTable:
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("scenario", no_wrap=True)
    for head in comparison.heads.values():
        table.add_column(head, overflow="fold")
    for name, row in comparison.cells.items():
        cells = [row.get(peer) for peer in comparison.heads]
        shown = [
            Text(text(cell), STYLES.get(cell.kind, "yellow")) if cell else Text("")
            for cell in cells
        ]
        table.add_row(name, *shown)
    return table


def print_summary(console: Console, comparison: Comparison) -> None:
    """A line for each emulator."""
    for peer, head in comparison.heads.items():
        console.print(f"{head}: {_counts(comparison, peer)}", highlight=False)


def _counts(comparison: Comparison, peer: str) -> str:
    kinds = Counter(row[peer].kind for row in comparison.cells.values() if peer in row)
    known = ("passed", "stale", IMPOSSIBLE)
    others = sum(count for kind, count in kinds.items() if kind not in known)
    parts = [f"{kinds[kind]} {kind}" for kind in known if kinds[kind]]
    if others:
        parts.append(f"{others} {FAILED}")
    return ", ".join(parts)


def markdown(comparison: Comparison, scenarios: Mapping[str, Scenario]) -> str:
    """Counts, and below a fold a row for each scenario."""
    heads = list(comparison.heads.values())
    lines = _row(["", *heads]) + _row(["---"] * (len(heads) + 1))
    for kind in ("passed", "stale", IMPOSSIBLE, FAILED):
        counts = [_count(comparison, peer, kind) for peer in comparison.heads]
        if any(counts):
            lines += _row([kind, *(str(count or "") for count in counts)])
    lines += ["", "<details>", "<summary>Every scenario</summary>", ""]
    lines += _row(["scenario", "what changes", *heads]) + _row(["---"] * (len(heads) + 2))
    for name, row in comparison.cells.items():
        scenario = scenarios[name]
        cells = [_marked(row[peer]) if peer in row else "" for peer in comparison.heads]
        link = f"[{name}](cpu_proc/stress/scenarios/{name}.s)"
        lines += _row([link, scenario.title, *cells])
    return "\n".join([*lines, "", "</details>", ""])


def _count(comparison: Comparison, peer: str, kind: str) -> int:
    kinds = Counter(row[peer].kind for row in comparison.cells.values() if peer in row)
    if kind != FAILED:
        return kinds[kind]
    return sum(kinds.values()) - sum(kinds[k] for k in ("passed", "stale", IMPOSSIBLE))


def _marked(cell: Cell) -> str:
    said = text(cell).replace("|", "\\|")
    return f"**{said}**" if cell.kind == "stale" else said


def _row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def write_markdown(path: Path, made: str) -> None:
    """Put the table in a file: between its marker lines if it has them. Raises UserError."""
    try:
        old = path.read_text(encoding="utf-8") if path.exists() else f"{BEGIN}\n{END}\n"
        if BEGIN not in old or END not in old:
            raise UserError(f"compare: --markdown {path}: a file without the line {BEGIN}")
        before, _, rest = old.partition(BEGIN)
        after = rest.partition(END)[2]
        path.write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}", encoding="utf-8")
    except OSError as error:
        raise UserError(f"compare: --markdown {path}: {error.strerror}") from None


def as_json(comparison: Comparison, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """All that was seen, values included."""
    return {
        "mode": comparison.mode,
        "emulators": comparison.heads,
        "scenarios": {
            name: {
                "class": scenarios[name].mutant,
                "title": scenarios[name].title,
                "cells": {peer: asdict(cell) for peer, cell in row.items()},
            }
            for name, row in comparison.cells.items()
        },
    }


def from_json(seen: Mapping[str, Any]) -> Comparison:
    """What `as_json` made. Raises KeyError, TypeError, AttributeError, ValueError if it did not."""
    cells = {
        name: {
            peer: Cell(**{**cell, "values": tuple(cell["values"])})
            for peer, cell in row["cells"].items()
        }
        for name, row in seen["scenarios"].items()
    }
    return Comparison(dict(seen["emulators"]), str(seen["mode"]), cells)


def heads(peers: Sequence[Peer]) -> dict[str, str]:
    """Names and versions, for the table's head."""
    return {peer.name: peer.version() for peer in peers}
