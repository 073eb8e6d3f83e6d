"""The assembler: bit for bit what GNU as and ld make of the same text, and errors that help."""

from __future__ import annotations

import contextlib
import random
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import UserError
from protocol.riscv import isa
from protocol.riscv.assembler import AssemblyError, assemble
from protocol.riscv.disassembler import disassemble
from protocol.riscv.isa import load_all
from protocol.riscv.pseudo import load_constant
from protocol.riscv.reference import Memory, ReferenceHart
from tests.protocol.riscv.binutils import gnu_assemble

load_all()
BASE = 0x8000_0000
NOT_IN_GNU_AS = ("fcvt.d.w", "fcvt.d.wu", "fcvt.d.s")  # it takes no rounding mode for these


def same(text: str, base: int = BASE) -> None:
    """Ours and GNU's agree, statement by statement if not in all."""
    ours = assemble(text, base)
    theirs = gnu_assemble(f".option norvc\n{text}", base)
    for line in ours.lines:
        at = line.address - base
        assert ours.data[at : at + line.size].hex() == theirs[at : at + line.size].hex(), line
    assert ours.data == theirs


def constants() -> list[int]:
    rng = random.Random(7)
    values = [0, 1, -1, 2047, 2048, -2048, -2049, 0x7FF800, 0x7FFFF7FF, 0x7FFFF800, 0x7FFFFFFF]
    values += [1 << n for n in range(64)] + [-(1 << n) for n in range(64)]
    values += [(1 << n) - 1 for n in range(65)] + [(1 << n) + 0x800 for n in range(12, 63)]
    values += [rng.getrandbits(64) >> rng.randrange(64) for _ in range(300)]
    return values


# --- against GNU as -------------------------------------------------------------------------------


def test_every_instruction_with_random_operands():
    rng = random.Random(11)
    lines, expected = [], b""
    for encoding in isa.ENCODINGS.values():
        pattern = encoding.pattern
        for _ in range(12):
            word = rng.getrandbits(pattern.bits) & ~pattern.mask | pattern.match
            text = disassemble(word, 0)
            if text.startswith(".") or (encoding.name in NOT_IN_GNU_AS and text.count(",") == 2):
                continue
            decoded = isa.decode(word)
            assert decoded is not None
            if "target" in decoded.encoding.text:
                offset = decoded.operands["imm"]
                text = f"{text[: text.rindex('0x')]}.{offset:+d}"
            lines.append(f".option {'rvc' if encoding.length == 2 else 'norvc'}; {text}")
            expected += word.to_bytes(encoding.length, "little")
    text = "\n".join(lines)
    assert len(lines) > 2000
    assert assemble(text).data == expected
    assert gnu_assemble(text, BASE) == expected


def test_constants_of_every_size():
    same("\n".join(f"li a{n % 8}, {value}" for n, value in enumerate(constants())))


