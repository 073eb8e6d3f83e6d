"""A: atomic operations on memory, and reservations."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocol.riscv.reference import Trap
from tests.protocol.riscv.execution import M64, RAM, WORDS, new_hart, signed, word

HART = new_hart()
LOAD_MISALIGNED, LOAD_FAULT, STORE_MISALIGNED, STORE_FAULT = 4, 5, 6, 7
SIZES = {"w": 4, "d": 8}
OPERATIONS = {
    "amoswap": lambda old, new, bits: new,
    "amoadd": lambda old, new, bits: old + new,
    "amoxor": lambda old, new, bits: old ^ new,
    "amoand": lambda old, new, bits: old & new,
    "amoor": lambda old, new, bits: old | new,
    "amomin": lambda old, new, bits: min(signed(old, bits), signed(new, bits)),
    "amomax": lambda old, new, bits: max(signed(old, bits), signed(new, bits)),
    "amominu": lambda old, new, bits: min(old % 2**bits, new % 2**bits),
    "amomaxu": lambda old, new, bits: max(old % 2**bits, new % 2**bits),
}


def execute(text: str, a1: int, a2: int = 0) -> int:
    """a0 after the instruction, on a hart that keeps its memory and reservation."""
    HART.x[10:13] = [0x5555, a1, a2]
    HART.execute(word(text))
    return HART.x[10]


@pytest.mark.parametrize("suffix", SIZES)
@pytest.mark.parametrize("name", OPERATIONS)
@given(old=WORDS, new=WORDS)
def test_an_amo_returns_the_old_value_and_stores_the_result(name, suffix, old, new):
    size = SIZES[suffix]
    HART.memory.write(RAM + 16, 8, old)
    assert execute(f"{name}.{suffix} a0, a2, (a1)", RAM + 16, new) == signed(old, 8 * size) & M64
    result = OPERATIONS[name](old, new, 8 * size) % 2 ** (8 * size)
    assert HART.memory.read(RAM + 16, size) == result
    if size == 4:
        assert HART.memory.read(RAM + 20, 4) == old >> 32


def test_the_register_that_receives_may_be_one_that_gives():
    HART.memory.write(RAM, 8, 5)
    HART.x[10:12] = [RAM, 3]
    HART.execute(word("amoadd.d a0, a1, (a0)"))
    assert (HART.x[10], HART.memory.read(RAM, 8)) == (5, 8)
    HART.x[10:12] = [RAM, 3]
    HART.execute(word("amoadd.d a1, a1, (a0)"))
    assert (HART.x[11], HART.memory.read(RAM, 8)) == (8, 11)


@pytest.mark.parametrize("ordering", ["", ".aq", ".rl", ".aqrl"])
@pytest.mark.parametrize("suffix", SIZES)
def test_a_store_succeeds_once_where_it_was_reserved(suffix, ordering):
    HART.memory.write(RAM, 8, M64 - 1)
    assert execute(f"lr.{suffix}{ordering} a0, (a1)", RAM) == M64 - 1
    assert execute(f"sc.{suffix}{ordering} a0, a2, (a1)", RAM, 7) == 0
    assert HART.memory.read(RAM, SIZES[suffix]) == 7
    assert execute(f"sc.{suffix} a0, a2, (a1)", RAM, 8) == 1
    assert HART.memory.read(RAM, SIZES[suffix]) == 7


def test_a_store_elsewhere_fails_and_ends_the_reservation():
    execute("lr.d a0, (a1)", RAM)
    assert execute("sc.d a0, a2, (a1)", RAM + 64, 1) == 1
    assert execute("sc.d a0, a2, (a1)", RAM, 1) == 1


@pytest.mark.parametrize("suffix", SIZES)
@pytest.mark.parametrize(
    ("text", "misaligned", "fault"),
    [
        ("lr.{} a0, (a1)", LOAD_MISALIGNED, LOAD_FAULT),
        ("sc.{} a0, a2, (a1)", STORE_MISALIGNED, STORE_FAULT),
        ("amoadd.{} a0, a2, (a1)", STORE_MISALIGNED, STORE_FAULT),
    ],
)
def test_what_cannot_be_atomic_traps_and_changes_nothing(text, suffix, misaligned, fault):
    for address, cause in ((RAM + SIZES[suffix] // 2, misaligned), (0x4000_0000, fault)):
        pc = HART.pc
        with pytest.raises(Trap) as caught:
            execute(text.format(suffix), address, 1)
        assert (caught.value.cause, caught.value.value) == (cause, address)
        assert (HART.x[10], HART.pc) == (0x5555, pc)
