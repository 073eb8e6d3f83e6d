"""Floating point on the host's SSE unit, exact to the flag.

The problem: RISC-V wants IEEE results, rounding modes, sticky flags and one canonical NaN. On
x86-64 the SSE unit gives all of it but the NaN, and both detect tininess after rounding; MXCSR
holds the guest's rounding mode and its sticky flags while guest code runs. Constrained intrinsics
keep LLVM from folding or speculating.

Two layers: `@host_<op>` is the operation itself under the mode MXCSR has, for handlers and regions
that have checked their preconditions (see `HOST_CONDITION`); `@fp_<op>(hart, operands, rm)` is
complete: it sets another rounding mode for one operation, and what the unit lacks (round to nearest
with ties to max magnitude, conversions that saturate) goes to the machine process, which computes
it with `protocol/riscv/softfloat.py`.

Invariants: MXCSR's exceptions stay masked and its flush modes off; flags raised by software are in
`hart.fflags`, those of the unit in MXCSR, and `fflags` is both.

Source: RISC-V unprivileged architecture, chapters F and D; Intel SDM vol. 1, sections 10.2.3, 11.5.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from protocol.layout import HART
from protocol.riscv.language import BUILTINS, FP_BUILTINS

OPERATIONS = tuple(sorted(FP_BUILTINS))  # a callback names an operation by its index here

TYPE = {"f32": "float", "f64": "double"}
INTEGER = {"f32": "i32", "f64": "i64"}
STRICT = 'metadata !"fpexcept.strict"'
DYNAMIC = f'metadata !"round.dynamic", {STRICT}'
UNORDERED = f'metadata !"uno", {STRICT}'
NOT_LESS = f'metadata !"uge", {STRICT}'
# Magnitudes below these convert without saturating, whatever the rounding mode.
_LIMIT = {
    ("f32", "i32"): 0x4F000000,
    ("f32", "u32"): 0x4F800000,
    ("f32", "i64"): 0x5F000000,
    ("f32", "u64"): 0x5F000000,
    ("f64", "i32"): 0x41DFFFFFFFC00000,
    ("f64", "u32"): 0x41EFFFFFFFE00000,
    ("f64", "i64"): 0x43E0000000000000,
    ("f64", "u64"): 0x43E0000000000000,
}
_MAGNITUDE = {"f32": 0x7FFFFFFF, "f64": 0x7FFFFFFFFFFFFFFF}
CANONICAL_NAN = {"f32": 0x7FC00000, "f64": 0x7FF8000000000000}
# The same as LLVM writes floating-point literals: a double's bits, for a float too.
CANONICAL_LITERAL = {"f32": "0x7FF8000000000000", "f64": "0x7FF8000000000000"}
HOST_ROUNDING = {"0": 0, "2": 1, "3": 2}  # rm -> the immediate of roundsd
VECTOR = {"f32": "<4 x float>", "f64": "<2 x double>"}
EXTREME = {"f32": "@llvm.x86.sse.{}.ss", "f64": "@llvm.x86.sse2.{}.sd"}


def takes_rounding(op: str) -> bool:
    """Whether the builtin's last operand is a rounding mode."""
    return not op.endswith(("_lt", "_le", "_eq")) and op != "f32_to_f64"


def has_condition(op: str) -> bool:
    """Whether `@host_<op>` holds for some operands only (`@can_<op>` tells)."""
    return "_to_i" in op or "_to_u" in op or op.endswith("_from_u64")


def constrained(result: str, name: str, args: Sequence[str], metadata: str) -> tuple[str, str]:
    """(declaration, call) of a constrained intrinsic; `args` are operands with their types."""
    intrinsic = f"@llvm.experimental.constrained.{name}"
    types = ", ".join(a.split()[0] for a in args) + ", metadata" * metadata.count("metadata")
    call = f"call {result} {intrinsic}({', '.join(args)}, {metadata}) strictfp"
    return f"declare {result} {intrinsic}({types})", call


