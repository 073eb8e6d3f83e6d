"""`coldboot backends`: list them, replay a difference of two, or try two on random code.

The problem: who writes a backend wants to know whether it is right before a guest does; who mends
one wants to see a difference that was found again, and then no more.

Invariants: exit status 0: nothing differs; 1: something does; 2: it could not be tried, with a line
that says why.

Read next: `backends/__init__.py`, `reproducer.py`, `comparing.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from protocol.errors import USER_ERROR_EXIT, UserError

if TYPE_CHECKING:
    from jit_proc.job import Job, Region
    from jit_proc.reproducer import Reproducer

STATES = 12


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"backends: {message}; see `coldboot backends --help`")


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="coldboot backends",
        description="List what can be asked for with -backend and swap; or compare two.",
        allow_abbrev=False,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="run a difference again that `shadow` wrote down; status 1 while it is there",
    )
    what.add_argument(
        "--try",
        dest="pair",
        metavar="BACKEND,BACKEND",
        help="compare two on random code, spelt as behind `shadow:`",
    )
    parser.add_argument(
        "--seed", type=_number, default=0, metavar="N", help="with --try: where to begin (0)"
    )
    parser.add_argument(
        "--count", type=_number, default=100, metavar="N", help="with --try: pages (default 100)"
    )
    return parser


def run(arguments: list[str]) -> int:
    """Parse and do it. Raises UserError."""
    asked = _parser().parse_args(arguments)
    if asked.replay is not None:
        return _replay(asked.replay)
    if asked.pair is not None:
        return _try(asked.pair, asked.seed, asked.count)
    from jit_proc.backends import listing

    print(listing(), end="")
    return 0


def _replay(path: Path) -> int:
    from jit_proc.backends import complaint
    from jit_proc.comparing import Comparer, ComparisonFailed
    from jit_proc.reproducer import ReproducerError, read

    try:
        one = read(path)
    except (OSError, ReproducerError) as error:
        raise UserError(f"backends --replay: {error}") from error
    for word in (one.of, one.against):
        if why := complaint(word):
            raise UserError(f"backends --replay {path}: {why}")
    first, second = (_translated(word, one.job) for word in (one.of, one.against))
    comparer = Comparer()
    try:
        found = comparer.replay(one.job, first, second, one.state)
    except ComparisonFailed as error:
        raise UserError(f"backends --replay {path}: {error}") from error
    finally:
        comparer.close()
    print(f"{one.of} and {one.against}, from slot {one.state.slot} of a page:")
    for line in _listing(one):
        print(f"  {line}")
    if not found.lines:
        print("nothing differs")
        return 1 if found.blamed else 0
    for line in found.lines:
        print(line)
    if found.blamed:
        sides = {"A": one.of, "B": one.against}
        print(f"the interpreter disagrees with {' and '.join(sides[b] for b in found.blamed)}")
    return 1


def _translated(word: str, job: Job) -> Region:
    from jit_proc.backends.shadow import translate_with
    from jit_proc.job import Untranslatable

    try:
        return translate_with(word, job)
    except Untranslatable as refusal:
        raise UserError(f"backends: {word} does not translate this: {refusal}") from refusal


def _listing(one: Reproducer) -> list[str]:
    """The instructions from the entry on, as far as they stand in a row."""
    from protocol.riscv import isa
    from protocol.riscv.disassembler import disassemble

    isa.load_all()
    lines: list[str] = []
    at = 2 * one.state.slot
    while at < len(one.job.content) and len(lines) < 24:
        raw = int.from_bytes(one.job.content[at : at + 4], "little")
        decoded = isa.decode(raw)
        if decoded is None:
            break
        lines.append(f"{at:#06x}  {disassemble(raw, at)}")
        at += decoded.length
    return lines


def _try(pair: str, seed: int, count: int) -> int:
    from jit_proc import reproducer
    from jit_proc.backends import complaint
    from jit_proc.comparing import Comparer, ComparisonFailed
    from jit_proc.job import Job, Untranslatable
    from jit_proc.random_code import page
    from protocol.backends import AGAINST, OF, parse

    if why := complaint(f"shadow:{pair}"):
        raise UserError(f"backends --try {pair}: {why}")
    two = parse(f"shadow:{pair}")[1]
    comparer = Comparer()
    pages = refused = states = covered = slots = 0
    try:
        for number in range(seed, seed + count):
            content, start = page(number)
            job = Job(1, content, (start,), number & 1)
            try:
                first, second = (_made(two[key], job) for key in (OF, AGAINST))
            except Untranslatable:
                refused += 1
                continue
            verdict = comparer.compare(job, first, second, STATES, number)
            pages += 1
            states += verdict.ran
            covered += verdict.covered
            slots += verdict.slots
            if verdict.lines:
                assert verdict.state is not None
                one = reproducer.Reproducer(
                    job, two[OF], two[AGAINST], verdict.state, verdict.lines, verdict.blamed
                )
                path = reproducer.write(one, Path.cwd())
                print(f"seed {number}: {two[OF]} and {two[AGAINST]} differ")
                for line in verdict.lines:
                    print(f"  {line}")
                print(f"written to {path}: coldboot backends --replay {path.name}")
                return 1
    except (ComparisonFailed, OSError) as error:
        raise UserError(f"backends --try {pair}: {error}") from error
    finally:
        comparer.close()
    part = 100 * covered // max(1, slots)
    print(
        f"{pages} pages from {states} states each way, {part} % of their instructions executed:"
        f" nothing differs; {refused} pages refused"
    )
    return 0


def _made(word: str, job: Job) -> Region:
    from jit_proc.backends.shadow import translate_with

    return translate_with(word, job)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: the exit status; a UserError is one line and status 2."""
    try:
        return run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"coldboot: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT


if __name__ == "__main__":
    sys.exit(main())
