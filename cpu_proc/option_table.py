"""The table of `coldboot run`'s options: how a row of it is declared.

Invariant: an option is one row: a function under `@option_row`, with its value's notation and its
help line. Parsing, the help text and the suggestion for a misspelt name follow from the rows.

Read next: `option_board.py` and `option_run.py` (the rows), `options.py` (who reads them).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cpu_proc.run_options import Drive, RunOptions


class Draft:
    """The options while the command line is read: drives are named before or after the devices that
    use them.
    """

    def __init__(self) -> None:
        self.options = RunOptions()
        self.drives: dict[str, Drive] = {}
        self.virtio: list[tuple[str, str | Drive]] = []


class Row(NamedTuple):
    name: str
    notation: str
    help: str
    apply: Callable[[Draft, str, str], None]


ROWS: dict[str, Row] = {}


def option_row(
    name: str, notation: str, text: str
) -> Callable[[Callable[[Draft, str, str], None]], Callable[[Draft, str, str], None]]:
    """Declare the option `-name NOTATION`; without a notation it takes no value.

    The function gets the draft, the option as the user should read it, and the value.
    """

    def declare(apply: Callable[[Draft, str, str], None]) -> Callable[[Draft, str, str], None]:
        ROWS[name] = Row(name, notation, text, apply)
        return apply

    return declare
