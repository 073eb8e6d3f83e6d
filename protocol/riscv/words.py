"""The names a semantics function may use without defining them.

Semantics functions (`isa.py`) are never called as they stand: `language.py` compiles their source.
These declarations exist so that editors, linters and readers find a meaning for each name; calling
one outside compiled code is a mistake and says so.

Read next: `language.py` for what the language means.
"""

from __future__ import annotations

from typing import Any

from protocol.riscv.language import BUILTINS

__all__ = ["F", "X", "hart", "length", "pc", "raw", "signed", "word", *BUILTINS]


class _Name:
    """A name with a meaning in semantics functions only."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(f"{self._name!r} has a meaning in compiled semantics functions only")

    __call__ = __getitem__ = __setitem__ = _refuse


X: Any = _Name("X")  # integer register file: X[0] reads 0 and ignores writes
F: Any = _Name("F")  # floating-point register file, raw 64-bit contents
hart: Any = _Name("hart")  # scalar and array state fields, `layout.HART`
pc: Any = _Name("pc")  # address of this instruction
length: Any = _Name("length")  # its length in bytes, 2 or 4
raw: Any = _Name("raw")  # its bits, zero-extended
signed: Any = _Name("signed")
word: Any = _Name("word")
for _builtin in BUILTINS:
    globals()[_builtin] = _Name(_builtin)
