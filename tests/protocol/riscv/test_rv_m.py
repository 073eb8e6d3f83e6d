"""M: products and quotients against Python's integers, and the manual's table of special cases."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.protocol.riscv.execution import M64, WORDS, extended, run, signed

MIN = 1 << 63
MIN32 = -(1 << 31) & M64


def quotient(a: int, b: int) -> int:
    """Division rounds towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


PRODUCTS = {
    "mul": lambda a, b: a * b,
    "mulh": lambda a, b: signed(a) * signed(b) >> 64,
    "mulhsu": lambda a, b: signed(a) * b >> 64,
    "mulhu": lambda a, b: a * b >> 64,
    "mulw": lambda a, b: extended(a * b),
}


@pytest.mark.parametrize("name", PRODUCTS)
@given(a=WORDS, b=WORDS)
def test_products(name, a, b):
    assert run(f"{name} a0, a1, a2", a, b) == PRODUCTS[name](a, b) & M64


@pytest.mark.parametrize("bits", [32, 64])
@given(a=WORDS, b=WORDS)
def test_signed_division(bits, a, b):
    w = "w" if bits == 32 else ""
    x, y = signed(a, bits), signed(b, bits)
    q = -1 if y == 0 else quotient(x, y)
    r = x if y == 0 else x - q * y
    assert run(f"div{w} a0, a1, a2", a, b) == signed(q, bits) & M64
    assert run(f"rem{w} a0, a1, a2", a, b) == signed(r, bits) & M64


@pytest.mark.parametrize("bits", [32, 64])
@given(a=WORDS, b=WORDS)
def test_unsigned_division(bits, a, b):
    w = "w" if bits == 32 else ""
    x, y = a % (1 << bits), b % (1 << bits)
    q, r = (-1, x) if y == 0 else divmod(x, y)
    assert run(f"divu{w} a0, a1, a2", a, b) == signed(q, bits) & M64
    assert run(f"remu{w} a0, a1, a2", a, b) == signed(r, bits) & M64


@pytest.mark.parametrize(
    ("name", "a", "b", "result"),
    [
        ("div", 7, 0, M64),
        ("divu", 7, 0, M64),
        ("rem", 7, 0, 7),
        ("remu", MIN, 0, MIN),
        ("div", MIN, M64, MIN),
        ("rem", MIN, M64, 0),
        ("divw", MIN32, M64, MIN32),
        ("remw", MIN32, M64, 0),
        ("divw", 1 << 32, 1 << 32, M64),
        ("remw", 0x1_8000_0000, 1 << 32, MIN32),
        ("divuw", 1 << 31, 1, MIN32),
        ("remuw", 0x8000_0000, 0, MIN32),
        ("div", -7 & M64, 2, -3 & M64),
        ("rem", -7 & M64, 2, -1 & M64),
    ],
)
def test_zero_and_overflow_are_those_of_the_manual(name, a, b, result):
    assert run(f"{name} a0, a1, a2", a, b) == result