def ordered(predicate: str) -> str:
    """The metadata of a comparison `lt`, `le` or `eq`."""
    return f'metadata !"o{predicate}", {STRICT}'


def _unpack(name: str, fmt: str) -> str:
    if fmt == "f64":
        return f"  %{name}.f = bitcast i64 %{name} to double\n"
    return f"  %{name}.n = trunc i64 %{name} to i32\n  %{name}.f = bitcast i32 %{name}.n to float\n"


def _pack(fmt: str) -> str:
    """Canonicalise %r and return it."""
    integer, real = INTEGER[fmt], TYPE[fmt]
    text = (
        f"  %isnan = call i1 @llvm.experimental.constrained.fcmp.{fmt}({real} %r, {real} %r, "
        f'metadata !"uno", {STRICT}) strictfp\n'
        f"  %bits = bitcast {real} %r to {integer}\n"
        f"  %safe = select i1 %isnan, {integer} {CANONICAL_NAN[fmt]}, {integer} %bits\n"
    )
    if fmt == "f32":
        return text + "  %wide = zext i32 %safe to i64\n  ret i64 %wide\n"
    return text + "  ret i64 %safe\n"


def _function(name: str, params: str, body: str, result: str = "i64", inline: bool = True) -> str:
    attribute = "alwaysinline" if inline else "noinline"
    return (
        f"define internal {result} @{name}({params}) nounwind strictfp {attribute} {{\n{body}}}\n"
    )


def _host(op: str, declarations: set[str]) -> str:
    """The text of `@host_<op>`."""
    fmt, _, rest = op.partition("_")
    real = TYPE[fmt]
    name = f"host_{op}"

    def call(result: str, intrinsic: str, args: list[str], metadata: str) -> str:
        declaration, text = constrained(result, intrinsic, args, metadata)
        declarations.add(declaration)
        return text

    if rest in ("add", "sub", "mul", "div"):
        r = call(real, f"f{rest}.{fmt}", [f"{real} %a.f", f"{real} %b.f"], DYNAMIC)
        body = _unpack("a", fmt) + _unpack("b", fmt) + f"  %r = {r}\n" + _pack(fmt)
        return _function(name, "i64 %a, i64 %b", body)
    if rest == "sqrt":
        r = call(real, f"sqrt.{fmt}", [f"{real} %a.f"], DYNAMIC)
        return _function(name, "i64 %a", _unpack("a", fmt) + f"  %r = {r}\n" + _pack(fmt))
    if rest == "fma":
        r = call(real, f"fma.{fmt}", [f"{real} %{x}.f" for x in "abc"], DYNAMIC)
        body = "".join(_unpack(x, fmt) for x in "abc") + f"  %r = {r}\n" + _pack(fmt)
        return _function(name, "i64 %a, i64 %b, i64 %c", body)
    if rest in ("lt", "le", "eq"):
        kind = "fcmp" if rest == "eq" else "fcmps"
        r = call(
            "i1",
            f"{kind}.{fmt}",
            [f"{real} %a.f", f"{real} %b.f"],
            ordered(rest),
        )
        body = _unpack("a", fmt) + _unpack("b", fmt) + f"  %r = {r}\n  ret i1 %r\n"
        return _function(name, "i64 %a, i64 %b", body, "i1")
    if rest == "to_f32":
        r = call("float", "fptrunc.f32.f64", ["double %a.f"], DYNAMIC)
        return _function(name, "i64 %a", _unpack("a", fmt) + f"  %r = {r}\n" + _pack("f32"))
    if rest == "to_f64":
        r = call("double", "fpext.f64.f32", ["float %a.f"], STRICT)
        return _function(name, "i64 %a", _unpack("a", fmt) + f"  %r = {r}\n" + _pack("f64"))
    if rest.startswith("from_"):
        kind = rest[5:]
        if kind.endswith("64"):
            source, body = "i64 %a", ""
        elif kind == "i32":
            source, body = "i32 %n", "  %n = trunc i64 %a to i32\n"
        else:
            source, body = "i64 %n", "  %n = and i64 %a, 4294967295\n"
        r = call(real, f"sitofp.{fmt}.{source.split()[0]}", [source], DYNAMIC)
        return _function(name, "i64 %a", body + f"  %r = {r}\n" + _pack(fmt))
    # to_i32 and its like: truncating; 32-bit results are sign-extended
    width = "i32" if rest == "to_i32" else "i64"
    r = call(width, f"fptosi.{width}.{fmt}", [f"{real} %a.f"], STRICT)
    body = _unpack("a", fmt) + f"  %r = {r}\n" + _extend(rest)
    return _function(name, "i64 %a", body)


