"""The `reference` backend: regions that have the engine execute one instruction after another.

The problem: when a region and tier 0 disagree, or a swap of backends is to be tested, one wants
regions that take the same way through the machine - asked for, published, tracked, retired - and
hold no semantics of their own that could be wrong.

A region is one function for all of its entries, one for each instruction: it tail-calls
`hart.execute_one`, which has tier 0 decode and execute the instruction at the record, and goes on
by the next record - the region's again, while control stays inside. So the code knows of the guest
only where its instructions begin, and what it executes is what the guest's memory holds. It is
slow: a decoding and an interpretation an instruction.

Read next: `jit_proc/engine.py` (`_execute_one`), `llvm.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from jit_proc.backends import Option
from jit_proc.backends.native import make
from jit_proc.job import Job, Region, Translation, Untranslatable


class Reference:
    """Translates by calling the engine's one-instruction interpreter."""

    name = "reference"
    summary = "one call of the interpreter an instruction: slow, and trusted"
    options: tuple[Option, ...] = ()

    def translate(self, job: Job, settings: Mapping[str, str]) -> Region:
        """See `Backend.translate`."""
        return make(lambda: _lift(job))


REFERENCE = Reference()


def _lift(job: Job) -> Translation:
    from jit_proc.handlers import PARAMS
    from jit_proc.select import select, spans_of
    from protocol.generations import lines_of
    from protocol.layout import HART
    from protocol.riscv import isa

    isa.load_all()
    sites = {
        offset: site
        for offset, site in select(
            job.content, job.entries, job.level, job.known, job.seen
        ).sites.items()
        if site.decoded is not None
    }
    if not sites:
        raise Untranslatable("unsupported", "no instruction begins at the entries")
    spans = spans_of(sites)
    ir = f"""
define hidden preserve_nonecc void @region({PARAMS}) nounwind {{
  %place = getelementptr i8, ptr %hart, i64 {HART.offset("execute_one")}
  %execute_one = load ptr, ptr %place
  musttail call preserve_nonecc void %execute_one(ptr %hart, ptr %record, i64 %bias, i64 %count, ptr %tlb)
  ret void
}}
"""  # noqa: E501
    return Translation(
        ir=ir,
        entries={offset // 2: "region" for offset in sorted(sites)},
        spans=spans,
        lines=lines_of(spans),
        instructions=len(sites),
        passes=(),
    )
