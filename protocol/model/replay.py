"""Replay the logs of a real machine and its translator against the model: does it admit them?

Problem: a model proves something about the services only if what they do is what it does. So the
events they log are turned into Promela, one process for each thread that logs, which takes the
events of the model's own processes in the order of the log; spin then looks for a run of the model
in which all logs come to their end. Delays, crashes and what is not logged are spin's to find.

Invariants:
- The transitions are those of `session.pml`; a trace adds none, but that a page's generation may
  have moved (the stores themselves are native code's, and not logged).
- Order is taken from within a thread's log only: the link's (requests, sessions), that of the safe
  points (publications, retirements, commits of the map), the translator's. Clocks are not asked.
- A trace of which no run is found, or in which a property of the model fails, is refused.

Logs are JSON lines (`--log-json -d retire`), of machine and translators in one file or several;
of several harts only the safe points' order matters.

Read next: README.md here, `session.pml` (`LOG_LINK`, `LOG_GATE`, `LOG_TRANSLATOR`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import UserError
from protocol.model.check import HERE, ModelError, missing, search

Event = Mapping[str, Any]

LARGEST = 400_000_000  # counters of a trace are 32 bits wide in the model, and summed
PLACES = 120  # regions of one epoch
_ADMITTED = "assertion violated (ended<3)"
_POSTED = {"translator_restart": "RESTART", "code_space_full": "SPACE"}  # by the link itself
_CAUSES = {"system_reset": "RESET", "backend_swap": "SWAP"}
_COUNTERS = ("epoch", "map_generation", "page_generation", "segment")


@dataclass
class Trace:
    """Statements of the three processes, and the model's sizes."""

    link: list[str] = field(default_factory=list)
    gate: list[str] = field(default_factory=list)
    translator: list[str] = field(default_factory=list)
    epoch: int = 1
    map_generation: int = 0
    pages: dict[int, int] = field(default_factory=dict)
    sessions: dict[int, int] = field(default_factory=dict)
    started: bool = False

    def page(self, number: int) -> int:
        """The page's number in the model."""
        return self.pages.setdefault(number, len(self.pages))

    def moved(self, event: Event) -> str:
        """A page's generation was seen: stores that nobody logged may have moved it."""
        page, seen = self.page(event["page"]), _small(event["page_generation"])
        return f"if :: generation[{page}] < {seen} -> generation[{page}] = {seen} :: else fi"


def read(paths: Iterable[Path]) -> list[Event]:
    """The events of some logs, each log's in its order. Raises UserError."""
    events: list[Event] = []
    for path in paths:
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
        for line in text.splitlines():
            if line.startswith("{"):
                try:
                    events.append(json.loads(line))
                except ValueError:
                    continue  # a process that was killed wrote half of it
    return events


def trace_of(events: Iterable[Event]) -> Trace:
    """The events as statements. Raises UserError for a trace that is too large for the model."""
    trace = Trace()
    for event in events:
        name, logger = event.get("event"), event.get("logger")
        if logger == "translator":
            _translator(trace, event)
        elif name == "map_committed":
            if not trace.sessions:
                trace.map_generation = _small(event["generation"])
            else:
                post = "work!REMAP, 0, epoch, 0, 0, 0, 0, 0"
                trace.gate += [post, f"gate_event?committed, {_small(event['generation'])}, _"]
        elif logger == "retirement":
            _retirement(trace, event)
        elif logger == "translator_link":
            _link(trace, event)
    if not trace.sessions:
        raise UserError("the log has no session in it: run with --log-json -d retire")
    return trace


def _link(trace: Trace, event: Event) -> None:
    match event["event"]:
        case "session_opened":
            number = trace.sessions.setdefault(event["session"], len(trace.sessions) + 1)
            trace.link.append(f"link_event?opened, {number}, _, _, _, _")
        case "translator_attached":
            trace.link.append(f"link_event?attached, {_small(event['epoch'])}, _, _, _, _")
        case "translator_lost":
            trace.link.append("link_event?lost, _, _, _, _, _")
        case "request_cancelled":
            trace.link.append(f"link_cancel!{_small(event['id'])}")
        case "region_requested":
            page = trace.page(event["page"])
            names = ("epoch", "map_generation", "page_generation")
            stamp = ", ".join(str(_small(event[name])) for name in names)
            trace.link += [
                f"atomic {{ {trace.moved(event)}; link_want!{page} }}",
                f"link_event?requested, {_small(event['id'])}, {page}, {stamp}",
            ]
        case "region_published":
            numbers = f"{_small(event['id'])}, {_small(event['page_generation'])}"
            trace.gate += [trace.moved(event), f"gate_event?published, {numbers}"]
        case "publication_dropped":
            late = "1" if event["reason"] in _COUNTERS else "_"
            trace.gate += [trace.moved(event), f"gate_event?dropped, {_small(event['id'])}, {late}"]


