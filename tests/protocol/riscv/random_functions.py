"""Random functions in the semantics language, and what they mean by Python's own operators.

The problem: the language is compiled twice, and each compiler needs a judge that shares nothing
with it. A function made here is source text. Compiled by the project it is Python over ints or
native code; executed by Python as it stands, over the class `Word` below, it is the judge:
wrap-around, unsigned order and `signed` are that class's operators, `if` and `while` are Python's.

Invariants: what is made ends (loops count to a number), has defined results only (shifts by less
than 64, divisors that are not 0, no signed overflow in a division), and reads a local only where
every path has assigned it. It is a function of the random source.

Read next: `test_language.py`, `tests/jit_proc/test_emit.py`.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol.riscv.language import Function, routine_from_source

M64 = 2**64 - 1
CORNERS: tuple[int, ...] = (0, 1, 2, 3, 31, 32, 63, 64, 127, 128, 255, 2**31 - 1, 2**31)
CORNERS += (
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    M64,
    M64 - 1,
    M64 - 127,
    0x0123_4567_89AB_CDEF,
    M64 - 2**31 + 1,
)
PARAMETERS = ("a", "b", "c")
REGISTERS = (5, 6, 17, 31)
FIELDS = ("mscratch", "sepc", "mtvec")

Number = Any  # Word or int


class Word:
    """An unsigned 64-bit number whose operators wrap."""

    def __init__(self, value: int) -> None:
        self.value = value & M64

    def __index__(self) -> int:
        return self.value

    __int__ = __index__
    __hash__ = None  # type: ignore[assignment]

    def __invert__(self) -> Word:
        return Word(~self.value)

    def __neg__(self) -> Word:
        return Word(-self.value)

    def __eq__(self, other: object) -> bool:
        return self.value == int(other)  # type: ignore[call-overload,no-any-return]


class Signed:
    """What `signed(w)` is: order and right shift see the two's complement."""

    def __init__(self, word: Number) -> None:
        self.value = two(word)

    def __rshift__(self, amount: Number) -> Word:
        return Word(self.value >> int(amount))


def two(value: Any) -> int:
    """The number in two's complement."""
    if isinstance(value, Signed):
        return value.value
    plain = int(value)
    return plain - 2**64 if plain >> 63 else plain


def _install() -> None:
    operators: dict[str, Callable[[int, int], int]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "lshift": lambda a, b: a << b,
        "rshift": lambda a, b: a >> b,
    }
    for name, operator in operators.items():
        setattr(Word, f"__{name}__", lambda s, o, f=operator: Word(f(s.value, int(o))))
    orders: dict[str, Callable[[int, int], bool]] = {
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
    }
    for name, order in orders.items():

        def compare(left: Any, right: Any, order: Callable[[int, int], bool] = order) -> bool:
            if isinstance(left, Signed) or isinstance(right, Signed):
                return order(two(left), two(right))
            return order(int(left), int(right))

        setattr(Word, f"__{name}__", compare)
        setattr(Signed, f"__{name}__", compare)


_install()


def _quotient(a: int, b: int) -> int:
    """Towards zero, as in C."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _extended(value: Number, bits: Number) -> Word:
    low = int(value) % 2 ** int(bits)
    return Word(low - 2 ** int(bits) if low >= 2 ** (int(bits) - 1) else low)


def _bits(value: Number) -> str:
    return f"{int(value):064b}"


MEANINGS: dict[str, Callable[..., Any]] = {
    "signed": Signed,
    "word": lambda b: Word(int(b)),
    "sext": _extended,
    "zext": lambda v, bits: Word(int(v) % 2 ** int(bits)),
    "mulhu": lambda a, b: Word(int(a) * int(b) // 2**64),
    "mulh": lambda a, b: Word(two(a) * two(b) // 2**64),
    "mulhsu": lambda a, b: Word(two(a) * int(b) // 2**64),
    "divu": lambda a, b: Word(int(a) // int(b)),
    "remu": lambda a, b: Word(int(a) % int(b)),
    "divs": lambda a, b: Word(_quotient(two(a), two(b))),
    "rems": lambda a, b: Word(two(a) - two(b) * _quotient(two(a), two(b))),
    "clz": lambda v: Word(len(_bits(v).split("1")[0])),
    "ctz": lambda v: Word(len(_bits(v)[::-1].split("1")[0])),
    "cpop": lambda v: Word(_bits(v).count("1")),
    "bswap": lambda v: Word(int.from_bytes(int(v).to_bytes(8, "big"), "little")),
}


class _Constants(ast.NodeTransformer):
    """Every number in the source becomes a `Word`."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, bool) or not isinstance(node.value, int):
            return node
        return ast.Call(ast.Name("Word", ast.Load()), [node], [])


