"""Disassembly: what objdump says, and what the assembler takes back."""

from __future__ import annotations

import random

import pytest

from protocol.riscv import isa
from protocol.riscv.assembler import assemble
from protocol.riscv.csr import CSRS
from protocol.riscv.disassembler import disassemble, length
from protocol.riscv.isa import Encoding, decode, load_all
from tests.protocol.riscv.binutils import gnu_disassemble, plain

load_all()
SEED = 20260807
ENCODINGS = list(isa.ENCODINGS.values())
# Where objdump 2.40 and the manual differ, or objdump knows more than this machine has.
GNU_HINTS = {"c.slli64": "c.slli", "c.srli64": "c.srli", "c.srai64": "c.srai"}
GNU_REMOVED = ("uret", "hret", "sfence.vm", "dret")  # gone from the manual, or not this machine's
EXACT = ("fcvt.d.w", "fcvt.d.wu", "fcvt.d.s")  # objdump reads them with rm = 000 only


def filled(encoding: Encoding, noise: int) -> int:
    return (
        noise & ~encoding.pattern.mask & (1 << encoding.pattern.bits) - 1 | encoding.pattern.match
    )


def gnu_text(word: int, text: str) -> str:
    """objdump's text as the manual would have it."""
    name, _, operands = plain(text).partition(" ")
    if name in GNU_HINTS:
        return f"{GNU_HINTS[name]} {operands},0"
    if name == "c.addi" and operands.startswith("zero,"):
        return f"c.nop {operands[5:]}" if operands != "zero,0" else "c.nop"
    if word == 0x6101 or name in GNU_REMOVED or operands.endswith(",unknown"):
        return "illegal"  # c.addi16sp with 0, and rounding modes 5 and 6, are reserved
    return f"{name} {operands}".strip()


def test_all_compressed_words_read_as_in_objdump():
    for address, word, text in gnu_disassemble(w for w in range(1 << 16) if w & 3 != 3):
        assert plain(disassemble(word, address)) == _based(gnu_text(word, text), text), hex(word)


def _based(text: str, original: str) -> str:
    """objdump prints branch targets as bare hexadecimal."""
    name, _, operands = text.partition(" ")
    if "target" in getattr(isa.ENCODINGS.get(name), "text", ""):
        head, comma, _ = operands.rpartition(",")
        bare = original.split("<")[0].strip().rpartition("," if comma else "\t")[2]
        return f"{name} {head}{comma}{int(bare, 16)}"
    return text


def test_random_words_of_every_opcode_read_as_in_objdump():
    rng = random.Random(SEED)
    wide = [e for e in ENCODINGS if e.length == 4]
    words = [filled(e, rng.getrandbits(32)) for e in wide for _ in range(30)]
    words += [w ^ 1 << rng.randrange(2, 32) for w in words]  # one bit away from legal
    words = [w for w in words if w & 0x1F != 0x1F]  # longer encodings, to objdump
    for address, word, text in gnu_disassemble(words):
        ours = disassemble(word, address)
        name, _, operands = ours.partition(" ")
        if name in EXACT and operands.count(",") == 2:
            continue
        if name.startswith("csrr") and f", {word >> 20:#x}, " in ours:
            assert word >> 20 not in CSRS
            assert plain(text).split(" ")[0] == name
            continue
        if plain(ours) == "illegal" and name == ".word" and (decoded := decode(word)):
            # Executes, but has no text: a reserved field is set.
            assert decoded.encoding.name.startswith("f"), ours
        assert plain(ours) == _based(gnu_text(word, text), text), hex(word)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: e.name)
def test_what_is_printed_assembles_to_the_same_bits(encoding):
    rng = random.Random(encoding.name)
    for _ in range(20):
        word = filled(encoding, rng.getrandbits(32))
        text = disassemble(word, 0x8000_0000)
        assert int.from_bytes(assemble(text).data, "little") == word, text


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x00B50533, "add a0, a0, a1"),
        (0xFE010113, "addi sp, sp, -32"),
        (0x00113C23, "sd ra, 24(sp)"),
        (0x80000537, "lui a0, 0x80000"),
        (0x00008067, "jalr zero, 0(ra)"),
        (0xFE000EE3, "beq zero, zero, 0x7ffffffc"),
        (0x03F51513, "slli a0, a0, 0x3f"),
        (0x30529073, "csrrw zero, mtvec, t0"),
        (0x7C02D073, "csrrwi zero, 0x7c0, 5"),
        (0x1605252F, "lr.w.aqrl a0, (a0)"),
        (0x08A6A62F, "amoswap.w a2, a0, (a3)"),
        (0x0330000F, "fence rw, rw"),
        (0x0100000F, "fence w, 0"),
        (0x8330000F, "fence.tso"),
        (0x0000100F, "fence.i"),
        (0x12B50073, "sfence.vma a0, a1"),
        (0x02C5F553, "fadd.d fa0, fa1, fa2"),
        (0x02C59553, "fadd.d fa0, fa1, fa2, rtz"),
        (0x00053507, "fld fa0, 0(a0)"),
        (0xE2050553, "fmv.x.d a0, fa0"),
        (0x1141, "c.addi sp, -16"),
        (0x0001, "c.nop"),
        (0x7139, "c.addi16sp sp, -64"),
        (0x8082, "c.jr ra"),
        (0x2108, "c.fld fa0, 0(a0)"),
        (0x0000, ".half 0x0000"),
        (0xFFFFFFFF, ".word 0xffffffff"),
        (0x0330008F, ".word 0x0330008f"),
    ],
)
def test_the_text_is_the_one_the_manual_uses(word, text):
    assert disassemble(word, 0x8000_0000) == text


def test_bits_above_a_compressed_instruction_do_not_show():
    assert disassemble(0xDEAD_8082) == "c.jr ra"


def test_a_target_wraps_at_the_end_of_the_address_space():
    assert disassemble(0xFE000EE3, 0) == "beq zero, zero, 0xfffffffffffffffc"


def test_length_follows_from_the_low_bits():
    assert [length(raw) for raw in (0, 1, 2, 3, 0x13, 0xFFFF)] == [2, 2, 2, 4, 4, 4]
