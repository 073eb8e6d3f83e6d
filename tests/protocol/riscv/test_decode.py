"""Decoding: the inverse of encoding on every legal word, and strict about patterns that overlap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.riscv import isa
from protocol.riscv.isa import Encoding, decode, load_all

load_all()
WIDE = [e for e in isa.ENCODINGS.values() if e.length == 4]


def laid_out(encoding: Encoding, noise: int) -> int:
    """A word of this encoding, its fields filled from `noise`."""
    return noise & ~encoding.pattern.mask & 0xFFFFFFFF | encoding.pattern.match


@pytest.mark.parametrize("name", ["add", "c.mv", "amoadd.w", "sh1add.uw", "fcvt.d.s", "mret"])
def test_every_extension_is_there(name):
    assert name in isa.ENCODINGS


def test_the_all_zero_and_all_one_words_are_illegal():
    assert decode(0) is None
    assert decode(0xFFFFFFFF) is None


def test_bits_above_a_compressed_instruction_are_ignored():
    decoded = decode(0xFFFF_0001)
    assert decoded is not None
    assert (decoded.encoding.name, decoded.raw, decoded.length) == ("c.nop", 1, 2)


def test_encoding_what_was_decoded_gives_every_legal_compressed_word_back():
    legal = 0
    for raw in range(1 << 16):
        decoded = decode(raw) if raw & 3 != 3 else None
        if decoded is not None:
            pattern = decoded.encoding.pattern
            assert pattern.insert(pattern.extract(raw)) == raw, decoded.encoding.name
            legal += 1
    assert legal == 46743  # of 49152: what the manual's tables leave, HINTs included


@given(st.sampled_from(WIDE), st.integers(0, 2**32 - 1))
def test_encoding_what_was_decoded_gives_the_word_back(encoding, noise):
    raw = laid_out(encoding, noise)
    decoded = decode(raw)
    assert decoded is not None
    assert decoded.encoding.name == encoding.name
    pattern = decoded.encoding.pattern
    assert pattern.insert(pattern.extract(raw)) == raw


@given(st.sampled_from(WIDE), st.integers(0, 2**32 - 1))
def test_operands_are_the_fields_the_semantics_names(encoding, noise):
    decoded = decode(laid_out(encoding, noise))
    assert decoded is not None
    assert tuple(decoded.operands) == decoded.instruction.params
    for name, value in decoded.operands.items():
        if name in ("rd", "rs1", "rs2", "rs3", "zimm"):
            assert 0 <= value < 32
        assert -(1 << 31) <= value < 1 << 31


@pytest.mark.parametrize(
    ("name", "bits"),
    [("beq", 12), ("jal", 20), ("lui", 31), ("addi", 11), ("sw", 11), ("c.j", 11), ("c.lui", 17)],
)
def test_the_highest_bit_of_an_immediate_is_its_sign(name, bits):
    pattern = isa.ENCODINGS[name].pattern
    assert pattern.extract(pattern.insert({"imm": -(1 << bits)}))["imm"] == -(1 << bits)


def test_a_value_that_does_not_fit_its_field_is_refused():
    with pytest.raises(ValueError, match="imm = 2048 does not fit"):
        isa.ENCODINGS["addi"].pattern.insert({"imm": 2048})
    with pytest.raises(ValueError, match="imm = 3 does not fit"):
        isa.ENCODINGS["beq"].pattern.insert({"imm": 3})


def test_patterns_that_overlap_are_refused_and_both_are_named(monkeypatch):
    for registry in ("INSTRUCTIONS", "ENCODINGS"):
        monkeypatch.setattr(isa, registry, dict(getattr(isa, registry)))
    with pytest.raises(ValueError, match=r"overlap: odd .* and add "):

        @isa.instruction("0000000 rs2 rs1 000 rd 0110011", "odd rd, rs1, rs2")
        def odd(rd, rs1, rs2):
            pass

    isa._table.cache_clear()


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("0000000 rs2 rs1 000 rd 011001", "31 bits"),
        ("0000000 rs2 rs1 000 re 0110011", "unknown token 're'"),
    ],
)
def test_a_pattern_that_cannot_be_read_says_which_and_why(pattern, what):
    with pytest.raises(ValueError, match=what):
        isa.parse_pattern(pattern)
