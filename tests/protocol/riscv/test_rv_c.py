"""C: what each compressed word expands to, by GNU as, which knows what it may shorten."""

from __future__ import annotations

import pytest

from protocol.riscv.disassembler import disassemble
from protocol.riscv.isa import Decoded, decode
from protocol.riscv.reference import Trap
from tests.protocol.riscv.binutils import gnu_assemble
from tests.protocol.riscv.execution import M64, RAM, new_hart, word

ILLEGAL_INSTRUCTION = 2


def is_hint(decoded: Decoded) -> bool:
    """Changes nothing but pc, in an encoding that assemblers do not choose."""
    operands = decoded.operands
    if decoded.instruction.name in ("jal", "jalr", "fld"):
        return False
    unchanged = decoded.encoding.name in ("c.addi", "c.slli", "c.srli", "c.srai") and (
        operands.get("imm", operands.get("shamt")) == 0
    )
    return (operands.get("rd") == 0 and decoded.raw != 1) or unchanged


def long_text(decoded: Decoded) -> str:
    """The expansion, as one would write the 32-bit instruction."""
    operands = decoded.operands
    long = disassemble(decoded.instruction.pattern.insert(operands), 0)
    match decoded.encoding.name:
        case "c.j":
            return f"j .{operands['imm']:+d}"
        case "c.beqz" | "c.bnez":
            return f"{long[: long.rindex('0x')]}.{operands['imm']:+d}"
        case "c.jr":
            return long.replace("jalr zero, 0(", "jr ").rstrip(")")
        case "c.jalr":
            return long.replace("jalr ra, 0(", "jalr ").rstrip(")")
    return long


def test_the_expansion_of_every_compressed_word_is_compressed_to_it_by_gnu_as():
    words, texts = [], []
    for raw in range(1 << 16):
        decoded = decode(raw) if raw & 3 != 3 else None
        if decoded is None or is_hint(decoded):
            continue
        if decoded.encoding.name == "c.addi16sp" and -32 <= decoded.operands["imm"] < 32:
            continue  # c.addi can say the same
        words.append(raw)
        texts.append(long_text(decoded))
    assert len(words) > 46000
    image = gnu_assemble("\n".join([".option rvc", *texts, ""]), RAM)
    for n, (raw, text) in enumerate(zip(words, texts, strict=True)):
        assert image[2 * n : 2 * n + 2].hex() == raw.to_bytes(2, "little").hex(), text


def test_hints_change_nothing():
    hart = new_hart()
    hints = [d for raw in range(1 << 16) if raw & 3 != 3 and (d := decode(raw)) and is_hint(d)]
    assert len(hints) > 300
    registers = [0, *(0x1111 * n + 1 for n in range(1, 32))]
    for decoded in hints:
        hart.x[:] = registers
        hart.pc = RAM
        hart.execute(decoded.raw)
        assert (hart.x, hart.pc) == (registers, RAM + 2), disassemble(decoded.raw)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (0x0000, "all zeros"),
        (0x0008, "c.addi4spn with 0"),
        (0x2001, "c.addiw to x0"),
        (0x6101, "c.addi16sp with 0"),
        (0x6081, "c.lui with 0"),
        (0x4002, "c.lwsp to x0"),
        (0x6002, "c.ldsp to x0"),
        (0x8002, "c.jr x0"),
        (0x8000, "quadrant 0, funct3 100"),
        (0x9C41, "quadrant 1, subw/addw's neighbours"),
    ],
)
def test_reserved_words_are_illegal_instructions(raw, why):
    hart = new_hart()
    with pytest.raises(Trap) as caught:
        hart.execute(raw)
    assert (caught.value.cause, caught.value.value) == (ILLEGAL_INSTRUCTION, raw), why


@pytest.mark.parametrize(("text", "link"), [("c.jalr a1", RAM + 2), ("jalr a1", RAM + 4)])
def test_a_call_links_to_the_next_instruction_whatever_its_length(text, link):
    hart = new_hart()
    hart.x[11] = RAM + 0x101
    hart.execute(word(text))
    assert (hart.pc, hart.x[1]) == (RAM + 0x100, link)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("c.addi a0, -1", 0, M64),
        ("c.addiw a0, 1", 0x7FFF_FFFF, 0xFFFF_FFFF_8000_0000),
        ("c.li a0, -32", 5, -32 & M64),
        ("c.lui a0, 0xfffe0", 5, -0x20000 & M64),
        ("c.slli a0, 63", 3, 1 << 63),
        ("c.srli a0, 63", M64, 1),
        ("c.srai a0, 63", 1 << 63, M64),
        ("c.andi a0, -2", 7, 6),
        ("c.addi4spn a0, sp, 1020", 0, RAM + 0x200 + 1020),
    ],
)
def test_immediates_reach_their_ends(text, before, after):
    hart = new_hart()
    hart.x[2], hart.x[10] = RAM + 0x200, before
    hart.execute(word(text))
    assert hart.x[10] == after


def test_the_stack_forms_address_by_sp():
    hart = new_hart()
    hart.x[2], hart.x[5] = RAM + 0x100, 0x1122_3344_8899_AABB
    for text in (
        "c.sdsp t0, 504(sp)",
        "c.swsp t0, 252(sp)",
        "c.ldsp t1, 504(sp)",
        "c.lwsp t2, 252(sp)",
    ):
        hart.execute(word(text))
    assert (hart.x[6], hart.x[7]) == (hart.x[5], 0xFFFF_FFFF_8899_AABB)
