"""Floating-point results and flags, against three witnesses.

The manual's own statements, case by case; exact rational arithmetic, for every rounding mode, by
an oracle that shares no method with the code under test (it searches for the two neighbours of
the exact value); and the host's SSE unit, for the four modes that it has.
"""

import platform
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.riscv.language import FP_BUILTINS
from protocol.riscv.softfloat import F32, F64, OPERATIONS, Format
from tests.protocol.riscv.sse import SHAPES, SSE_ROUNDING, HostOperation, host_operations

RNE, RTZ, RDN, RUP, RMM = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
FORMATS = [pytest.param(F32, id="f32"), pytest.param(F64, id="f64")]
MASK64 = (1 << 64) - 1


def bits64(value: float) -> int:
    return int.from_bytes(struct.pack("<d", value), "little")


def bits32(value: float) -> int:
    return int.from_bytes(struct.pack("<f", value), "little")


def bits_of(fmt: Format, value: float) -> int:
    return bits32(value) if fmt is F32 else bits64(value)


def value_of(fmt: Format, bits: int) -> Fraction:
    code = "<f" if fmt is F32 else "<d"
    return Fraction(struct.unpack(code, bits.to_bytes(fmt.width // 8, "little"))[0])


def finite(fmt: Format, bits: int) -> bool:
    return bits & (fmt.sign - 1) < fmt.infinity


def edges(fmt: Format) -> list[int]:
    """Both zeros, infinities and kinds of NaN; the ends of each range; and small numbers."""
    least_normal = 1 << (fmt.precision - 1)
    magnitudes = [
        *(0, 1, 2, least_normal - 1, least_normal, least_normal + 1),
        *(fmt.infinity - 1, fmt.infinity, fmt.infinity | 1, fmt.nan, fmt.nan | 5),
        *(fmt.one - 1, fmt.one, fmt.one + 1),
        *(bits_of(fmt, x) for x in (0.5, 1.5, 2.0, 2.5, 3.0, 1e-30, 1e30)),
        *(bits_of(fmt, x) for x in (2.0**31, 2.0**32, 2.0**62, 2.0**63, 2.0**64)),
    ]
    return [magnitude | sign for magnitude in magnitudes for sign in (0, fmt.sign)]


def near(fmt: Format, rng: random.Random, other: int) -> int:
    """A random operand that is likely to meet `other` in cancellation, ties or range ends."""
    bias = (1 << (fmt.width - fmt.precision - 1)) - 1
    greatest = 2 * bias + 1
    exponent = rng.choice(
        [
            rng.randrange(greatest),
            bias + rng.randrange(-3, 4),
            ((other & (fmt.sign - 1)) >> (fmt.precision - 1)) + rng.randrange(-60, 60),
            2 * bias - ((other & (fmt.sign - 1)) >> (fmt.precision - 1)) + rng.randrange(-30, 30),
            bias - bias // 2 + rng.randrange(-30, 30),
        ]
    )
    exponent = min(max(exponent, 0), greatest)
    top = fmt.precision - 1
    fraction = rng.choice(
        [
            rng.getrandbits(top),
            rng.getrandbits(4) << (top - 4),
            (1 << top) - 1 - rng.getrandbits(3),
            rng.getrandbits(2),
            other & ((1 << top) - 1),
        ]
    )
    return rng.getrandbits(1) << (fmt.width - 1) | exponent << top | fraction


# --- the manual's statements --------------------------------------------------------------------


@pytest.mark.parametrize("fmt", FORMATS)
def test_invalid_operations_give_the_canonical_nan(fmt: Format) -> None:
    infinity, zero, one = fmt.infinity, 0, fmt.one
    minus = fmt.sign
    quiet, signalling = fmt.nan | minus | 3, fmt.infinity | 1
    invalid: dict[str, list[tuple[int, ...]]] = {
        "add": [(infinity, infinity | minus), (signalling, one), (one, signalling)],
        "sub": [(infinity, infinity), (signalling, quiet)],
        "mul": [(infinity, zero), (minus, infinity), (quiet, signalling)],
        "div": [(zero, zero), (infinity, minus | infinity), (one, signalling)],
        "sqrt": [(minus | one,), (minus | infinity,), (minus | 1,), (signalling,)],
        "fma": [
            (infinity, zero, one),
            (zero, infinity, quiet),
            (infinity, one, infinity | minus),
            (quiet, quiet, signalling),
        ],
    }
    for name, cases in invalid.items():
        for operands in cases:
            assert OPERATIONS[f"{fmt.name}_{name}"](*operands, RNE) == (fmt.nan, NV), (
                name,
                operands,
            )
    propagated: dict[str, tuple[int, ...]] = {
        "add": (quiet, one),
        "sub": (one, quiet),
        "mul": (quiet, zero),
        "div": (quiet, zero),
        "sqrt": (quiet,),
        "fma": (one, one, quiet),
    }
    for name, operands in propagated.items():
        assert OPERATIONS[f"{fmt.name}_{name}"](*operands, RNE) == (fmt.nan, 0)


@pytest.mark.parametrize("fmt", FORMATS)
def test_division_by_zero(fmt: Format) -> None:
    div = OPERATIONS[f"{fmt.name}_div"]
    assert div(fmt.one, fmt.sign, RNE) == (fmt.infinity | fmt.sign, DZ)
    assert div(fmt.infinity, 0, RNE) == (fmt.infinity, 0)
    assert div(fmt.one, fmt.infinity | fmt.sign, RNE) == (fmt.sign, 0)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("rm", range(5))
def test_signs_of_zero(fmt: Format, rm: int) -> None:
    minus, one = fmt.sign, fmt.one
    cancelled = minus if rm == RDN else 0
    add, sub, mul, fma, sqrt = (
        OPERATIONS[f"{fmt.name}_{name}"] for name in ("add", "sub", "mul", "fma", "sqrt")
    )
    assert add(one, one | minus, rm) == (cancelled, 0)
    assert add(0, minus, rm) == (cancelled, 0)
    assert add(minus, minus, rm) == (minus, 0)
    assert sub(minus, 0, rm) == (minus, 0)
    assert sub(0, 0, rm) == (cancelled, 0)
    assert mul(minus, one, rm) == (minus, 0)
    assert mul(minus, minus, rm) == (0, 0)
    assert fma(one, one, one | minus, rm) == (cancelled, 0)
    assert fma(0, one | minus, minus, rm) == (minus, 0)
    assert sqrt(minus, rm) == (minus, 0)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("rm", "positive", "negative"),
    [(RNE, 0, 0), (RTZ, 1, 1), (RDN, 1, 0), (RUP, 0, 1), (RMM, 0, 0)],
)
def test_overflow_gives_infinity_or_the_greatest(
    fmt: Format, rm: int, positive: int, negative: int
) -> None:
    greatest, minus = fmt.infinity - 1, fmt.sign
    add = OPERATIONS[f"{fmt.name}_add"]
    assert add(greatest, greatest, rm) == (fmt.infinity - positive, OF | NX)
    assert add(greatest | minus, greatest | minus, rm) == (
        (fmt.infinity - negative) | minus,
        OF | NX,
    )


def test_tininess_is_detected_after_rounding() -> None:
    """Two inexact products that both round to the least normal number: with an unbounded exponent
    the first would have stayed below it, the second would not."""
    least_normal = 0x0080_0000
    mul, fma = OPERATIONS["f32_mul"], OPERATIONS["f32_fma"]
    below = 0x007F_FFFF  # the greatest subnormal
    assert fma(below, bits32(1.0), 0, RNE) == (below, 0)
    # 2**-126 * (1 - 2**-24): representable with an unbounded exponent, so tiny
    assert mul(bits32(1 - 2.0**-24), least_normal, RNE) == (least_normal, NX | UF)
    # 2**-126 * (1 - 2**-24 / 4): rounds up to 2**-126 whatever the exponent's bounds, so not tiny
    assert fma(bits32(-0.25 * 2.0**-24), least_normal, least_normal, RNE) == (least_normal, NX)
    assert fma(bits32(-0.25 * 2.0**-24), least_normal, least_normal, RDN) == (below, NX | UF)
    assert fma(bits32(-0.25 * 2.0**-24), least_normal, least_normal, RUP) == (least_normal, NX)


def test_exact_subnormal_results_raise_nothing() -> None:
    assert OPERATIONS["f64_mul"](bits64(2.0**-1022), bits64(0.5), RNE) == (bits64(2.0**-1023), 0)
    assert OPERATIONS["f64_div"](3, bits64(2.0), RMM) == (2, NX | UF)
    assert OPERATIONS["f64_div"](3, bits64(2.0), RTZ) == (1, NX | UF)


@pytest.mark.parametrize(
    ("fmt", "root"),
    [pytest.param(F32, 0x3F98_C0B5, id="f32"), pytest.param(F64, 0x3FF4_BB63_9C98_C0B5, id="f64")],
)
def test_square_root_just_off_a_representable_number(fmt: Format, root: int) -> None:
    """The square of each root falls 7 units of the square's last place short of the format's grid,
    so the next number's square root has the root's digits, then zeros for as long again."""
    square, flags = OPERATIONS[f"{fmt.name}_mul"](root, root, RUP)
    assert flags == NX
    sqrt = OPERATIONS[f"{fmt.name}_sqrt"]
    for rm in (RNE, RTZ, RDN, RMM):
        assert sqrt(square, rm) == (root, NX)
    assert sqrt(square, RUP) == (root + 1, NX)


@pytest.mark.parametrize("fmt", FORMATS)
def test_comparisons(fmt: Format) -> None:
    eq, lt, le = (OPERATIONS[f"{fmt.name}_{name}"] for name in ("eq", "lt", "le"))
    quiet, signalling, minus = fmt.nan, fmt.infinity | 1, fmt.sign
    assert eq(0, minus) == (1, 0)
    assert lt(minus, 0) == (0, 0)
    assert le(0, minus) == (1, 0)
    assert lt(fmt.infinity | minus, fmt.infinity) == (1, 0)
    for other in (0, quiet, fmt.infinity):
        assert eq(quiet, other) == (0, 0)
        assert eq(other, signalling) == (0, NV)
        assert lt(quiet, other) == le(other, quiet) == lt(other, signalling) == (0, NV)
    ordered = [b for b in edges(fmt) if b & (minus - 1) < fmt.infinity]
    for a, b in product(ordered, ordered):
        x, y = value_of(fmt, a), value_of(fmt, b)
        assert (eq(a, b), lt(a, b), le(a, b)) == ((x == y, 0), (x < y, 0), (x <= y, 0))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize(
    ("name", "least", "greatest"),
    [
        ("i32", -(1 << 31), (1 << 31) - 1),
        ("u32", 0, MASK64),  # 2**32 - 1, sign-extended
        ("i64", -(1 << 63), (1 << 63) - 1),
        ("u64", 0, MASK64),
    ],
)
def test_conversion_to_integer_saturates(fmt: Format, name: str, least: int, greatest: int) -> None:
    to = OPERATIONS[f"{fmt.name}_to_{name}"]
    least &= MASK64
    huge = fmt.infinity - 1
    for operand in (fmt.infinity, fmt.nan, fmt.nan | fmt.sign, fmt.infinity | 1, huge):
        assert to(operand, RTZ) == (greatest, NV)
    for operand in (fmt.infinity | fmt.sign, huge | fmt.sign):
        assert to(operand, RTZ) == (least, NV)
    minus_one = (MASK64, 0) if name[0] == "i" else (0, NV)
    assert to(bits_of(fmt, -1.0), RNE) == minus_one
    assert to(bits_of(fmt, -0.5), RNE) == (0, NX)
    assert to(bits_of(fmt, -0.5), RMM) == (minus_one[0], minus_one[1] or NX)
    assert to(bits_of(fmt, -0.75), RTZ) == (0, NX)
    assert to(fmt.sign, RUP) == (0, 0)


def test_conversion_to_32_bits_is_sign_extended() -> None:
    to_u32 = OPERATIONS["f64_to_u32"]
    assert to_u32(bits64(2.0**31), RTZ) == (0xFFFF_FFFF_8000_0000, 0)
    assert to_u32(bits64(2.0**32 - 1), RTZ) == (MASK64, 0)
    assert to_u32(bits64(2.0**32 - 0.5), RNE) == (MASK64, NV)
    assert to_u32(bits64(2.0**32 - 0.5), RDN) == (MASK64, NX)
    assert OPERATIONS["f64_to_i32"](bits64(-(2.0**31) - 0.5), RTZ) == (0xFFFF_FFFF_8000_0000, NX)


def test_conversion_from_integer_reads_only_its_width() -> None:
    junk = 0xDEAD_BEEF_0000_0000
    assert OPERATIONS["f64_from_i32"](junk | 0xFFFF_FFFF, RNE) == (bits64(-1.0), 0)
    assert OPERATIONS["f64_from_u32"](junk | 0xFFFF_FFFF, RNE) == (bits64(2.0**32 - 1), 0)
    assert OPERATIONS["f32_from_u64"](MASK64, RNE) == (bits32(2.0**64), NX)
    assert OPERATIONS["f32_from_u64"](MASK64, RTZ) == (bits32(2.0**64) - 1, NX)
    assert OPERATIONS["f32_from_i64"](MASK64, RDN) == (bits32(-1.0), 0)
    for name in ("i32", "u32", "i64", "u64"):
        assert OPERATIONS[f"f32_from_{name}"](0, RDN) == (0, 0)


def test_conversion_between_formats() -> None:
    narrow, widen = OPERATIONS["f64_to_f32"], OPERATIONS["f32_to_f64"]
    assert narrow(F64.nan | F64.sign | 7, RNE) == (F32.nan, 0)
    assert widen(F32.infinity | 1) == (F64.nan, NV)
    assert widen(F32.infinity | F32.sign) == (F64.infinity | F64.sign, 0)
    assert widen(1) == (bits64(2.0**-149), 0)
    assert narrow(F64.sign, RUP) == (F32.sign, 0)
    assert narrow(1, RNE) == (0, NX | UF)
    assert narrow(1, RUP) == (1, NX | UF)
    assert narrow(bits64(2.0**128), RTZ) == (F32.infinity - 1, OF | NX)


def test_operands_of_32_bits_are_the_low_halves() -> None:
    junk = 0x1234_5678 << 32
    one, two = bits32(1.0), bits32(2.0)
    assert OPERATIONS["f32_add"](one | junk, one, RNE) == (two, 0)
    assert OPERATIONS["f32_sub"](two, one | junk, RNE) == (one, 0)
    assert OPERATIONS["f32_lt"](one | junk, two) == (1, 0)


def test_an_unresolved_rounding_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding mode 7"):
        OPERATIONS["f64_div"](F64.one, bits64(3.0), 7)


def test_every_builtin_of_the_language_has_its_operation() -> None:
    assert OPERATIONS.keys() == FP_BUILTINS


# --- exact arithmetic ---------------------------------------------------------------------------

Compare = Callable[[Fraction], int]
"""Negative, zero or positive as the exact magnitude is below, at or above a given one."""


def unbounded(fmt: Format, magnitude: int) -> Fraction:
    """The value of a magnitude, where infinity stands for the next power of 2."""
    if magnitude < fmt.infinity:
        return value_of(fmt, magnitude)
    return Fraction(2) ** (1 << (fmt.width - fmt.precision - 1))


def nearest(fmt: Format, negative: bool, compare: Compare, rm: int) -> tuple[int, bool]:
    """The magnitude chosen by `rm` for an exact one below the next power of 2; and exactness."""
    low, high = 0, fmt.infinity
    while high - low > 1:
        middle = (low + high) // 2
        if compare(unbounded(fmt, middle)) >= 0:
            low = middle
        else:
            high = middle
    if compare(unbounded(fmt, low)) == 0:
        return low, True
    side = compare((unbounded(fmt, low) + unbounded(fmt, high)) / 2)
    up = {
        RNE: side > 0 or (side == 0 and low & 1 == 1),
        RTZ: False,
        RDN: negative,
        RUP: not negative,
        RMM: side >= 0,
    }[rm]
    return (high if up else low), False


def round_exactly(fmt: Format, negative: bool, compare: Compare, rm: int) -> tuple[int, int]:
    """Result and flags of an exact non-zero value that is known by comparison only."""
    sign = fmt.sign if negative else 0
    magnitude, exact = fmt.infinity, False
    if compare(unbounded(fmt, fmt.infinity)) < 0:
        magnitude, exact = nearest(fmt, negative, compare, rm)
    if magnitude == fmt.infinity:
        infinite = {RNE: True, RTZ: False, RDN: negative, RUP: not negative, RMM: True}[rm]
        return sign | (fmt.infinity if infinite else fmt.infinity - 1), OF | NX
    if exact:
        return sign | magnitude, 0
    least_normal = value_of(fmt, 1 << (fmt.precision - 1))
    if compare(least_normal) < 0:
        # Tiny, unless its double, which has one more bit to round to, reaches the double of that.
        doubled, _ = nearest(fmt, negative, lambda q: compare(q / 2), rm)
        if value_of(fmt, doubled) < 2 * least_normal:
            return sign | magnitude, NX | UF
    return sign | magnitude, NX


def order(a: Fraction, b: Fraction) -> int:
    return (a > b) - (a < b)


def round_fraction(fmt: Format, exact: Fraction, rm: int) -> tuple[int, int]:
    return round_exactly(fmt, exact < 0, lambda q: order(abs(exact), q), rm)


def operands(fmt: Format) -> st.SearchStrategy[tuple[int, int, int]]:
    """Three finite operands, related so that results come close to ties and to range ends."""

    def build(seed: int) -> tuple[int, int, int]:
        rng = random.Random(seed)
        while True:
            a = near(fmt, rng, rng.getrandbits(fmt.width))
            b = near(fmt, rng, a)
            c = near(fmt, rng, rng.choice([a, b, rng.getrandbits(fmt.width)]))
            if all(finite(fmt, x) for x in (a, b, c)):
                return a, b, c

    edge = st.sampled_from([b for b in edges(fmt) if finite(fmt, b)])
    return st.integers(0, (1 << 64) - 1).map(build) | st.tuples(edge, edge, edge)


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), rm=st.integers(0, 4))
def test_arithmetic_is_exact_and_rounds_once(fmt: Format, data: st.DataObject, rm: int) -> None:
    a, b, c = data.draw(operands(fmt))
    x, y, z = (value_of(fmt, bits) for bits in (a, b, c))
    exact = {"add": x + y, "sub": x - y, "mul": x * y, "fma": x * y + z}
    if y != 0:
        exact["div"] = x / y
    for name, value in exact.items():
        arguments = (a, b, c) if name == "fma" else (a, b)
        result = OPERATIONS[f"{fmt.name}_{name}"](*arguments, rm)
        if value == 0:
            assert (result[0] & (fmt.sign - 1), result[1]) == (0, 0)
        else:
            assert result == round_fraction(fmt, value, rm), name
    if x > 0:
        expected = round_exactly(fmt, False, lambda q: order(x, q * q), rm)
        assert OPERATIONS[f"{fmt.name}_sqrt"](a, rm) == expected


