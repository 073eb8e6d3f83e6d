"""Floating-point instructions in a region whose semantics are made of bits, as the host has them.

The problem: moves, signs, minimum and maximum are described with masks and comparisons of integers.
Compiled as they stand they would send values through integer registers and back; the host's unit
has an instruction or two for each. What is emitted here is those instructions' meaning a second
time, so it is held to the description by the tests that run every instruction on edge values
through regions, and by those of `tests/jit_proc/test_float_regions.py`.

Invariant: operands whose bits count have been settled (`FloatRegions.begin_site`); a move takes a
raw result along as it is.

Read next: `float_regions.py`, protocol/riscv/rv_f.py.
"""

from __future__ import annotations

from collections.abc import Callable

from jit_proc import fp
from jit_proc.float_needs import DOUBLE, SINGLE
from jit_proc.float_regions import BOXED, SEEN_RARELY, FloatRegions, Real
from protocol.riscv.language import Function

_ENDS = {"d": DOUBLE, "s": SINGLE}


class FloatIdioms(FloatRegions):
    """Methods `i_<name>` stand for the instructions of that name in both precisions.

    They return whether they did it.
    """

    def body(self, function: Function, operands: dict[str, str]) -> None:
        name, _, end = function.name.rpartition("_")
        idiom: Callable[[str, dict[str, str]], bool] | None
        idiom = getattr(self, f"i_{name}", None) if end in _ENDS else None
        if idiom is None or not idiom(_ENDS[end], operands):
            super().body(function, operands)

    def _write(self, form: str, register: str, value: str, origin: str = "") -> bool:
        kind = DOUBLE if form == DOUBLE else BOXED
        self.write_float(register, self.token(Real(kind, value, origin)))
        return True

    def i_fsgnj(self, form: str, operands: dict[str, str]) -> bool:
        a = self.get_float(operands["rs1"], form)
        if operands["rs1"] == operands["rs2"]:
            return self._write(form, operands["rd"], a.name, a.origin)
        b = self.get_float(operands["rs2"], form)
        return self._write(form, operands["rd"], self._copy_sign(form, a.name, b.name))

    def i_fsgnjn(self, form: str, operands: dict[str, str]) -> bool:
        kind = fp.TYPE[form]
        a = self.get_float(operands["rs1"], form)
        b = self.get_float(operands["rs2"], form)
        negative = self.value(f"fneg {kind} {b.name}")
        if operands["rs1"] == operands["rs2"]:
            return self._write(form, operands["rd"], negative)
        return self._write(form, operands["rd"], self._copy_sign(form, a.name, negative))

    def i_fsgnjx(self, form: str, operands: dict[str, str]) -> bool:
        if operands["rs1"] != operands["rs2"]:
            return False
        kind = fp.TYPE[form]
        self.float_parts.setdefault(f"declare {kind} @llvm.fabs.{form}({kind})")
        a = self.get_float(operands["rs1"], form)
        value = self.value(f"call {kind} @llvm.fabs.{form}({kind} {a.name})")
        return self._write(form, operands["rd"], value)

    def _copy_sign(self, form: str, a: str, b: str) -> str:
        kind = fp.TYPE[form]
        self.float_parts.setdefault(f"declare {kind} @llvm.copysign.{form}({kind}, {kind})")
        return self.value(f"call {kind} @llvm.copysign.{form}({kind} {a}, {kind} {b})")

    def i_fmin(self, form: str, operands: dict[str, str]) -> bool:
        return self._extreme("min", "or", form, operands)

    def i_fmax(self, form: str, operands: dict[str, str]) -> bool:
        return self._extreme("max", "and", form, operands)

    def _extreme(self, which: str, merge: str, form: str, operands: dict[str, str]) -> bool:
        """The host's minimum of two equal numbers is the second: taken both ways and merged, zeros
        of either sign come out right. With a NaN, by the rules."""
        kind, integer = fp.TYPE[form], fp.INTEGER[form]
        a = self.get_float(operands["rs1"], form)
        b = self.get_float(operands["rs2"], form)
        odd, plain, after = self.new_label(), self.new_label(), self.new_label()
        self.branch_if(self.is_nan(form, a.name, b.name), odd, plain, SEEN_RARELY)
        self.label(odd)
        self.float_parts |= dict.fromkeys(fp.number_parts(form))
        number = self.value(
            f"call preserve_allcc {kind} @fp_number_{form}(ptr %hart, {kind} {a.name}, "
            f"{kind} {b.name})"
        )
        self.jump_to(after)
        self.label(plain)
        sides = [self._host_extreme(which, form, x, y) for x, y in ((a, b), (b, a))]
        bits = [self.value(f"bitcast {kind} {side} to {integer}") for side in sides]
        merged = self.value(f"{merge} {integer} {bits[0]}, {bits[1]}")
        extreme = self.value(f"bitcast {integer} {merged} to {kind}")
        self.jump_to(after)
        self.label(after)
        value = self.value(f"phi {kind} [ {number}, %{odd} ], [ {extreme}, %{plain} ]")
        return self._write(form, operands["rd"], value)

    def _host_extreme(self, which: str, form: str, a: Real, b: Real) -> str:
        kind = fp.TYPE[form]
        vector, name = fp.VECTOR[form], fp.EXTREME[form].format(which)
        self.float_parts.setdefault(f"declare {vector} {name}({vector}, {vector})")
        x, y = (
            self.value(f"insertelement {vector} zeroinitializer, {kind} {r.name}, i32 0")
            for r in (a, b)
        )
        pair = self.value(f"call {vector} {name}({vector} {x}, {vector} {y})")
        return self.value(f"extractelement {vector} {pair}, i32 0")