def _extend(rest: str) -> str:
    if rest == "to_i32":
        return "  %w = sext i32 %r to i64\n  ret i64 %w\n"
    if rest == "to_u32":
        return "  %n = trunc i64 %r to i32\n  %w = sext i32 %n to i64\n  ret i64 %w\n"
    return "  ret i64 %r\n"


def _condition(op: str) -> str:
    """`@can_<op>(a)`: whether the host's instruction gives RISC-V's result."""
    fmt, _, rest = op.partition("_")
    if rest == "from_u64":
        return _function(f"can_{op}", "i64 %a", "  %r = icmp sge i64 %a, 0\n  ret i1 %r\n", "i1")
    kind = rest[3:]
    limit = _LIMIT[fmt, kind]
    masked = "%a" if kind[0] == "u" else "%m"  # unsigned: a sign bit makes the number too large
    body = f"  %m = and i64 %a, {_MAGNITUDE[fmt]}\n"
    body += f"  %r = icmp ult i64 {masked}, {limit}\n  ret i1 %r\n"
    return _function(f"can_{op}", "i64 %a", body, "i1")


def _rounded_conversion(op: str, declarations: set[str]) -> str:
    """`@round_<op>(a)`: conversion to an integer by MXCSR's rounding mode (operands that `can`)."""
    fmt, _, rest = op.partition("_")
    unit = "sse" if fmt == "f32" else "sse2"
    letter, lanes = ("ss", 4) if fmt == "f32" else ("sd", 2)
    wide = "" if rest == "to_i32" else "64"
    result = "i32" if rest == "to_i32" else "i64"
    vector = f"<{lanes} x {TYPE[fmt]}>"
    intrinsic = f"@llvm.x86.{unit}.cvt{letter}2si{wide}"
    declarations.add(f"declare {result} {intrinsic}({vector})")
    body = _unpack("a", fmt)
    body += f"  %v = insertelement {vector} zeroinitializer, {TYPE[fmt]} %a.f, i32 0\n"
    body += f"  %r = call {result} {intrinsic}({vector} %v)\n" + _extend(rest)
    return _function(f"round_{op}", "i64 %a", body, inline=False)


