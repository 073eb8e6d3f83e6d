"""What the specification says under a clause's number, so that a finding can quote it.

The problem: a number sends the reader to a document; the sentence itself explains a finding.
So the kit reads `protocol/SPEC.md`, the one that is installed with it.

A clause is `4.3` (an item of section 4), `5.1.2` (an item of 5.1), `6.1` (a section with no items),
`3 TRANSLATED` (a message), `1 record` (a term), `7 code segment` (a structure in the contract), or
`5 counters` (the paragraph below the table of section 5).

Read next: `report.py`.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import protocol


@functools.cache
def _spec() -> str:
    path = Path(protocol.__file__).with_name("SPEC.md")
    return path.read_text(encoding="utf-8") if path.exists() else ""


def quote(clause: str) -> str:
    """The sentences of a clause; empty if there is no such clause."""
    number, _, word = clause.partition(" ")
    text = _named(number, word) if word else _numbered(number)
    return " ".join(text.split())


def _numbered(number: str) -> str:
    whole = _section(number)
    if whole and not re.search(r"^1\. ", whole, re.M):
        return whole
    section, _, item = number.rpartition(".")
    found = re.search(rf"^{item}\. (.*?)(?=^\d+\. |^$|\Z)", _section(section), re.M | re.S)
    return found[1] if found else ""


def _section(number: str) -> str:
    found = re.search(rf"^##+ {re.escape(number)}\.? [^\n]*\n(.*?)(?=^##|\Z)", _spec(), re.M | re.S)
    return found[1].strip() if found else ""


def _named(number: str, word: str) -> str:
    if number == "3":
        found = re.search(rf"^### {word}\n\n(.*?)\n\n", _spec(), re.M | re.S)
    elif number == "1":
        term = rf"\*\*{word}\*\*: (.*?)(?=\*\*|^- |^$)"
        found = re.search(term, _spec(), re.M | re.S | re.I)
    elif number == "5":
        found = re.search(r"^(All counters are .*?)^$", _spec(), re.M | re.S)
    else:
        rows = re.search(rf"^\| {word} \| (machine|translator)[^\n]*$", _spec(), re.M)
        cells = rows[0].strip("| ").split(" | ") if rows else []
        names = ("", "kept by", "epoch", "map_generation", "page generation", "state word")
        return "; ".join(f"{n}: {c}" for n, c in zip(names[1:], cells[1:], strict=False))
    return found[1] if found else ""
