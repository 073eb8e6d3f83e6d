"""The specification's tables, made from the code: ``python -m protocol.spec --check|--write``.

Problem: a wire document that people edit by hand soon disagrees with the program. So `SPEC.md` is
hand-written text around generated blocks, each between ``<!-- generated: NAME -->`` and
``<!-- end -->``; `--write` replaces the blocks, `--check` only compares.

Invariants:
- Every block of `BLOCKS` occurs in the document exactly once, and no other.
- The document's version begins with `PROTOCOL_VERSION`, and stands first in its list of changes.

Read next: `protocol/SPEC.md`; `protocol.messages`, `protocol.contract`, `protocol.layout`.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from protocol import layout
from protocol.contract import GENERATIONS, STRUCTURES
from protocol.contract_events import EVENTS, RULES, cell
from protocol.errors import USER_ERROR_EXIT, UserError
from protocol.fields import (
    Counter,
    Entry,
    ErrorName,
    Pattern,
    Range,
    RejectReason,
    RetireCause,
    Segment,
    Size,
    Span,
    Timings,
)
from protocol.messages import (
    DESCRIPTIONS,
    MAX_MESSAGE,
    MESSAGES,
    PROTOCOL_VERSION,
    Message,
)
from protocol.session_machine import Deadlines

SPEC = Path(__file__).with_name("SPEC.md")

_STRUCTURES: tuple[Any, ...] = (Segment, Entry, Span, Timings, Counter)
_NAMES = {"RetireCause": RetireCause, "RejectReason": RejectReason, "ErrorName": ErrorName}
_BLOCK = re.compile(r"<!-- generated: (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
_VERSION = re.compile(r"^Version (\d+)\.(\d+)$", re.MULTILINE)
_CHANGE = re.compile(r"^- (\d+)\.(\d+): ", re.MULTILINE)


def type_text(hint: Any) -> str:
    """A field's type and bounds, for people."""
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    size = next((extra for extra in reversed(extras) if isinstance(extra, Size)), None)
    if get_origin(hint) is Literal:
        names = [name for name, table in _NAMES.items() if table == hint]
        return f"name of `{names[0]}`"
    if get_origin(hint) is tuple and size is not None:
        return f"array of {size.low} to {size.high}: {type_text(get_args(hint)[0])}"
    if hint is int:
        bounds = next(extra for extra in extras if isinstance(extra, Range))
        return f"int {_number(bounds.low)} to {_number(bounds.high)}"
    if size is not None and hint in (str, bytes):
        kind = "text" if hint is str else "bin"
        length = f"{size.low}" if size.low == size.high else f"{size.low} to {size.high}"
        patterns = [extra.regex for extra in extras if isinstance(extra, Pattern)]
        form = "".join(f", `{regex}`".replace("|", "\\|") for regex in patterns)
        return f"{kind} of {length} bytes{form}"
    return f"`{hint.__name__}`"


def _number(value: int) -> str:
    for bits in (31, 32, 35, 47, 64):
        if value == 2**bits - 1:
            return f"2^{bits}-1"
    return str(value)


def described(cls: type[Message]) -> tuple[str, dict[str, str]]:
    """A message's purpose, and what it says about its fields, from its docstring.

    Raises ValueError unless exactly the declared fields are described, in their order.
    """
    text = inspect.cleandoc(cls.__doc__ or "")
    purpose, _, rest = text.partition("\n\n")
    notes: dict[str, str] = {}
    for line in rest.splitlines():
        found = re.match(r"(\w+): (.*)", line)
        if found:
            notes[found[1]] = found[2]
        elif notes:
            notes[list(notes)[-1]] += " " + line.strip()
    declared = [one.name for one in fields(cls)]
    notes.setdefault("session", "number of the session.")
    notes = {"session": notes.pop("session"), **notes}
    if list(notes) != declared:
        raise ValueError(f"{cls.__name__} describes {list(notes)}, but has {declared}")
    return " ".join(purpose.split()), notes


def messages() -> str:
    """All messages, a table of fields each."""
    parts = []
    for tag, cls in MESSAGES.items():
        description = DESCRIPTIONS[cls]
        purpose, notes = described(cls)
        sender = {
            "machine": "machine to translator",
            "translator": "translator to machine",
            "both": "either to the other",
            "agent": "agent to remote translator",
            "remote": "remote translator to agent",
        }[description.sender]
        hints = get_type_hints(cls, include_extras=True)
        rows = [(f"`{name}`", type_text(hints[name]), note) for name, note in notes.items()]
        head = f"### {tag}\n\n{sender}, since version {description.since}. {purpose}\n\n"
        parts.append(head + table(("field", "type", "meaning"), rows))
    return "\n".join(parts)


def structures() -> str:
    """The structures and tables of names that fields are made of."""
    parts = []
    for cls in _STRUCTURES:
        hints = get_type_hints(cls, include_extras=True)
        items = ", ".join(f"`{name}` ({type_text(hints[name])})" for name in cls._fields)
        purpose = " ".join(inspect.cleandoc(cls.__doc__ or "").split())
        parts.append(f"- `{cls.__name__}`: array of {items}. {purpose}")
    for name, table_of_names in _NAMES.items():
        names = ", ".join(f"`{one}`" for one in get_args(table_of_names))
        parts.append(f"- `{name}`: one of {names}.")
    return "\n".join(parts) + "\n"


