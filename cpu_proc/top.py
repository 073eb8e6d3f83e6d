"""`coldboot top`: all machines and translators of this user on this host, live in the terminal.

Problem: when many machines share a translator, one look should tell who computes, who waits, whose
code is retired all the time, and whether the translator keeps up.

Invariants: looking changes nothing, and happens in a thread of its own, so that one who hangs does
not freeze the screen; textual is imported here alone, when it is asked for.

Read next: `observed.py` (where the numbers come from), docs/metrics.md.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cpu_proc.observed import Machine, Observer
from protocol.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Mapping

    from textual.app import App

PERIOD = 1.0  # seconds between two looks
SHOWN = 10  # retirements

MACHINES = (
    *("machine", "guest", "backend", "harts", "MIPS", "epoch", "map", "regions", "resets"),
    *("retired/s", "leaves/s", "published", "refused", "up"),
)
TRANSLATORS = (
    *("translator", "machines", "queued", "running", "workers", "translated", "rejected"),
    *("from store", "modules", "code MB"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot top`."""
    parser.add_argument("--once", action="store_true", help="print two tables, and end")
    parser.add_argument(
        "--folder", type=Path, help="where to look (default: the user's runtime folder)"
    )


def run(arguments: Namespace) -> int:
    """Show it until the user leaves. Raises UserError."""
    observer = Observer(arguments.folder)
    if arguments.once:
        return _print(observer)
    app(observer).run()
    return 0


def machine_row(one: Machine) -> tuple[str, ...]:
    """A machine's cells, in the order of `MACHINES`."""
    told, requests = one.told, one.told["requests"]
    refused = sum(n for name, n in requests.items() if name.startswith("refused_"))
    return (
        *(one.name, told["guest"], told["backend"], one.harts, f"{one.mips:.1f}"),
        *(str(told[name]) for name in ("epoch", "map_generation", "regions", "resets")),
        *(f"{one.retirements:.1f}", f"{one.leaves:.0f}"),
        *(str(requests.get("published", 0)), str(refused), _age(told["seconds"])),
    )


def translator_row(name: str, told: Mapping[str, int]) -> tuple[str, ...]:
    """A translator's cells, in the order of `TRANSLATORS`."""
    keys = ("sessions", "queued", "running", "workers", "translated", "rejected")
    cells = [str(told.get(key, 0)) for key in (*keys, "store_hits", "modules")]
    return (name, *cells, f"{told.get('code_bytes', 0) / 1e6:.2f}")


def _age(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _print(observer: Observer) -> int:
    from rich.console import Console
    from rich.table import Table

    observer.look()
    if observer.machines:
        time.sleep(PERIOD)  # rates need two looks
        observer.look()
    console = Console()
    machines, translators = Table(*MACHINES, title="machines"), Table(*TRANSLATORS)
    for one in observer.machines.values():
        machines.add_row(*machine_row(one))
    for name, told in observer.translators.items():
        translators.add_row(*translator_row(name, told))
    if not observer.machines and not observer.translators:
        console.print(f"no machine and no translator answers in {observer.folder}")
        return 1
    console.print(machines, translators)
    return 0


def app(observer: Observer, period: float = PERIOD) -> App[None]:
    """The screen. Raises UserError if textual is not installed."""
    try:
        from textual.app import App, ComposeResult
        from textual.binding import BindingType
        from textual.widgets import DataTable, Footer, Label, Sparkline, Static
    except ImportError as error:
        raise UserError("top: the package textual is missing: pip install coldboot[top]") from error

    class Top(App[None]):
        CSS = """
        DataTable { height: auto; }
        #machines { max-height: 40%; }
        #translators { max-height: 25%; margin-top: 1; }
        #speed { margin-top: 1; }
        Sparkline { height: 4; }
        #retirements { height: 1fr; margin-top: 1; text-wrap: nowrap; text-overflow: ellipsis; }
        """
        BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "leave"), ("p", "pause", "pause")]
        TITLE = "coldboot top"

        def __init__(self) -> None:
            super().__init__()
            self._paused = False
            self._ended = threading.Event()

        def compose(self) -> ComposeResult:
            yield DataTable(id="machines", cursor_type="row")
            yield DataTable(id="translators", cursor_type="none")
            yield Label("", id="speed")
            yield Sparkline([], id="graph")
            yield Static("", id="retirements", markup=False)
            yield Footer()

        def on_mount(self) -> None:
            for name, columns in (("#machines", MACHINES), ("#translators", TRANSLATORS)):
                table: DataTable[str] = self.query_one(name, DataTable)
                for column in columns:
                    table.add_column(column, key=column)
            self.run_worker(self._look, thread=True)

        def on_unmount(self) -> None:
            self._ended.set()

        def _look(self) -> None:
            while not self._ended.is_set():
                if not self._paused:
                    observer.look()
                    if not self._ended.is_set():
                        self.call_from_thread(self._show)
                self._ended.wait(period)

        def action_pause(self) -> None:
            self._paused = not self._paused
            self._show()

        def on_data_table_row_highlighted(self) -> None:
            self._show_chosen()

        def _show(self) -> None:
            machines = {one.name: machine_row(one) for one in observer.machines.values()}
            self._fill("#machines", MACHINES, machines)
            translators = {n: translator_row(n, t) for n, t in observer.translators.items()}
            self._fill("#translators", TRANSLATORS, translators)
            self._show_chosen()

        def _fill(
            self, name: str, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]]
        ) -> None:
            """Change what changed, so that the cursor stays where it is."""
            table: DataTable[str] = self.query_one(name, DataTable)
            shown = {str(key.value) for key in table.rows}
            for gone in shown - rows.keys():
                table.remove_row(gone)
            for key, cells in rows.items():
                if key not in shown:
                    table.add_row(*cells, key=key)
                    continue
                for column, cell in zip(columns, cells, strict=True):
                    table.update_cell(key, column, cell, update_width=True)

        def _chosen(self) -> Machine | None:
            table: DataTable[str] = self.query_one("#machines", DataTable)
            if not table.row_count:
                return None
            key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key
            return observer.machines.get(str(key.value))

        def _show_chosen(self) -> None:
            one = self._chosen()
            label, graph = self.query_one("#speed", Label), self.query_one("#graph", Sparkline)
            last = self.query_one("#retirements", Static)
            state = " (paused)" if self._paused else ""
            if one is None:
                label.update(f"no machine answers in {observer.folder}{state}")
                graph.data = []
                last.update("")
                return
            another = " (↑↓ for another)" if len(observer.machines) > 1 else ""
            speeds = list(one.speeds) or [0.0]
            label.update(
                f"machine {one.name}{another}: {one.mips:.1f} MIPS{state}; last {len(speeds)} "
                f"looks, {min(speeds):.1f} to {max(speeds):.1f}:"
            )
            graph.data = speeds
            lines = one.told["last"][: -SHOWN - 1 : -1]
            title = f"last retirements of machine {one.name}, the newest first:"
            last.update("\n".join([title, *lines]) if lines else "nothing was retired so far")

    return Top()