def _complete(op: str) -> str:
    """The text of `@fp_<op>`: any operands, any rounding mode 0 to 4."""
    count, result = BUILTINS[op]
    result = "i1" if result == "bool" else "i64"
    rounds = takes_rounding(op)
    names = ["a", "b", "c"][: count - rounds]
    operands = ", ".join(f"i64 %{n}" for n in names)
    params = f"ptr %hart, {operands}" + (", i64 %rm" if rounds else "")
    if not rounds:
        return _function(
            f"fp_{op}",
            params,
            f"  %r = call {result} @host_{op}({operands})\n  ret {result} %r\n",
            result,
            False,
        )
    padded = ", ".join(f"i64 %{n}" if n in names else "i64 0" for n in "abc")
    body = "  %isrmm = icmp eq i64 %rm, 4\n  br i1 %isrmm, label %soft, label %hard\n"
    body += "hard:\n"
    if has_condition(op):
        body += (
            "  %can = call i1 @can_"
            + op
            + "(i64 %a)\n  br i1 %can, label %host, label %soft\nhost:\n"
        )
    body += "  %old = call i64 @fp_begin(ptr %hart, i64 %rm)\n"
    if "_to_i" in op or "_to_u" in op:
        body += "  %istrunc = icmp eq i64 %rm, 1\n"
        body += "  br i1 %istrunc, label %trunc, label %round\ntrunc:\n"
        body += f"  %x = call i64 @host_{op}(i64 %a)\n  br label %end\nround:\n"
        body += f"  %y = call i64 @round_{op}(i64 %a)\n  br label %end\nend:\n"
        body += "  %r = phi i64 [ %x, %trunc ], [ %y, %round ]\n"
    else:
        body += f"  %r = call i64 @host_{op}({operands})\n"
    body += "  call void @fp_end(ptr %hart, i64 %old)\n"
    if op.endswith("_fma"):
        body += f"  call void @fp_fma_invalid_{op[:3]}(ptr %hart, {operands}, i64 %r)\n"
    body += "  ret i64 %r\nsoft:\n"
    number = OPERATIONS.index(op)
    body += f"  %s = call i64 @fp_soft(ptr %hart, i64 {number}, {padded}, i64 %rm)\n  ret i64 %s\n"
    return _function(f"fp_{op}", params, body, "i64", False)


def _fma_invalid(fmt: str) -> str:
    """infinity times zero is invalid even when the addend is a quiet NaN; the host disagrees."""
    infinity = {"f32": 0x7F800000, "f64": 0x7FF0000000000000}[fmt]
    body = f"""  %isnan = icmp eq i64 %r, {CANONICAL_NAN[fmt]}
  br i1 %isnan, label %look, label %done
look:
  %am = and i64 %a, {_MAGNITUDE[fmt]}
  %bm = and i64 %b, {_MAGNITUDE[fmt]}
  %or = or i64 %am, %bm
  %low = icmp eq i64 %am, 0
  %low2 = icmp eq i64 %bm, 0
  %zero = or i1 %low, %low2
  %inf = icmp eq i64 %or, {infinity}
  %bad = and i1 %zero, %inf
  br i1 %bad, label %raise, label %done
raise:
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("fflags")}
  %f = load i64, ptr %p
  %g = or i64 %f, 16
  store i64 %g, ptr %p
  br label %done
done:
  ret void
"""
    params = "ptr %hart, i64 %a, i64 %b, i64 %c, i64 %r"
    return _function(f"fp_fma_invalid_{fmt}", params, body, "void")


