"""Semantics functions compiled to Python over ints: the reference interpreter's side of the ISA.

Each `language.Function` becomes one Python function `f(hart, *operands)`. Words are ints in
[0, 2**64): the generated text masks after every operation that can leave the range. What is not
pure goes to the hart object, one method per builtin: `hart.load(addr, n)`, `hart.trap(cause, tval)`
(which must raise), `hart.branch(imm)`, `hart.f64_add(a, b, rm)`, ...; state fields are attributes,
register files the lists `hart.x` and `hart.f`.

Read next: `reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.riscv.language import (
    MASK,
    PURE_BUILTINS,
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

_M = hex(MASK)
_SIGN = 1 << 63


def _s(value: int) -> int:
    return value - (1 << 64) if value & _SIGN else value


def _sext(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return (value - (1 << bits)) & MASK if value >> (bits - 1) else value


def _divs(a: int, b: int) -> int:
    x, y = _s(a), _s(b)
    quotient = abs(x) // abs(y)
    return (-quotient if (x < 0) != (y < 0) else quotient) & MASK


def _rems(a: int, b: int) -> int:
    x, y = _s(a), _s(b)
    rest = abs(x) % abs(y)
    return (-rest if x < 0 else rest) & MASK


PURE: dict[str, Callable[..., int]] = {
    "sext": _sext,
    "zext": lambda v, bits: v & ((1 << bits) - 1),
    "mulhu": lambda a, b: (a * b) >> 64,
    "mulh": lambda a, b: ((_s(a) * _s(b)) >> 64) & MASK,
    "mulhsu": lambda a, b: ((_s(a) * b) >> 64) & MASK,
    "divu": lambda a, b: a // b,
    "remu": lambda a, b: a % b,
    "divs": _divs,
    "rems": _rems,
    "clz": lambda v: 64 - v.bit_length(),
    "ctz": lambda v: (v & -v).bit_length() - 1 if v else 64,
    "cpop": lambda v: v.bit_count(),
    "bswap": lambda v: int.from_bytes(v.to_bytes(8, "little"), "big"),
}
assert PURE.keys() == PURE_BUILTINS


def _expr(node: Expr) -> str:
    match node:
        case Const(value, "bool"):
            return str(bool(value))
        case Const(value):
            return hex(value)
        case Local(name):
            return f"v_{name}"
        case Special(name):
            return f"hart.{name}"
        case Register(file, index):
            return f"hart.{file.lower()}[{_expr(index)}]"
        case StateField(name, None):
            return f"hart.{name}"
        case StateField(name, index):
            assert index is not None
            return f"hart.{name}[{_expr(index)}]"
        case Binary(">>s", left, right):
            return f"((_s({_expr(left)}) >> {_expr(right)}) & {_M})"
        case Binary("&" | "|" as op, left, right, "bool"):
            return f"({_expr(left)} {op} {_expr(right)})"
        case Binary(op, left, right):
            text = f"({_expr(left)} {op} {_expr(right)})"
            return f"({text} & {_M})" if op in "+-*<<" else text
        case Compare(op, left, right, True):
            return f"(_s({_expr(left)}) {op} _s({_expr(right)}))"
        case Compare(op, left, right):
            return f"({_expr(left)} {op} {_expr(right)})"
        case Not(value, "bool"):
            return f"(not {_expr(value)})"
        case Not(value):
            return f"({_expr(value)} ^ {_M})"
        case Select(condition, then, other):
            return f"({_expr(then)} if {_expr(condition)} else {_expr(other)})"
        case ToWord(value):
            return f"int({_expr(value)})"
        case Call(name, args, target):
            texts = [repr(a) if isinstance(a, str) else _expr(a) for a in args]
            if target is not None:
                return f"{_routine_name(target)}({', '.join(['hart', *texts])})"
            prefix = "" if name in PURE_BUILTINS else "hart."
            return f"{prefix}{name}({', '.join(texts)})"
    raise AssertionError(node)


def _block(body: tuple[Stmt, ...], indent: str) -> list[str]:
    out: list[str] = []
    for node in body:
        match node:
            case Assign(Register("X", index), value):
                # The value's effects are there with x0 as the destination too.
                out.append(f"{indent}t_value = {_expr(value)}")
                out.append(f"{indent}if (t_index := {_expr(index)}): hart.x[t_index] = t_value")
            case Assign(target, value):
                out.append(f"{indent}{_expr(target)} = {_expr(value)}")
            case If(condition, then, other):
                out.append(f"{indent}if {_expr(condition)}:")
                out += _block(then, indent + " ") or [f"{indent} pass"]
                if other:
                    out += [f"{indent}else:", *_block(other, indent + " ")]
            case While(condition, inner):
                out.append(f"{indent}while {_expr(condition)}:")
                out += _block(inner, indent + " ")
            case Return(None):
                out.append(f"{indent}return")
            case Return(value):
                assert value is not None
                out.append(f"{indent}return {_expr(value)}")
            case Call():
                out.append(f"{indent}{_expr(node)}")
    return out


def _routine_name(function: Function) -> str:
    return f"f_{function.name}_{id(function):x}"


_COMPILED: dict[Function, Callable[..., Any]] = {}
_NAMESPACE: dict[str, Any] = {"_s": _s, **PURE}


def source(function: Function) -> str:
    """The generated Python text of one function."""
    params = ", ".join(["hart", *(f"v_{p}" for p in function.params)])
    body = _block(function.body, " ") or [" pass"]
    return "\n".join([f"def {_routine_name(function)}({params}):", *body])


def compile_function(function: Function) -> Callable[..., Any]:
    """`f(hart, *operands)`; its callees are compiled with it.

    Raises `LanguageError` when the source leaves the language.
    """
    found = _COMPILED.get(function)
    if found is None:
        for callee in function.callees:
            compile_function(callee)
        exec(compile(source(function), f"<semantics {function.name}>", "exec"), _NAMESPACE)
        found = _COMPILED[function] = _NAMESPACE[_routine_name(function)]
    return found