@settings(max_examples=150, deadline=None)
@given(bits=operands(F64), rm=st.integers(0, 4))
def test_narrowing_is_exact(bits: tuple[int, int, int], rm: int) -> None:
    for a in bits:
        # Halve the exponent's distance from 1, so that most values are near binary32's range.
        for b in (
            a,
            (a & ~F64.infinity) | (((a & F64.infinity) + 7 * F64.one) >> 3) & F64.infinity,
        ):
            exact = value_of(F64, b)
            if exact != 0:
                assert OPERATIONS["f64_to_f32"](b, rm) == round_fraction(F32, exact, rm)


@pytest.mark.parametrize("fmt", FORMATS)
@settings(max_examples=150, deadline=None)
@given(data=st.data(), rm=st.integers(0, 4))
def test_conversions_to_and_from_integers(fmt: Format, data: st.DataObject, rm: int) -> None:
    integer = data.draw(
        st.integers(0, MASK64)
        | st.builds(lambda p, d: (1 << p) + d & MASK64, st.integers(0, 64), st.integers(-3, 3))
    )
    eighths = data.draw(st.integers(-20, 20))
    negative = data.draw(st.booleans())
    widths = {"i32": (32, True), "u32": (32, False), "i64": (64, True), "u64": (64, False)}
    for name, (width, signed) in widths.items():
        value = integer & ((1 << width) - 1)
        if signed and value >> (width - 1):
            value -= 1 << width
        converted = OPERATIONS[f"{fmt.name}_from_{name}"](integer, rm)
        if value == 0:
            assert converted == (0, 0)
        else:
            assert converted == round_fraction(fmt, Fraction(value), rm)

        near_integer = Fraction(-value if negative else value) + Fraction(eighths, 8)
        bits = round_fraction(fmt, near_integer, RNE)[0] if near_integer else 0
        exact = value_of(fmt, bits)
        rounded = {
            RNE: round(exact),
            RTZ: int(exact),
            RDN: floor(exact),
            RUP: ceil(exact),
            RMM: floor(abs(exact) + Fraction(1, 2)) * (-1 if exact < 0 else 1),
        }[rm]
        least, greatest = (-1 << 31, (1 << 31) - 1) if signed else (0, (1 << 32) - 1)
        if width == 64:
            least, greatest = (-1 << 63, (1 << 63) - 1) if signed else (0, MASK64)
        kept = min(max(rounded, least), greatest)
        flags = NV if kept != rounded else NX if rounded != exact else 0
        if name == "u32" and kept >> 31:
            kept -= 1 << 32
        assert OPERATIONS[f"{fmt.name}_to_{name}"](bits, rm) == (kept & MASK64, flags)


