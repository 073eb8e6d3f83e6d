"""Pseudo-instructions: the names people write for other instructions.

The problem: assembly is written with `mv`, `beqz`, `ret`, which no encoding has. Each row here says
what one means, in the words of the "RISC-V Assembly Programmer's Manual"; the number of operands
chooses among rows of one name. `li` depends on its value: `load_constant` below. What depends on
the address (`la`, `call`, loads of a symbol) is code in `assembler.py`.

Invariant: an expansion is one statement made of real instructions or directives; operands replace
the names of the left side as whole words.

Read next: `assembler.py`.
"""

from __future__ import annotations

import functools
import re

from protocol.riscv.expression import lo, wrap

_TABLE = """
nop                   | addi x0, x0, 0
mv rd, rs             | addi rd, rs, 0
move rd, rs           | addi rd, rs, 0
not rd, rs            | xori rd, rs, -1
neg rd, rs            | sub rd, x0, rs
negw rd, rs           | subw rd, x0, rs
sext.w rd, rs         | addiw rd, rs, 0
zext.b rd, rs         | andi rd, rs, 255
zext.w rd, rs         | add.uw rd, rs, x0
seqz rd, rs           | sltiu rd, rs, 1
snez rd, rs           | sltu rd, x0, rs
sltz rd, rs           | slt rd, rs, x0
sgtz rd, rs           | slt rd, x0, rs
sgt rd, rs, rt        | slt rd, rt, rs
sgtu rd, rs, rt       | sltu rd, rt, rs

beqz rs, target       | beq rs, x0, target
bnez rs, target       | bne rs, x0, target
blez rs, target       | bge x0, rs, target
bgez rs, target       | bge rs, x0, target
bltz rs, target       | blt rs, x0, target
bgtz rs, target       | blt x0, rs, target
bgt rs, rt, target    | blt rt, rs, target
ble rs, rt, target    | bge rt, rs, target
bgtu rs, rt, target   | bltu rt, rs, target
bleu rs, rt, target   | bgeu rt, rs, target

j target              | jal x0, target
jal target            | jal ra, target
jr rs                 | jalr x0, rs
jr rs, imm            | jalr x0, rs, imm
jalr rs               | jalr ra, rs
ret                   | jalr x0, 0(ra)

fence                 | fence iorw, iorw
fence.tso             | .word 0x8330000f
pause                 | fence w, 0
sfence.vma            | sfence.vma x0, x0
sfence.vma rs         | sfence.vma rs, x0
unimp                 | csrrw x0, cycle, x0
c.nop                 | c.nop 0
c.unimp               | .half 0

csrr rd, csr          | csrrs rd, csr, x0
csrw csr, rs          | csrrw x0, csr, rs
csrs csr, rs          | csrrs x0, csr, rs
csrc csr, rs          | csrrc x0, csr, rs
csrwi csr, imm        | csrrwi x0, csr, imm
csrsi csr, imm        | csrrsi x0, csr, imm
csrci csr, imm        | csrrci x0, csr, imm
rdcycle rd            | csrrs rd, cycle, x0
rdtime rd             | csrrs rd, time, x0
rdinstret rd          | csrrs rd, instret, x0
frcsr rd              | csrrs rd, fcsr, x0
fscsr rs              | csrrw x0, fcsr, rs
fscsr rd, rs          | csrrw rd, fcsr, rs
frrm rd               | csrrs rd, frm, x0
fsrm rs               | csrrw x0, frm, rs
fsrm rd, rs           | csrrw rd, frm, rs
fsrmi imm             | csrrwi x0, frm, imm
fsrmi rd, imm         | csrrwi rd, frm, imm
frflags rd            | csrrs rd, fflags, x0
fsflags rs            | csrrw x0, fflags, rs
fsflags rd, rs        | csrrw rd, fflags, rs
fsflagsi imm          | csrrwi x0, fflags, imm
fsflagsi rd, imm      | csrrwi rd, fflags, imm

fmv.s rd, rs          | fsgnj.s rd, rs, rs
fmv.d rd, rs          | fsgnj.d rd, rs, rs
fabs.s rd, rs         | fsgnjx.s rd, rs, rs
fabs.d rd, rs         | fsgnjx.d rd, rs, rs
fneg.s rd, rs         | fsgnjn.s rd, rs, rs
fneg.d rd, rs         | fsgnjn.d rd, rs, rs
fgt.s rd, rs, rt      | flt.s rd, rt, rs
fgt.d rd, rs, rt      | flt.d rd, rt, rs
fge.s rd, rs, rt      | fle.s rd, rt, rs
fge.d rd, rs, rt      | fle.d rd, rt, rs
fmv.x.s rd, rs        | fmv.x.w rd, rs
fmv.s.x rd, rs        | fmv.w.x rd, rs
"""


@functools.cache
def _rows() -> dict[tuple[str, int], tuple[list[str], str]]:
    """(name, number of operands) -> the operands' names, the expansion."""
    rows = {}
    for line in _TABLE.split("\n"):
        if line:
            left, _, right = line.partition("|")
            name, _, names = left.strip().partition(" ")
            operands = [n.strip() for n in names.split(",") if n.strip()]
            rows[name, len(operands)] = operands, right.strip()
    return rows


def names() -> frozenset[str]:
    """Every pseudo-instruction of the table."""
    return frozenset(name for name, _ in _rows())


def forms(name: str) -> list[str]:
    """How `name` is written: "csrw csr, rs"; one text for each number of operands."""
    return [f"{n} {', '.join(row[0])}" for (n, _), row in _rows().items() if n == name]


def expand(name: str, operands: list[str]) -> tuple[str, list[str]] | None:
    """The statement meant, as name and operands; None if no row has so many operands."""
    row = _rows().get((name, len(operands)))
    if row is None:
        return None
    given = dict(zip(row[0], operands, strict=True))
    target, _, rest = row[1].partition(" ")
    return target, [
        re.sub(r"\w+", lambda w: given.get(w[0], w[0]), t.strip()) for t in rest.split(",")
    ]


def load_constant(value: int) -> list[tuple[str, int]]:
    """How `li` makes a 64-bit constant: (mnemonic, immediate) steps on one register, as in GNU as.

    The first step has no register source (`lui`, or `addi`/`addiw` from x0).
    """
    value = wrap(value)
    if -0x800 <= value < 0x800:
        return [("addi", value)]
    return _load_constant(value)


def _load_constant(value: int) -> list[tuple[str, int]]:
    low = lo(value)
    upper = value - low
    if -(1 << 31) <= value < 1 << 31:
        steps = [("lui", upper >> 12 & 0xFFFFF)] if upper else []
        return [*steps, ("addiw", low)] if low or not upper else steps
    shift = (upper & -upper).bit_length() - 1
    steps = [*_load_constant(wrap(upper) >> shift), ("slli", shift)]
    return [*steps, ("addi", low)] if low else steps
