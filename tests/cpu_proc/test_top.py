"""`coldboot top` on real machines: what its screen shows, and that it follows them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from textual.app import App
from textual.widgets import DataTable, Label, Sparkline, Static

from cpu_proc import top
from cpu_proc.observed import Observer
from tests.cpu_proc.test_metrics import RESTLESS
from tests.system import programs, runner

TRIES = 2400  # looks at the screen, 0.1 s apart at least


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One that resets once and then computes, with a translator of its own."""
    words = ("-m", "32M", "-serial", "null", "-threshold", "2")
    process = subprocess.Popen(
        runner.command("run", *words, programs.elf(RESTLESS, tmp_path)),
        env={**runner.environment(), "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(runner.DEADLINE)


async def until(app: App[None], ask: Callable[[], bool], what: str) -> None:
    for _ in range(TRIES):
        if ask():
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"{what}: not on the screen\n{cells(app)}")


def cells(app: App[None], name: str = "#machines") -> list[dict[str, str]]:
    """A table's rows, by column."""
    table: DataTable[str] = app.query_one(name, DataTable)
    columns = [str(key.value) for key in table.columns]
    return [dict(zip(columns, table.get_row(key), strict=True)) for key in table.rows]


def test_a_machine_comes_is_followed_and_goes(machine: subprocess.Popen[bytes], tmp_path: Path):
    async def watch() -> None:
        app = top.app(Observer(tmp_path / "coldboot"), period=0.2)
        async with app.run_test(size=(160, 50)) as pilot:
            await until(app, lambda: len(cells(app)) == 1, "the machine")
            assert str(machine.pid) == cells(app)[0]["machine"]
            assert "program.elf" == cells(app)[0]["guest"]

            def settled() -> bool:
                row = next(iter(cells(app)), None)  # none: it did not answer in time, just now
                return (
                    row is not None
                    and row["resets"] == "1"
                    and row["regions"] != "0"
                    and float(row["MIPS"]) > 0
                )

            await until(app, settled, "its reset, its region and its speed")
            assert "2" == cells(app)[0]["epoch"]
            await until(app, lambda: len(app.query_one(Sparkline).data or ()) > 1, "a graph")
            said = str(app.query_one("#retirements", Static).render())
            assert said.startswith(f"last retirements of machine {machine.pid}")
            assert "system_reset" in said
            await until(app, lambda: bool(cells(app, "#translators")), "its translator")
            row = cells(app, "#translators")[0]
            assert row["translator"].startswith(f"run-{machine.pid}-")
            assert "1" == row["machines"]
            await pilot.press("p")
            assert "paused" in str(app.query_one("#speed", Label).render())
            await pilot.press("p")
            machine.terminate()
            await until(app, lambda: not cells(app), "the end of the machine")
            assert "no machine answers" in str(app.query_one("#speed", Label).render())
            await pilot.press("q")

    asyncio.run(watch())


def test_nobody_there(tmp_path: Path):
    done = subprocess.run(
        runner.command("top", "--once", "--folder", tmp_path), env=runner.environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert 1 == done.returncode
    assert "no machine and no translator answers" in done.stdout