# --- the host's SSE unit ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> dict[str, HostOperation]:
    if platform.machine() != "x86_64":
        pytest.skip("the host has no SSE unit")
    return host_operations()


def canonical(fmt: Format, bits: int) -> int:
    return fmt.nan if bits & (fmt.sign - 1) > fmt.infinity else bits


def agree(
    host: dict[str, HostOperation], name: str, inputs: tuple[int, ...], rm: int, target: Format
) -> None:
    ours = OPERATIONS[name](*inputs) if name == "f32_to_f64" else OPERATIONS[name](*inputs, rm)
    bits, flags = host[name](*inputs, rm)
    if name[4:] == "fma":
        magnitudes = {bits & (target.sign - 1) for bits in inputs[:2]}
        if magnitudes == {0, target.infinity}:
            flags |= NV  # SSE lets a quiet NaN addend pass; RISC-V does not
    assert ours == (canonical(target, bits), flags), (name, [f"{i:#x}" for i in inputs], rm)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("operation", SHAPES)
def test_arithmetic_agrees_with_the_host(
    host: dict[str, HostOperation], fmt: Format, operation: str
) -> None:
    name = f"{fmt.name}_{operation}"
    if name not in host:
        pytest.skip("the host has no fused multiply-add")
    count = SHAPES[operation][1]
    rng = random.Random(name)
    if count == 3:
        cases = [tuple(rng.choice(edges(fmt)) for _ in range(3)) for _ in range(1000)]
    else:
        cases = list(product(edges(fmt), repeat=count))
    for _ in range(1000):
        a = near(fmt, rng, rng.getrandbits(fmt.width))
        b = near(fmt, rng, a)
        cases.append((a, b, near(fmt, rng, rng.choice([a, b])))[:count])
        if count == 3:
            # An addend close to the product, of the other sign: cancellation.
            rounded, _ = OPERATIONS[f"{fmt.name}_mul"](a, b, RNE)
            cases.append((a, b, rounded ^ fmt.sign))
    for inputs in cases:
        for rm in SSE_ROUNDING:
            agree(host, name, inputs, rm, fmt)


def test_conversions_agree_with_the_host(host: dict[str, HostOperation]) -> None:
    rng = random.Random(0)
    words = [1 << i for i in range(64)] + [(1 << i) - 1 for i in range(65)]
    words += [rng.getrandbits(64) >> rng.randrange(64) for _ in range(500)]
    words += [-word & MASK64 for word in words]
    for rm, word in product(SSE_ROUNDING, words):
        for kind in ("i32", "u32", "i64", "u64"):
            agree(host, f"f32_from_{kind}", (word,), rm, F32)
            agree(host, f"f64_from_{kind}", (word,), rm, F64)
    narrow = [F64.one + (rng.randrange(-160, 160) << 52) + rng.getrandbits(52) for _ in range(1000)]
    for rm, bits in product(SSE_ROUNDING, edges(F64) + narrow):
        agree(host, "f64_to_f32", (bits,), rm, F32)
    for bits in edges(F32) + [rng.getrandbits(32) for _ in range(1000)]:
        agree(host, "f32_to_f64", (bits,), RNE, F64)