def limits() -> str:
    """Version, sizes, and the digest that names this exact set of messages."""
    rows = [
        ("protocol version", PROTOCOL_VERSION),
        ("longest message, bytes", MAX_MESSAGE),
        ("layout hash", f"`{layout.LAYOUT_HASH}`"),
        ("schema hash", f"`{schema_hash()}`"),
    ]
    return table(("what", "value"), rows)


def deadlines() -> str:
    """The machine's deadlines, and what happens when they pass."""
    source = inspect.getsource(Deadlines)
    rows = [
        (f"`{name}`", value, text)
        for name, value, text in re.findall(r'(\w+): \w+ = ([\d.]+)\n\s+"""(.*?)"""', source, re.S)
    ]
    return table(("name", "default", "meaning"), rows)


def generations() -> str:
    """The counters."""
    heads = ("counter", "writer", "readers", "memory order", "bumped by", "retires")
    return table(heads, GENERATIONS)


def contract() -> str:
    """Events, structures and rules about stale code; then each event against each structure."""
    events = table(
        ("event", "moves", "visible", "classes", "causes in the book", "tested by"),
        [
            (e.name, e.moves, e.visible, e.classes, _names(e.causes), _names(e.tests))
            for e in EVENTS
        ],
    )
    heads = ("structure", "kept by", "epoch", "map_generation", "page generation", "state word")
    structures = table(heads, [row[:6] for row in STRUCTURES])
    rules = table(
        ("rule", "text", "classes", "tested by"),
        [(rule.name, rule.text, rule.classes, _names(rule.tests)) for rule in RULES],
    )
    product = []
    for group in dict.fromkeys(row.group for row in STRUCTURES):
        rows = [row for row in STRUCTURES if row.group == group]
        product.append(f"Every event, and what it does to {group}:\n")
        names = [f"{row.name} ({row.keeper})" for row in rows]
        cells = [(e.name, *(cell(e, row) for row in rows), e.visible) for e in EVENTS]
        product.append(table(("event", *names, "visible"), cells))
    return "\n".join([events, structures, rules, *product])


def _names(words: str) -> str:
    return ", ".join(f"`{word}`" for word in words.split())


def schema_hash() -> str:
    """16 digits that change with any tag, sender, field, bound, or table of names."""
    lines = [str(PROTOCOL_VERSION), str(MAX_MESSAGE)]
    for tag, cls in MESSAGES.items():
        hints = get_type_hints(cls, include_extras=True)
        shape = [(one.name, type_text(hints[one.name])) for one in fields(cls)]
        lines.append(f"{tag} {DESCRIPTIONS[cls].sender} {shape}")
    for cls_ in _STRUCTURES:
        hints = get_type_hints(cls_, include_extras=True)
        lines.append(f"{cls_.__name__} {[(n, type_text(hints[n])) for n in cls_._fields]}")
    lines += [f"{name} {get_args(names)}" for name, names in _NAMES.items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "limits": limits,
    "structures": structures,
    "messages": messages,
    "deadlines": deadlines,
    "generations": generations,
    "contract": contract,
    "layout": lambda: layout.markdown() + "\n",
}
"""The generated blocks, by name."""


def render(text: str) -> str:
    """The document with its blocks made anew. Raises `UserError` if it lacks or doubles one."""
    found = [name for name, _ in _BLOCK.findall(text)]
    if sorted(found) != sorted(BLOCKS):
        raise UserError(
            f"{SPEC.name} has the blocks {found}: it must have {list(BLOCKS)}, once each"
        )
    return _BLOCK.sub(
        lambda block: f"<!-- generated: {block[1]} -->\n{BLOCKS[block[1]]()}<!-- end -->\n", text
    )


def problems(text: str) -> list[str]:
    """What is wrong with the document; empty if nothing."""
    wrong = []
    rendered = render(text)
    for (name, old), (_, new) in zip(_BLOCK.findall(text), _BLOCK.findall(rendered), strict=True):
        if old != new:
            wrong.append(f"block {name} differs from the code: run python -m protocol.spec --write")
    version = _VERSION.search(text)
    change = _CHANGE.search(text)
    if version is None or int(version[1]) != PROTOCOL_VERSION:
        wrong.append(f"the version must be {PROTOCOL_VERSION}.something")
    elif change is None or change.groups() != version.groups():
        wrong.append("the list of changes does not begin with the version")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or write the document; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m protocol.spec", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--check", action="store_true", help="compare, exit 1 if it differs")
    which.add_argument("--write", action="store_true", help="write the generated blocks anew")
    chosen = parser.parse_args(arguments)
    try:
        text = SPEC.read_text(encoding="utf-8")
        if chosen.write:
            text = render(text)
            SPEC.write_text(text, encoding="utf-8")
        wrong = problems(text)
    except UserError as error:
        print(f"coldboot: {error}", file=sys.stderr)
        return USER_ERROR_EXIT
    for line in wrong:
        print(f"{SPEC.name}: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
