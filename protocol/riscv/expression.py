"""Integer expressions of assembly text: `(1 << 12) | 'A'`, `end - start + 4`, `%lo(table)`.

The problem: a guest program must mean here what GNU as makes of it, which is the tests' oracle. So
operators bind as in GNU as, *not* as in C: `* / % << >>` bind tightest, then `| & ^`, then `+ -`.
Values are 64 bits and wrap; results are signed (a field of eight bytes takes either sign). `/` and
`%` truncate towards zero, `>>` fills with zeros.

Invariant: evaluation has no effect; symbols come from the `lookup` alone, which may raise. `.` is
the address of the statement, `1b` and `1f` are numeric labels; all three reach `lookup` as written.

Read next: `assembler.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<label>\d+[fb])(?![\w.$])
    | (?P<number>0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)(?![\w.$])
    | (?P<char>'(?:\\.|[^\\'])')
    | (?P<reloc>%(?:hi|lo))(?=\s*\()
    | (?P<symbol>[A-Za-z_.$][\w.$]*)
    | (?P<op><<|>>|[-+*/%&|^~()])
    )""",
    re.VERBOSE,
)
_ESCAPES = {"n": 10, "t": 9, "r": 13, "b": 8, "f": 12, "\\": 92, "'": 39, '"': 34, "0": 0}
_LEVELS = (("+", "-"), ("|", "&", "^"), ("*", "/", "%", "<<", ">>"))


class ExpressionError(ValueError):
    """The text is no expression, or has no value; the message says why, without a place."""


def wrap(value: int) -> int:
    """The value's low 64 bits, as a signed number."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def hi(value: int) -> int:
    """`%hi`: the 20 bits for a `lui` that, with `lo` added, gives the value (signed 32 bits)."""
    if not -(1 << 31) <= value + 0x800 < 1 << 31:
        raise ExpressionError(
            f"lui sign-extends from 32 bits, so it cannot reach %hi({value:#x}): use la or li"
        )
    return (value + 0x800) >> 12 & 0xFFFFF


def lo(value: int) -> int:
    """`%lo`: the low 12 bits, signed."""
    return ((value + 0x800) & 0xFFF) - 0x800


def unescape(text: str) -> bytes:
    """The bytes of a string or character literal, without its quotes: C escapes, `\\x41`, octal."""

    def replace(found: re.Match[bytes]) -> bytes:
        code = found[1]
        if code[:1] == b"x":
            return bytes([int(code[1:], 16) & 0xFF])
        if code[:1].isdigit():
            return bytes([int(code, 8) & 0xFF])
        letter = code.decode("latin-1")
        if letter not in _ESCAPES:
            raise ExpressionError(f"unknown escape \\{letter}: write \\xNN")
        return bytes([_ESCAPES[letter]])

    return re.sub(rb"\\(x[0-9a-fA-F]+|[0-7]{1,3}|.)", replace, text.encode())


def evaluate(text: str, lookup: Callable[[str], int]) -> int:
    """The value of `text`, from -2^63 to 2^63-1.

    Raises ExpressionError, or what `lookup(symbol)` raises.
    """
    return _Parser(text, lookup).value


class _Parser:
    def __init__(self, text: str, lookup: Callable[[str], int]) -> None:
        self.text = text
        self.lookup = lookup
        self.tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            found = _TOKEN.match(text, at)
            if found is None:
                raise ExpressionError(f"{text[at:].strip()!r} is no expression")
            assert found.lastgroup is not None
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()
        self.at = 0
        self.value = self.level(0)
        if self.at < len(self.tokens):
            raise ExpressionError(f"{self.text!r}: operator expected before {self.peek()!r}")

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def level(self, depth: int) -> int:
        if depth == len(_LEVELS):
            return self.unary()
        left = self.level(depth + 1)
        while self.peek() in _LEVELS[depth]:
            operator = self.peek()
            self.at += 1
            left = wrap(self.apply(operator, left, self.level(depth + 1)))
        return left

    def apply(self, operator: str, a: int, b: int) -> int:
        match operator:
            case "+":
                return a + b
            case "-":
                return a - b
            case "|":
                return a | b
            case "&":
                return a & b
            case "^":
                return a ^ b
            case "*":
                return a * b
            case "<<" | ">>":
                if not 0 <= b < 64:
                    raise ExpressionError(f"{self.text!r}: shifts by {b}, not by 0 to 63")
                return a << b if operator == "<<" else a % (1 << 64) >> b
        if b == 0:
            raise ExpressionError(f"{self.text!r} divides by zero")
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if operator == "/" else a - quotient * b

    def unary(self) -> int:
        if self.at == len(self.tokens):
            raise ExpressionError(f"{self.text!r} ends too early: a value is missing")
        kind, token = self.tokens[self.at]
        self.at += 1
        match kind:
            case "number":
                return self.number(token)
            case "char":
                value = unescape(token[1:-1])
                if len(value) != 1:
                    raise ExpressionError(f"{token} is not one byte")
                return value[0]
            case "symbol" | "label":
                return wrap(self.lookup(token))
            case "reloc":
                return (hi if token == "%hi" else lo)(self.parenthesised())
        match token:
            case "-":
                return wrap(-self.unary())
            case "+":
                return self.unary()
            case "~":
                return ~self.unary()
            case "(":
                self.at -= 1
                return self.parenthesised()
        raise ExpressionError(f"{self.text!r}: a value is expected, not {token!r}")

    def number(self, token: str) -> int:
        """A leading 0 means octal."""
        try:
            value = int(token, 8) if re.fullmatch(r"0\d+", token) else int(token, 0)
        except ValueError:
            raise ExpressionError(f"{token} is no octal number: leave the leading 0 out") from None
        if value >= 1 << 64:
            raise ExpressionError(f"{token} has more than 64 bits")
        return wrap(value)

    def parenthesised(self) -> int:
        self.at += 1
        value = self.level(0)
        if self.peek() != ")":
            raise ExpressionError(f"{self.text!r}: ')' is missing")
        self.at += 1
        return value
