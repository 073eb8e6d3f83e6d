"""From a semantics function's source to its tree: parsing, types, and what is refused.

The problem: a description that two compilers read must mean the same to both, and whoever writes an
instruction should hear at once, with file and line, what the language does not have. So all that
could differ between Python's ints and native code is refused here: types that change, locals read
before they are assigned, shifts by 64 and more, effects in operands that may not be wanted.

Invariants: what `Parser` lets through both compilers take; an error names file, function, line, and
what to write.

Read next: `language.py` (the tree), `to_python.py`.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from protocol.riscv.language import (
    AMO_OPERATIONS,
    BUILTINS,
    HARMLESS_BUILTINS,
    MASK,
    WIDTHS,
    Assign,
    Binary,
    Call,
    Compare,
    Const,
    Function,
    If,
    LanguageError,
    Local,
    Not,
    Register,
    Return,
    Select,
    Special,
    StateField,
    ToWord,
    While,
    walk,
)

if TYPE_CHECKING:
    from protocol.riscv.language import Expr, Stmt

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


_SPECIALS = ("pc", "length", "raw")


class Parser:
    """Parses the source of one function."""

    def __init__(self, owner: Function) -> None:
        self.owner = owner
        self.types = dict.fromkeys(owner.params, "word")
        self.result = ""
        self._returns_nothing = False
        # Locals that every path to here assigned; None where no path leads.
        self._assigned: frozenset[str] | None = frozenset(self.types)

    def function_body(self, tree: ast.FunctionDef) -> tuple[Stmt, ...]:
        """The statements of the whole function. Raises LanguageError."""
        body = self.block(tree.body)
        if self.result and self._returns_nothing:
            raise self.fail(tree, f"returns a {self.result} here and nothing there")
        if self.result and self._assigned is not None:
            raise self.fail(tree.body[-1], f"ends without the {self.result} it returns elsewhere")
        return body

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
                if call.name == "trap":
                    self._assigned = None
                return [call]
            case ast.Assign([target], value):
                return [self.assign(target, self.expr(value))]
            case ast.AugAssign(target, op, value):
                read = ast.copy_location(ast.BinOp(target, op, value), node)
                return [self.assign(target, self.expr(read))]
            case ast.If(test, body, orelse):
                condition, before = self.condition(test), self._assigned
                then, after_then = self.block(body), self._assigned
                self._assigned = before
                other = self.block(orelse)
                if self._assigned is None:
                    self._assigned = after_then
                elif after_then is not None:
                    self._assigned &= after_then
                return [If(condition, then, other)]
            case ast.While(test, body, []):
                condition, before = self.condition(test), self._assigned
                inner = self.block(body)
                self._assigned = before
                return [While(condition, inner)]
            case ast.Return(value):
                result = None if value is None else self.expr(value)
                if result is None:
                    self._returns_nothing = True
                elif self.result not in ("", result.type):
                    raise self.fail(node, "returns both a word and a bool")
                else:
                    self.result = result.type
                self._assigned = None
                return [Return(result)]
        raise self.fail(node, f"{type(node).__name__} is not in the language")

    def assign(self, target: ast.expr, value: Expr) -> Assign:
        if isinstance(target, ast.Name) and target.id not in _SPECIALS:
            if not value.type:
                raise self.fail(target, "expected a word or a bool, found nothing")
            known = self.types.setdefault(target.id, value.type)
            if known != value.type:
                raise self.fail(target, f"{target.id} is a {known}, not a {value.type}")
            if self._assigned is not None:
                self._assigned |= {target.id}
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
            if not isinstance(call, Call):
                continue
            if call.function is not None:
                if call.function.has_effects:
                    raise self.fail(node, f"{call.name} has effects: use an if statement")
            elif call.name not in HARMLESS_BUILTINS:
                text = f"{call.name} is evaluated even if it is not wanted: use an if statement"
                raise self.fail(node, text)
        return value

    def is_signed(self, node: ast.expr) -> bool:
        match node:
            case ast.Call(ast.Name("signed"), args, []):
                if len(args) != 1:
                    raise self.fail(node, "signed takes 1 argument")
                return True
        return False

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
            if self._assigned is not None and name not in self._assigned:
                raise self.fail(node, f"{name} may be read here before it is assigned")
            return Local(name, self.types[name])
        if name in _SPECIALS:
            return Special(name)
        value = self.owner.scope.get(name)
        if isinstance(value, int):
            return Const(int(value) & MASK, "bool" if isinstance(value, bool) else "word")
        raise self.fail(node, f"{name} is not a local, a constant or a builtin")

    def binary(self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr) -> Expr:
        sign = _BINARY.get(type(op))
        if sign is None:
            raise self.fail(node, "operators are + - * & | ^ << >>")
        arithmetic = sign == ">>" and self.is_signed(left)
        a = self.word(left.args[0] if arithmetic and isinstance(left, ast.Call) else left)
        b = self.word(right)
        if sign in ("<<", ">>") and isinstance(b, Const) and b.value > 63:
            raise self.fail(node, f"shifts by {b.value}: the amount must be below 64")
        if arithmetic:
            return Binary(">>s", a, b)
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
                literal = side.operand if isinstance(side, ast.UnaryOp) else side
                constant = isinstance(literal, ast.Constant)
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
            if len(args) != 1:
                raise self.fail(node, "word takes 1 argument")
            return ToWord(self.condition(args[0]))
        if name in BUILTINS:
            count, result = BUILTINS[name]
            if len(args) != count:
                raise self.fail(node, f"{name} takes {_count(count)}")
            values = tuple(self.argument(name, i, a) for i, a in enumerate(args))
            return Call(name, values, None, result)
        target = self.owner.scope.get(name)
        if not isinstance(target, Function):
            raise self.fail(node, f"{name} is neither a builtin nor a routine")
        if target.being_parsed:
            raise self.fail(node, f"{name} calls itself: write a loop")
        if len(args) != len(target.params):
            raise self.fail(node, f"{name} takes {_count(len(target.params))}")
        return Call(name, tuple(self.word(a) for a in args), target, target.result)

    def argument(self, name: str, position: int, node: ast.expr) -> Any:
        """An argument of a builtin: a word, or for some a literal that is checked here."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if name == "amo" and node.value not in AMO_OPERATIONS:
                known = ", ".join(AMO_OPERATIONS)
                raise self.fail(node, f"amo: no operation {node.value!r}; there are {known}")
            if name not in ("amo", "handler") or position:
                raise self.fail(node, f"{name}: a string is not a word")
            return node.value
        if name in ("amo", "handler") and position == 0:
            what = "operation" if name == "amo" else "handler's name"
            raise self.fail(node, f"{name}: the {what} must be a string")
        value = self.word(node)
        number = value.value if isinstance(value, Const) else None
        if name in ("sext", "zext") and position == 1 and number not in range(1, 64):
            raise self.fail(node, f"{name}: bits must be a literal from 1 to 63")
        place, widths = WIDTHS.get(name, (None, ()))
        if position == place and number not in widths:
            known = f"{', '.join(map(str, widths[:-1]))} or {widths[-1]}"
            raise self.fail(node, f"{name}: bytes must be {known}")
        return value


def _count(number: int) -> str:
    return f"{number} argument{'' if number == 1 else 's'}"
