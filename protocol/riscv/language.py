"""The language in which the ISA is described: its tree, its builtins, its functions.

The problem: an emulator states each instruction several times (decoder, interpreter, translator,
tests) and the statements drift apart. Here an instruction's meaning is one Python function in a
restricted subset; its source is parsed once into the small typed tree below, and every consumer
works on the tree: `to_python.py` turns it into Python over ints (the reference interpreter),
`jit_proc/emit.py` into LLVM IR (the engine's handlers and the region lifter).

The subset. Values are words (unsigned, 64 bits, wrapping) and bools. Statements: assignment,
`if`, `while`, `return`, expression calls. Operators: `+ - * & | ^ ~ << >>` (logical; the amount
must be below 64), comparisons (unsigned unless both sides are `signed(...)`), `and or not` and
`a if c else b`, which evaluate all their operands. Names: parameters, locals, module constants
(ints), `X[i]`, `F[i]`, `hart.field`, `pc`, `length`, `raw`, the builtins of `BUILTINS`, and other
routines. Anything else is a `LanguageError` that names file and line.

Invariants: a local has one type, and is assigned on every path to where it is read; a routine that
may trap says so by calling `trap` or another such routine (`Function.may_trap`); routines do not
recurse (`Function.callees` is a DAG).

Read next: `language_parser.py` (from source to tree), `isa.py` (declarations), `reference.py` (the
Python side at work).
"""

from __future__ import annotations

import ast
import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASK = (1 << 64) - 1

# name -> (argument count, result type): "word", "bool" or "" for none.
_FP: dict[str, tuple[int, str]] = {}
for _f in ("f32", "f64"):
    _FP |= {f"{_f}_{op}": (3, "word") for op in ("add", "sub", "mul", "div")}
    _FP |= {f"{_f}_sqrt": (2, "word"), f"{_f}_fma": (4, "word")}
    _FP |= {f"{_f}_{op}": (2, "bool") for op in ("lt", "le", "eq")}
    _FP |= {
        f"{_f}_{d}_{t}": (2, "word") for d in ("from", "to") for t in ("i32", "u32", "i64", "u64")
    }
_FP |= {"f64_to_f32": (2, "word"), "f32_to_f64": (1, "word")}
FP_BUILTINS = frozenset(_FP)

BUILTINS: dict[str, tuple[int, str]] = {
    # pure
    "sext": (2, "word"),
    "zext": (2, "word"),
    **{n: (2, "word") for n in ("mulhu", "mulh", "mulhsu", "divu", "remu", "divs", "rems")},
    **{n: (1, "word") for n in ("clz", "ctz", "cpop", "bswap")},
    # memory
    "load": (2, "word"),
    "store": (3, ""),
    "load_reserved": (2, "word"),
    "store_conditional": (3, "word"),
    "amo": (4, "word"),
    "fence": (0, ""),
    "phys_ok": (1, "bool"),
    "phys_read64": (1, "word"),
    "phys_cas64": (3, "bool"),
    # control
    "branch": (1, ""),
    "jump": (1, ""),
    "trap": (2, ""),
    "resync": (0, ""),
    "refetch": (0, ""),
    "wait": (0, ""),
    # state
    "time": (0, "word"),
    "retired": (0, "word"),
    "set_context": (2, ""),
    "flush_tlb": (0, ""),
    "flush_tlb_space": (1, ""),
    "flush_tlb_page": (3, ""),
    # floating point
    **_FP,
    "raise_flags": (1, ""),
    "fflags": (0, "word"),
    "set_fflags": (1, ""),
    # host memory and the machine process: for the engine's own routines (`jit_proc/runtime.py`)
    "peek": (2, "word"),
    "poke": (3, ""),
    "poke_release": (2, ""),
    "hart_address": (0, "word"),
    "handler": (1, "word"),
    "host_clock": (0, "word"),
    "host_read": (2, "word"),
    "host_write": (3, ""),
    "host_compare_swap": (3, "bool"),
    "decode_word": (3, "word"),
    "fuse": (2, ""),
}
PURE_BUILTINS = frozenset(
    [
        "sext",
        "zext",
        "mulhu",
        "mulh",
        "mulhsu",
        "divu",
        "remu",
        "divs",
        "rems",
        "clz",
        "ctz",
        "cpop",
        "bswap",
    ]
)
_READING_BUILTINS = PURE_BUILTINS | frozenset(
    ["phys_ok", "phys_read64", "time", "retired", "fflags", "peek", "hart_address", "handler"]
)
AMO_OPERATIONS = ("add", "and", "max", "maxu", "min", "minu", "or", "swap", "xor")
# Position of the argument that must be a literal number of bytes, and which there are.
WIDTHS = {
    "load": (1, (1, 2, 4, 8)),
    "store": (2, (1, 2, 4, 8)),
    "load_reserved": (1, (4, 8)),
    "store_conditional": (2, (4, 8)),
    "amo": (3, (4, 8)),
}
# What may be evaluated although its value may not be wanted: no effect, a result for all operands.
HARMLESS_BUILTINS = _READING_BUILTINS - {"divu", "remu", "divs", "rems", "phys_read64"}


