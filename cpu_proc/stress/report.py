"""What a stress run came to: as text, and as one JSON document that pages are made of.

The problem: a campaign's figures are quoted later, by people who were not there. So there is one
document with everything in it, version first; the text and the HTML page (`page.py`) are views of
it and know nothing else.

    version, what ("campaign", "mutants" or "equality"), wish, where, width, seconds, stopped,
    campaign: jobs, void, events, kinds, causes, disturbed, checks, counted, points, times, findings
    mutants:  rows (`hunt.table`), hunts (every hunt)
    equality: programs, operations, rows (`equality.Table.rows`), differences,
              endless

Read next: `campaign.Book`, `page.py`, docs/stress.md.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cpu_proc.stress.campaign import Book
from protocol.errors import UserError

Report = dict[str, Any]
VERSION = 1
POINTS = 400  # of a curve, at most


def of_campaign(book: Book) -> Report:
    """The part of a report that says what a campaign came to."""
    every = max(1, len(book.points) // POINTS)
    return {
        "what": "campaign",
        "jobs": book.jobs,
        "void": book.void,
        "events": book.events,
        "kinds": dict(book.kinds),
        "causes": {cause: count for cause, count in book.causes.most_common() if count},
        "disturbed": dict(book.disturbed.most_common()),
        "checks": book.checks,
        "counted": dict(book.counted()),
        "points": [*book.points[::every], *book.points[-1:]],
        "times": {name: _quantiles(times) for name, times in sorted(book.times.items())},
        "findings": [asdict(found) for found in book.findings],
    }


def _quantiles(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    at = [times[min(len(times) - 1, int(len(times) * share))] for share in (0.1, 0.9)]
    return {"count": len(times), "p10": at[0], "median": statistics.median(times), "p90": at[1],
            "max": times[-1]}  # fmt: skip


def save(report: Report, path: str) -> None:
    """Write the document. Raises UserError."""
    put(path, json.dumps({"version": VERSION, **report}, indent=1) + "\n", "--json")


def put(path: str, text: str, option: str) -> None:
    """Write a file. Raises UserError."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"stress: {option} {path}: {error.strerror}") from error


def text(report: Report) -> str:
    """A report as text for a terminal or a file."""
    return "\n".join(_TEXTS[report["what"]](report)) + "\n"


def _campaign(report: Report) -> list[str]:
    rate = report["events"] / max(report["seconds"], 1e-3)
    kinds = ", ".join(f"{name} {count}" for name, count in report["kinds"].items())
    lines = [
        f"{report['jobs']} jobs ({kinds or 'none'}) in {report['seconds']:.0f} s on"
        f" {report['where']}, {report['width']} at once",
        f"{report['events']} retirement events, {rate:.0f} a second:"
        f" {listed(report['causes'].items())}",
    ]
    if report["disturbed"]:
        lines.append(f"disturbances: {listed(report['disturbed'].items())}")
    if report["checks"]:
        lines.append(f"calls checked in races: {report['checks']}")
    if report["void"]:
        lines.append(f"random programs without an end, left out: {report['void']}")
    lines.append(f"findings: {listed(report['counted'].items()) or 'none'}")
    for found in report["findings"]:
        left = f", {found['operations']} operations" if found["operations"] is not None else ""
        seen = f", again in {found['seen']}" if found["seen"] else ""
        where = found["folder"] or json.dumps(found["job"])
        lines.append(f"  {found['kind']}: {found['verdict']}{left}{seen}: {where}")
    return lines


def listed(items: Iterable[tuple[str, int]]) -> str:
    """`a 1, b 2`."""
    return ", ".join(f"{name} {count}" for name, count in items)


def mutant_cells(row: dict[str, Any]) -> list[str]:
    """A row of the mutants' table: mistake, found, by, mode, seconds, events, other ends."""
    found = f"{row['found']} of {row['hunts']}"
    other = listed(row["others"].items())
    if not row["found"]:
        return [row["mutant"], found, "not found", "", "", "", other]
    seconds = f"{row['seconds']:.1f} / {row['worst_seconds']:.1f}"
    events = f"{row['events']:.0f} / {row['worst_events']}"
    return [row["mutant"], found, row["by"], row["mode"], seconds, events, other]


MUTANT_HEAD = ["mistake", "found", "by", "mode", "seconds: median / worst",
               "events: median / worst", "other ends"]  # fmt: skip
EQUALITY_HEAD = ["executed in", "same", "different", "disturbances", "seconds a program"]


def equality_cells(row: dict[str, Any]) -> list[str]:
    """A row of the equality table."""
    programs = max(1, row["same"] + row["different"])
    return [row["way"], str(row["same"]), str(row["different"]),
            listed(row["disturbed"].items()), f"{row['seconds'] / programs:.1f}"]  # fmt: skip


def _aligned(head: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]


def _mutants(report: Report) -> list[str]:
    rows = report["rows"]
    found = sum(row["found"] == row["hunts"] for row in rows)
    return [
        *_aligned(MUTANT_HEAD, [mutant_cells(row) for row in rows]),
        f"{found} of {len(rows)} mistakes found by a value a guest reported, with every seed;"
        f" {report['seconds']:.0f} s on {report['where']}",
    ]


def _equality(report: Report) -> list[str]:
    lines = _aligned(EQUALITY_HEAD, [equality_cells(row) for row in report["rows"]])
    for found in report["differences"]:
        lines.append(f"different: {found['kind']}: {found['verdict']}: {json.dumps(found['job'])}")
    total = sum(row["same"] for row in report["rows"])
    lines.append(
        f"{report['programs']} programs of {report['operations']} operations; {total} final states"
        f" are the reference interpreter's, {len(report['differences'])} are not"
    )
    if report["endless"]:
        lines.append(f"programs without an end, replaced by others: {report['endless']}")
    return lines


_TEXTS = {"campaign": _campaign, "mutants": _mutants, "equality": _equality}
