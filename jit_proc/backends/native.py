"""From IR to a region: what backends that use LLVM have in common.

The problem: a translation is text until it is compiled and linked, and how long each took belongs
into the answer.

Read next: `jit_proc/llvm.py`, `jit_proc/link.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from jit_proc.job import Region, Translation


def make(lift: Callable[[], Translation]) -> Region:
    """Lift, compile and link; raises what these raise."""
    from jit_proc.link import link
    from jit_proc.llvm import compile_ir

    start = time.perf_counter_ns()
    translation = lift()
    lifted = time.perf_counter_ns()
    elf = compile_ir(translation.ir, translation.passes, translation.level).elf
    compiled = time.perf_counter_ns()
    image = link(elf)
    entries = tuple(
        (slot, image.symbols[name]) for slot, name in sorted(translation.entries.items())
    )
    linked = time.perf_counter_ns()
    return Region(
        code=image.code,
        entries=entries,
        spans=translation.spans,
        lines=translation.lines,
        instructions=translation.instructions,
        lift_us=(lifted - start) // 1000,
        compile_us=(compiled - lifted) // 1000,
        link_us=(linked - compiled) // 1000,
    )
