"""A report as one HTML page: plots as inline SVG, no script, nothing from a network.

The problem: figures of a night are looked at by many people in many places, once. A page that holds
everything in itself opens anywhere and can be kept.

Invariants: what is on the page is in the report; whatever a guest or a machine said is escaped;
colours have one meaning: blue for what was done, red for findings.

Read next: `report.py`.
"""

from __future__ import annotations

import html
import importlib.util
import io
import json
import re
from collections.abc import Iterable
from typing import Any

from cpu_proc.stress.pool import EXTRA
from cpu_proc.stress.report import (
    EQUALITY_HEAD,
    MUTANT_HEAD,
    Report,
    equality_cells,
    mutant_cells,
    text,
)
from protocol.errors import UserError

BLUE, RED, GREY = "#2f6690", "#c1121f", "#6b7280"
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.under { color: #6b7280; margin-top: .2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.5rem 0; }
.figures div { border: 1px solid #d9dee4; border-radius: 8px; padding: .6rem 1rem;
               min-width: 7rem; }
.figures b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.bad b, .bad { color: #c1121f; } .good b { color: #2a7f4f; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e5e9ee;
         vertical-align: top; }
th { color: #6b7280; font-weight: 600; }
code, pre { font: 13px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { background: #f5f7f9; padding: .8rem; border-radius: 8px; white-space: pre-wrap; }
"""


def require() -> None:
    """Raises UserError if plots cannot be made here."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"stress: --html: matplotlib is not installed: {EXTRA}")


def page(report: Report) -> str:
    """The whole page."""
    title = {"campaign": "Stress campaign", "mutants": "Mistakes switched on, and found",
             "equality": "Architectural equality"}[report["what"]]  # fmt: skip
    wish = json.dumps(report["wish"])
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        f'<p class="under">{_e(report["seconds"], ".0f")} s on {_e(report["where"])},'
        f" {report['width']} jobs at once; <code>{_e(wish)}</code></p>",
        *_PAGES[report["what"]](report),
        f"<h2>In short</h2><pre>{_e(text(report))}</pre></body></html>\n",
    ]
    return "\n".join(parts)


def _e(value: Any, form: str = "") -> str:
    return html.escape(format(value, form))


def _figures(figures: Iterable[tuple[str, Any, str]]) -> str:
    cells = (f'<div class="{kind}"><b>{_e(value)}</b>{_e(name)}</div>'
             for name, value, kind in figures)  # fmt: skip
    return f'<div class="figures">{"".join(cells)}</div>'


def _table(head: list[str], rows: list[list[str]], bad: Iterable[bool] = ()) -> str:
    marks = [*bad, *([False] * len(rows))]
    lines = ["<tr>" + "".join(f"<th>{_e(cell)}</th>" for cell in head) + "</tr>"]
    for row, mark in zip(rows, marks, strict=False):
        cells = "".join(f"<td>{_e(cell)}</td>" for cell in row)
        lines.append(f'<tr class="bad">{cells}</tr>' if mark else f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _campaign(report: Report) -> list[str]:
    findings = report["findings"]
    rate = report["events"] / max(report["seconds"], 1e-3)
    parts = [
        _figures(
            [
                ("jobs", f"{report['jobs']:,}", ""),
                ("retirement events", f"{report['events']:,}", ""),
                ("events a second", f"{rate:,.0f}", ""),
                ("calls checked in races", f"{report['checks']:,}", ""),
                ("disturbances", f"{sum(report['disturbed'].values()):,}", ""),
                ("findings", len(findings), "bad" if findings else "good"),
            ]
        ),
        "<h2>Findings</h2>",
    ]
    if findings:
        rows = [
            [f["kind"], f["verdict"], f["job"]["mode"], f"{f['second']:.0f} s", f["seen"],
             "" if f["operations"] is None else str(f["operations"]),
             f"coldboot stress --replay {f['folder']}" if f["folder"] else json.dumps(f["job"])]
            for f in findings
        ]  # fmt: skip
        head = ["kind", "verdict", "mode", "after", "seen again", "operations left", "again"]
        parts.append(_table(head, rows))
    else:
        parts.append("<p>None.</p>")
    if report["points"]:
        parts += ["<h2>Events and findings over time</h2>", _over_time(report)]
        parts += ["<h2>Events by cause</h2>", _bars(report["causes"], "events")]
        if report["disturbed"]:
            parts += ["<h2>Disturbances by kind</h2>", _bars(report["disturbed"], "times")]
        parts += ["<h2>Seconds a job, by kind and mode</h2>", _times(report["times"])]
    return parts


def _mutants(report: Report) -> list[str]:
    rows = report["rows"]
    lost = [row["found"] < row["hunts"] for row in rows]
    return [
        _figures(
            [
                ("mistakes", len(rows), ""),
                ("found, every seed", len(rows) - sum(lost), ""),
                ("not always found", sum(lost), "bad" if any(lost) else "good"),
            ]
        ),
        _table(MUTANT_HEAD, [mutant_cells(row) for row in rows], lost),
        *(["<h2>Seconds to find it</h2>", _hunts(report)] if report["hunts"] else []),
    ]


def _equality(report: Report) -> list[str]:
    count = len(report["differences"])
    parts = [
        _figures([("programs", report["programs"], ""), ("differences", count,
                                                         "bad" if count else "good")]),
        _table(EQUALITY_HEAD, [equality_cells(row) for row in report["rows"]],
               [bool(row["different"]) for row in report["rows"]]),
    ]  # fmt: skip
    if count:
        rows = [[f["kind"], f["verdict"], json.dumps(f["job"])] for f in report["differences"]]
        parts += ["<h2>Differences</h2>", _table(["kind", "verdict", "job"], rows)]
    states = {row["way"]: row["seconds"] for row in report["rows"]}
    return [*parts, "<h2>Seconds in all</h2>", _bars(states, "seconds")] if states else parts


_PAGES = {"campaign": _campaign, "mutants": _mutants, "equality": _equality}


# --- plots ---------------------------------------------------------------------------------------


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY, labelsize=9)
    return figure, axes


def _svg(figure: Any, name: str) -> str:
    import matplotlib

    out = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Ids are a document's, and several drawings share this one.
    drawn = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    return re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _over_time(report: Report) -> str:
    figure, axes = _axes(3.0)
    seconds = [point[0] for point in report["points"]]
    axes.step([0.0, *seconds], [0, *(point[1] for point in report["points"])], color=BLUE,
              where="post", linewidth=1.6)  # fmt: skip
    for found in report["findings"]:
        axes.axvline(found["second"], color=RED, linewidth=1, alpha=0.7)
    axes.set_xlabel("seconds", color=GREY)
    axes.set_ylabel("events so far", color=GREY)
    axes.set_xlim(0, max(seconds[-1], 1e-3))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if report["findings"]:
        label = f"each red line: a finding ({len(report['findings'])})"
        axes.set_title(label, color=RED, fontsize=9, loc="right")
    return _svg(figure, "time")


def _bars(counts: dict[str, float], unit: str) -> str:
    names = list(counts)[::-1]
    figure, axes = _axes(0.6 + 0.32 * len(names))
    values = [counts[name] for name in names]
    bars = axes.barh([name.replace("_", " ") for name in names], values, color=BLUE, height=0.6)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=4, fontsize=9,
                   color=GREY)  # fmt: skip
    if max(values, default=0) > 100 * max(1, min(values, default=0)):
        axes.set_xscale("symlog", linthresh=1)
        unit += ", logarithmic"
        axes.set_xlim(left=0, right=4 * max(values))
    else:
        axes.set_xlim(left=0, right=1.1 * max(values, default=1))
    axes.set_xlabel(unit, color=GREY)
    return _svg(figure, f"bars-{unit.split(',')[0]}-{len(names)}")


def _times(times: dict[str, dict[str, float]]) -> str:
    names = list(times)[::-1]
    figure, axes = _axes(0.7 + 0.3 * len(names))
    for at, name in enumerate(names):
        some = times[name]
        axes.plot([some["p10"], some["p90"]], [at, at], color=BLUE, linewidth=5, alpha=0.35,
                  solid_capstyle="round")  # fmt: skip
        axes.plot(some["median"], at, "o", color=BLUE, markersize=6)
        axes.plot(some["max"], at, "|", color=GREY, markersize=8)
    axes.set_yticks(range(len(names)), [f"{name} ({times[name]['count']})" for name in names])
    _logarithmic(axes)
    axes.set_xlabel("seconds: median (dot), 10 to 90 % (bar), longest (line)", color=GREY)
    return _svg(figure, "jobs")


def _hunts(report: Report) -> str:
    rows = report["rows"][::-1]
    figure, axes = _axes(0.7 + 0.26 * len(rows))
    places = {row["mutant"]: at for at, row in enumerate(rows)}
    for hunt in report["hunts"]:
        colour, mark = (BLUE, "o") if hunt["found"] else (RED, "x")
        at = max(hunt["seconds"], 1e-2), places[hunt["mutant"]]
        axes.plot(*at, mark, color=colour, markersize=6, alpha=0.6)
    axes.set_yticks(range(len(rows)), [row["mutant"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    _logarithmic(axes)
    axes.set_xlabel("seconds of each hunt (red cross: not found in so many)", color=GREY)
    axes.grid(axis="y", color="#eef1f4")
    return _svg(figure, "hunts")