PSEUDO = """
start:  nop
        mv a0, a1; not a0, a1; neg a0, a1; negw t0, t1; move s0, fp
        sext.w a0, a1; zext.b a0, a1; zext.w a0, a1; zext.h a0, a1; sext.b a0, a1; sext.h a0, a1
        seqz a0, a1; snez a0, a1; sltz a0, a1; sgtz a0, a1; sgt a0, a1, a2; sgtu a0, a1, a2
1:      beqz a0, 1b; bnez a0, 1f; blez a0, start; bgez a0, start; bltz a0, 1b; bgtz a0, 2f
1:      bgt a0, a1, 1b; ble a0, a1, start; bgtu a0, a1, 1b; bleu a0, a1, 2f
2:      j start; jal start; jal t0, 2b; jr a0; jr a0, 8; jalr a0; jalr a0, a1; jalr a0, a1, -4
        jalr a0, 4(a1); ret; call far; call t0, far; tail far; jump far, t2
        fence; fence.tso; fence r, rw; fence.i; sfence.vma; sfence.vma a0; unimp; ecall; ebreak
        csrr a0, mstatus; csrw mtvec, a0; csrs mie, a0; csrc mip, a0; csrr a0, 0x7c0
        csrwi satp, 0; csrsi mstatus, 8; csrci sstatus, 2; csrrwi a0, fcsr, 31
        rdcycle a0; rdtime a0; rdinstret a0
        frcsr a0; fscsr a0; fscsr a0, a1; frrm a0; fsrm a0; fsrm a0, a1; fsrmi 3; fsrmi a0, 3
        frflags a0; fsflags a0; fsflags a0, a1; fsflagsi 5; fsflagsi a0, 5
        fmv.s fa0, fa1; fabs.s fa0, fa1; fneg.s fa0, fa1; fgt.s a0, fa0, fa1; fge.s a0, fa0, fa1
        fmv.d fa0, fa1; fabs.d fa0, fa1; fneg.d fa0, fa1; fgt.d a0, fa0, fa1; fge.d a0, fa0, fa1
        fmv.x.s a0, fa0; fmv.s.x fa0, a0; fcvt.w.d a0, fa0; fcvt.w.d a0, fa0, rtz; fcvt.d.w fa0, a0
        lr.w a0, (a1); sc.d.aqrl a0, a1, (a2); amoadd.w.aq a0, a1, 0(a2); amomaxu.d.rl a0, a1, (a2)
        la a0, far; lla a1, start; la a2, value; li a3, -5
        lw a0, value; ld a0, value; lbu a0, start; sw a0, value, t0; sd a0, value, t1
        flw fa0, value, t0; fld fa0, value, t1; fsd fa0, value, t2
        lw a0, (a1); sw a0, (a1); lw a0, %lo(4097)(a1); ld a0, 8+8(sp)
        lui a0, %hi(0x12345fff); addi a0, a0, %lo(0x12345fff); mret; sret; wfi
        .space 0x3000
far:    ret
        .data
        .dword 1
value:  .dword 2
"""


def test_pseudo_instructions():
    same(PSEUDO)


DIRECTIVES = r"""
        .globl _start
        .text
        .equ    SIZE, 3 * 4
        .set    COUNT, 1
_start: addi    a0, a0, SIZE            # a comment, with 'quotes" in it; and more
        addi    a0, a0, COUNT           # another
        .set    COUNT, COUNT + 1
        addi    a0, a0, COUNT           /* a third,
                                           of two lines */
        j       end
        .byte   1, -1, 'a', '\n', '\'', 0x7f, ';', '#'
        .half   1, -2, 0xffff
        .byte   3
        .align  3
        .word   _start, end - _start, . - _start, -1
        .balign 16
        .dword  end, 0xffffffffffffffff, -0x8000000000000000
        .quad   later
later = 0x1234
        .ascii  "no end, # no comment"
        .asciz  "tab\tquote\" \101\x42 // no comment"
        .string "one", "two"
        .p2align 4
        .org    0x200
        .fill   3, 2, 0x1234
        .fill   2
        .space  5, 0xaa
        .zero   3
        .skip   2
        .float  1.5, -0.1
        .double 3.141592653589793, 1e300
        .balign 8, 0x55
end:    ret
        .section .rodata
text:   .asciz "read only"
        .data
        .byte 1
        .align 3
        .dword text, end, 7
1:      .text
        nop
1:      la a0, text
        .data
        .dword 1b
"""


def test_directives():
    same(DIRECTIVES)


def test_an_image_may_lie_anywhere():
    same("a: la t0, a\n j a\n .dword a, b\n .org 0x40\nb: call a", 0x1000)
    high = assemble("a: la t0, b\n .dword a\nb:", 0xFFFF_FFFF_8000_0000)
    assert high.symbols["a"] == 0xFFFF_FFFF_8000_0000
    assert high.data[8:] == (0xFFFF_FFFF_8000_0000).to_bytes(8, "little")


def expression(rng: random.Random) -> str:
    def term() -> str:
        number = rng.choice(
            [str(rng.randrange(20)), hex(rng.getrandbits(64)), "0b101", "017", "'A'"]
        )
        shift = rng.choice(["", "", f" << {rng.randrange(64)}", f" >> {rng.randrange(64)}"])
        return rng.choice(["", "-", "~"]) + number + shift

    text = term()
    for _ in range(rng.randrange(5)):
        text += f" {rng.choice('+-*&|^')} {rng.choice([term(), f'({term()} - {term()})'])}"
    return f"({text}) / 7 % 5" if rng.random() < 0.2 else text


