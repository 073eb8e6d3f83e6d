"""`coldboot compare`: which emulator runs which scenario, and what its guest saw.

Problem: "does X run stale code?" should be answered by a command, on the reader's own computer,
with the reader's own X.

Invariants:
- Without `--on`, all emulators are taken that are there; the others are named, with what to do.
- Exit status: 1 if a guest went wrong in one of this project's columns, whatever others do; 2 for
  a mistake of the user's.

Read next: `peer.py`, `table.py`, `side_by_side.py`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cpu_proc.compare import table
from cpu_proc.compare.coldboot import Coldboot
from cpu_proc.compare.peer import Cell, Guest, Peer
from cpu_proc.compare.qemu import Qemu
from cpu_proc.compare.spike import Spike
from cpu_proc.compare.unicorn_peer import Unicorn
from cpu_proc.stress import scenario as scenarios
from protocol.errors import UserError

OURS = ("tier0", "regions")
FOUND = 1


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot compare`."""
    parser.add_argument("--demo", action="store_true", help="one guest, all emulators, in detail")
    parser.add_argument("--on", metavar="LIST", help="tier0, regions, qemu, unicorn, spike")
    parser.add_argument(
        "--scenario", action="append", default=[], metavar="NAME", help="a name, or its beginning"
    )
    parser.add_argument(
        "--mode", choices=list(scenarios.MODES), default="tier0", help="the program's constants"
    )
    parser.add_argument("--harts", type=int, default=1, metavar="N", help="at least so many")
    parser.add_argument(
        "--qemu", action="append", default=[], metavar="PATH", help="a QEMU (one column each)"
    )
    parser.add_argument("--spike", default="spike", metavar="PATH", help="a Spike")
    parser.add_argument(
        "--patience", type=float, default=60.0, metavar="S", help="seconds a guest (default: 60)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="guests at once")
    parser.add_argument("--json", metavar="FILE", help="write all that was seen; - for the console")
    parser.add_argument(
        "--seen",
        action="append",
        default=[],
        metavar="FILE",
        help="take over what an earlier --json has of other scenarios and emulators",
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table, or renew it in FILE")


def run(options: Namespace) -> int:
    """Carry out `coldboot compare`; its exit status."""
    if options.jobs < 1 or not 1 <= options.harts <= scenarios.MAX_HARTS or options.patience <= 0:
        raise UserError(
            f"compare: --jobs and --patience are above 0, --harts 1 to {scenarios.MAX_HARTS}"
        )
    from rich.console import Console

    console = Console(highlight=False, stderr=options.json == "-")
    peers = _peers(options)
    if options.demo:
        from cpu_proc.compare import side_by_side

        return side_by_side.run(peers, options.patience)
    wanted = _scenarios(options.scenario)
    comparison = table.Comparison(table.heads(peers), options.mode)
    earlier = [_read(path, options.mode) for path in options.seen]
    with ThreadPoolExecutor(options.jobs) as pool:
        work = {
            name: [pool.submit(_cell, peer, name, options) for peer in peers] for name in wanted
        }
        try:
            for number, (name, cells) in enumerate(work.items(), 1):
                row = {peer.name: cell.result() for peer, cell in zip(peers, cells, strict=True)}
                comparison.cells[name] = row
                if console.is_terminal:
                    console.print(f"[dim]{number}/{len(work)} {name}[/dim]", end="\r")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = scenarios.load_all()
    for seen in earlier:
        comparison = comparison.joined(seen, list(found))
    console.print(table.rich_table(comparison, found))
    table.print_summary(console, comparison)
    if options.json:
        _write_json(options.json, json.dumps(table.as_json(comparison, found), indent=1))
    if options.markdown:
        table.write_markdown(Path(options.markdown), table.markdown(comparison, found))
    ours = [name for name in comparison.heads if name in OURS]
    return 0 if all(comparison.passed(name) for name in ours) else FOUND


def _cell(peer: Peer, name: str, options: Namespace) -> Cell:
    scenario = scenarios.load_all()[name]
    mode = scenarios.MODES[options.mode]
    harts = max(options.harts, scenario.harts)
    path = scenarios.FOLDER / f"{name}.s"
    with tempfile.TemporaryDirectory(prefix="coldboot-compare-") as folder:
        return peer.run(Guest(path, scenario, mode, harts, Path(folder), options.patience))


def _peers(options: Namespace) -> list[Peer]:
    known = {peer.name: peer for peer in _known(options)}
    if options.on:
        names = [name for name in options.on.split(",") if name]
        chosen: list[Peer] = []
        for name in names:
            group = [peer for key, peer in known.items() if key == name or key[:-1] == f"{name}-"]
            if not group:
                raise UserError(f"compare: --on {name}: there are {', '.join(known)}")
            for peer in group:
                if why := peer.missing():
                    raise UserError(f"compare: --on {name}: {why}")
            chosen += group
        return chosen
    there = []
    for peer in known.values():
        if options.demo and isinstance(peer, Unicorn | Spike):
            continue  # they have no flash
        if why := peer.missing():
            print(f"without {peer.name}: {why}", file=sys.stderr)
        else:
            there.append(peer)
    return there


def _known(options: Namespace) -> Iterator[Peer]:
    for mode in OURS:
        yield Coldboot(mode)
    paths = options.qemu
    if len(paths) <= 1:
        yield Qemu(*paths)
    else:
        for number, path in enumerate(paths, 1):
            yield Qemu(path, f"qemu-{number}")
    yield Unicorn()
    yield Spike(options.spike)


def _scenarios(words: list[str]) -> list[str]:
    known = scenarios.load_all()
    if not words:
        return list(known)
    for word in words:
        if not any(name.startswith(word.lower()) for name in known):
            raise UserError(f"compare: --scenario {word}: no scenario begins so, as m01_flash does")
    return [name for name in known if name.startswith(tuple(word.lower() for word in words))]


def _read(path: str, mode: str) -> table.Comparison:
    try:
        seen = table.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"compare: --seen {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"compare: --seen {path}: not made by compare --json") from None
    if seen.mode != mode:
        raise UserError(f"compare: --seen {path}: it was made with --mode {seen.mode}")
    return seen


def _write_json(path: str, made: str) -> None:
    if path == "-":
        print(made)
        return
    try:
        Path(path).write_text(f"{made}\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"compare: --json {path}: {error.strerror}") from None
