"""Zba, Zbb, Zbs: each instruction against a definition by bits and bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.riscv.execution import M64, WORDS, extended, run, signed


def bits(value: int, width: int = 64) -> str:
    return format(value % (1 << width), f"0{width}b")


def rotated(value: int, left: int, width: int) -> int:
    text = bits(value, width)
    left %= width
    return int(text[left:] + text[:left], 2)


TWO: dict[str, Callable[[int, int], int]] = {
    "add.uw": lambda a, b: a % 2**32 + b,
    "sh1add": lambda a, b: 2 * a + b,
    "sh2add": lambda a, b: 4 * a + b,
    "sh3add": lambda a, b: 8 * a + b,
    "sh1add.uw": lambda a, b: 2 * (a % 2**32) + b,
    "sh2add.uw": lambda a, b: 4 * (a % 2**32) + b,
    "sh3add.uw": lambda a, b: 8 * (a % 2**32) + b,
    "andn": lambda a, b: a & ~b,
    "orn": lambda a, b: a | ~b,
    "xnor": lambda a, b: ~(a ^ b),
    "min": lambda a, b: min(signed(a), signed(b)),
    "minu": min,
    "max": lambda a, b: max(signed(a), signed(b)),
    "maxu": max,
    "rol": lambda a, b: rotated(a, b, 64),
    "ror": lambda a, b: rotated(a, -b, 64),
    "rolw": lambda a, b: extended(rotated(a, b, 32)),
    "rorw": lambda a, b: extended(rotated(a, -b, 32)),
    "bclr": lambda a, b: a & ~(1 << b % 64),
    "bext": lambda a, b: int(bits(a)[63 - b % 64]),
    "binv": lambda a, b: a ^ 1 << b % 64,
    "bset": lambda a, b: a | 1 << b % 64,
}
ONE: dict[str, Callable[[int], int]] = {
    "clz": lambda a: len(bits(a)) - len(bits(a).lstrip("0")),
    "ctz": lambda a: len(bits(a)) - len(bits(a).rstrip("0")),
    "cpop": lambda a: bits(a).count("1"),
    "clzw": lambda a: 32 - len(bits(a, 32).lstrip("0")),
    "ctzw": lambda a: 32 - len(bits(a, 32).rstrip("0")),
    "cpopw": lambda a: bits(a, 32).count("1"),
    "sext.b": lambda a: signed(a, 8),
    "sext.h": lambda a: signed(a, 16),
    "zext.h": lambda a: a % 2**16,
    "orc.b": lambda a: int.from_bytes(bytes(255 * (b > 0) for b in a.to_bytes(8, "big")), "big"),
    "rev8": lambda a: int.from_bytes(a.to_bytes(8, "little"), "big"),
}
IMMEDIATE: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "slli.uw": (64, lambda a, n: a % 2**32 << n),
    "rori": (64, lambda a, n: rotated(a, -n, 64)),
    "roriw": (32, lambda a, n: extended(rotated(a, -n, 32))),
    "bclri": (64, TWO["bclr"]),
    "bexti": (64, TWO["bext"]),
    "binvi": (64, TWO["binv"]),
    "bseti": (64, TWO["bset"]),
}


@pytest.mark.parametrize("name", TWO)
@given(a=WORDS, b=WORDS)
def test_two_registers(name, a, b):
    assert run(f"{name} a0, a1, a2", a, b) == TWO[name](a, b) & M64


@pytest.mark.parametrize("name", ONE)
@given(a=WORDS)
def test_one_register(name, a):
    assert run(f"{name} a0, a1", a) == ONE[name](a) & M64


@pytest.mark.parametrize("name", IMMEDIATE)
@given(a=WORDS, n=st.integers(0, 63))
def test_immediates(name, a, n):
    width, meaning = IMMEDIATE[name]
    assert run(f"{name} a0, a1, {n % width}", a) == meaning(a, n % width) & M64