def test_expressions():
    rng = random.Random(3)
    texts = [expression(rng) for _ in range(1000)]
    program = "\n".join(f".dword {t}" for t in texts)
    ours, theirs = assemble(program).data, gnu_assemble(program, BASE)
    for n, text in enumerate(texts):
        assert ours[8 * n : 8 * n + 8].hex() == theirs[8 * n : 8 * n + 8].hex(), text


# --- alone ----------------------------------------------------------------------------------------


@given(st.integers(-(2**63), 2**64 - 1))
def test_li_makes_its_constant(value):
    result = 0
    for step, operand in load_constant(value):
        match step:
            case "lui":
                result = (operand << 12 ^ 1 << 31) - (1 << 31)
            case "addi":
                result += operand
            case "addiw":
                result = ((result + operand) % 2**32 ^ 1 << 31) - (1 << 31)
            case "slli":
                result = result << operand
    assert result % 2**64 == value % 2**64


def test_a_program_does_what_it_says():
    program = assemble(
        """
        # The sum of a table's words, by a loop, a call and a stack.
                la      sp, stack_end
                la      a0, table
                li      a1, (table_end - table) / 4
                call    sum
        done:   j       done
        sum:    c.addi  sp, -16
                sd      ra, 8(sp)
                mv      t0, zero
        1:      beqz    a1, 2f
                lw      t1, (a0)
                add     t0, t0, t1
                addi    a0, a0, 4
                addi    a1, a1, -1
                j       1b
        2:      mv      a0, t0
                c.ldsp  ra, 8(sp)
                addi    sp, sp, 16
                ret
        table:  .word   1, 20, 300, -4000
        table_end:
                .balign 16
                .space  64
        stack_end:
        """
    )
    memory = Memory()
    memory.add_ram(program.base, 0x1000)[: len(program.data)] = program.data
    hart = ReferenceHart(memory, program.base)
    hart.run(200, until=lambda: hart.pc == program.symbols["done"])
    assert hart.x[10] == (321 - 4000) % 2**64


def test_symbols_and_lines_tell_where_everything_went():
    program = assemble("a: nop; c.nop\n\nb:\n.equ K, -1\n call a\n", 0x1000)
    assert program.symbols == {"a": 0x1000, "b": 0x1006, "K": 2**64 - 1}
    assert [(x.number, x.address, x.size, x.text) for x in program.lines] == [
        (1, 0x1000, 4, "nop"),
        (1, 0x1004, 2, "c.nop"),
        (5, 0x1006, 8, "call a"),
    ]


def test_li_takes_values_from_further_down_in_two_instructions():
    early = assemble(".equ x, 4000\nli a0, x\nli a1, -1").data
    late = assemble("li a0, x\nli a1, y\n.equ x, 4000\n.equ y, -1").data
    assert late[:8] == early[:8]
    assert late[8:] == assemble("lui a1, 0\naddiw a1, a1, -1").data


def test_comments_may_be_written_as_in_c():
    assert (
        assemble("nop // one; two\nnop /* three\n four */ ; nop").data
        == assemble("nop;nop;nop").data
    )


def test_nothing_is_compressed_unless_written():
    assert len(assemble(".option rvc\n addi a0, a0, 1\n c.addi a0, 1").data) == 6


def test_code_is_padded_with_instructions():
    assert assemble("c.nop\n .align 3\n ret").data.hex() == "010001001300000067800000"


