"""What came of the checks: a table for people, JSON for programs.

Read next: `cli.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cpu_proc.conformance.clauses import quote
from cpu_proc.conformance.rules import Bench, Result
from protocol.errors import UserError
from protocol.layout import LAYOUT_HASH
from protocol.messages import PROTOCOL_VERSION

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def summary(bench: Bench, results: Sequence[Result]) -> dict[str, Any]:
    """The report as plain data."""
    counts = Counter(result.verdict for result in results)
    return {
        "endpoint": bench.target.endpoint,
        "command": bench.target.command,
        "backend": bench.backend,
        "protocol": PROTOCOL_VERSION,
        "layout": LAYOUT_HASH,
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"],
        "regions": bench.translated,
        "rejections": bench.refused,
        "conformant": counts["failed"] == 0,
        "checks": [{**asdict(result), "says": quote(result.clause)} for result in results],
    }


def save(report: dict[str, Any], path: str) -> None:
    """Write the report. Raises UserError."""
    try:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")
    except OSError as error:
        raise UserError(f"conformance: --json {path}: {error.strerror}") from error


def show(console: Console, report: dict[str, Any]) -> None:
    """Print the report: a table, what was found in full, and a line that sums up."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "clause", "verdict", "rule"):
        table.add_column(heading, overflow="fold", no_wrap=heading != "rule")
    for one in report["checks"]:
        colour = COLOURS[one["verdict"]]
        rule = escape(one["rule"].replace("`", ""))
        if one["finding"] and one["verdict"] != "failed":
            rule += f"\n[dim]{escape(one['finding'])}[/dim]"
        verdict = f"[{colour}]{one['verdict']}[/{colour}]"
        table.add_row(one["name"], escape(one["clause"]), verdict, rule)
    console.print(table)
    for one in report["checks"]:
        if one["verdict"] == "failed":
            console.print(f"\n[bold red]{one['name']}[/]: {escape(one['finding'])}")
            console.print(
                f"  SPEC.md {escape(one['clause'])}: {escape(one['says'])}", highlight=False
            )
    numbers = ", ".join(f"{report[word]} {word}" for word in COLOURS)
    say = f"\n{numbers}; {report['regions']} regions"
    if report["rejections"] and not report["regions"]:
        say += ": it translates nothing (safe, and of no use)"
    verdict = "conformant" if report["conformant"] else "not conformant"
    console.print(f"{say}; [bold]{verdict}[/bold]", highlight=False)
