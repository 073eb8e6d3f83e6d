"""The language in which the ISA is described, and its compilation to Python.

The problem: an emulator states each instruction several times (decoder, interpreter, translator,
tests) and the statements drift apart. Here an instruction's meaning is one Python function in a
restricted subset; its source is parsed once into the small typed tree below, and every consumer
works on the tree: this module turns it into Python over ints (the reference interpreter),
`jit_proc/emit.py` into LLVM IR (the engine's handlers and the region lifter).

The subset. Values are words (unsigned, 64 bits, wrapping) and bools. Statements: assignment,
`if`, `while`, `return`, expression calls. Operators: `+ - * & | ^ ~ << >>` (logical; the amount
must be below 64), comparisons (unsigned unless both sides are `signed(...)`), `and or not` and
`a if c else b`, which evaluate all their operands. Names: parameters, locals, module constants
(ints), `X[i]`, `F[i]`, `hart.field`, `pc`, `length`, `raw`, the builtins of `BUILTINS`, and other
routines. Anything else is a `LanguageError` that names file and line.

Invariants: a local has one type; a routine that may trap says so by calling `trap` or another
such routine (`Function.may_trap`); routines do not recurse (`Function.callees` is a DAG).

Read next: `isa.py` (declarations), `reference.py` (the Python side at work).
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
    "wait": (0, ""),
    # state
    "time": (0, "word"),
    "retired": (0, "word"),
    "set_context": (2, ""),
    "flush_tlb": (0, ""),
    "flush_tlb_page": (1, ""),
    # floating point
    **_FP,
    "raise_flags": (1, ""),
    "fflags": (0, "word"),
    "set_fflags": (1, ""),
    # host memory and the machine process: for the engine's own routines (`jit_proc/runtime.py`)
    "peek": (2, "word"),
    "poke": (3, ""),
    "hart_address": (0, "word"),
    "handler": (1, "word"),
    "host_clock": (0, "word"),
    "host_read": (2, "word"),
    "host_write": (3, ""),
    "host_compare_swap": (3, "bool"),
    "decode_word": (3, ""),
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
        parser = _Parser(self)
        body = parser.block(self.tree.body)
        return body, parser.result, parser.types

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
        """Whether calling it may change anything: such calls must not stand where they are evaluated
        although their value is not wanted."""
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


_BINARY = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}
_COMPARE = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_FOLD = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<<": lambda a, b: a << b,
    ">>": lambda a, b: a >> b,
}


class _Parser:
    def __init__(self, owner: Function) -> None:
        self.owner = owner
        self.types = dict.fromkeys(owner.params, "word")
        self.result = ""

    def fail(self, node: ast.AST, text: str) -> LanguageError:
        line = getattr(node, "lineno", "?")
        return LanguageError(f"{self.owner.where} {self.owner.name}, line {line}: {text}")

    def block(self, nodes: list[ast.stmt]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for node in nodes:
            out.extend(self.statement(node))
        return tuple(out)

    def statement(self, node: ast.stmt) -> list[Stmt]:
        match node:
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                return []
            case ast.Expr(value):
                call = self.expr(value)
                if not isinstance(call, Call):
                    raise self.fail(node, "an expression alone has no effect")
                return [call]
            case ast.Assign([target], value):
                return [self.assign(target, self.expr(value))]
            case ast.AugAssign(target, op, value):
                read = ast.copy_location(ast.BinOp(target, op, value), node)
                return [self.assign(target, self.expr(read))]
            case ast.If(test, body, orelse):
                return [If(self.condition(test), self.block(body), self.block(orelse))]
            case ast.While(test, body, []):
                return [While(self.condition(test), self.block(body))]
            case ast.Return(value):
                result = None if value is None else self.expr(value)
                if result is not None:
                    if self.result not in ("", result.type):
                        raise self.fail(node, "returns both a word and a bool")
                    self.result = result.type
                return [Return(result)]
        raise self.fail(node, f"{type(node).__name__} is not in the language")

    def assign(self, target: ast.expr, value: Expr) -> Assign:
        if isinstance(target, ast.Name):
            known = self.types.setdefault(target.id, value.type)
            if known != value.type:
                raise self.fail(target, f"{target.id} is a {known}, not a {value.type}")
            return Assign(Local(target.id, known), value)
        place = self.expr(target)
        if not isinstance(place, Register | StateField) or value.type != "word":
            raise self.fail(target, "assign words to locals, X[i], F[i] or hart.field")
        return Assign(place, value)

    def condition(self, node: ast.expr) -> Expr:
        value = self.expr(node)
        if value.type != "bool":
            raise self.fail(node, "a condition must be a bool: compare with 0")
        return value

    def word(self, node: ast.expr) -> Expr:
        value = self.expr(node)
        if value.type != "word":
            raise self.fail(node, f"expected a word, found {value.type or 'nothing'}")
        return value

    def harmless(self, value: Expr, node: ast.expr) -> Expr:
        """Refuse effects in an operand that is evaluated whether or not it is wanted."""
        for call in walk((value,)):
            if isinstance(call, Call) and (
                call.function.has_effects
                if call.function is not None
                else call.name not in _READING_BUILTINS
            ):
                raise self.fail(node, f"{call.name} has effects: use an if statement")
        return value

    @staticmethod
    def is_signed(node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "signed"
        )

    def expr(self, node: ast.expr) -> Expr:
        match node:
            case ast.Constant(bool(value)):
                return Const(int(value), "bool")
            case ast.Constant(int(value)):
                return Const(value & MASK)
            case ast.Name(name):
                return self.name(node, name)
            case ast.Attribute(ast.Name("hart"), name):
                return StateField(name, None)
            case ast.Subscript(ast.Name("X" | "F" as file), index):
                return Register(file, self.word(index))
            case ast.Subscript(ast.Attribute(ast.Name("hart"), name), index):
                return StateField(name, self.word(index))
            case ast.BinOp(left, op, right):
                return self.binary(node, left, op, right)
            case ast.UnaryOp(ast.Not(), value):
                return Not(self.condition(value), "bool")
            case ast.UnaryOp(ast.Invert(), value):
                inner = self.word(value)
                return (
                    Const(~inner.value & MASK) if isinstance(inner, Const) else Not(inner, "word")
                )
            case ast.UnaryOp(ast.USub(), value):
                inner = self.word(value)
                if isinstance(inner, Const):
                    return Const(-inner.value & MASK)
                return Binary("-", Const(0), inner)
            case ast.BoolOp(op, values):
                sign = "&" if isinstance(op, ast.And) else "|"
                tree = self.condition(values[0])
                for value in values[1:]:
                    tree = Binary(sign, tree, self.harmless(self.condition(value), value), "bool")
                return tree
            case ast.Compare(left, [op], [right]):
                return self.compare(node, left, op, right)
            case ast.IfExp(test, body, orelse):
                then = self.harmless(self.expr(body), body)
                other = self.harmless(self.expr(orelse), orelse)
                if then.type != other.type or not then.type:
                    raise self.fail(node, "both sides of a conditional need one type")
                return Select(self.condition(test), then, other, then.type)
            case ast.Call(ast.Name(name), args, []):
                return self.call(node, name, args)
        raise self.fail(node, f"{ast.unparse(node)} is not in the language")

    def name(self, node: ast.expr, name: str) -> Expr:
        if name in self.types:
            return Local(name, self.types[name])
        if name in ("pc", "length", "raw"):
            return Special(name)
        value = self.owner.scope.get(name)
        if isinstance(value, int):
            return Const(int(value) & MASK, "bool" if isinstance(value, bool) else "word")
        raise self.fail(node, f"{name} is not a local, a constant or a builtin")

    def binary(self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr) -> Expr:
        sign = _BINARY.get(type(op))
        if sign is None:
            raise self.fail(node, "operators are + - * & | ^ << >>")
        if sign == ">>" and self.is_signed(left):
            assert isinstance(left, ast.Call)
            return Binary(">>s", self.word(left.args[0]), self.word(right))
        a, b = self.word(left), self.word(right)
        if isinstance(a, Const) and isinstance(b, Const):
            return Const(_FOLD[sign](a.value, b.value) & MASK)
        return Binary(sign, a, b)

    def compare(self, node: ast.expr, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Expr:
        sign = _COMPARE.get(type(op))
        if sign is None:
            raise self.fail(node, "comparisons are == != < <= > >=")
        signs = self.is_signed(left), self.is_signed(right)
        if any(signs):
            for side, is_signed in zip((left, right), signs, strict=True):
                constant = isinstance(side, ast.Constant | ast.UnaryOp)
                if not is_signed and not constant:
                    raise self.fail(node, "compare signed(a) with signed(b) or a literal")
            a, b = (
                self.word(s.args[0] if g and isinstance(s, ast.Call) else s)
                for s, g in zip((left, right), signs, strict=True)
            )
            return Compare(sign, a, b, True)
        a, b = self.expr(left), self.expr(right)
        if a.type != b.type:
            raise self.fail(node, "compares a word with a bool")
        return Compare(sign, a, b, False)

    def call(self, node: ast.Call, name: str, args: list[ast.expr]) -> Expr:
        if name == "word":
            return ToWord(self.condition(args[0]))
        if name in BUILTINS:
            count, result = BUILTINS[name]
            if len(args) != count:
                raise self.fail(node, f"{name} takes {count} arguments")
            values = tuple(
                a.value
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
                else self.word(a)
                for a in args
            )
            return Call(name, values, None, result)
        target = self.owner.scope.get(name)
        if not isinstance(target, Function):
            raise self.fail(node, f"{name} is neither a builtin nor a routine")
        if len(args) != len(target.params):
            raise self.fail(node, f"{name} takes {len(target.params)} arguments")
        return Call(name, tuple(self.word(a) for a in args), target, target.result)