_STATE = f"""
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

; The MXCSR control bits of a rounding mode 0 to 3 (anything else: to nearest).
define internal i64 @fp_control(i64 %rm) nounwind alwaysinline {{
  %known = icmp ult i64 %rm, 4
  %mode = select i1 %known, i64 %rm, i64 0
  %shift = shl i64 %mode, 1
  ; RNE 0, RTZ 3, RDN 1, RUP 2, two bits each
  %table = lshr i64 {0 | 3 << 2 | 1 << 4 | 2 << 6}, %shift
  %bits = and i64 %table, 3
  %r = shl i64 %bits, 13
  ret i64 %r
}}
define internal void @fp_set_control(ptr %hart, i64 %rm) nounwind strictfp noinline {{
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("mxcsr")}
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  %old = load i64, ptr %p
  %kept = and i64 %old, {~0x6000}
  %bits = call i64 @fp_control(i64 %rm)
  %new = or i64 %kept, %bits
  store i64 %new, ptr %p
  call void @llvm.x86.sse.ldmxcsr(ptr %p)
  ret void
}}
define internal void @fp_sync_rounding(ptr %hart) nounwind strictfp {{
  %f = getelementptr i8, ptr %hart, i64 {HART.offset("frm")}
  %frm = load i64, ptr %f
  call void @fp_set_control(ptr %hart, i64 %frm)
  ret void
}}
define internal i64 @fp_begin(ptr %hart, i64 %rm) nounwind strictfp noinline {{
  %f = getelementptr i8, ptr %hart, i64 {HART.offset("frm")}
  %frm = load i64, ptr %f
  %same = icmp eq i64 %frm, %rm
  br i1 %same, label %done, label %change
change:
  call void @fp_set_control(ptr %hart, i64 %rm)
  br label %done
done:
  %old = phi i64 [ 8, %0 ], [ %frm, %change ]
  ret i64 %old
}}
define internal void @fp_end(ptr %hart, i64 %old) nounwind strictfp noinline {{
  %same = icmp eq i64 %old, 8
  br i1 %same, label %done, label %change
change:
  call void @fp_set_control(ptr %hart, i64 %old)
  br label %done
done:
  ret void
}}
define internal i64 @fp_flags(ptr %hart) nounwind strictfp noinline {{
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("mxcsr")}
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  %m = load i64, ptr %p
  %nv = and i64 %m, 1
  %nv4 = shl i64 %nv, 4
  %dz = and i64 %m, 4
  %dz3 = shl i64 %dz, 1
  %of = and i64 %m, 8
  %of2 = lshr i64 %of, 1
  %uf = and i64 %m, 16
  %uf1 = lshr i64 %uf, 3
  %nx = and i64 %m, 32
  %nx0 = lshr i64 %nx, 5
  %a = or i64 %nv4, %dz3
  %b = or i64 %of2, %uf1
  %c = or i64 %a, %b
  %d = or i64 %c, %nx0
  %f = getelementptr i8, ptr %hart, i64 {HART.offset("fflags")}
  %s = load i64, ptr %f
  %r = or i64 %d, %s
  ret i64 %r
}}
define internal void @fp_set_flags(ptr %hart, i64 %v) nounwind strictfp noinline {{
  %f = getelementptr i8, ptr %hart, i64 {HART.offset("fflags")}
  %five = and i64 %v, 31
  store i64 %five, ptr %f
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("mxcsr")}
  call void @llvm.x86.sse.stmxcsr(ptr %p)
  %m = load i64, ptr %p
  %n = and i64 %m, {~0x3F}
  store i64 %n, ptr %p
  call void @llvm.x86.sse.ldmxcsr(ptr %p)
  ret void
}}
define internal i64 @fp_soft(ptr %hart, i64 %op, i64 %a, i64 %b, i64 %c, i64 %rm)
    nounwind noinline {{
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("host_fp")}
  %f = load ptr, ptr %p
  %r = call i64 @call_python(ptr %hart, ptr %f, i64 %op, i64 %a, i64 %b, i64 %c, i64 %rm)
  ret i64 %r
}}
"""


def _compare_declaration(fmt: str) -> str:
    real = TYPE[fmt]
    name = f"@llvm.experimental.constrained.fcmp.{fmt}"
    return f"declare i1 {name}({real}, {real}, metadata, metadata)"


def text() -> str:
    """All of it, with the declarations of the intrinsics."""
    declarations: set[str] = set()
    parts = []
    for op in OPERATIONS:
        parts.append(_host(op, declarations))
        if has_condition(op):
            parts.append(_condition(op))
        if "_to_i" in op or "_to_u" in op:
            parts.append(_rounded_conversion(op, declarations))
        parts.append(_complete(op))
    for fmt in ("f32", "f64"):
        parts.append(_fma_invalid(fmt))
        declarations.add(_compare_declaration(fmt))
    return "\n".join([*sorted(declarations), _STATE, *parts])


# --- for regions, whose values are doubles and floats ---------------------------------------------


@functools.cache
def condition_parts(op: str) -> tuple[str, ...]:
    """The text of `@can_<op>`."""
    return (_condition(op),)


