"""Each instruction by itself, over tables of edge values: tier 0, the reference and QEMU agree.

Random sequences meet odd operands by luck; here every pair of them is met on purpose. The cases of
one instruction stand one behind another in sequences of a batch, each with its result (and, in
floating point, its flags) kept in the scratch area.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator

import pytest

from protocol.riscv.isa import Encoding
from tests.isa.batch import (
    SCRATCH_SIZE,
    Batch,
    Sequence,
    differences,
    run_in_engine,
    run_in_qemu,
    run_reference,
)
from tests.isa.generate import NOT_PORTABLE, classes, raw_bits
from tests.isa.values import BOX, DOUBLES, SINGLES, WORDS

SP_AT = 64  # where sp points in the scratch area
PER_SEQUENCE = 50
FLAGS_AT = 8 * PER_SEQUENCE
RESULT = 1  # the integer register for results; f31 is the floating-point one
SOURCES = range(3, 32)  # registers that hold WORDS
F_SOURCES = range(31)
MODES = (0, 1, 2, 3, 4, 7)
TRIPLES = 400  # of 29,791, for each fused instruction

X_VALUES = (0, 0, *WORDS)[:31]
S_VALUES = (*(BOX | v for v in SINGLES), 0x7F800000, 0xFFFFFFFE_3F800000)  # two are not boxed
D_VALUES = DOUBLES

Case = bytes


def word(raw: int) -> bytes:
    return raw.to_bytes(4, "little")


def sd(register: int, offset: int) -> bytes:
    return _store(3, 0x23, register, offset)


def _store(funct3: int, opcode: int, register: int, offset: int) -> bytes:
    high, low = offset >> 5 & 0x7F, offset & 31
    return word(high << 25 | register << 20 | 2 << 15 | funct3 << 12 | low << 7 | opcode)


def immediates(encoding: Encoding) -> dict[str, list[int]]:
    """Edge values of the immediate fields of a pattern."""
    found = {}
    for name in encoding.pattern.fields:
        if name.startswith(("imm", "shamt", "uimm")):
            bits = encoding.pattern.width(name)
            values = {0, 1, 2, 31, 32, 63, 0x555, 0x7FF, (1 << bits) - 1, 1 << (bits - 1)}
            values |= {(1 << (bits - 1)) - 1, (1 << bits) - 2}
            step = 1 << min(p.at for p in encoding.pattern.pieces if p.name == name)
            found[name] = sorted({v % (1 << bits) & -step for v in values})
    return found


def fields_of(encoding: Encoding, pick: random.Random) -> Iterator[dict[str, int]]:
    """Every combination of operands worth a case; `rd` is left to the caller."""
    semantics = encoding.instruction.semantics
    floating = semantics.indices("F", False)
    sources: dict[str, Iterable[int]] = {}
    for name in ("rs1", "rs2", "rs3"):
        if name in encoding.pattern.fields:
            sources[name] = F_SOURCES if name in floating else SOURCES
    choices = {**sources, **immediates(encoding)}
    if "rm" in encoding.pattern.fields and len(sources) == 1:
        choices["rm"] = MODES
    names = list(choices)
    combinations = list(itertools.product(*choices.values()))
    if len(sources) == 3:
        combinations = pick.sample(combinations, TRIPLES)
    for values in combinations:
        given = dict(zip(names, values, strict=True))
        if "rm" in encoding.pattern.fields and "rm" not in given:
            given["rm"] = pick.choice(MODES)
        yield given


def sequences(encoding: Encoding, f_values: tuple[int, ...]) -> list[Sequence]:
    """All cases of one instruction."""
    pick = random.Random(encoding.name)
    semantics = encoding.instruction.semantics
    to_f = bool(semantics.indices("F", True))
    floating = to_f or bool(semantics.indices("F", False))
    found = []
    cases = list(fields_of(encoding, pick))
    for first in range(0, len(cases), PER_SEQUENCE):
        code = b""
        for number, given in enumerate(cases[first : first + PER_SEQUENCE]):
            given["rd"] = 31 if to_f else RESULT
            code += word(raw_bits(encoding.pattern, given))
            offset = 8 * number - SP_AT
            code += _store(3, 0x27, 31, offset) if to_f else sd(RESULT, offset)
            if floating:
                code += word(0x001 << 20 | 5 << 12 | RESULT << 7 | 0x73)  # csrrwi, fflags, 0
                code += _store(0, 0x23, RESULT, FLAGS_AT + number - SP_AT)
        f = (*f_values, *[0] * 32)[:32]
        fcsr = pick.randrange(5) << 5
        found.append(
            Sequence(code + word(0x73), X_VALUES, f, fcsr, bytes(SCRATCH_SIZE), {2: SP_AT})
        )
    return found


def _tested(encoding: Encoding) -> bool:
    return encoding.length == 4 and "rd" in encoding.pattern.fields


@functools.cache
def integer_batch(portable: bool) -> Batch:
    found = []
    for encoding in filter(_tested, classes().plain):
        if not (portable and encoding.name in NOT_PORTABLE):
            found += sequences(encoding, ())
    return Batch(found, counted=not portable)


@functools.cache
def float_batches(portable: bool) -> list[Batch]:
    """Single precision with singles, double with doubles, and both with the other's."""
    batches = []
    for values in (S_VALUES, D_VALUES):
        found = []
        for encoding in filter(_tested, classes().floating):
            found += sequences(encoding, values)
        batches.append(Batch(found, counted=not portable))
    return batches


def compare(batch: Batch, ram: bytes) -> None:
    wrong = differences(batch, run_reference(batch), batch.results(ram))
    if wrong:
        pytest.fail(f"{len(wrong)} sequences differ\n{wrong[0]}", pytrace=False)


def test_every_integer_instruction_on_tier_0():
    batch = integer_batch(False)
    compare(batch, run_in_engine(batch.image))


@pytest.mark.parametrize("which", [0, 1], ids=["singles", "doubles"])
def test_every_floating_point_instruction_on_tier_0(which):
    batch = float_batches(False)[which]
    compare(batch, run_in_engine(batch.image))


def test_every_integer_instruction_in_qemu():
    batch = integer_batch(True)
    compare(batch, run_in_qemu(batch.image))


@pytest.mark.parametrize("which", [0, 1], ids=["singles", "doubles"])
def test_every_floating_point_instruction_in_qemu(which):
    batch = float_batches(True)[which]
    compare(batch, run_in_qemu(batch.image))


def test_the_tables_are_long_enough():
    assert len(X_VALUES) == 31
    assert len(S_VALUES) >= 31
    cases = sum(len(s.code) for s in integer_batch(False).sequences) // 8
    assert cases > 30_000