def _retirement(trace: Trace, event: Event) -> None:
    match event["event"]:
        case "epoch_bumped":
            epoch, cause = _small(event["epoch"]), event["cause"]
            if not trace.sessions:
                trace.epoch = epoch
                return
            kind = _POSTED.get(cause)
            if kind is None:
                kind = _CAUSES.get(cause, "WRAP")
                trace.gate.append(f"work!{kind}, 0, epoch, 0, 0, 0, 0, 0")
            trace.gate.append(f"gate_event?bumped, {epoch}, {kind}")
        case "everything_retired" if trace.sessions and _small(event["epoch"]) != trace.epoch:
            trace.link.append(f"link_event?settled_at, {_small(event['epoch'])}, _, _, _, _")


def _translator(trace: Trace, event: Event) -> None:
    match event["event"]:
        case "service_started":
            if trace.started:
                trace.translator.append("d_step { crash() }")
            trace.started = True
            trace.translator.append("translator_event?started, _")
        case "machine_attached":
            number = trace.sessions.get(event["session"], 0)
            trace.translator.append(f"translator_event?mapped_for, {number}")
        case "block_translated":
            trace.translator.append(f"translator_event?translated, {_small(event['id'])}")
        case "request_rejected":
            trace.translator.append(f"translator_event?rejected, {_small(event['id'])}")
        case "epoch_retired":
            trace.translator.append(f"translator_event?retired, {_small(event['epoch'])}")


def _small(number: int) -> int:
    if not 0 <= number <= LARGEST:
        raise UserError(f"{number} is too large for the model: replay a shorter run")
    return number


def promela(trace: Trace) -> str:
    """The model with the trace's processes."""
    places = used = 0
    for line in trace.translator:
        used = used + 1 if "?translated" in line else used if "?rejected" in line else 0
        places = max(places, used)
    if places > PLACES:
        raise UserError(f"{places} regions in one epoch: replay a shorter run")
    sizes = {
        "TRACE": "1",
        "BYTES": "0",
        "EMOD": "1000000000",
        "GMOD": "1000000000",
        "EPOCH0": str(trace.epoch),
        "MAP0": str(trace.map_generation),
        "PAGES": str(max(2, len(trace.pages))),
        "WINDOW": "8",
        "QUEUE": "20",
        "WORK": "30",
        "CAP": str(max(places, 1)),
        "HANGS": "200",
        "SESSIONS": "200",
    }
    lines = [f"#define {name} {value}" for name, value in sizes.items()]
    lines += [f'#include "{HERE / "session.pml"}"', "byte ended = 0;"]
    for name in ("link", "gate", "translator"):
        local = "mtype tag; NUM a; byte b, i;" if name == "translator" else ""
        body = [f"    {line};" for line in getattr(trace, name)]
        lines += [f"proctype Trace_{name}() {{", f"    {local}", *body]
        lines += ["    d_step { ended++; assert(ended < 3) }", "}"]
    runs = ("Translator", "Link", "Gate", "Trace_link", "Trace_gate", "Trace_translator")
    lines += ["init { atomic { " + "; ".join(f"run {name}()" for name in runs) + " } }", ""]
    return "\n".join(lines)


@dataclass(frozen=True)
class Verdict:
    """Whether the model admits a trace; `why` not: the property that failed, or that no run was
    found. `events`: how many there were.
    """

    admitted: bool
    why: str
    events: int
    states: int


def replay(events: Iterable[Event], folder: Path) -> Verdict:
    """Have spin look for a run of the model with this trace; its files are left in `folder`."""
    trace = trace_of(events)
    model = folder / "trace.pml"
    model.write_text(promela(trace))
    found = search(model, "", folder, optimise=False, ends=False)
    count = len(trace.link) + len(trace.gate) + len(trace.translator)
    if found.error == _ADMITTED:
        return Verdict(True, "", count, found.states)
    why = found.error or ("no run of the model has these events" if found.complete else "cut short")
    return Verdict(False, why, count, found.states)


def main(words: list[str] | None = None) -> int:
    """Replay logs; 0 if the model admits them, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m protocol.model.replay", description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="logs of one machine and its translator")
    options = parser.parse_args(words)
    if missing():
        print(
            f"replay: {' and '.join(missing())} needed: apt-get install spin gcc", file=sys.stderr
        )
        return 2
    try:
        with tempfile.TemporaryDirectory() as folder:
            verdict = replay(read(options.logs), Path(folder))
    except (UserError, ModelError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    said = "admitted" if verdict.admitted else f"refused: {verdict.why}"
    print(f"{verdict.events} steps of the trace, {verdict.states} states: {said}")
    return 0 if verdict.admitted else 1


if __name__ == "__main__":
    sys.exit(main())
