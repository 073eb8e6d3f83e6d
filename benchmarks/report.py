"""The figures as a table for a terminal, as plain text, and as a picture.

Read next: `figures.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Row, least_ratio, means, median, ratio

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = {"coldboot": "#2a6f97", "tier 0": "#89c2d9", "native": "#6c757d"}
OTHERS = ("#e07a5f", "#f2cc8f", "#81b29a", "#b5838d")


def number(value: float, digits: int = 2) -> str:
    """A figure; a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    if not values:
        return "-"
    return f"{median(values):.3f} [{min(values):.3f}-{max(values):.3f}]"


def qemu_of(rows: Sequence[Row]) -> str | None:
    """The first QEMU among the contenders."""
    names = [name for row in rows for name in row.rounds if name.startswith("QEMU")]
    return names[0] if names else None


def steady_table(rows: Sequence[Row]) -> Table:
    """One line for each program and contender."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("program")
    table.add_column("on")
    heads = (
        "wall s",
        "CPU s",
        "translator s",
        "MIPS",
        "x QEMU",
        "x native",
        "MiB",
        "translator MiB",
    )
    for head in heads:
        table.add_column(head, justify="right")
    qemu = qemu_of(rows)
    for row in rows:
        for place, name in enumerate(row.rounds):
            first = row.program if place == 0 else ""
            costs = row.kept(name)
            if not costs:
                table.add_row(first, name, row.problems.get(name, "-"))
                continue
            cells = (
                spread([one.wall for one in costs]),
                spread([one.own for one in costs]),
                number(median(one.translator for one in costs), 3),
                number(1000 / median(one.cpu for one in costs), 0),
                number(ratio(row, qemu, name)) if qemu else "-",
                number(1 / ratio(row, "native", name)),
                number(max(one.memory_own for one in costs) / 2**20, 0),
                number(max(one.memory_translator for one in costs) / 2**20, 0),
            )
            table.add_row(first, name, *cells, end_section=place == len(row.rounds) - 1)
    return table


def mean_lines(rows: Sequence[Row]) -> list[str]:
    """Geometric means of all contenders against QEMU and against the host."""
    names = list(dict.fromkeys(name for row in rows for name in row.rounds))
    qemu, lines = qemu_of(rows), []
    for name in names:
        if qemu and name not in (qemu, "native"):
            found = means(rows, qemu, name)
            text = ", ".join(f"{kind} {number(v)}" for kind, v in found.items())
            lines.append(f"{name} is faster than {qemu}, geometric mean: {text}")
        if "native" in names and name != "native":
            found = means(rows, "native", name)
            text = ", ".join(f"{kind} {number(1 / v)}" for kind, v in found.items())
            lines.append(f"{name} is slower than native, geometric mean: {text}")
    return lines


def markdown(rows: Sequence[Row]) -> str:
    """A table for a document: medians of CPU seconds for 10^9 guest instructions, and ratios."""
    names = list(dict.fromkeys(name for row in rows for name in row.rounds))
    qemu = qemu_of(rows)
    ratios = ["x QEMU"] * (qemu is not None) + ["x native"] * ("native" in names)
    head = ["program", *(f"{name}, s" for name in names), *ratios]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    for row in rows:
        cells = [number(median(one.cpu for one in row.kept(name)), 3) for name in names]
        if qemu:
            cells.append(number(ratio(row, qemu, "coldboot")))
        if "native" in names:
            cells.append(number(1 / ratio(row, "native", "coldboot")))
        lines.append(f"| {' | '.join([row.program, *cells])} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in mean_lines(rows))])


def least_table(rows: Sequence[Row]) -> list[str]:
    """Plain text: each contender's cheapest round, and its ratio to QEMU's cheapest."""
    names = list(dict.fromkeys(name for row in rows for name in row.rounds))
    qemu = qemu_of(rows)
    width = max(12, *(len(name) + 2 for name in names))
    head = "".join(f"{name:>{width}}" for name in names)
    rest = [name for name in names if name not in (qemu, "native")]
    lines = [f"{'least CPU ns an instruction':<28}{head}" + (f"   {qemu} / each" if qemu else "")]
    for row in rows:
        cells = ""
        for name in names:
            costs = [one.cpu for one in row.kept(name)]
            cells += f"{min(costs):>{width}.3f}" if costs else f"{'-':>{width}}"
        if qemu:
            ratios = ", ".join(number(least_ratio(row, qemu, name)) + "x" for name in rest)
            cells += f"   {ratios}"
        lines.append(f"{row.program:<28}{cells}")
        lines += [f"  {name}: {problem}" for name, problem in row.problems.items()]
    return lines


def draw(rows: Sequence[Row], versions: Mapping[str, str], path: Path) -> None:
    """How many times as fast as QEMU each contender is, program by program."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    qemu = qemu_of(rows)
    if qemu is None:
        return
    names = [n for n in dict.fromkeys(n for r in rows for n in r.rounds) if n != qemu]
    matplotlib.rcParams["svg.hashsalt"] = "coldboot"  # the same figures give the same file
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(rows) + 1.6))
    height = 0.8 / len(names)
    for place, name in enumerate(names):
        values: list[Any] = [ratio(row, qemu, name) for row in rows]
        at = [line + (place - (len(names) - 1) / 2) * height for line in range(len(rows))]
        colour = COLOURS.get(name, OTHERS[place % len(OTHERS)])
        label = f"{name}, {versions[name]}" if name == "native" else name
        axes.barh(at, values, height, label=label, color=colour)
    axes.set_yticks(range(len(rows)), [row.program for row in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = [0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel(f"times as fast as {qemu} (CPU time, steady state)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
