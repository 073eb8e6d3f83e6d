"""Native code in this process, for tests: IR compiled, linked, and mapped for execution.

The problem: the project never has code in the process that made it; a test of the compiler wants
just that. The image goes the usual way (LLVM, our linker) into a file, and is mapped from there.

Invariants: images stay mapped as long as the process; nothing is mapped writable and executable.

Read next: `jit_proc/llvm.py`, `cpu_proc/native.py`.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpu_proc import native
from jit_proc.link import link
from jit_proc.llvm import DEFAULT_ISEL, DEFAULT_LEVEL, DEFAULT_PASSES, compile_ir

HEAD = """
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.cttz.i64(i64, i1)
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.bswap.i64(i64)
!0 = !{!"branch_weights", i32 2000, i32 1}
!1 = !{!"branch_weights", i32 1, i32 2000}
"""
"""What the emitters take for granted."""


@dataclass(frozen=True)
class Image:
    """Mapped code: `symbols` are offsets from `base`."""

    base: int
    symbols: Mapping[str, int]

    def function(self, name: str, *arguments: Any, result: Any = ctypes.c_uint64) -> Any:
        """A function as a callable; words in and out unless said otherwise."""
        return ctypes.CFUNCTYPE(result, *arguments)(self.base + self.symbols[name])


def map_image(code: bytes, symbols: Mapping[str, int]) -> Image:
    """Map a linked image for execution."""
    with tempfile.NamedTemporaryFile(prefix="code-") as file:
        file.write(code + bytes(-len(code) % 4096))
        file.flush()
        size = os.fstat(file.fileno()).st_size
        return Image(native.map_code_copy(file.name, size, 0), symbols)


def build(
    ir: str,
    passes: Sequence[str] = DEFAULT_PASSES,
    level: int = DEFAULT_LEVEL,
    isel: str = DEFAULT_ISEL,
) -> Image:
    """Compile IR as a worker does, and map it."""
    linked = link(compile_ir(ir, passes, level, isel).elf)
    return map_image(linked.code, linked.symbols)
