"""`make bench`: programs of our own on coldboot, QEMU, Unicorn and the host, in turn.

    python -m benchmarks.suite [--only NAME,...] [--rounds N] [--json FILE] [--plot FILE]
    python -m benchmarks.suite --quick --only sieve          coldboot beside QEMU, least of 5
    python -m benchmarks.suite --quick --beside ../other     and another tree of the sources
    python -m benchmarks.suite --whole --only sieve          from a process's start to its end

The problem: a machine gets faster and slower while it is measured, emulators start differently and
translate at different times. So each round runs every contender once, one after the other; each
runs until it is warm, then for `--seconds`; what is compared is the CPU time of the same number of
guest instructions, and the work of a translator in a process of its own is counted.

Invariants: no figure is kept from a run whose checksums are not the host's, chunk by chunk (where a
program has no form for the host: not QEMU's). Nothing is asserted.

Read next: `programs.py`, `processes.py`, `figures.py`, docs/benchmarks.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import contenders, figures, programs, report, whole
from benchmarks.contenders import Contender
from benchmarks.figures import Row
from benchmarks.processes import Trace, watch
from benchmarks.programs import Built
from protocol.errors import UserError

QUICK = {"rounds": 5, "seconds": 1.0, "warm": 1.0, "peers": "qemu"}
FULL = {"rounds": 5, "seconds": 2.0, "warm": 2.0, "peers": "qemu,unicorn,native"}
COUNTED = (1, 3)  # chunks: what the second run does more is counted
MARK, MARK_END = "<!-- bench: begin -->", "<!-- bench: end -->"
LAST = re.compile(r"hart 0: (\d+) instructions")


def arguments() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.suite",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="NAME,...", help="these programs")
    parser.add_argument("--list", action="store_true", help="tell what programs there are")
    parser.add_argument("--rounds", type=int, help="how often each is run (default 5)")
    parser.add_argument("--seconds", type=float, help="CPU seconds of the steady phase (default 2)")
    parser.add_argument("--warm", type=float, help="the phase before it, at least (default 2)")
    parser.add_argument(
        "--peers",
        metavar="LIST",
        help="qemu, unicorn, native, tier0, or paths of QEMUs (default qemu,unicorn,native)",
    )
    parser.add_argument("--quick", action="store_true", help="QEMU alone, shorter, least of all")
    parser.add_argument(
        "--beside", type=Path, action="append", default=[], metavar="TREE", help="other sources"
    )
    parser.add_argument(
        "--options", default="", metavar="TEXT", help="options for coldboot run, in one text"
    )
    parser.add_argument("--whole", action="store_true", help="whole runs, store empty and filled")
    parser.add_argument(
        "--last",
        type=float,
        default=whole.LAST,
        help=f"with --whole: CPU seconds that QEMU is to need (default {whole.LAST})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all that was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture, SVG or PNG")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the table between the document's marks"
    )
    parser.add_argument("--seen", type=Path, metavar="FILE", help="show an earlier --json instead")
    return parser


def instructions(built: Built, folder: Path) -> float:
    """Guest instructions of a chunk: counted once, by the engine, and kept beside the image."""
    kept = built.image.with_name("instructions")
    if not kept.exists():
        counts = []
        for chunks in COUNTED:
            words = ("-translator", "none", "-icount", "shift=0", "-stats")
            run = contenders.coldboot(*words).run(built.limited(chunks, folder))
            done = subprocess.run(
                run.command, env=run.environment, capture_output=True, text=True, check=False
            )
            found = LAST.search(done.stderr)
            if done.returncode != 0 or found is None:
                raise UserError(f"{built.program.name}: {done.stderr.strip()[-500:]}")
            counts.append(int(found[1]))
        kept.write_text(str((counts[1] - counts[0]) / (COUNTED[1] - COUNTED[0])))
    return float(kept.read_text())


def one_round(
    built: Built, row: Row, columns: Sequence[Contender], options: Namespace, folder: Path
) -> None:
    """Run a program once on each contender, and keep what may be kept."""
    image = built.limited(0, folder)
    traces: dict[str, Trace] = {}
    for column in columns:
        if column.kind == "native":
            continue
        run = column.run(image)
        traces[column.name] = watch(
            run.command,
            warm=options.warm,
            seconds=options.seconds,
            given=run.given,
            environment=run.environment,
        )
    most = max(len(trace.checksums) for trace in traces.values())
    expected: Sequence[str] | None = None
    if built.native is not None:
        # It needs no translation; and it must come as far as the others did.
        seconds = options.seconds / 4
        trace = watch([str(built.native)], warm=seconds / 4, seconds=seconds, chunks=most)
        expected = trace.checksums
        if any(column.kind == "native" for column in columns):
            traces["native"] = trace
    else:
        qemus = [traces[column.name] for column in columns if column.kind == "qemu"]
        expected = max((t.checksums for t in qemus), key=len) if qemus else None
    for column in columns:
        costs = row.rounds.setdefault(column.name, [])
        found = traces.get(column.name)
        costs.append(None if found is None else _figure(row, column, found, expected))


def _figure(
    row: Row, column: Contender, trace: Trace, expected: Sequence[str] | None
) -> figures.Cost | None:
    if expected is None:
        row.problems[column.name] = "nothing to check its results with"
        return None
    # Without a form for the host the longest run may be the one that is to be checked.
    known = trace.checksums[: len(expected)] if row.kind == "system" else trace.checksums
    wrong = figures.wrong_at(known, expected)
    if wrong is not None:
        row.problems[column.name] = f"wrong result in chunk {wrong}"
        return None
    cost = figures.cost(trace, row.instructions)
    if cost is None:
        last = trace.said.strip().splitlines()
        row.problems[column.name] = last[-1] if last else f"no steady phase ({trace.status})"
    return cost


def measure(options: Namespace, columns: Sequence[Contender]) -> list[Row]:
    """All programs, all rounds."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="coldboot-bench-") as name:
        folder = Path(name)
        work = []
        for program in programs.wanted(options.only):
            built = programs.build(program)
            row = Row(program.name, program.kind, instructions(built, folder))
            rows.append(row)
            work.append((built, row))
        for number in range(options.rounds):
            for built, row in work:
                _tell(f"round {number + 1} of {options.rounds}: {row.program}")
                one_round(built, row, columns, options, folder)
        _tell("")
    return rows


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(rows: Sequence[Row], versions: dict[str, str], options: Namespace) -> None:
    """Print, save, draw."""
    if options.quick:
        print("\n".join(report.least_table(rows)))
    else:
        from rich.console import Console

        console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
        console.print(report.steady_table(rows))
        for line in report.mean_lines(rows):
            console.print(line)
    if options.json:
        text = json.dumps(figures.as_json(rows, versions), indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.plot:
        report.draw(rows, versions, options.plot)
    if options.markdown:
        put(options.markdown, (MARK, MARK_END), report.markdown(rows))


def put(document: Path, marks: tuple[str, str], table: str) -> None:
    """Replace what stands between a document's marks. Raises UserError."""
    text = document.read_text(encoding="utf-8")
    if any(text.count(mark) != 1 for mark in marks):
        raise UserError(f"{document} has not each of {marks[0]!r} and {marks[1]!r} once")
    before, after = text.split(marks[0])[0], text.split(marks[1])[1]
    document.write_text(f"{before}{marks[0]}\n\n{table}\n\n{marks[1]}{after}", encoding="utf-8")


def whole_runs(options: Namespace) -> None:
    """`--whole`: measure, or show what was; print, save."""
    if options.seen:
        found = whole.from_json(json.loads(options.seen.read_text(encoding="utf-8")))
    else:
        machine = contenders.coldboot(*options.options.split())
        for found in whole.measure(options, machine, contenders.qemu(), _tell):
            if options.json:  # after each round: who has enough may end it
                text = json.dumps(whole.as_json(found), indent=1)
                options.json.write_text(text + "\n", encoding="utf-8")
    print(table := whole.markdown(found))
    if options.markdown:
        put(options.markdown, whole.MARKS, table)


def main(words: Sequence[str] | None = None) -> int:
    """Entry point."""
    options = arguments().parse_args(words)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        if options.list:
            for program in programs.wanted(options.only):
                print(f"{program.name:<12}{program.kind:<9}{program.what}")
            return 0
        if options.rounds < 1 or options.seconds <= 0 or options.warm < 0 or options.last <= 0:
            raise UserError("--rounds, --seconds and --last are above 0, --warm is not below")
        if options.whole:
            whole_runs(options)
            return 0
        if options.seen:
            seen = json.loads(options.seen.read_text(encoding="utf-8"))
            show(*figures.from_json(seen), options)
            return 0
        columns = [contenders.coldboot(*options.options.split())]
        for tree in options.beside:
            if not (tree / "cpu_proc").is_dir():
                raise UserError(f"{tree} is no tree of these sources")
            tree = tree.resolve()
            columns.append(contenders.coldboot(*options.options.split(), tree=tree, name=tree.name))
        columns += contenders.peers(options.peers.split(",") if options.peers != "none" else [])
        rows = measure(options, columns)
        show(rows, {column.name: column.version for column in columns}, options)
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
