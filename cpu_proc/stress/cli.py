"""`coldboot stress`: campaigns, mutants, equality, and findings done again.

The problem: hours of work begin with one line, and must not end in nothing: a name that does not
exist, a report that cannot be written, a scheduler that is not there are told before anything is
begun; Ctrl-C and SIGTERM end a run early, and its reports are written all the same.

Exit status: 0 as it should be; 1 something was found (with --mutants: something was not); 2 a
mistake on the command line, or something could not be written.

Read next: `campaign.py`, `hunt.py`, `equality.py`, docs/stress.md.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import USER_ERROR_EXIT, UserError

if TYPE_CHECKING:
    from cpu_proc.stress.campaign import Book
    from cpu_proc.stress.draw import Wish
    from cpu_proc.stress.pool import Pool
    from cpu_proc.stress.report import Report

    Opened = Callable[[], Pool]

FOUND = 1
MINUTES = 5.0
HUNT_MINUTES = 2.0
SEEDS = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot stress`."""
    add = parser.add_argument
    add("--seed", type=int, default=0, metavar="N", help="what all chance follows from")
    add(
        "--minutes",
        type=float,
        metavar="M",
        help=f"how long (default: {MINUTES:g}; of each hunt with --mutants: {HUNT_MINUTES:g})",
    )
    add("--count", type=int, metavar="N", help="end after N jobs")
    add("--jobs", type=int, metavar="N", help="jobs at once (default: one a processor)")
    add("--scheduler", metavar="ADDRESS", help="a Dask scheduler, as tcp://host:8786")
    add("--kind", default="all", metavar="KIND", help="scenarios, random, race, chaos, or all")
    add("--mode", default="", metavar="MODE,...", help="tier0, regions, mixed (default: all)")
    add("--harts", default="", metavar="N,...", help="1 to 4 (default: all)")
    add("--scenario", default="", metavar="NAME,...", help="only these; see cpu_proc/stress")
    add(
        "--mutant",
        default="",
        metavar="NAME,...",
        help="switch on, as M31; end when found",
    )
    add("--mutants", metavar="all|NAME,...", help="hunt mistakes one by one; a table")
    add("--seeds", type=int, default=SEEDS, metavar="N", help="hunts of each (default: 5)")
    add("--equality", type=int, metavar="N", help="final states of N random programs in all tiers")
    add("--replay", metavar="FOLDER", help="do a finding again")
    add("--tries", type=int, metavar="N", help="runs of a replay at most (default: the finding's)")
    add("--out", metavar="FOLDER", default="stress-findings", help="where findings are written")
    add(
        "--shrink",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds to shrink a finding (default: 60; 0: leave it)",
    )
    add("--json", metavar="FILE", help="write a report")
    add("--html", metavar="FILE", help="write a report as one page with plots")  # fmt: skip