ERRORS = [
    ("mul a0, a1", "<text>:1: mul has 2 operands: write 'mul rd, rs1, rs2'"),
    ("nop\n\n mull a0, a1, a2", "<text>:3: 'mull' is no instruction: did you mean mul"),
    ("; a comment here", "'a' is no instruction"),
    ("addi a0, a1, 2048", "addi takes -2048 to 2047, not 2048"),
    ("slli a0, a1, 64", "slli takes 0 to 63, not 64"),
    ("lui a0, 0x100000", "outside 0 to 0xfffff"),
    ("addi a0, b1, 1", "'b1' is not an integer register: write 'addi rd, rs1, imm'"),
    ("fadd.d fa0, a1, fa2", "'a1' is not a floating-point register"),
    ("fadd.d fa0, fa1, fa2, up", "'up' is no rounding mode: rne"),
    ("lw a0, 4[a1]", "is no expression"),
    ("lw a0, a1", "'a1' is a register: write 'lw a0, 0(a1)'"),
    ("sw a0, x", "a register for the address"),
    ("amoadd.w a0, a1, 4(a2)", "amoadd.w takes no offset"),
    ("c.lw t0, 0(a0)", "c.lw reaches registers 8 to 15 only (s0 s1 a0-a5), not t0"),
    ("c.lw a0, 3(a0)", "c.lw takes 0 to 124 in steps of 4, not 3"),
    ("c.lwsp a0, 4(a1)", "c.lwsp addresses by sp only"),
    ("c.addi16sp a0, 16", "c.addi16sp works on sp only, not a0"),
    ("c.lui sp, 1", "this encoding of c.lui is reserved"),
    ("beq a0, a1, x\n .space 8192\nx:", "x is +8196 bytes away; beq takes -4096 to 4094"),
    ("j x + 1\nx:", "jal takes -1048576 to 1048574 in steps of 2, not 5"),
    ("la a0, x\n .equ x, 1 << 40", "more than 2 GiB: use li"),
    ("j nowhere", "'nowhere' is not defined"),
    ("j 1f", "'1f' is not defined"),
    ("li a0, x\n .equ x, 1 << 40", "32 signed bits only: define it above, or use la"),
    (".space x\nx:", "'x' is not known yet here"),
    ("li a0, x\nx:", "32 signed bits only: define it above, or use la"),
    ("li a0, x", "'x' is not defined"),
    ("x: nop\nx: nop", "<text>:2: 'x' is defined already, in line 1"),
    (".equ a, b\n.equ b, a\n.word a", "is defined by itself"),
    (".word 1 +", "ends too early"),
    (".word (1", "')' is missing"),
    (".word 1 1", "operator expected before '1'"),
    (".word 09", "09 is no octal number"),
    (".word 1 / 0", "divides by zero"),
    (".word 1 << 64", "shifts by 64"),
    (".byte 256", "0x100 does not fit 1 bytes"),
    (".dword 0x10000000000000000", "more than 64 bits"),
    (".ascii hello", 'hello is no string: write "text"'),
    (r'.ascii "\q"', "unknown escape \\q"),
    ("lui a0, %hi(x)\nx:", "lui sign-extends from 32 bits"),
    ("nop\n.org 2", ".org 0x2 is behind us"),
    (".balign 3", "power of two in bytes, not 3"),
    (".align 40", "the power of two, 0 to 28, not 40"),
    (".org", ".org has 0 operands"),
    (".space", ".space does not take 0 operands"),
    (".fill 1, 9", ".fill repeats 0 to 8 bytes, not 9"),
    (".float one", "'one' is no number that fits"),
    (".section .mine", "section '.mine' is unknown: use .text"),
    (".dwrod 1", "'.dwrod' is no directive known here: .dword?"),
    (".insn 0x12345", "is no 2-byte instruction"),
    ("csrr a0, mstat", "'mstat' is not defined"),
    ("fence rr, w", "'rr' is no set of the letters i, o, r, w"),
    ("csrw mstatus", "csrw has 1 operands: write 'csrw csr, rs'"),
]


@pytest.mark.parametrize(("text", "what"), ERRORS, ids=[t.replace("\n", ";") for t, _ in ERRORS])
def test_an_error_names_the_line_what_is_wrong_and_what_to_do(text, what):
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    assert what in str(caught.value)
    assert str(caught.value).startswith("<text>:")
    assert isinstance(caught.value, UserError)


PIECES = (
    *("()[],:;%+-*/~.\"'\\#= \n\té"),
    *("1f", "0b", "x", "x:", "1:", "a0", "(sp)", "%lo(", "09", "'a'", "0xffffffffffffffff"),
    *("li", "la", "lw", "jalr", "c.addi", "fence", "lr.w.aq", "csrr", "fadd.s", "amoadd.d", "beqz"),
    *(".word", ".org", ".align", ".fill", ".ascii", ".equ", ".data", ".insn"),
)


@given(st.lists(st.sampled_from(PIECES), max_size=12))
def test_no_text_ends_in_anything_but_an_assembly_error(pieces):
    for text in ("".join(pieces), " ".join(pieces)):
        with contextlib.suppress(AssemblyError):
            assemble(text)


def test_an_error_names_the_file():
    with pytest.raises(AssemblyError, match=r"^boot\.s:2: 'nopp' is no instruction"):
        assemble(textwrap.dedent("nop\nnopp\n"), name="boot.s")
