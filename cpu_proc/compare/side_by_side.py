"""The opening demonstration: one guest, what its hardware's manuals say, what each emulator does.

The problem: that an emulator runs code which is no longer there is hard to believe, and easy to
see. The guest programs a flash chip six times with six functions, reads each back, and calls it.

Invariants: `opening.s` is the guest, for every emulator; each row of the picture is one of its six
rounds, and what is shown was reported by the guest in this run.

Read next: `opening.s`, docs/compare.md.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpu_proc.compare.peer import Cell, Guest, Peer
from cpu_proc.stress import scenario as scenarios

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

GUEST = Path(__file__).with_name("opening.s")
ROUNDS = 6
INTRODUCTION = (
    "A guest erases the first block of the second flash bank of QEMU's board virt, programs it "
    "with `li a0, N; ret`, puts the chip back into array mode, reads the instruction back, does "
    "fence.i, and calls it. Six times, for N from 1 to 6."
)
MANUALS = (
    "Intel's command set for flash: in array mode, reads give what was programmed last. RISC-V: "
    "after fence.i, this hart's instruction fetches see what its earlier stores did. So each call "
    "returns what was just read back."
)
FOUND = 1


def run(peers: Sequence[Peer], patience: float, console: Console | None = None) -> int:
    """Show it. The status is 1 if one of this project's columns is wrong."""
    from rich.console import Console

    console = console or Console(highlight=False)
    console.print(f"{INTRODUCTION}\n\n{MANUALS}\n", markup=False)
    cells = {peer.name: _cell(peer, patience) for peer in peers}
    heads = {peer.name: peer.version() for peer in peers}
    console.print(_picture(heads, cells))
    for name, cell in cells.items():
        console.print(f"{heads[name]}: {_story(cell)}", style=_style(cell), markup=False)
    console.print(
        "\nAll scenarios: coldboot compare. This guest: cpu_proc/compare/opening.s", style="dim"
    )
    ours = [cells[name] for name in ("tier0", "regions") if name in cells]
    return 0 if all(cell.kind == "passed" for cell in ours) else FOUND


def _cell(peer: Peer, patience: float) -> Cell:
    scenario, mode = scenarios.read(GUEST), scenarios.MODES["tier0"]
    with tempfile.TemporaryDirectory(prefix="coldboot-compare-") as folder:
        return peer.run(Guest(GUEST, scenario, mode, 1, Path(folder), patience))


def _picture(heads: dict[str, str], cells: dict[str, Cell]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("programmed")
    table.add_column("manuals", justify="center")
    for head in heads.values():
        table.add_column(head, justify="center", max_width=18)
    for number in range(1, ROUNDS + 1):
        row = [Text(f"li a0, {number}"), Text(str(number), "bold")]
        row += [_round(cell, number) for cell in cells.values()]
        table.add_row(*row)
    return table


def _round(cell: Cell, number: int) -> Text:
    from rich.text import Text

    read, ran = (
        cell.values[2 * number - 2 : 2 * number - 1],
        cell.values[2 * number - 1 : 2 * number],
    )
    if not read or not ran:
        return Text("-", "dim")
    shown = str(ran[0]) if read[0] == number else f"{ran[0]} (read {read[0]})"
    return Text(shown, "bold green" if ran[0] == number else "bold red")


def _story(cell: Cell) -> str:
    read, ran = cell.values[::2], cell.values[1::2]
    if cell.kind not in ("passed", "stale"):
        return f"{cell.kind}: {cell.detail}"
    reads = "read back " + " ".join(map(str, read))
    return f"{reads}, ran {' '.join(map(str, ran))}"


def _style(cell: Cell) -> str:
    return {"passed": "green", "stale": "red"}.get(cell.kind, "dim")
