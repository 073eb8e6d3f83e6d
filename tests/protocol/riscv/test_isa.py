"""Declarations: what a pattern says, what two may share, and what is refused at import."""

# ruff: noqa: F403, F405
# mypy: disable-error-code="name-defined"

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.riscv import isa
from protocol.riscv.isa import Decoded, compressed, decode, instruction, parse_pattern
from protocol.riscv.language import Function
from protocol.riscv.words import *

isa.load_all()
CUSTOM = "0001011"  # the major opcode custom-0: nothing of ours is there


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test declares is gone after it."""
    for registry in ("INSTRUCTIONS", "ENCODINGS"):
        monkeypatch.setattr(isa, registry, dict(getattr(isa, registry)))
    isa._table.cache_clear()
    yield
    isa._table.cache_clear()


def declare(pattern: str, text: str, where: str = "") -> None:
    """An instruction with the usual three registers."""

    @instruction(pattern, text, where)
    def declared(rd, rs1, rs2):
        X[rd] = X[rs1] + X[rs2]


def decoded(raw: int) -> Decoded:
    found = decode(raw)
    assert found is not None
    return found


# --- patterns ---------------------------------------------------------------------------------


def test_a_pattern_fixes_bits_and_places_fields():
    pattern = parse_pattern("imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011")
    assert (pattern.bits, pattern.mask, pattern.match) == (32, 0x707F, 0x63)
    assert pattern.fields == ("imm", "rs2", "rs1")
    assert pattern.width("imm") == 13
    assert pattern.extract(0x80C58063 | 1 << 7) == {"imm": -4096 + 2048, "rs2": 12, "rs1": 11}


@pytest.mark.parametrize(
    ("token", "bits", "value"),
    [
        ("rd", 0b10101, 21),
        ("rs3", 0b11111, 31),
        ("zimm", 0b11111, 31),
        ("rm", 0b111, 7),
        ("aq", 1, 1),
        ("csr", 0xFFF, 0xFFF),
        ("rd'", 0, 8),
        ("rs1'", 0b111, 15),
        ("rs2'", 0b010, 10),
        ("imm[5:0]", 0b100000, -32),
        ("nzimm[5:0]", 0b111111, -1),
        ("imm[17|16:12]", 0b100001, -(1 << 17) + (1 << 12)),
        ("uimm[5:0]", 0b100000, 32),
        ("nzuimm[5:4|9:6|2|3]", 0b11_0000_1_0, 0b110100),
        ("shamt[5:0]", 0b100000, 32),
    ],
)
def test_a_field_is_read_and_written_as_its_name_says(token, bits, value):
    width = sum(piece.width for piece in parse_pattern_of(token).pieces)
    pattern = parse_pattern_of(token)
    raw = bits << 16 - width
    name = token.split("[")[0]
    assert pattern.extract(raw) == {name: value}
    assert pattern.insert({name: value}) == raw


def parse_pattern_of(token: str) -> isa.Pattern:
    """A 16-bit pattern that begins with the token, zeros behind it."""
    for zeros in range(16):
        try:
            return parse_pattern(f"{token} {'0' * zeros}")
        except ValueError:
            continue
    raise AssertionError(token)


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("rd", 32),
        ("rd'", 7),
        ("rd'", 16),
        ("imm[5:0]", 32),
        ("imm[5:0]", -33),
        ("uimm[5:0]", -1),
        ("uimm[5:1]", 3),
        ("rm", 8),
        ("csr", 4096),
    ],
)
def test_a_value_that_does_not_fit_is_refused(token, value):
    with pytest.raises(ValueError, match=f"= {value} does not fit"):
        parse_pattern_of(token).insert({token.split("[")[0]: value})


def test_a_slice_of_no_digits_is_unknown():
    for text in ("imm[a:b]", "rd[", "x1", "", "012"):
        with pytest.raises(ValueError, match=r"unknown token|has \d+ bits"):
            parse_pattern(f"{text} 0000000000000")


# --- overlap ----------------------------------------------------------------------------------


def test_two_patterns_for_one_word_are_refused_and_both_are_named():
    declare(f"0000000 rs2 rs1 000 rd {CUSTOM}", "one rd, rs1, rs2")
    message = "overlap: two '0000000 rs2 rs1 000 rd 0001011' and one '0000000 rs2 rs1 000"
    with pytest.raises(ValueError, match=message):
        declare(f"0000000 rs2 rs1 000 rd {CUSTOM}", "two rd, rs1, rs2")


def test_patterns_that_share_some_words_only_are_refused_too():
    declare(f"0000000 rs2 rs1 rm rd {CUSTOM}", "one rd, rs1, rs2")
    with pytest.raises(ValueError, match=r"overlap: two .* and one "):
        declare(f"aq 000000 rs2 rs1 000 rd {CUSTOM}", "two rd, rs1, rs2")


def test_the_more_specific_of_two_wins_whichever_came_first():
    wide, narrow = f"0000000 rs2 rs1 rm rd {CUSTOM}", f"0000000 rs2 rs1 010 rd {CUSTOM}"
    declare(wide, "wide rd, rs1, rs2")
    declare(narrow, "narrow rd, rs1, rs2")
    declare(narrow.replace("0001011", "0101011"), "narrow2 rd, rs1, rs2")
    declare(wide.replace("0001011", "0101011"), "wide2 rd, rs1, rs2")
    for opcode, suffix in ((0x0B, ""), (0x2B, "2")):
        assert decoded(opcode | 2 << 12).encoding.name == f"narrow{suffix}"
        assert decoded(opcode | 3 << 12).encoding.name == f"wide{suffix}"


def test_where_tells_two_apart():
    pattern = f"0000000 rs2 rs1 000 rd {CUSTOM}"
    declare(pattern, "same rd, rs1, rs2", where="rs1 == rs2")
    declare(pattern, "other rd, rs1, rs2", where="rs1 != rs2")
    assert decoded(0x0B | 3 << 15 | 3 << 20).encoding.name == "same"
    assert decoded(0x0B | 3 << 15 | 4 << 20).encoding.name == "other"


def test_where_leaves_the_rest_illegal():
    declare(f"0000000 rs2 rs1 000 rd {CUSTOM}", "odd rd, rs1, rs2", where="rd != 0")
    assert decode(0x0B) is None
    assert decoded(0x0B | 1 << 7).encoding.name == "odd"


def test_where_may_speak_of_primed_registers_and_of_immediates():
    compressed(
        "100 uimm[5:3] rs1' uimm[7:6] rd' 00",
        "c.odd rd', rs1', uimm",
        "addi",
        where="rd' != rs1' and uimm != 0",
        rd="rd'",
        rs1="rs1'",
        imm="uimm",
    )
    raw = 0b100_001_010_00_011_00
    found = decoded(raw)
    assert (found.encoding.name, found.length) == ("c.odd", 2)
    assert found.operands == {"rd": 11, "rs1": 10, "imm": 8}
    assert decode(0b100_001_010_00_010_00) is None
    assert decode(0b100_000_010_00_011_00) is None


def test_words_of_16_and_32_bits_do_not_overlap():
    for encoding in isa.ENCODINGS.values():
        assert (encoding.pattern.match & 3 == 3) == (encoding.length == 4), encoding.name


# --- declarations -----------------------------------------------------------------------------


def test_a_name_is_declared_once():
    declare(f"0000000 rs2 rs1 000 rd {CUSTOM}", "one rd, rs1, rs2")
    with pytest.raises(ValueError, match="one is declared twice"):
        declare(f"0000001 rs2 rs1 000 rd {CUSTOM}", "one rd, rs1, rs2")


def test_a_parameter_without_a_field_is_refused():
    with pytest.raises(ValueError, match="odd: no field 'rs2' in"):
        declare(f"imm[11:0] rs1 000 rd {CUSTOM}", "odd rd, rs1, rs2")


def test_a_compressed_encoding_gives_every_operand_of_what_it_expands_to():
    with pytest.raises(ValueError, match=r"c\.odd: add takes rd, rs1, rs2"):
        compressed("100 000 rs1' 00 rd' 00", "c.odd rd', rs1'", "add", rd="rd'", rs1="rs1'")
    with pytest.raises(ValueError, match=r"c\.odd: no field 'rs1' in"):
        compressed("100 000 rs2' 00 rd' 00", "c.odd", "add", rd="rd'", rs1="rs1", rs2="rs2'")
    with pytest.raises(KeyError):
        compressed("100 000 rs2' 00 rd' 00", "c.odd", "no_such", rd="rd'", rs1=0, rs2="rs2'")


def test_the_name_is_the_first_word_of_the_text_unless_given():
    @instruction(f"imm[11:0] rs1 010 rd {CUSTOM}", "lw rd, imm(rs1)", name="lw.custom")
    def odd(rd, rs1, imm):
        X[rd] = load(X[rs1] + imm, 4)

    assert isa.INSTRUCTIONS["lw.custom"] is odd
    assert isa.INSTRUCTIONS["lw"] is not odd


def test_decoded_operands_come_in_the_order_of_the_parameters_as_words():
    @instruction(f"imm[11:0] rs1 011 rd {CUSTOM}", "odd rd, rs1, imm")
    def odd(imm, rs1, rd):
        X[rd] = X[rs1] + imm

    found = decoded(0xFFF_00000 | 2 << 15 | 3 << 12 | 1 << 7 | 0x0B)
    assert found.operands == {"imm": -1, "rs1": 2, "rd": 1}
    assert found.arguments() == (2**64 - 1, 2, 1)


def test_what_semantics_do_is_known_from_the_declaration():
    @instruction(f"imm[11:0] rs1 100 rd {CUSTOM}", "odd rd, rs1, imm")
    def odd(rd, rs1, imm):
        F[rd] = load(X[rs1] + imm, 8)
        branch(4)

    assert odd.semantics.builtins == {"load", "branch"}
    assert odd.semantics.may_trap
    assert odd.semantics.indices("F", written=True) == {"rd"}


def test_every_declaration_is_in_the_language_and_fits_a_record():
    for encoding in isa.ENCODINGS.values():
        function = encoding.instruction.semantics
        assert function.body is not None
        assert function.result == ""
        assert set(encoding.operands) == set(function.params)
        immediates = [p for p in function.params if p not in isa.SLOT]
        assert len(immediates) <= 1, encoding.name


def test_a_routine_that_says_pure_is_held_to_it():
    for module in isa.EXTENSION_MODULES:
        scope = vars(__import__(f"protocol.riscv.{module}", fromlist=["_"]))
        for value in scope.values():
            if isinstance(value, Function):
                assert not (value.must_not_trap and value.may_trap)
