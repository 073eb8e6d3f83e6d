"""What is seen of the demonstration: chapters, checks, the guest's speed over time, the book.

The problem: the same run should look good in a terminal, be readable in a log, and become a picture
for the documentation. So facts are printed as they come, one line each, everywhere; only a terminal
gets a panel below them that moves.

Invariants: nothing here decides whether the demonstration succeeded but `check`, which is told; an
output that cannot show other characters gets ASCII.

Read next: `demo.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cpu_proc.retirement import Event

WIDTH = 100  # columns at most, and where the output is no terminal
BARS = " ▁▂▃▄▅▆▇█"
ASCII_BARS = " ..--==##"
ROWS = 3  # lines of the chart
PERIOD = 0.1  # seconds between two pictures of the panel

CAUSES = {
    "guest_store": "guest's store over regions",
    "memory_write": "device's write",
    "system_reset": "system reset",
    "translator_restart": "translator lost",
    "overflow": "a list was full",
    "code_space_full": "the code space was full",
    "backend_swap": "another backend",
}


class View:
    """The output of one run. `record`: keep it, for `save_svg`."""

    def __init__(self, record: bool = False, console: Console | None = None) -> None:
        if console is None:
            console = Console(record=record, highlight=False)
            shown = console.is_terminal and not record
            console = Console(
                record=record,
                highlight=False,
                width=min(console.width, WIDTH) if shown else WIDTH,
                force_terminal=True if record else None,
            )
        self.console = console
        self.unicode = console.encoding.startswith("utf")
        self.failures: list[str] = []
        self.checks = 0
        self._chapters = 0
        self._samples: list[tuple[float, float]] = []  # seconds, MIPS
        self._marks: list[tuple[float, str]] = []  # seconds, letter
        self._live: Live | None = None
        self._state: dict[str, Any] = {}
        self._next = 0.0  # when the panel may be drawn again
        self._recorded = record

    # --- lines ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def status(self, text: str) -> Iterator[None]:
        """Say what takes a moment."""
        if self.console.is_terminal and not self._recorded:
            with self.console.status(f"{text} ..."):
                yield
        else:
            self.console.print(f"[dim]{text} ...[/dim]")
            yield

    def chapter(self, title: str, text: str) -> None:
        """A heading, and what it is about."""
        self._chapters += 1
        self.console.print(f"\n[bold cyan]{self._chapters}  {title}[/bold cyan]")
        self.console.print(f"   [dim]{text}[/dim]")

    def fact(self, text: str, value: str) -> None:
        """Something seen."""
        self._line("", text, value)

    def check(self, text: str, value: str, holds: bool) -> None:
        """Something seen that must be so."""
        self.checks += 1
        if holds:
            self._line(f"[green]{'✓' if self.unicode else 'ok'}[/green]", text, value)
        else:
            self.failures.append(f"{text}: {value}" if value else text)
            self._line(f"[bold red]{'✗' if self.unicode else '!!'}[/bold red]", text, value)

    def _line(self, mark: str, text: str, value: str) -> None:
        grid = Table.grid(padding=(0, 1), expand=False)
        grid.add_column(width=2, justify="right")
        grid.add_column(width=52 if self.console.width >= WIDTH else (self.console.width - 6) // 2)
        grid.add_column(style="bold")
        grid.add_row(mark, escape(text), escape(value))
        self.console.print(grid)

    # --- the moving part -------------------------------------------------------------------------

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """While this lasts, a terminal shows the guest's speed and the machine's state."""
        if not self.console.is_terminal or self._recorded:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as self._live:
            yield
        self._live = None

    def sample(self, when: float, mips: float) -> None:
        """The guest's speed, `when` seconds after power-on."""
        self._samples.append((when, mips))

    def mark(self, when: float, letter: str) -> None:
        """Something that the chart shall show; the number of the chapter that begins if empty."""
        self._marks.append((when, letter or str(self._chapters + 1)))

    def refresh(self, state: dict[str, Any]) -> None:
        """Show the machine's state as it is now."""
        self._state = state
        now = time.monotonic()
        if self._live is not None and now >= self._next:
            self._next = now + PERIOD
            self._live.update(self._panel(), refresh=True)

    def _panel(self) -> Panel:
        state = self._state
        pid = state["translator"]
        line = (
            f"epoch [bold]{state['epoch']}[/bold]   regions [bold]{state['regions']}[/bold]   "
            f"translator [bold]{pid or 'none'}[/bold]   "
            f"checks [bold]{state['checks']:,}[/bold]   "
            f"stale [bold {'red' if state['stale'] else 'green'}]{state['stale']}[/]"
        )
        return Panel(
            Group(*self._chart(self.console.width - 4), Text.from_markup(line)),
            box=box.ROUNDED if self.unicode else box.ASCII,
            border_style="dim",
        )

    # --- the chart -------------------------------------------------------------------------------

    def _chart(self, width: int) -> list[Text]:
        """MIPS over all of the run so far, with what happened below."""
        label = 11
        columns = max(width - label, 10)
        end = max((when for when, _ in [*self._samples, *self._marks]), default=1.0) + 0.01
        sums: list[list[float]] = [[] for _ in range(columns)]
        for when, mips in self._samples:
            sums[int(when / end * columns)].append(mips)
        means = [sum(values) / len(values) if values else 0.0 for values in sums]
        best = max(*means, 1.0)
        bars = BARS if self.unicode else ASCII_BARS
        steps = len(bars) - 1
        rows = []
        for row in reversed(range(ROWS)):
            cells = ""
            for mean in means:
                height = mean / best * ROWS * steps
                if mean:
                    height = max(height, 1.0)
                cells += bars[max(0, min(steps, round(height - row * steps)))]
            name = f"{best:,.0f} MIPS" if row == ROWS - 1 else ""
            rows.append(Text.assemble((f"{name:>{label - 1}} ", "dim"), (cells, "cyan")))
        below = [" "] * columns
        for when, letter in self._marks:
            column = min(int(when / end * columns), columns - 1)
            while below[column] != " " and column < columns - 1:
                column += 1
            below[column] = letter
        rows.append(Text(" " * label + "".join(below), "yellow"))
        return rows

    # --- the end ---------------------------------------------------------------------------------

    def book(self, history: Sequence[Event], tier0: int) -> None:
        """The table of retirements; `tier0`: stores over records, retired by native code alone."""
        table = Table(
            box=box.SIMPLE_HEAD if self.unicode else box.ASCII,
            title="What was retired, when and why",
            title_justify="left",
            title_style="bold",
            pad_edge=False,
            padding=(0, 1) if self.console.width >= WIDTH else (0, 1, 0, 0),
        )
        for name in ("cause", "when", "times", "regions", "epoch", "took"):
            table.add_column(name, justify="left" if name == "cause" else "right", no_wrap=True)
        table.add_row("guest's store over records", "", f"{tier0:,}", "-", "same", "-")
        partial = [e for e in history if "pages" not in e.details]
        for cause in dict.fromkeys(e.cause for e in partial):
            events = [e for e in partial if e.cause == cause]
            regions = sum(e.details.get("regions", 0) for e in events)
            table.add_row(
                CAUSES.get(cause, cause),
                f"{events[0].when:.1f} to {events[-1].when:.1f} s",
                str(len(events)),
                str(regions),
                "same",
                "-",
            )
        for event in history:
            if "pages" in event.details:
                table.add_row(
                    CAUSES.get(event.cause, event.cause),
                    f"{event.when:.1f} s",
                    "1",
                    f"all {event.details['regions']:2}",
                    f"{event.epoch - 1} to {event.epoch}",
                    f"{event.ms:.1f} ms",
                )
        self.console.print()
        self.console.print(table)

    def translations(self, counts: Counter[str]) -> None:
        """What became of requests and of translations."""
        moved = sum(counts[name] for name in ("refused_bytes_moved", "refused_stale_epoch"))
        absent = counts["failed_not_attached"]
        self.console.print("[bold]What became of requests for regions[/bold]")
        for count, text in (
            (counts["published"], "published"),
            (_total(counts, "late_"), "finished, but the guest's state had moved on: dropped"),
            (moved, "given up by the translator: the guest's state had moved on"),
            (
                _total(counts, "dropped_"),
                "answered when nobody wanted the answer any more: dropped",
            ),
            (_total(counts, "refused_") - moved, "refused: no code that a region can hold"),
            (_total(counts, "failed_") - absent, "given up by the machine for a newer request"),
            (absent, "found no translator"),
        ):
            if count:
                self.console.print(f"  {count:7,}  {text}")

    def verdict(self, seconds: float) -> bool:
        """The last words; whether all checks held."""
        held = not self.failures and self.checks > 0
        self.console.print()
        if self._samples:
            for row in self._chart(self.console.width):
                self.console.print(row)
            legend = "numbers: chapters   R: reset   K: translator killed"
            self.console.print(f"[dim]{' ' * 11}{legend}[/dim]\n")
        if held:
            self.console.print(
                f"[bold green]All {self.checks} checks held: no stale instruction was executed."
                f"[/bold green]  [dim]({seconds:.0f} s)[/dim]"
            )
        else:
            for failure in self.failures:
                self.console.print(f"[bold red]failed:[/bold red] {escape(failure)}")
            self.console.print(
                f"[bold red]{len(self.failures)} of {self.checks} checks failed.[/bold red]"
            )
        return held

    def save_svg(self, path: str) -> None:
        """Write the recorded output as a picture; fonts are the reader's own."""
        import re

        from rich._export_format import CONSOLE_SVG_FORMAT

        form = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
        self.console.save_svg(path, title="coldboot run", code_format=form, unique_id="coldboot")


def _total(counts: Counter[str], prefix: str) -> int:
    return sum(number for name, number in counts.items() if name.startswith(prefix))