class State:
    """A hart of sorts, for a compiled function: register files, and fields by name."""

    def __init__(self, seed: int, wrap: Callable[[int], Any] = int) -> None:
        source = random.Random(seed)
        values = [wrap(pick(source)) for _ in range(64 + len(FIELDS))]
        self.x, self.f = values[:32], values[32:64]
        self.x[0] = wrap(0)
        self.pmpaddr = [wrap(pick(source)) for _ in range(16)]
        self.pc, self.length, self.raw = wrap(0x8000_1234), wrap(4), wrap(0x1234_5673)
        for name, value in zip(FIELDS, values[64:], strict=True):
            setattr(self, name, value)

    def numbers(self) -> list[int]:
        """All of it."""
        fields = [int(getattr(self, name)) for name in FIELDS]
        return [int(v) for v in (*self.x, *self.f, *self.pmpaddr, *fields)]


def pick(source: random.Random) -> int:
    """A word, most often one that is interesting."""
    kind = source.randrange(4)
    if kind == 0:
        return source.getrandbits(64)
    if kind == 1:
        return 1 << source.randrange(64)
    if kind == 2:
        return source.randrange(256) - 128 & M64
    return source.choice(CORNERS)


@dataclass(frozen=True)
class Program:
    """A function: its text, and the project's view of it."""

    text: str
    function: Function

    def meaning(self, arguments: tuple[int, ...], state: State) -> int:
        """The result by Python's own operators. `state` holds Words and is changed."""
        scope: dict[str, Any] = {**MEANINGS, "Word": Word, "hart": state}
        scope |= {"X": state.x, "F": state.f}
        scope |= {name: getattr(state, name) for name in ("pc", "length", "raw")}
        tree = ast.fix_missing_locations(_Constants().visit(ast.parse(self.text)))
        exec(compile(tree, "<meaning>", "exec"), scope)
        return int(scope["f"](*(Word(a) for a in arguments)))


