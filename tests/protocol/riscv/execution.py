"""One instruction, executed by the reference hart: what tests of semantics have in common."""

from __future__ import annotations

import functools

from hypothesis import strategies as st

from protocol.riscv.assembler import assemble
from protocol.riscv.reference import Memory, ReferenceHart

M64 = 2**64 - 1
RAM = 0x8000_0000
CORNERS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
CORNERS += [2**63 - 1, 2**63, M64 - 1, M64, -(2**31) & M64, 0x0101010101010101, 0x8000000080000000]
WORDS = st.one_of(
    st.sampled_from(CORNERS),
    st.integers(0, M64),
    st.integers(0, 63).map(lambda n: 1 << n),
    st.integers(-128, 127).map(lambda n: n & M64),
)


@functools.cache
def word(text: str) -> int:
    """The bits of one instruction."""
    return int.from_bytes(assemble(text).data, "little")


def new_hart() -> ReferenceHart:
    memory = Memory()
    memory.add_ram(RAM, 0x1000)
    return ReferenceHart(memory, RAM)


_HART = new_hart()


def run(text: str, a1: int, a2: int = 0) -> int:
    """The value of a0 after one instruction that reads a1 and a2 only."""
    _HART.reset(RAM)
    _HART.x[10:13] = [0x5555_AAAA_5555_AAAA, a1, a2]
    _HART.execute(word(text))
    assert _HART.pc == RAM + (4 if word(text) & 3 == 3 else 2)
    assert _HART.x[11:13] == [a1, a2]
    assert _HART.x[0] == 0
    return _HART.x[10]


def signed(value: int, bits: int = 64) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def extended(value: int) -> int:
    """A 32-bit result as RV64 keeps it."""
    return signed(value, 32) & M64
