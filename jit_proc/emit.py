"""Semantics functions compiled to textual LLVM IR.

The problem: one description of an instruction (`protocol/riscv/language.py`) must become native
code in three settings: a tier-0 handler whose operands stand in a record, a cold function that
follows every rule at leisure, and a stretch of a region whose operands are constants. The walk
over the tree is the same for all and stands here; what differs - where registers live, what a
memory access looks like, what a trap does - is a subclass's business (`handlers.py`, `lift.py`).

Text, not llvmlite's builder: the builder cannot call through an opaque pointer and costs several
times as much. Locals are allocas that LLVM's sroa pass promotes.

Invariants: an operand is a string, either `%name` or a literal; literals are folded here, so that
a region's constants never reach LLVM as instructions; after a terminator nothing is emitted until
the next label (`self.done`).

Read next: `runtime.py`, `handlers.py`, `lift.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocol.layout import HART
from protocol.riscv.language import (
    MASK,
    Assign,
    Binary,
    Call,
    Compare,
    Const,
    Expr,
    Function,
    If,
    Local,
    Not,
    Register,
    Return,
    Select,
    Special,
    StateField,
    Stmt,
    ToWord,
    While,
)
from protocol.riscv.to_python import PURE

_BINARY = {
    "+": "add",
    "-": "sub",
    "*": "mul",
    "&": "and",
    "|": "or",
    "^": "xor",
    "<<": "shl",
    ">>": "lshr",
    ">>s": "ashr",
}
_FOLD = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "lshr": lambda a, b: a >> b,
    "ashr": lambda a, b: _signed(a) >> b,
}
_ZERO_IS_NEUTRAL = ("add", "sub", "or", "xor", "shl", "lshr", "ashr")
_COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
ATOMICS = {
    "swap": "xchg",
    "add": "add",
    "xor": "xor",
    "and": "and",
    "or": "or",
    "min": "min",
    "max": "max",
    "minu": "umin",
    "maxu": "umax",
}
TYPES = {"word": "i64", "bool": "i1", "": "void"}


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def literal(value: int) -> str:
    """A word as an i64 literal."""
    return str(_signed(value & MASK))


def is_literal(operand: str) -> bool:
    return operand[0] != "%"


class Emitter:
    """Walks one function's tree; subclasses say what registers, memory and traps are."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.done = False
        self._names = 0
        self._scope: dict[str, str] = {}  # local -> its alloca, or its operand
        self._once: set[str] = set()  # locals assigned in one place that all reads lie behind
        self.label_name = "entry"

    # --- building blocks -------------------------------------------------------------------

    def new(self) -> str:
        self._names += 1
        return f"%t{self._names}"

    def new_label(self) -> str:
        self._names += 1
        return f"l{self._names}"

    def emit(self, text: str) -> None:
        if not self.done:
            self.lines.append(f"  {text}")

    def value(self, text: str) -> str:
        """Emit an instruction that yields a value; returns its name."""
        name = self.new()
        self.emit(f"{name} = {text}")
        return name

    def terminate(self, text: str) -> None:
        self.emit(text)
        self.done = True

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.label_name = name
        self.done = False

    def jump_to(self, name: str) -> None:
        self.terminate(f"br label %{name}")

    def branch_if(self, condition: str, then: str, other: str, weights: str = "") -> None:
        self.terminate(f"br i1 {condition}, label %{then}, label %{other}{weights}")

    def binary(self, op: str, a: str, b: str) -> str:
        """An i64 operation on two operands, folded when both are literals."""
        if is_literal(b):
            if is_literal(a):
                return literal(_FOLD[op](int(a) & MASK, int(b) & MASK))
            if b == "0" and op in _ZERO_IS_NEUTRAL:
                return a
        elif a == "0" and op in ("add", "or", "xor"):
            return b
        return self.value(f"{op} i64 {a}, {b}")

    def compare(self, predicate: str, a: str, b: str, type_: str = "i64") -> str:
        return self.value(f"icmp {predicate} {type_} {a}, {b}")

    def select(self, condition: str, a: str, b: str, type_: str = "i64") -> str:
        if condition in ("true", "false"):
            return a if condition == "true" else b
        return self.value(f"select i1 {condition}, {type_} {a}, {type_} {b}")

    def address(self, base: str, offset: str | int) -> str:
        """`base` (ptr) plus bytes."""
        return (
            base
            if str(offset) == "0"
            else self.value(f"getelementptr i8, ptr {base}, i64 {offset}")
        )

    def pointer(self, word: str) -> str:
        return self.value(f"inttoptr i64 {word} to ptr")

    def load_word(self, pointer: str) -> str:
        return self.value(f"load i64, ptr {pointer}, align 8")

    def store_word(self, value: str, pointer: str) -> None:
        self.emit(f"store i64 {value}, ptr {pointer}, align 8")

    def field(self, name: str, index: int = 0) -> str:
        """Address of a word of the hart."""
        return self.address("%hart", HART.offset(name, index))

    def read_field(self, name: str) -> str:
        return self.load_word(self.field(name))

    def write_field(self, name: str, value: str) -> None:
        self.store_word(value, self.field(name))

    def load_bytes(self, pointer: str, size: int) -> str:
        """`size` bytes, zero-extended; need not be aligned."""
        if size == 8:
            return self.value(f"load i64, ptr {pointer}, align 1")
        return self.value(
            f"zext i{8 * size} {self.value(f'load i{8 * size}, ptr {pointer}, align 1')} to i64"
        )

    def store_bytes(self, value: str, pointer: str, size: int) -> None:
        if size < 8:
            value = self.value(f"trunc i64 {value} to i{8 * size}")
        self.emit(f"store i{8 * size} {value}, ptr {pointer}, align 1")

    def atomic(self, op: str, pointer: str, value: str, size: str) -> str:
        """An atomic read-modify-write; the old value, zero-extended."""
        width = 8 * int(size)
        if width < 64:
            value = self.value(f"trunc i64 {value} to i{width}")
        old = self.value(
            f"atomicrmw {ATOMICS[op]} ptr {pointer}, i{width} {value} seq_cst, align {size}"
        )
        return old if width == 64 else self.value(f"zext i{width} {old} to i64")

    # --- what subclasses say ---------------------------------------------------------------

    def read_register(self, file: str, index: str) -> str:
        raise AssertionError(file)

    def write_register(self, file: str, index: str, value: str) -> None:
        raise AssertionError(file)

    def special(self, name: str) -> str:
        raise AssertionError(name)

    def builtin(self, name: str, args: Sequence[Any]) -> str:
        """Emit a builtin that is not pure; `args` are operands, or strings as they stood."""
        raise AssertionError(name)

    def call_routine(self, function: Function, args: Sequence[str]) -> str:
        raise AssertionError(function.name)

    def emit_return(self, value: str | None, type_: str) -> None:
        raise AssertionError("return")

    def read_state(self, name: str, index: str | None) -> str:
        return self.load_word(self._state(name, index))

    def write_state(self, name: str, index: str | None, value: str) -> None:
        self.store_word(value, self._state(name, index))

    def _state(self, name: str, index: str | None) -> str:
        if index is None or is_literal(index):
            return self.field(name, int(index or 0))
        return self.address(self.field(name), self.binary("shl", index, "3"))

    # --- the walk --------------------------------------------------------------------------

    def body(self, function: Function, operands: dict[str, str]) -> None:
        """Emit a function's statements with these operands for its parameters."""
        targets = [
            n.target.name
            for n in function.nodes
            if isinstance(n, Assign) and isinstance(n.target, Local)
        ]
        assigned = set(targets)
        self._scope = dict(operands)
        self._once = {
            n.target.name
            for n in function.body
            if isinstance(n, Assign) and isinstance(n.target, Local)
            if n.target.name not in operands and targets.count(n.target.name) == 1
        }
        for name, type_ in function.locals.items():
            if name in assigned and name not in self._once:
                self._names += 1
                slot = f"%v{self._names}.{name}"
                self.allocas.append(f"  {slot} = alloca {TYPES[type_]}")
                if name in operands:
                    self.emit(f"store i64 {operands[name]}, ptr {slot}")
                self._scope[name] = slot
        self.block(function.body)

    def block(self, statements: tuple[Stmt, ...]) -> None:
        for node in statements:
            if self.done:
                return
            self.statement(node)

    def statement(self, node: Stmt) -> None:
        match node:
            case Assign(Local(name), value) if name in self._once:
                self._scope[name] = self.expr(value)
            case Assign(Local(name, type_), value):
                self.emit(f"store {TYPES[type_]} {self.expr(value)}, ptr {self._scope[name]}")
            case Assign(Register(file, index), value):
                self.write_register(file, self.expr(index), self.expr(value))
            case Assign(StateField(name, index), value):
                place = None if index is None else self.expr(index)
                self.write_state(name, place, self.expr(value))
            case If(condition, then, other):
                self.emit_if(self.expr(condition), then, other)
            case While(condition, body):
                head, inner, after = self.new_label(), self.new_label(), self.new_label()
                self.jump_to(head)
                self.label(head)
                self.branch_if(self.expr(condition), inner, after)
                self.label(inner)
                self.block(body)
                if not self.done:
                    self.jump_to(head)
                self.label(after)
            case Return(None):
                self.emit_return(None, "void")
            case Return(value):
                assert value is not None
                self.emit_return(self.expr(value), TYPES[value.type])
            case Call():
                self.expr(node)

    def emit_if(self, condition: str, then: tuple[Stmt, ...], other: tuple[Stmt, ...]) -> None:
        if is_literal(condition):
            self.block(then if condition == "true" else other)
            return
        yes, no, after = self.new_label(), self.new_label(), self.new_label()
        self.branch_if(condition, yes, no if other else after)
        self.label(yes)
        self.block(then)
        ends = [self.done]
        if not self.done:
            self.jump_to(after)
        if other:
            self.label(no)
            self.block(other)
            ends.append(self.done)
            if not self.done:
                self.jump_to(after)
        if not other or not all(ends):
            self.label(after)

    def expr(self, node: Expr) -> str:
        match node:
            case Const(value, "bool"):
                return "true" if value else "false"
            case Const(value):
                return literal(value)
            case Local(name, type_):
                place = self._scope[name]
                if place.startswith("%v"):
                    return self.value(f"load {TYPES[type_]}, ptr {place}")
                return place
            case Special(name):
                return self.special(name)
            case Register(file, index):
                return self.read_register(file, self.expr(index))
            case StateField(name, index):
                return self.read_state(name, None if index is None else self.expr(index))
            case Binary(op, left, right, "bool"):
                return self.logical(op, self.expr(left), self.expr(right))
            case Binary(op, left, right):
                return self.binary(_BINARY[op], self.expr(left), self.expr(right))
            case Compare(op, left, right, is_signed):
                return self.emit_compare(op, left, right, is_signed)
            case Not(value, "bool"):
                inner = self.expr(value)
                if is_literal(inner):
                    return "false" if inner == "true" else "true"
                return self.value(f"xor i1 {inner}, true")
            case Not(value):
                return self.binary("xor", self.expr(value), "-1")
            case Select(condition, then, other, type_):
                test = self.expr(condition)
                return self.select(test, self.expr(then), self.expr(other), TYPES[type_])
            case ToWord(value):
                inner = self.expr(value)
                if is_literal(inner):
                    return "1" if inner == "true" else "0"
                return self.value(f"zext i1 {inner} to i64")
            case Call(name, args, function, type_):
                operands = [a if isinstance(a, str) else self.expr(a) for a in args]
                if function is not None:
                    return self.call_routine(function, operands)
                if name in PURE:
                    return self.pure(name, operands)
                return self.builtin(name, operands)
        raise AssertionError(node)

    def logical(self, op: str, a: str, b: str) -> str:
        for x, y in ((a, b), (b, a)):
            if is_literal(x):
                if op == "&":
                    return y if x == "true" else "false"
                return "true" if x == "true" else y
        return self.value(f"{'and' if op == '&' else 'or'} i1 {a}, {b}")

    def emit_compare(self, op: str, left: Expr, right: Expr, is_signed: bool) -> str:
        a, b = self.expr(left), self.expr(right)
        if left.type == "word" and is_literal(a) and is_literal(b):
            x, y = (int(a), int(b)) if is_signed else (int(a) & MASK, int(b) & MASK)
            return "true" if eval(f"{x} {op} {y}") else "false"
        predicate = _COMPARE[op]
        if op not in ("==", "!="):
            predicate = ("s" if is_signed else "u") + predicate
        return self.compare(predicate, a, b, TYPES[left.type])

    def pure(self, name: str, args: list[str]) -> str:
        if all(is_literal(a) for a in args):
            return literal(PURE[name](*(int(a) & MASK for a in args)))
        match name:
            case "sext" | "zext":
                bits = int(args[1])
                narrow = self.value(f"trunc i64 {args[0]} to i{bits}")
                return self.value(f"{name} i{bits} {narrow} to i64")
            case "mulhu" | "mulh" | "mulhsu":
                signs = {"mulhu": "zz", "mulh": "ss", "mulhsu": "sz"}[name]
                a, b = (
                    self.value(f"{s}ext i64 {v} to i128") for s, v in zip(signs, args, strict=True)
                )
                product = self.value(f"mul i128 {a}, {b}")
                return self.value(f"trunc i128 {self.value(f'lshr i128 {product}, 64')} to i64")
            case "divu" | "remu" | "divs" | "rems":
                op = {"divu": "udiv", "remu": "urem", "divs": "sdiv", "rems": "srem"}[name]
                return self.value(f"{op} i64 {args[0]}, {args[1]}")
            case "clz" | "ctz":
                intrinsic = "ctlz" if name == "clz" else "cttz"
                return self.value(f"call i64 @llvm.{intrinsic}.i64(i64 {args[0]}, i1 false)")
            case "cpop":
                return self.value(f"call i64 @llvm.ctpop.i64(i64 {args[0]})")
            case "bswap":
                return self.value(f"call i64 @llvm.bswap.i64(i64 {args[0]})")
        raise AssertionError(name)