class Generator:
    """Makes programs from a random source. `stateful`: with registers and fields as well."""

    def __init__(self, source: random.Random, stateful: bool = False) -> None:
        self.source = source
        self.stateful = stateful
        self.locals: list[str] = []
        self.fresh = 0

    def program(self, name: str = "f") -> Program:
        """One function of `a, b, c` that returns a word."""
        self.locals, self.fresh = list(PARAMETERS), 0
        lines = self.block(" ", self.source.randrange(2, 6), 2)
        lines.append(f" return {self.word(3)}")
        text = "\n".join([f"def f({', '.join(PARAMETERS)}):", *lines])
        return Program(text, routine_from_source(name, text, {}))

    # --- statements ----------------------------------------------------------------------------

    def block(self, indent: str, statements: int, depth: int) -> list[str]:
        lines: list[str] = []
        for _ in range(statements):
            lines += self.statement(indent, depth)
        return lines

    def inner(self, indent: str, depth: int) -> list[str]:
        """A block whose new locals are not known behind it."""
        known = list(self.locals)
        lines = self.block(indent + " ", self.source.randrange(1, 3), depth - 1)
        self.locals = known
        return lines

    def statement(self, indent: str, depth: int) -> list[str]:
        kind = self.source.randrange(8 if depth else 5)
        if kind < 2:
            value, name = self.word(3), f"v{self.fresh}"
            if self.source.randrange(4) == 0:  # by 1 to 2**63 - 1: neither 0 nor -1
                division = self.source.choice(("divu", "remu", "divs", "rems"))
                value = f"{division}({value}, ({self.word(1)} >> 1) | 1)"
            self.fresh += 1
            self.locals.append(name)
            return [f"{indent}{name} = {value}"]
        if kind == 2:
            operator = self.source.choice(("+=", "-=", "^=", "&=", "|=", "*="))
            return [f"{indent}{self.source.choice(self.locals)} {operator} {self.word(2)}"]
        if kind == 3 and self.stateful:
            return [f"{indent}{self.place()} = {self.word(2)}"]
        if kind in (3, 4):
            return [f"{indent}{self.source.choice(self.locals)} = {self.word(2)}"]
        if kind == 5:
            lines = [f"{indent}if {self.flag(2)}:", *self.inner(indent, depth)]
            if self.source.randrange(4) == 0:
                lines.append(f"{indent} return {self.word(1)}")
            return lines
        if kind == 6:
            lines = [f"{indent}if {self.flag(2)}:", *self.inner(indent, depth)]
            if self.source.randrange(2):
                lines += [f"{indent}elif {self.flag(1)}:", *self.inner(indent, depth)]
            return [*lines, f"{indent}else:", *self.inner(indent, depth)]
        counter, bound = f"i{self.fresh}", self.source.randrange(1, 6)
        self.fresh += 1
        body = self.inner(indent, depth)
        return [
            f"{indent}{counter} = 0",
            f"{indent}while {counter} < {bound} and {self.flag(1)}:",
            *body,
            f"{indent} {counter} += 1",
        ]

    def place(self) -> str:
        kind = self.source.randrange(5)
        if kind < 2:
            return f"{'XF'[kind]}[{self.source.choice(REGISTERS)}]"
        if kind == 2:
            return f"hart.{self.source.choice(FIELDS)}"
        index = f"{self.source.choice(self.locals)} & 15"
        return f"hart.pmpaddr[{index}]" if kind == 3 else f"X[({index}) | 16]"

    # --- expressions ---------------------------------------------------------------------------

    def leaf(self) -> str:
        kind = self.source.randrange(10)
        if kind < 6:
            return self.source.choice(self.locals)
        if kind == 6 and self.stateful:
            return self.source.choice((self.place(), "X[0]", "pc", "length", "raw"))
        value = pick(self.source)
        return self.source.choice((str(value), hex(value), f"-{value >> 1}", f"~{value}"))

    def word(self, depth: int) -> str:
        if depth == 0:
            return self.leaf()
        one, two_, kind = self.word(depth - 1), self.word(depth - 1), self.source.randrange(11)
        if kind < 4:
            return f"({one} {self.source.choice('+-*&|^')} {two_})"
        if kind == 4:
            return f"({one} {self.source.choice(('<<', '>>'))} ({two_} & 63))"
        if kind == 5:
            return f"(signed({one}) >> ({two_} & 63))"
        if kind == 6:
            return f"{self.source.choice(('~', '-'))}{one}"
        if kind == 7:
            extend = self.source.choice(("sext", "zext"))
            return f"{extend}({one}, {self.source.choice((1, 7, 8, 16, 31, 32, 63))})"
        if kind == 8:
            return f"{self.source.choice(('clz', 'ctz', 'cpop', 'bswap'))}({one})"
        if kind == 9:
            return f"{self.source.choice(('mulhu', 'mulh', 'mulhsu'))}({one}, {two_})"
        if self.source.randrange(2):
            return f"word({self.flag(depth - 1)})"
        return f"({one} if {self.flag(depth - 1)} else {two_})"

    def flag(self, depth: int) -> str:
        if depth > 0 and self.source.randrange(3) == 0:
            one, two_ = self.flag(depth - 1), self.flag(depth - 1)
            return self.source.choice((f"({one} and {two_})", f"({one} or {two_})", f"(not {one})"))
        sign = self.source.choice(("==", "!=", "<", "<=", ">", ">="))
        one, two_ = self.word(max(depth - 1, 0)), self.word(max(depth - 1, 0))
        if self.source.randrange(3) == 0 and sign not in ("==", "!="):
            return f"(signed({one}) {sign} signed({two_}))"
        if self.source.randrange(10) == 0:
            return f"(({one} {sign} {two_}) == ({two_} < 5))"
        return f"({one} {sign} {two_})"
