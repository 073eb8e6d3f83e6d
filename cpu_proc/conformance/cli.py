"""`coldboot conformance`: try a translator that somebody else wrote.

Exit status: 0 no rule was seen broken, 1 one was, 2 a mistake on the command line, or nobody there.

Read next: `rules.py`, docs/conformance.md.
"""

from __future__ import annotations

import fnmatch
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from protocol.errors import UserError

FOUND = 1
RANDOM = 4
DEADLINE = 20.0
RETIRE_DEADLINE = 2.0
LISTEN = 10.0


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot conformance`."""
    add = parser.add_argument
    add("endpoint", nargs="?", metavar="ENDPOINT", help="where a translator listens")
    add(
        "--start",
        metavar="COMMAND",
        help="start it, and again when it was killed; `{endpoint}` in it, or else --endpoint at its"
        " end, says where to listen",
    )
    add("--backend", default="", metavar="NAME,...", help="ask for this one of its backends")
    add(
        "--only",
        default="",
        metavar="NAME,...",
        help="only these checks; * and ? stand for anything (handshake.*)",
    )
    add("--protocol", action="store_true", help="only the protocol, no guests")
    add("--random", type=int, default=RANDOM, metavar="N", help=f"random guests (default {RANDOM})")
    add(
        "--deadline",
        type=float,
        default=DEADLINE,
        metavar="S",
        help=f"seconds for any answer (default {DEADLINE:g})",
    )
    add(
        "--retire-deadline",
        type=float,
        default=RETIRE_DEADLINE,
        metavar="S",
        help=f"seconds for RETIRED (default {RETIRE_DEADLINE:g}, a machine's own)",
    )
    add("--json", metavar="FILE", help="write a report")
    add("--list", action="store_true", help="list the checks with their clauses, and end")


def run(options: Namespace) -> int:
    """Carry out `coldboot conformance`; its exit status."""
    from cpu_proc.conformance import report, runner
    from cpu_proc.conformance.rules import Bench
    from cpu_proc.conformance.target import Target

    chosen = _chosen(options, runner.names(options.random))
    if options.list:
        _list(chosen)
        return 0
    if (options.endpoint is None) == (options.start is None):
        raise UserError("conformance: ENDPOINT or --start COMMAND, one of them")
    for name in ("deadline", "retire_deadline"):
        if not 0 < getattr(options, name) < 3600:
            word = name.replace("_", "-")
            raise UserError(f"conformance: --{word}: seconds, more than 0 and less than 3600")
    if options.json:
        try:
            Path(options.json).open("a").close()
        except OSError as error:
            raise UserError(f"conformance: --json {options.json}: {error.strerror}") from error
    target = Target(options.endpoint or "", options.start or "")
    bench = Bench(target, options.backend, options.deadline, options.retire_deadline)
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 132)
    errors = Console(stderr=True)
    try:
        if target.restartable:
            target.start()
        elif not target.listens(LISTEN):
            raise UserError(f"conformance: nobody answers at {target.endpoint}")
        _agree(bench)
        with errors.status("") if errors.is_terminal else _Quiet() as status:
            done = 0

            def tell(result: object) -> None:
                nonlocal done
                done += 1
                status.update(f"{done} of {len(chosen)} checks")

            results = runner.run(bench, chosen, tell)
    finally:
        target.close()
    found = report.summary(bench, results)
    report.show(console, found)
    if options.json:
        report.save(found, options.json)
    return 0 if found["conformant"] else FOUND


class _Quiet:
    """In place of a status line."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, text: str) -> None:
        """Say nothing."""


def _chosen(options: Namespace, names: list[str]) -> list[str]:
    if options.random < 0:
        raise UserError("conformance: --random: 0 or more")
    if options.protocol:
        names = [name for name in names if not name.startswith("guest.")]
    if not options.only:
        return names
    patterns = [word for word in options.only.split(",") if word]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"conformance: --only {pattern}: there is no such check; see --list")
    return [name for name in names if any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _list(chosen: list[str]) -> None:
    from cpu_proc.conformance.guests import CHECKSUM, GUESTS
    from cpu_proc.conformance.rules import load_all

    rows = {name: (one.clause, one.rule) for name, one in load_all().items()}
    rows |= {f"guest.{one.scenario}": (one.clause, one.rule) for one in GUESTS}
    for name in chosen:
        clause, rule = rows.get(name, CHECKSUM)
        print(f"{name:<31} {clause:<19} {rule}")


def _agree(bench: object) -> None:
    """A backend that the translator does not have is a mistake of the command line's."""
    from cpu_proc.conformance.rules import Bench
    from protocol.messages import Error, Welcome

    assert isinstance(bench, Bench)
    if not bench.backend:
        return
    with bench.peer(attach=False) as peer:
        peer.send(peer.hello())
        for _ in range(int(bench.deadline / 0.1)):
            peer.hear(0.1)
            for message in peer.drain():
                if isinstance(message, Error) and message.name == "unknown_backend":
                    raise UserError(f"conformance: --backend {bench.backend}: {message.text}")
                if isinstance(message, Welcome):
                    peer.welcome = message
                    return
