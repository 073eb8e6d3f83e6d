"""Floating point in regions: programs of odd operands, left at odd places, against the reference.

What a region puts off (the canonical NaN, boxes, the flag of a fused multiply-add) must be in order
wherever bits can be seen: in memory, in integer registers, at every trap, at every way out.
"""

from __future__ import annotations

import random

import pytest

from protocol.layout import STATE_LOOKS
from protocol.riscv.assembler import Program
from protocol.riscv.operands import F_NUMBERS
from tests.isa.values import BOX, DOUBLES, SINGLES
from tests.jit_proc import region_machine
from tests.jit_proc.region_machine import CODE, DATA, Start, differences

REGISTERS = ("fa0", "fa1", "fa2", "fa3", "fa4", "fs1")
MODES = ("dyn", "rne", "rtz", "rdn", "rup", "rmm")


class Writer:
    """A loop of floating-point instructions on few registers, so that results meet results."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def mode(self) -> str:
        return "dyn" if self.random.random() < 0.85 else self.random.choice(MODES)

    def instruction(self) -> str:
        pick = self.random
        a, b, c, d = (pick.choice(REGISTERS) for _ in range(4))
        f = pick.choice("dddss")
        kind = pick.random()
        if kind < 0.38:
            return f"{pick.choice(('fadd', 'fsub', 'fmul', 'fdiv'))}.{f} {a}, {b}, {c}"
        if kind < 0.5:
            op = pick.choice(("fmadd", "fmsub", "fnmsub", "fnmadd"))
            return f"{op}.{f} {a}, {b}, {c}, {d}, {self.mode()}"
        if kind < 0.53:
            return f"fsqrt.{f} {a}, {b}, {self.mode()}"
        if kind < 0.6:
            return (
                f"{pick.choice(('fsgnj', 'fsgnjn', 'fsgnjx'))}.{f} {a}, {b}, {pick.choice((b, c))}"
            )
        if kind < 0.65:
            return f"{pick.choice(('fmin', 'fmax'))}.{f} {a}, {b}, {c}"
        if kind < 0.7:
            return f"{pick.choice(('feq', 'flt', 'fle'))}.{f} {self.integer()}, {b}, {c}"
        if kind < 0.74:
            return pick.choice((f"fcvt.s.d {a}, {b}, {self.mode()}", f"fcvt.d.s {a}, {b}"))
        if kind < 0.79:
            to = pick.choice(("w", "wu", "l", "lu"))
            return f"fcvt.{to}.{f} {self.integer()}, {b}, {pick.choice(('rtz', 'dyn', *MODES))}"
        if kind < 0.83:
            source = pick.choice(("w", "wu", "l", "lu"))
            exact = f == "d" and source[0] == "w"
            return f"fcvt.{f}.{source} {a}, {self.integer()}" + (
                "" if exact else f", {self.mode()}"
            )
        if kind < 0.86:
            x = "d" if f == "d" else "w"
            return pick.choice(
                (f"fmv.x.{x} {self.integer()}, {b}", f"fmv.{x}.x {a}, {self.integer()}")
            )
        if kind < 0.87:
            return f"fclass.{f} {self.integer()}, {b}"
        place = 8 * pick.randrange(8)
        base = "a5" if pick.random() < 0.1 else "a4"
        width = pick.choice("dw")
        return f"f{'s' if kind < 0.94 else 'l'}{width} {a}, {place}({base})"

    def integer(self) -> str:
        return self.random.choice(("a1", "a2", "a3", "zero"))

    def program(self) -> str:
        """Some turns; in the last but one a5 may lead to nowhere."""
        pick = self.random
        lines = ["turn:"]
        for number in range(pick.randrange(6, 28)):
            lines.append(self.instruction())
            kind = pick.random()
            if kind < 0.06:
                lines += [f"beqz {self.integer()}, over{number}", self.instruction()]
                lines += [self.instruction(), f"over{number}:"]
            elif kind < 0.08:
                lines.append("csrr a2, fflags")
            elif kind < 0.16:
                lines.append("jal ra, leaf")
        lines += ["addi a0, a0, -1", "li a6, 2", "bne a0, a6, on", "mv a5, a7", "on:"]
        lines += ["bnez a0, turn", "j STOP", "leaf:", self.instruction(), self.instruction()]
        return "\n".join([*lines, "ret"])

    def value(self) -> int:
        pick = self.random
        kind = pick.random()
        if kind < 0.3:
            return BOX | pick.choice(SINGLES)
        if kind < 0.6:
            return pick.choice(DOUBLES)
        if kind < 0.75:
            return pick.randrange(0x3FB << 52, 0x403 << 52) | pick.getrandbits(1) << 63
        if kind < 0.85:
            return BOX | pick.randrange(0x3E000000, 0x41000000) | pick.getrandbits(1) << 31
        if kind < 0.95:
            return 0x7FF << 52 | pick.getrandbits(52) | pick.getrandbits(1) << 63
        return pick.getrandbits(64)

    def start(self, program: Program) -> Start:
        pick = self.random
        x = {10: pick.randrange(1, 6), 14: DATA, 15: DATA + 64}
        x[17] = 0x4000_0000 if pick.random() < 0.5 else DATA
        x |= {n: pick.choice((pick.getrandbits(64), pick.getrandbits(20), 0)) for n in (11, 12, 13)}
        return Start(
            program,
            CODE,
            x,
            {F_NUMBERS[name]: self.value() for name in REGISTERS},
            {DATA: b"".join(self.value().to_bytes(8, "little") for _ in range(32))},
            pick.choice(("dirty", "dirty", "dirty", "clean")),
            pick.choice((0, 0, 0, 1, 2, 3, 4)),
        )


def check(seed: int, starts: int = 12) -> None:
    writer = Writer(seed)
    text = writer.program()
    program = region_machine.guest(text)
    # Every other one assumes nothing of FS and frm.
    translation = region_machine.lift(writer.start(program), [CODE], STATE_LOOKS * (seed % 2))
    image = region_machine.compile_region(translation)
    for number in range(starts):
        start = writer.start(program)
        expected = region_machine.run_reference(start)
        assert differences(expected, region_machine.run_tier_0(start)) == [], f"tier 0\n{text}"
        found = region_machine.run_region(start, translation, image)
        assert differences(expected, found) == [], f"seed {seed}, start {number}\n{text}"


@pytest.mark.parametrize("seed", range(12))
def test_regions_do_what_the_reference_does(seed):
    check(seed)
