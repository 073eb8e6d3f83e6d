"""Jobs on their way through the translator's broker, and what their outcomes are made into.

The problem: a worker's word about a region is a claim. It becomes an answer of the protocol here:
offsets moved to where the code stands, identities computed from the bytes that were read, times
bounded; and it is checked as the machine will check it, before the code is placed.

Invariant: nothing here knows a socket, a queue or a segment; all but `keep_engine` are pure.

Read next: `service.py`, which calls this.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from jit_proc import job as work
from jit_proc.store import EngineStore
from protocol.codec import encode
from protocol.engine_image import EngineImageError, engine_key
from protocol.generations import identity_of
from protocol.layout import LAYOUT_HASH
from protocol.logs import get_logger
from protocol.messages import Entry, Span, Timings, Translate
from protocol.riscv.identity import isa_hash
from protocol.session import Job
from protocol.session_book import answer
from protocol.session_translator import Region

U32 = 2**32 - 1

log = get_logger("translator")


@dataclass
class Running:
    """A job with a worker, and the bytes that its answer will name. `began`: monotonic; `hints`: as
    in `work.Job`.
    """

    job: Job
    content: bytes
    queue_us: int
    began: float
    hints: tuple[int, ...] = ()

    @property
    def lasted(self) -> float:
        """Microseconds that a worker has it by now."""
        return (time.monotonic() - self.began) * 1e6

    @property
    def pure(self) -> work.Job:
        """What translating depends on, and nothing else."""
        asked = self.job.request
        return work.Job(
            asked.page,
            self.content,
            asked.entries,
            asked.state_word,
            self.job.backend,
            asked.level,
            asked.known,
            asked.seen,
            self.hints,
        )


@dataclass
class Build:
    """An engine being built."""

    key: str
    attempts: int = 1


def current_engine_key() -> str:
    """The key of the engine that this installation builds on this host."""
    return engine_key(isa_hash(), LAYOUT_HASH)


def keep_engine(
    store: EngineStore, key: str, outcome: work.Outcome, *, lasting: bool = False
) -> str:
    """Store what a worker built; its path. Raises EngineImageError if it built nothing."""
    if not isinstance(outcome, work.EngineBuilt):
        text = outcome.text if isinstance(outcome, work.Refusal | work.Crash) else "no engine"
        raise EngineImageError(f"the engine cannot be built: {text}")
    image = store.keep(key, outcome.code, outcome.symbols, lasting=lasting)
    log.info("engine_built", key=key, path=image.path, bytes=image.code_size)
    return image.path


def rates(counts: Mapping[str, int]) -> dict[str, float]:
    """What a service's counts say of its speed: regions a second of a worker's time, and
    microseconds of it, and of its processor's, that one guest instruction took.
    """
    instructions = counts.get("instructions", 0) - counts.get("store_instructions", 0)
    translated = counts.get("translated", 0) - counts.get("store_hits", 0)
    worked = sum(counts.get(f"{phase}_us", 0) for phase in work.Times._fields if phase != "cpu")
    if instructions <= 0 or not worked:
        return {}
    return {
        "regions_a_second": round(translated / worked * 1e6, 1),
        "us_an_instruction": round(worked / instructions, 1),
        "cpu_us_an_instruction": round(counts.get("cpu_us", 0) / instructions, 1),
    }


def describe(running: Running, outcome: work.Region, offset: int) -> Region:
    """The region as TRANSLATED tells of it, its code standing at `offset` of the segment."""
    spans = tuple(Span(*span) for span in outcome.spans)
    *phases, cpu = (min(U32, microseconds) for microseconds in outcome.times)
    return Region(
        identity=identity_of(running.content, spans),
        code_offset=offset,
        code_size=len(outcome.code),
        entries=tuple(Entry(slot, offset + place) for slot, place in outcome.entries),
        lines=outcome.lines,
        spans=spans,
        instructions=outcome.instructions,
        timings=Timings._make((running.queue_us, *phases, 0, cpu)),
    )


def placed(region: Region, offset: int, publish_us: int) -> Region:
    """The same with its code at `offset`, which took so long."""
    moved = offset - region.code_offset
    return replace(
        region,
        code_offset=offset,
        entries=tuple(Entry(slot, place + moved) for slot, place in region.entries),
        timings=region.timings._replace(publish=min(U32, publish_us)),
    )


def check(asked: Translate, region: Region) -> None:
    """Raise CodecError if the answer would break the protocol: before its code is placed."""
    encode(answer(asked, region, asked.stamp))