@functools.cache
def fused_parts(form: str) -> tuple[str, ...]:
    """`@fp_fused_<form>(hart, a, b, result)`: the flag that the host may have left out."""
    real, integer = TYPE[form], INTEGER[form]
    extend = "bitcast i64 %{0}.n to i64" if form == "f64" else "zext i32 %{0}.n to i64"
    body = "".join(
        f"  %{x}.n = bitcast {real} %{x}.f to {integer}\n  %{x} = {extend.format(x)}\n"
        for x in "abr"
    )
    body += f"""  %nan = call i1 @llvm.experimental.constrained.fcmp.{form}({real} %r.f,
    {real} %r.f, {UNORDERED}) strictfp
  %canonical = select i1 %nan, i64 {CANONICAL_NAN[form]}, i64 0
  call void @fp_fma_invalid_{form}(ptr %hart, i64 %a, i64 %b, i64 0, i64 %canonical)
  ret void
"""
    params = f"ptr %hart, {real} %a.f, {real} %b.f, {real} %r.f"
    head = f"define internal preserve_allcc void @fp_fused_{form}({params}) nounwind strictfp "
    text = f"{head}noinline {{\n{body}}}\n"
    return _compare_declaration(form), _fma_invalid(form), text


@functools.cache
def settle_parts(form: str) -> tuple[str, ...]:
    """`@fp_settle_<form>(ptr)`: the canonical NaN, if a NaN is there."""
    real, integer = TYPE[form], INTEGER[form]
    text = f"""define internal void @fp_settle_{form}(ptr %p) nounwind strictfp noinline {{
  %v = load {real}, ptr %p
  %nan = call i1 @llvm.experimental.constrained.fcmp.{form}({real} %v, {real} %v,
    {UNORDERED}) strictfp
  br i1 %nan, label %odd, label %done
odd:
  store {integer} {CANONICAL_NAN[form]}, ptr %p
  br label %done
done:
  ret void
}}
"""
    return _compare_declaration(form), text


@functools.cache
def number_parts(form: str) -> tuple[str, ...]:
    """`@fp_number_<form>(hart, a, b)`: minimum or maximum, when one of the two is a NaN."""
    real, integer = TYPE[form], INTEGER[form]
    quiet = {"f32": 0x00400000, "f64": 0x0008000000000000}[form]
    compare = f"call i1 @llvm.experimental.constrained.fcmp.{form}"
    head = f"define internal preserve_allcc {real} @fp_number_{form}"
    text = f"""{head}(ptr %hart, {real} %a, {real} %b) nounwind strictfp noinline {{
  %a.nan = {compare}({real} %a, {real} %a, {UNORDERED}) strictfp
  %b.nan = {compare}({real} %b, {real} %b, {UNORDERED}) strictfp
  %a.bits = bitcast {real} %a to {integer}
  %b.bits = bitcast {real} %b to {integer}
  %a.quiet = and {integer} %a.bits, {quiet}
  %b.quiet = and {integer} %b.bits, {quiet}
  %a.loud = icmp eq {integer} %a.quiet, 0
  %b.loud = icmp eq {integer} %b.quiet, 0
  %a.signals = and i1 %a.nan, %a.loud
  %b.signals = and i1 %b.nan, %b.loud
  %signals = or i1 %a.signals, %b.signals
  %flag = select i1 %signals, i64 16, i64 0
  %p = getelementptr i8, ptr %hart, i64 {HART.offset("fflags")}
  %old = load i64, ptr %p
  %new = or i64 %old, %flag
  store i64 %new, ptr %p
  %one = select i1 %a.nan, {real} %b, {real} %a
  %both = and i1 %a.nan, %b.nan
  %r = select i1 %both, {real} {CANONICAL_LITERAL[form]}, {real} %one
  ret {real} %r
}}
"""
    return _compare_declaration(form), text
