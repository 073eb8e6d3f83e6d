"""Translators that are wrong on purpose: `python -m tests.cpu_proc.wrong_translators NAME ...`.

The problem: a conformance kit that has never failed anybody proves nothing. So here is our own
translator with one mistake each: those of the fault switches that a translator can make alone
(`protocol/mutants.py`), and those that only somebody who writes another one would make, as patches.

`python -m tests.cpu_proc.wrong_translators` without a name tries the kit on each (guests only where
messages cannot show the mistake) and prints what it found: some minutes.

Read next: `test_conformance.py`, which has a part of the kit find each.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protocol import mutants


@dataclass(frozen=True)
class Mistake:
    """One: the check that finds it, the clause it names, words of its finding; and how it is made:
    a fault switch, or a patch.
    """

    check: str
    clause: str
    says: str
    mutant: str = ""
    patch: Callable[[], None] | None = None


def forgets_ping() -> None:
    from protocol.messages import Ping
    from protocol.session_translator import TranslatorSessions

    receive = TranslatorSessions.receive

    def deaf(self: Any, peer: bytes, message: Any) -> Any:
        return [] if isinstance(message, Ping) else receive(self, peer, message)

    TranslatorSessions.receive = deaf  # type: ignore[method-assign]


def drops_retire_when_full() -> None:
    from protocol.session_translator import TranslatorSessions

    retire = TranslatorSessions._on_retire

    def full(self: Any, one: Any, message: Any) -> Any:
        return [] if len(one.jobs.queued) > 100 else retire(self, one, message)

    TranslatorSessions._on_retire = full  # type: ignore[method-assign]


def omits_a_span() -> None:
    from jit_proc import service as module
    from protocol.generations import identity_of
    from protocol.messages import Span

    service: Any = module
    describe = service.describe

    def shorter(running: Any, outcome: Any, offset: int) -> Any:
        region = describe(running, outcome, offset)
        start, length = region.spans[-1]
        spans = (*region.spans[:-1], Span(start, max(2, length // 4 * 2)))
        return replace(region, spans=spans, identity=identity_of(running.content, spans))

    service.describe = shorter


def remembers_refusals() -> None:
    from protocol.session_translator import TranslatorSessions

    refused: set[tuple[int, tuple[int, ...]]] = set()
    rejected, translate = TranslatorSessions.rejected, TranslatorSessions._on_translate

    def keep(self: Any, job: Any, reason: Any, text: str = "") -> Any:
        if reason in ("not_code", "unsupported"):
            refused.add((job.request.page, job.request.entries))
        return rejected(self, job, reason, text)

    def serve(self: Any, one: Any, message: Any) -> Any:
        from protocol.session_book import reject

        if (message.page, message.entries) in refused:
            return [reject(one, message, "unsupported")]
        return translate(self, one, message)

    TranslatorSessions.rejected = keep  # type: ignore[method-assign]
    TranslatorSessions._on_translate = serve  # type: ignore[method-assign]


def lies_about_its_segment() -> None:
    from jit_proc import service as module
    from protocol.messages import Segment

    service: Any = module
    service.segment = lambda code: Segment(code.path, 2 * code.size)


def dies_of_garbage() -> None:
    from protocol.transport import Server

    def give_up(self: Any, peer: bytes, error: Any) -> None:
        raise SystemExit(1)

    Server._refuse = give_up  # type: ignore[method-assign]


def accepts_any_backend() -> None:
    from protocol import session_translator
    from protocol.session import PrepareBackend

    def swap(self: Any, one: Any, message: Any) -> Any:
        return [PrepareBackend(message.session, message.backend)]

    session_translator.TranslatorSessions._on_swap = swap  # type: ignore[method-assign]


def serves_ids_twice() -> None:
    from protocol.session_translator import TranslatorSessions

    translate = TranslatorSessions._on_translate

    def again(self: Any, one: Any, message: Any) -> Any:
        one.last_id = 0
        return translate(self, one, message)

    TranslatorSessions._on_translate = again  # type: ignore[method-assign]


def takes_any_layout() -> None:
    from protocol import session_book, session_translator

    refusal = session_book.refusal

    def trusting(service: Any, message: Any, sessions: int) -> Any:
        return refusal(service, replace(message, layout_hash=service.layout_hash), sessions)

    session_translator.refusal = trusting  # type: ignore[attr-defined]


def keeps_dead_machines() -> None:
    from jit_proc.service import Broker

    Broker._forget_session = lambda self, session, reason: None  # type: ignore[method-assign]


MISTAKES = {
    "retired-too-early": Mistake("retire.under_way", "6.2", "after RETIRED of epoch", "M42"),
    "generation-at-service": Mistake("requests.moved", "3 TRANSLATED", "page_generation", "M47"),
    "keeps-bytes": Mistake("content.read_anew", "5.1.4", "made from others", "M21"),
    "half-a-key": Mistake("content.differs", "5.1.2", "have the same code", "M43"),
    "not-complete": Mistake("content.read_anew", "5.1.3", "was not complete", "M44"),
    "ignores-state-word": Mistake("guest.m23_fp_state", "5.1.5", "wrong value", "M23"),
    "omits-a-span": Mistake("content.spans", "5.1.4", "its spans are", patch=omits_a_span),
    "remembers-refusals": Mistake(
        "content.refusals", "7 negative result", "no code was before", patch=remembers_refusals
    ),
    "drops-retire": Mistake(
        "retire.full_queue", "6.4", "no RETIRED came", patch=drops_retire_when_full
    ),
    "never-pong": Mistake("life.ping", "4.7", "no PONG came", patch=forgets_ping),
    "lies-of-its-size": Mistake(
        "handshake.twice", "4.2", "tells of a code segment of", patch=lies_about_its_segment
    ),
    "dies-of-garbage": Mistake("garbage.named", "2.4", "ended", patch=dies_of_garbage),
    "any-backend": Mistake("life.swap", "4.9", "no such backend", patch=accepts_any_backend),
    "ids-twice": Mistake("requests.twice", "4.4", "once more", patch=serves_ids_twice),
    "any-layout": Mistake("handshake.layout", "4.1", "layout_mismatch", patch=takes_any_layout),
    "keeps-the-dead": Mistake(
        "life.killed_machine", "4.7", "memory mapped", patch=keeps_dead_machines
    ),
    "place-for-bytes": Mistake("session.apart", "5.1.2", "two sessions", "M26"),
    "few-bits": Mistake("content.differs", "5.1.2", "have the same code", "M25"),
    "aborted-twice": Mistake("guest.m39_counted_once", "6.1", "wrong value", "M39"),
}
"""By name."""

TEN = (
    *("retired-too-early", "generation-at-service", "keeps-bytes", "half-a-key", "not-complete"),
    *("ignores-state-word", "omits-a-span", "remembers-refusals", "drops-retire", "never-pong"),
)
"""Those that the suite tries."""


def command(name: str) -> str:
    """The command line that starts one."""
    return f"{sys.executable} -m {__spec__.name} {name} --workers 1"


def serve(name: str, arguments: list[str]) -> int:
    """Be that translator."""
    mistake = MISTAKES[name]
    if mistake.mutant:
        mutants.arm([mistake.mutant])
    if mistake.patch is not None:
        mistake.patch()
    from jit_proc.__main__ import main

    return main(arguments)


def try_all() -> int:
    """The whole kit on each; 1 if one was not found."""
    import json

    from cpu_proc import cli

    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.json"
        for name, mistake in MISTAKES.items():
            words = ["conformance", "--start", command(name), "--json", str(path)]
            words += ["--deadline", "10", "--retire-deadline", "10"]
            if mistake.check.startswith("guest."):
                words += ["--random", "2"]
            else:
                words += ["--protocol"]
            status = cli.main(words)
            report = json.loads(path.read_text())
            failed = {one["name"]: one for one in report["checks"] if one["verdict"] == "failed"}
            found = status == 1 and mistake.check in failed
            missed += not found
            print(f"=== {name}: {'found' if found else 'MISSED'}: {', '.join(failed) or 'nothing'}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else try_all())