def run(options: Namespace) -> int:
    """Carry out `coldboot stress`; its exit status."""
    if options.replay is not None:
        return _replay(options)
    wish = _check(options)
    from cpu_proc.stress.pool import Pool

    kind = _mutants if options.mutants else _equality if options.equality else _campaign
    pools: list[Pool] = []
    report: Report = {"stopped": True}
    began = time.monotonic()

    def opened() -> Pool:
        pools.append(Pool(options.jobs, options.scheduler))
        return pools[0]

    def end() -> int:
        for pool in pools:
            pool.close(abandon=report["stopped"])
            report.update(where=pool.where, width=pool.width)
        report["seconds"] = time.monotonic() - began
        report["wish"] = _wish(options)
        return _finish(options, report)

    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            kind(options, wish, opened, report)
            report["stopped"] = False
    except UserError:
        raise  # of the pool: nothing was begun
    except Exception:
        end()
        raise
    with _undisturbed():  # a second Ctrl-C would only lose what the first one left to be written
        return end()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Without Ctrl-C and SIGTERM."""
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not the main thread: no signals here anyway
            before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _finish(options: Namespace, report: Report) -> int:
    """Print and write what there is; the status that it means."""
    from cpu_proc.stress import page
    from cpu_proc.stress import report as reports

    complete = report.pop("complete", None) or _nothing(options)
    report |= {"where": "nothing", "width": 0, **report, **complete()}
    print(reports.text(report), end="")
    if report["stopped"]:
        print("stopped before its time")
    problem = None
    writers: dict[str, Callable[[str], None]] = {
        "json": lambda path: reports.save(report, path),
        "html": lambda path: reports.put(path, page.page(report), "--html"),
    }
    for option, write in writers.items():
        if path := getattr(options, option):
            try:
                write(path)
            except UserError as error:  # the other one may still be written
                problem = problem or error
    if problem is not None:
        raise problem
    match report["what"]:
        case "campaign":
            if report["unwritten"]:
                return USER_ERROR_EXIT
            return FOUND if report["findings"] else 0
        case "mutants":
            wanted = len(options.mutant_names) * options.seeds
            return FOUND if sum(row["found"] for row in report["rows"]) < wanted else 0
    return FOUND if report["differences"] else 0


def _nothing(options: Namespace) -> Callable[[], Report]:
    """What a run has come to that was stopped before it began."""
    from cpu_proc.stress import campaign, report

    if options.mutants:
        return lambda: {"what": "mutants", "rows": [], "hunts": []}
    if options.equality:
        return lambda: {"what": "equality", "programs": 0, "operations": 0, "rows": [],
                        "differences": [], "endless": 0}  # fmt: skip
    return lambda: {**report.of_campaign(campaign.Book()), "unwritten": []}


def _wish(options: Namespace) -> dict[str, Any]:
    left = ("json", "html", "out", "mutant_names", "replay", "tries")
    default = ArgumentParser()
    add_arguments(default)
    given = {name: value for name, value in vars(options).items()
             if name not in left and value != default.get_default(name)}  # fmt: skip
    return {"seed": options.seed, **given}


# --- what is asked for -----------------------------------------------------------------------


def _check(options: Namespace) -> Wish:
    """Whether all of it can be done; raises UserError."""
    from cpu_proc.stress import page
    from cpu_proc.stress.draw import Wish
    from protocol.mutants import MUTANTS

    for name in ("minutes", "count", "jobs", "seeds", "equality", "tries"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise UserError(f"stress: --{name} {value}: more than 0 is needed")
    if not 0 <= options.shrink < float("inf"):
        raise UserError(f"stress: --shrink {options.shrink}: seconds, 0 or more")
    if options.mutants and options.equality:
        raise UserError("stress: --mutants and --equality exclude one another")
    names = _words(options.mutants or "")
    options.mutant_names = list(MUTANTS) if names == ["all"] else names
    try:
        harts = [int(word) for word in _words(options.harts)]
    except ValueError:
        raise UserError(f"stress: --harts {options.harts}: numbers are expected") from None
    wish = Wish(
        options.seed,
        options.kind,
        _words(options.mode),
        harts,
        _words(options.scenario),
        _words(options.mutant) or options.mutant_names,
    )
    wish.check()
    if options.html:
        page.require()
    for option in ("json", "html"):
        if path := getattr(options, option):
            _writable(Path(path), option)
    return wish


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _writable(path: Path, option: str) -> None:
    """Raises UserError; better now than after hours."""
    try:
        path.open("a").close()
    except OSError as error:
        raise UserError(f"stress: --{option} {path}: {error.strerror}") from error


# --- the four things it does -----------------------------------------------------------------


def _campaign(options: Namespace, wish: Wish, opened: Opened, report: Report) -> None:
    from cpu_proc.stress import campaign, draw
    from cpu_proc.stress import report as reports

    book = campaign.Book()
    report["complete"] = lambda: {**reports.of_campaign(book), "unwritten": book.unwritten}
    minutes = options.minutes
    if minutes is None and options.count is None:
        minutes = MINUTES
    limits = campaign.Limits(
        seconds=None if minutes is None else 60 * minutes,
        count=options.count,
        first=bool(options.mutant),
        shrink_seconds=options.shrink,
        out=Path(options.out),
    )
    with _progress(limits.seconds, limits.count) as tell:
        campaign.run(draw.jobs(wish), opened(), limits, lambda b: tell(b.jobs, _line(b)), book)


def _line(book: Book) -> str:
    rate = book.events / max(book.seconds, 1e-3)
    return (f"{book.jobs} jobs, {book.events} events ({rate:.0f}/s),"
            f" {len(book.findings)} findings")  # fmt: skip


def _mutants(options: Namespace, wish: Wish, opened: Opened, report: Report) -> None:
    from cpu_proc.stress import hunt

    rows: list[dict[str, Any]] = []
    report["complete"] = lambda: {"what": "mutants", "rows": hunt.table(rows), "hunts": rows}
    seconds = 60 * (options.minutes or HUNT_MINUTES)
    tasks = [
        (hunt.hunt, mutant, options.seed + number, seconds, options.kind)
        for mutant in options.mutant_names
        for number in range(options.seeds)
    ]
    with _progress(None, len(tasks)) as tell:
        for _, row in _results(opened(), iter(tasks)):
            rows.append(row)
            found = sum(r["found"] for r in rows)
            tell(len(rows), f"{len(rows)} hunts, {found} successful")


def _equality(options: Namespace, wish: Wish, opened: Opened, report: Report) -> None:
    from cpu_proc.stress import equality
    from cpu_proc.stress.job import run_job

    table = equality.Table()
    report["complete"] = lambda: {
        "what": "equality", "programs": len(table.states), "operations": equality.OPERATIONS,
        "rows": table.rows(), "differences": table.differences,
        "endless": len(table.endless),
    }  # fmt: skip
    jobs = equality.Draw(options.seed, options.equality, table)
    with _progress(None, options.equality * len(equality.WAYS)) as tell:
        # A map asks again after the end, as `Draw` wants it; a generator would not.
        tasks = map(functools.partial(_with, run_job), jobs)
        for number, (task, result) in enumerate(_results(opened(), tasks), 1):
            table.add(task[1], result)
            tell(number, f"{number} runs, {len(table.differences)} differences")


def _with(function: Callable[..., Any], job: Any) -> tuple[Any, ...]:
    return function, job


def _results(pool: Pool, tasks: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, Any]]:
    """Tasks with their results, as they come."""
    pending: dict[concurrent.futures.Future[Any], Any] = {}
    while True:
        while len(pending) < pool.width and (task := next(tasks, None)) is not None:
            pending[pool.submit(*task)] = task
        if not pending:
            return
        done, _ = concurrent.futures.wait(pending, 0.25, concurrent.futures.FIRST_COMPLETED)
        for future in done:
            yield pending.pop(future), future.result()


def _replay(options: Namespace) -> int:
    from cpu_proc.stress import finding

    folder = Path(options.replay)
    if options.tries is not None and options.tries < 1:
        raise UserError(f"stress: --tries {options.tries}: at least 1 is needed")
    result, number = finding.replay(folder, options.tries)
    if result["kind"] == "passed":
        print(f"passed, {number} times")
        return 0
    print(f"{result['kind']}: {result['verdict']} (run {number})")
    return FOUND


# --- the bar -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(seconds: float | None, count: int | None) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere nothing. What is yielded takes jobs done, and a text."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda done, line: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    began = time.monotonic()
    timed = seconds is not None
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=seconds if timed else count)

        def tell(done: int, line: str) -> None:
            at = time.monotonic() - began if timed else done
            bar.update(task, completed=at, description=line)

        yield tell
