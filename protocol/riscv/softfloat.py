"""IEEE 754 binary32 and binary64 arithmetic on integers, exactly as RISC-V wants it.

The problem: the reference interpreter must not depend on the host's floating point, and translated
code needs somewhere to go for what a host lacks (the rounding mode RMM, and a fused multiply-add
on old machines). Both call the functions of this module by the names in `OPERATIONS`.

Every operation computes its result exactly, as `(-1)**sign * significand * 2**exponent` with
Python's unbounded integers, and rounds once, in `_round`. Where exactness would take infinitely
many bits (division, square root), the lowest bit of the significand is *sticky*: it is 1 when
anything but zero follows, and stands at least two places below the last bit of the result, so
rounding cannot tell the difference.

Invariants:

- An operand is a word; of a binary32 the low 32 bits count. A result is a word: a binary32 is
  zero-extended (NaN-boxing is the caller's, rv_f.py), an integer is a 64-bit register value.
- A NaN result is always the canonical NaN (RISC-V unprivileged, "NaN Generation and Propagation").
- Tininess is detected after rounding (same manual, "Floating-Point Control and Status Register").
- Functions are pure: exception flags are returned beside the result, never stored.

Read next: rv_f.py and rv_d.py, the instructions that use these operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import isqrt

RNE, RTZ, RDN, RUP, RMM = range(5)
"""Rounding modes, numbered as in `frm`: to nearest with ties to even, towards zero, down, up,
to nearest with ties to the larger magnitude."""

NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
"""Exception flags, as in `fflags`: inexact, underflow, overflow, division by zero, invalid."""

Result = tuple[int, int]
"""The word that an operation gives, and the flags that it raises."""

Finite = tuple[int, int, int]
"""`(sign, significand, exponent)`: the number `(-1)**sign * significand * 2**exponent`."""


@dataclass(frozen=True)
class Format:
    """A binary interchange format of IEEE 754-2019, section 3.6.

    `width` is in bits; `precision` counts the significand's bits, the hidden one included.
    Everything else follows from these two, and is computed once.
    """

    name: str
    width: int
    precision: int

    @cached_property
    def sign(self) -> int:
        """The sign bit."""
        return 1 << (self.width - 1)

    @cached_property
    def infinity(self) -> int:
        """Positive infinity."""
        return self.sign - (1 << (self.precision - 1))

    @cached_property
    def quiet(self) -> int:
        """The bit that makes a NaN a quiet one."""
        return 1 << (self.precision - 2)

    @cached_property
    def nan(self) -> int:
        """The canonical NaN."""
        return self.infinity | self.quiet

    @cached_property
    def one(self) -> int:
        """The number 1."""
        return (self.infinity >> 1) & self.infinity

    @cached_property
    def least_exponent(self) -> int:
        """The least positive number is 2 to this power."""
        return 3 - self.precision - (1 << (self.width - self.precision - 1))


F32 = Format("f32", 32, 24)
F64 = Format("f64", 64, 53)


def _magnitude(fmt: Format, bits: int) -> int:
    return bits & (fmt.sign - 1)


def _sign(fmt: Format, bits: int) -> int:
    return (bits >> (fmt.width - 1)) & 1


def _is_nan(fmt: Format, bits: int) -> bool:
    return _magnitude(fmt, bits) > fmt.infinity


def _is_infinite(fmt: Format, bits: int) -> bool:
    return _magnitude(fmt, bits) == fmt.infinity


def _signalling(fmt: Format, *operands: int) -> int:
    """NV if one of the operands is a signalling NaN, else no flag."""
    return NV if any(_is_nan(fmt, bits) and not bits & fmt.quiet for bits in operands) else 0


def _pack(fmt: Format, sign: int, magnitude: int) -> int:
    return (sign << (fmt.width - 1)) | magnitude


def _unpack(fmt: Format, bits: int) -> Finite:
    """The value of a finite operand."""
    fraction = bits & ((1 << (fmt.precision - 1)) - 1)
    biased = _magnitude(fmt, bits) >> (fmt.precision - 1)
    if biased == 0:
        return _sign(fmt, bits), fraction, fmt.least_exponent
    significand = fraction | 1 << (fmt.precision - 1)
    return _sign(fmt, bits), significand, fmt.least_exponent + biased - 1


def _shift_right(sign: int, significand: int, amount: int, rm: int) -> tuple[int, bool]:
    """`significand / 2**amount` as an integer, rounded by mode `rm`; and whether it is exact.

    Raises ValueError for a mode above 4: resolving `frm` and trapping are the instruction's.
    """
    if amount <= 0:
        return significand << -amount, True
    kept = significand >> amount
    twice_rest = (significand - (kept << amount)) << 1
    unit = 1 << amount
    if rm == RNE:
        up = twice_rest > unit or (twice_rest == unit and kept & 1 == 1)
    elif rm == RMM:
        up = twice_rest >= unit
    elif rm == RUP:
        up = twice_rest != 0 and sign == 0
    elif rm == RDN:
        up = twice_rest != 0 and sign == 1
    elif rm == RTZ:
        up = False
    else:
        raise ValueError(f"rounding mode {rm} is not one of 0 to 4")
    return kept + up, twice_rest == 0


def _round(fmt: Format, value: Finite, rm: int) -> Result:
    """The value in the format, rounded (IEEE 754-2019, sections 4.3 and 7.4 to 7.6)."""
    sign, significand, exponent = value
    if significand == 0:
        return _pack(fmt, sign, 0), 0
    excess = significand.bit_length() - fmt.precision
    # The exponent of the result's last place, were there no least exponent.
    free = exponent + excess
    last_place = max(free, fmt.least_exponent)
    rounded, exact = _shift_right(sign, significand, last_place - exponent, rm)
    # A normal number's hidden bit adds 1 to the exponent field, and so does a carry out of
    # rounding: out of the subnormals, into the next binade and into infinity alike.
    magnitude = ((last_place - fmt.least_exponent) << (fmt.precision - 1)) + rounded
    if magnitude >= fmt.infinity:
        away = rm in (RNE, RMM) or rm == (RDN if sign else RUP)
        return _pack(fmt, sign, fmt.infinity if away else fmt.infinity - 1), OF | NX
    if exact:
        return _pack(fmt, sign, magnitude), 0
    flags = NX
    if free < fmt.least_exponent:
        # Tiny unless rounding to full precision, with an unbounded exponent, makes it normal.
        full, _ = _shift_right(sign, significand, excess, rm)
        if free + full.bit_length() - fmt.precision < fmt.least_exponent:
            flags |= UF
    return _pack(fmt, sign, magnitude), flags


def fma(fmt: Format, a: int, b: int, c: int, rm: int) -> Result:
    """`a * b + c` rounded once. Infinity times zero is invalid even if `c` is a quiet NaN."""
    zero_times_infinity = {_magnitude(fmt, a), _magnitude(fmt, b)} == {0, fmt.infinity}
    if zero_times_infinity:
        return fmt.nan, NV
    if _is_nan(fmt, a) or _is_nan(fmt, b) or _is_nan(fmt, c):
        return fmt.nan, _signalling(fmt, a, b, c)
    sign = _sign(fmt, a) ^ _sign(fmt, b)
    if _is_infinite(fmt, a) or _is_infinite(fmt, b):
        if _is_infinite(fmt, c) and _sign(fmt, c) != sign:
            return fmt.nan, NV
        return _pack(fmt, sign, fmt.infinity), 0
    if _is_infinite(fmt, c):
        return _pack(fmt, _sign(fmt, c), fmt.infinity), 0
    _, a_significand, a_exponent = _unpack(fmt, a)
    _, b_significand, b_exponent = _unpack(fmt, b)
    c_sign, c_significand, c_exponent = _unpack(fmt, c)
    exponent = min(a_exponent + b_exponent, c_exponent)
    product = (a_significand * b_significand) << (a_exponent + b_exponent - exponent)
    addend = c_significand << (c_exponent - exponent)
    total = (-product if sign else product) + (-addend if c_sign else addend)
    if total == 0:
        # Zeros of one sign keep it; any other exact sum of zero is +0, but -0 when rounding down.
        sign = sign if sign == c_sign else int(rm == RDN)
        return _pack(fmt, sign, 0), 0
    return _round(fmt, (int(total < 0), abs(total), exponent), rm)


def add(fmt: Format, a: int, b: int, rm: int) -> Result:
    """`a + b`."""
    return fma(fmt, a, fmt.one, b, rm)


def sub(fmt: Format, a: int, b: int, rm: int) -> Result:
    """`a - b`."""
    return fma(fmt, a, fmt.one, b ^ fmt.sign, rm)


def mul(fmt: Format, a: int, b: int, rm: int) -> Result:
    """`a * b`."""
    # The zero that is added has the product's sign, so that it changes nothing, zeros included.
    return fma(fmt, a, b, (a ^ b) & fmt.sign, rm)


def div(fmt: Format, a: int, b: int, rm: int) -> Result:
    """`a / b`; division of a finite number by zero gives infinity and raises DZ."""
    if _is_nan(fmt, a) or _is_nan(fmt, b):
        return fmt.nan, _signalling(fmt, a, b)
    sign = _sign(fmt, a) ^ _sign(fmt, b)
    if _is_infinite(fmt, a):
        if _is_infinite(fmt, b):
            return fmt.nan, NV
        return _pack(fmt, sign, fmt.infinity), 0
    if _is_infinite(fmt, b):
        return _pack(fmt, sign, 0), 0
    _, a_significand, a_exponent = _unpack(fmt, a)
    _, b_significand, b_exponent = _unpack(fmt, b)
    if b_significand == 0:
        if a_significand == 0:
            return fmt.nan, NV
        return _pack(fmt, sign, fmt.infinity), DZ
    # Enough places for a quotient of precision + 2 bits, whatever the operands' lengths.
    places = fmt.precision + 2 + b_significand.bit_length()
    quotient, rest = divmod(a_significand << places, b_significand)
    sticky = int(rest != 0)
    return _round(fmt, (sign, quotient << 1 | sticky, a_exponent - b_exponent - places - 1), rm)


def sqrt(fmt: Format, a: int, rm: int) -> Result:
    """The square root of `a`; invalid below zero, and -0 for -0."""
    if _is_nan(fmt, a):
        return fmt.nan, _signalling(fmt, a)
    if _magnitude(fmt, a) == 0:
        return _pack(fmt, _sign(fmt, a), 0), 0
    if _sign(fmt, a):
        return fmt.nan, NV
    if _is_infinite(fmt, a):
        return fmt.infinity, 0
    _, significand, exponent = _unpack(fmt, a)
    places = 2 * (fmt.precision + 2) + (exponent & 1)
    radicand = significand << places
    root = isqrt(radicand)
    sticky = int(root * root != radicand)
    return _round(fmt, (0, root << 1 | sticky, (exponent - places) // 2 - 1), rm)


def _order(fmt: Format, bits: int) -> int:
    """An integer that orders all but NaNs as their values are; both zeros give 0."""
    magnitude = _magnitude(fmt, bits)
    return -magnitude if _sign(fmt, bits) else magnitude


def eq(fmt: Format, a: int, b: int) -> Result:
    """1 if `a == b`. Quiet: only a signalling NaN is invalid."""
    if _is_nan(fmt, a) or _is_nan(fmt, b):
        return 0, _signalling(fmt, a, b)
    return int(_order(fmt, a) == _order(fmt, b)), 0


def lt(fmt: Format, a: int, b: int) -> Result:
    """1 if `a < b`. Any NaN is invalid."""
    if _is_nan(fmt, a) or _is_nan(fmt, b):
        return 0, NV
    return int(_order(fmt, a) < _order(fmt, b)), 0


def le(fmt: Format, a: int, b: int) -> Result:
    """1 if `a <= b`. Any NaN is invalid."""
    if _is_nan(fmt, a) or _is_nan(fmt, b):
        return 0, NV
    return int(_order(fmt, a) <= _order(fmt, b)), 0


def convert(source: Format, target: Format, a: int, rm: int = RNE) -> Result:
    """`a` in another format. Widening is exact, so its rounding mode does not matter."""
    if _is_nan(source, a):
        return target.nan, _signalling(source, a)
    if _is_infinite(source, a):
        return _pack(target, _sign(source, a), target.infinity), 0
    return _round(target, _unpack(source, a), rm)


def from_integer(fmt: Format, width: int, signed: bool, value: int, rm: int) -> Result:
    """The integer in the low `width` bits of `value`; an integer zero gives +0."""
    value &= (1 << width) - 1
    if signed and value >> (width - 1):
        return _round(fmt, (1, (1 << width) - value, 0), rm)
    return _round(fmt, (0, value, 0), rm)


def to_integer(fmt: Format, width: int, signed: bool, a: int, rm: int) -> Result:
    """`a` as an integer of `width` bits, sign-extended to 64 (unsigned ones too).

    What does not fit after rounding is invalid (and not inexact) and gives the nearest integer
    that there is; so do the infinities, and a NaN gives the greatest.
    """
    greatest = (1 << (width - signed)) - 1
    least = -1 - greatest if signed else 0
    flags = 0
    if _is_nan(fmt, a):
        value, flags = greatest, NV
    elif _is_infinite(fmt, a):
        value, flags = (least if _sign(fmt, a) else greatest), NV
    else:
        sign, significand, exponent = _unpack(fmt, a)
        rounded, exact = _shift_right(sign, significand, -exponent, rm)
        exact_or_not = -rounded if sign else rounded
        value = min(max(exact_or_not, least), greatest)
        flags = NV if value != exact_or_not else 0 if exact else NX
    extended = (value & (1 << width) - 1) | (-(value >> (width - 1) & 1) << width)
    return extended & (1 << 64) - 1, flags


def _operations(fmt: Format) -> dict[str, Callable[..., Result]]:
    functions = (add, sub, mul, div, sqrt, fma, eq, lt, le)
    table: dict[str, Callable[..., Result]] = {
        f"{fmt.name}_{function.__name__}": partial(function, fmt) for function in functions
    }
    integers = {"i32": (32, True), "u32": (32, False), "i64": (64, True), "u64": (64, False)}
    for name, (width, signed) in integers.items():
        table[f"{fmt.name}_from_{name}"] = partial(from_integer, fmt, width, signed)
        table[f"{fmt.name}_to_{name}"] = partial(to_integer, fmt, width, signed)
    return table


OPERATIONS: dict[str, Callable[..., Result]] = {
    **_operations(F32),
    **_operations(F64),
    "f64_to_f32": partial(convert, F64, F32),
    "f32_to_f64": partial(convert, F32, F64),
}
"""The floating-point builtins of the semantics language by name (language.py).

Each takes its operands' words, then the rounding mode (0 to 4) where the builtin has one, and
returns the result's word and the flags raised. A comparison's word is 0 or 1.
"""