class LanguageError(Exception):
    """A semantics function leaves the subset; the text names file, line and what to write."""


@dataclass(frozen=True, slots=True)
class Const:
    value: int
    type: str = "word"


@dataclass(frozen=True, slots=True)
class Local:
    """A parameter or local variable."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Special:
    """`pc`, `length` or `raw`."""

    name: str
    type: str = "word"


@dataclass(frozen=True, slots=True)
class Register:
    """`X[index]` or `F[index]`."""

    file: str
    index: Expr
    type: str = "word"


@dataclass(frozen=True, slots=True)
class StateField:
    """`hart.name` or `hart.name[index]`."""

    name: str
    index: Expr | None
    type: str = "word"


@dataclass(frozen=True, slots=True)
class Binary:
    """op: + - * & | ^ << >> (words), >>s (arithmetic), & | (bools: `and`, `or`)."""

    op: str
    left: Expr
    right: Expr
    type: str = "word"


@dataclass(frozen=True, slots=True)
class Compare:
    """op: == != < <= > >=; ordered signed when `signed`."""

    op: str
    left: Expr
    right: Expr
    signed: bool
    type: str = "bool"


@dataclass(frozen=True, slots=True)
class Not:
    """`not b` on a bool, `~w` on a word."""

    value: Expr
    type: str


@dataclass(frozen=True, slots=True)
class Select:
    condition: Expr
    then: Expr
    other: Expr
    type: str


@dataclass(frozen=True, slots=True)
class ToWord:
    """`word(b)`: 0 or 1."""

    value: Expr
    type: str = "word"


@dataclass(frozen=True, slots=True)
class Call:
    """A builtin (`function` is None; literal arguments such as an AMO's name are Python values)."""

    name: str
    args: tuple[Any, ...]
    function: Function | None
    type: str


Expr = (
    Const
    | Local
    | Special
    | Register
    | StateField
    | Binary
    | Compare
    | Not
    | Select
    | ToWord
    | Call
)


@dataclass(frozen=True, slots=True)
class Assign:
    target: Local | Register | StateField
    value: Expr


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class While:
    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Return:
    value: Expr | None


Stmt = Assign | If | While | Return | Call


def walk(node: Any) -> Iterator[Any]:
    """Every node of a tree (statements, expressions) in source order."""
    if isinstance(node, tuple):
        for item in node:
            yield from walk(item)
    elif hasattr(node, "__slots__") and not isinstance(node, Function):
        yield node
        for name in node.__slots__:
            yield from walk(getattr(node, name))


class Function:
    """One semantics function or routine: its source, parsed on first use."""

    def __init__(
        self, name: str, tree: ast.FunctionDef | None, scope: dict[str, Any], where: str
    ) -> None:
        self.name = name
        self.scope = scope
        self.where = where
        self.must_not_trap = False
        self.being_parsed = False  # to find recursion
        self._tree = tree

    def __call__(self, *_: Any) -> Any:
        raise TypeError(f"{self.name} is compiled, not called: see protocol/riscv/language.py")

    @functools.cached_property
    def tree(self) -> ast.FunctionDef:
        assert self._tree is not None
        return self._tree

    @functools.cached_property
    def params(self) -> tuple[str, ...]:
        return tuple(a.arg for a in self.tree.args.args)

    @functools.cached_property
    def _parsed(self) -> tuple[tuple[Stmt, ...], str, dict[str, str]]:
        from protocol.riscv.language_parser import Parser

        self.being_parsed = True
        try:
            parser = Parser(self)
            return parser.function_body(self.tree), parser.result, parser.types
        finally:
            self.being_parsed = False

    @property
    def body(self) -> tuple[Stmt, ...]:
        return self._parsed[0]

    @property
    def result(self) -> str:
        """ "word", "bool" or "" """
        return self._parsed[1]

    @property
    def locals(self) -> dict[str, str]:
        """Name -> type of every parameter and local."""
        return self._parsed[2]

    @functools.cached_property
    def nodes(self) -> tuple[Any, ...]:
        return tuple(walk(self.body))

    @functools.cached_property
    def callees(self) -> tuple[Function, ...]:
        """The routines called here, each once."""
        return tuple(
            dict.fromkeys(n.function for n in self.nodes if isinstance(n, Call) and n.function)
        )

    @functools.cached_property
    def builtins(self) -> frozenset[str]:
        """Builtins used here, not by callees."""
        return frozenset(n.name for n in self.nodes if isinstance(n, Call) and n.function is None)

    @functools.cached_property
    def may_trap(self) -> bool:
        own = {"trap", "load", "store", "amo", "load_reserved", "store_conditional"}
        traps = bool(self.builtins & own) or any(c.may_trap for c in self.callees)
        if traps and self.must_not_trap:
            raise LanguageError(f"{self.where} {self.name}: declared pure, but may trap")
        return traps

    @functools.cached_property
    def has_effects(self) -> bool:
        """Whether calling it may change anything: such a call must not stand where it is evaluated
        although its value may not be wanted."""
        return (
            not self.builtins <= _READING_BUILTINS
            or any(isinstance(n, Assign) and not isinstance(n.target, Local) for n in self.nodes)
            or any(c.has_effects for c in self.callees)
        )

    def indices(self, file: str, written: bool) -> frozenset[str]:
        """Parameters that index `file` ("X" or "F") as a destination or as a source."""
        targets = {id(n.target) for n in self.nodes if isinstance(n, Assign)}
        return frozenset(
            n.index.name
            for n in self.nodes
            if isinstance(n, Register)
            and n.file == file
            and isinstance(n.index, Local)
            and (id(n) in targets) == written
        )


@functools.cache
def _module_functions(filename: str) -> dict[tuple[str, int], ast.FunctionDef]:
    tree = ast.parse(Path(filename).read_text())
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name, line] = node
    return found


class _LazyFunction(Function):
    def __init__(self, source: types.FunctionType) -> None:
        code = source.__code__
        where = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        super().__init__(source.__name__, None, source.__globals__, where)
        self._key = (code.co_filename, code.co_name, code.co_firstlineno)

    @functools.cached_property
    def tree(self) -> ast.FunctionDef:
        filename, name, line = self._key
        return _module_functions(filename)[name, line]


def function(source: Any) -> Function:
    """The `Function` of a Python function whose source file is at hand."""
    return _LazyFunction(source)


def routine_from_source(name: str, source: str, scope: dict[str, Any]) -> Function:
    """A routine made from generated text (the CSR dispatch, for one)."""
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.FunctionDef)
    return Function(name, tree, scope, f"<{name}>")
