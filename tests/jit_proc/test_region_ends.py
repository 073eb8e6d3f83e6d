"""Where a region is cut short, what an instruction left to be looked at later is looked at."""

from __future__ import annotations

import pytest

from jit_proc.job import Job
from jit_proc.lift import translate
from jit_proc.llvm import optimize_ir
from protocol.layout import PAGE_SIZE
from protocol.riscv.assembler import assemble


@pytest.mark.parametrize("text", ["fadd.d fa0, fa1, fa2", "fmadd.s fa0, fa1, fa2, fa3"])
def test_floating_point_at_the_end_of_a_page(text: str) -> None:
    code = assemble(text, 0).data
    content = bytes(PAGE_SIZE - len(code)) + code
    made = translate(Job(0, content, ((PAGE_SIZE - len(code)) // 2,), 0))
    assert made.instructions == 1
    assert '"uno"' in made.ir  # a NaN is looked for
    optimize_ir(made.ir, made.passes)  # and it is a module that LLVM takes
