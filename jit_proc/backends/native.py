"""From IR to a region: what backends that use LLVM have in common.

The problem: a translation is text until it is compiled and linked, and how long each phase took
belongs into the answer: in time, and, as a worker gives way to others, in its processor's time.

Read next: `jit_proc/llvm.py`, `jit_proc/link.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jit_proc.job import Region, Times, Translation


def make(lift: Callable[[], Translation]) -> Region:
    """Lift, compile and link; raises what these raise."""
    from jit_proc.link import link
    from jit_proc.llvm import compile_ir

    spent = time.thread_time_ns()
    start = time.perf_counter_ns()
    translation = lift()
    lifted = time.perf_counter_ns()
    compiled = compile_ir(translation.ir, translation.passes, translation.level, translation.isel)
    linking = time.perf_counter_ns()
    image = link(compiled.elf)
    entries = tuple(
        (slot, image.symbols[name]) for slot, name in sorted(translation.entries.items())
    )
    linked = time.perf_counter_ns()
    phases = compiled.timings
    return Region(
        code=image.code,
        entries=entries,
        spans=translation.spans,
        lines=translation.lines,
        instructions=translation.instructions,
        times=Times(
            select=translation.select_us,
            lift=max(0, (lifted - start) // 1000 - translation.select_us),
            parse=int((phases.parse + phases.verify) * 1000),
            passes=int(phases.optimize * 1000),
            codegen=int(phases.codegen * 1000),
            link=(linked - linking) // 1000,
            cpu=(time.thread_time_ns() - spent) // 1000,
        ),
    )
