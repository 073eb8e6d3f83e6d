"""Floating-point registers inside a region: values of the host's unit, settled as late as may be.

The problem: a guest's register is 64 bits that hold a double, or a single in a box, and whose NaNs
are canonical when an operation made them. Done to the letter after each operation that is a trip
through integer registers and a select on the critical path: twice to three times the run time.

How it stands here:

- **Forms.** A register lives in up to two allocas: `%d.N`, its 64 bits as a double, and `%s.N`, the
  single that its box holds (the canonical NaN, when it is no box). `forms` says which are right at
  this point; a form that is missing is made from the other or fetched from the hart, where each
  write is stored at once. What a block is given when control comes to it, `float_needs.py` says.
- **Raw results.** The host's NaN results carry the payload and sign of an operand. An operation
  gives its result as it is, in the alloca and in the hart: it is *raw*, and the only NaN it may
  wrongly be is the wrong NaN. Arithmetic on raw operands is right, for a NaN of any kind gives a
  NaN, and comparisons and conversions do not tell NaNs apart; none raises a flag that it should
  not, for an operation's result never signals.
- **Settling.** Before anybody can see bits of a raw register (a store, a move, a sign operation,
  the end of the block) `settle` looks whether any is a NaN, by a branch that is never taken in
  practice: nothing waits for it. A result that is no NaN had no NaN operand, so only those that
  went into no other are looked at, two with one comparison. Where an instruction in between leaves
  to tier 0, what is raw at that point is put in order in the hart on the way out.
- **Fused multiply-add.** Infinity times zero plus a quiet NaN is invalid by RISC-V and not by the
  host. Its result is a NaN, so the path of settling looks.

Invariants: no block is entered with a raw register, and none is left, but for the ways out that put
the hart in order themselves; whoever jumps to a block does so by `terminate`, which carries over
the forms that the block wants. Operations stay constrained intrinsics, in order, none left out:
flags in MXCSR are exact at every way out.

Read next: `float_idioms.py` (signs, minimum and maximum), `fp.py` (operations and flags),
`lift.py` (the rest of a region).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jit_proc import fp
from jit_proc.float_needs import DOUBLE, NOTHING, SINGLE, block_needs, reads
from jit_proc.handlers import ValueEmitter
from jit_proc.select import Selection, Site
from protocol.riscv.language import (
    FP_BUILTINS,
    Call,
    Const,
    Expr,
    Function,
    Local,
    Register,
    walk,
)

_BOX = -(1 << 32)
SEEN_RARELY = ", !prof !1"
_TARGET = re.compile(r"label %b(\d+)\b")
BOXED = "boxed"
_SIGN = {DOUBLE: str(-(1 << 63)), SINGLE: str(1 << 31)}


@dataclass(frozen=True, slots=True)
class Real:
    """What an i64 operand is the bits of: a double, a single, or a single in its box.

    `origin`: the raw result it is, when it has not been settled.
    """

    form: str
    name: str
    origin: str = ""


@functools.cache
def _seen(function: Function) -> bool:
    """Whether the instruction uses bits of a floating-point register, not its value alone."""
    inside = {
        id(n)
        for call in function.nodes
        if isinstance(call, Call) and call.name in FP_BUILTINS
        for n in walk(call.args)
        if isinstance(n, Register)
    }
    return any(
        id(n) not in inside and isinstance(n.index, Local) and n.index.name in _sources(function)
        for n in function.nodes
        if isinstance(n, Register) and n.file == "F"
    )


def _sources(function: Function) -> frozenset[str]:
    return frozenset(param for param, _ in reads(function))


class FloatRegions(ValueEmitter):
    """The part of a region's emitter that knows floating-point registers."""

    site: Site

    def __init__(self, selection: Selection) -> None:
        super().__init__()
        self.needs = block_needs(selection)
        self.entries = selection.entries
        self.forms: dict[str, set[str]] = {}
        self.boxed: set[str] = set()  # singles known to stand in a box
        self.raw: dict[str, Real] = {}  # registers that hold a raw result
        self.ancestors: dict[str, frozenset[str]] = {}  # raw result -> those that went into it
        self.fused: list[tuple[str, str, str, str]] = []  # form, result, factors: not yet looked at
        self.reals: dict[str, Real] = {}
        self.slots: dict[str, None] = {}
        self.float_parts: dict[str, None] = {}  # texts that the module needs
        self._left_raw: tuple[dict[str, str], list[tuple[str, str, str, str]]] = ({}, [])

    # --- blocks ------------------------------------------------------------------------------

    def begin_block(self, offset: int) -> None:
        """What holds when control comes to the block at this offset."""
        assert not self.raw
        assert not self.fused
        needs = self.needs.get(offset, NOTHING)
        self.forms = {register: set(forms) for register, forms in needs.items()}
        self.boxed = set()

    def float_state(self) -> tuple[Any, ...]:
        """What is known of registers here, for `restore_floats`."""
        forms = {register: set(known) for register, known in self.forms.items()}
        lists = (set(self.boxed), dict(self.raw), dict(self.ancestors), list(self.fused))
        return (forms, *lists, dict(self.reals), self._left_raw)

    def restore_floats(self, state: tuple[Any, ...]) -> None:
        """Emission goes on where `state` held."""
        self.forms, self.boxed, self.raw, self.ancestors, self.fused = state[:5]
        self.reals, self._left_raw = state[5:]

    def begin_site(self, site: Site) -> None:
        """Settle what the instruction would see, and all before control may go elsewhere."""
        self.reals = {}
        self._left_raw = ({}, [])
        if not (self.raw or self.fused):
            return
        if site.decoded is None or not site.liftable or site.ends_block or site.target is not None:
            self.settle()
            return
        semantics = site.decoded.instruction.semantics
        if not _seen(semantics) or self._moves(site):
            return
        operands = site.decoded.operands
        if any(str(operands[param]) in self.raw for param in _sources(semantics)):
            self.settle()

    def terminate(self, text: str) -> None:
        """A block of the selection is entered with nothing raw and the forms it wants."""
        if not self.done:
            forms = {register: set(known) for register, known in self.forms.items()}
            for target in dict.fromkeys(_TARGET.findall(text)):
                self.settle()
                self._carry(int(target))
            self.forms = forms  # what was fetched for the target is not there on other paths
        super().terminate(text)

    def carry_to_turn(self, targets: Iterable[int]) -> None:
        """Before a jump to where the region finds out to which of its blocks it goes on."""
        self.settle()
        for target in targets:
            self._carry(target)

    def begin_turn(self, targets: Iterable[int]) -> None:
        """What holds there."""
        self.forms, self.boxed = {}, set()
        for target in targets:
            for register, forms in self.needs.get(target, NOTHING).items():
                self.forms.setdefault(register, set()).update(forms)

    def _carry(self, target: int) -> None:
        for register, forms in self.needs.get(target, NOTHING).items():
            for form in sorted(forms - self.forms.get(register, set())):
                self._fetch(register, form)

    def enter_with_floats(self) -> None:
        """At the region's entry: load what the blocks that are entered from outside want."""
        wanted: dict[tuple[str, str], None] = {}
        for offset in self.entries:
            for register, forms in self.needs.get(offset, NOTHING).items():
                wanted |= {(register, form): None for form in sorted(forms)}
        self.forms, self.boxed = {}, set()
        for register, form in wanted:
            self._fetch(register, form)
        for slot in self.slots:
            kind = "double" if slot.startswith("%d") else "float"
            self.allocas.append(f"  {slot} = alloca {kind}")

    def _moves(self, site: Site) -> bool:
        assert site.decoded is not None
        operands = site.decoded.operands
        name = site.decoded.instruction.semantics.name
        return name in ("fsgnj_d", "fsgnj_s") and operands["rs1"] == operands["rs2"]

    # --- forms -------------------------------------------------------------------------------

    def _float_slot(self, register: str, form: str) -> str:
        slot = f"%{'d' if form == DOUBLE else 's'}.{register}"
        self.slots.setdefault(slot)
        return slot

    def _place(self, register: str) -> str:
        return self.field("f", int(register))

    def _fetch(self, register: str, form: str) -> None:
        """Make a form valid that is not; the register is not raw."""
        place = self._place(register)
        if form == DOUBLE:
            value = self.value(f"load double, ptr {place}, align 8")
        else:
            if DOUBLE in self.forms.get(register, ()):
                double = self.value(f"load double, ptr {self._float_slot(register, DOUBLE)}")
                bits = self.value(f"bitcast double {double} to i64")
                is_box = self.value(f"icmp uge i64 {bits}, {_BOX}")
                low = self.value(f"trunc i64 {bits} to i32")
            else:  # by halves, as a single is stored: the host forwards no two stores to one load
                high = self.value(f"load i32, ptr {self.address(place, 4)}")
                is_box = self.value(f"icmp eq i32 {high}, -1")
                low = self.value(f"load i32, ptr {place}, align 8")
            safe = self.value(f"select i1 {is_box}, i32 {low}, i32 {fp.CANONICAL_NAN[SINGLE]}")
            value = self.value(f"bitcast i32 {safe} to float")
        self.emit(f"store {fp.TYPE[form]} {value}, ptr {self._float_slot(register, form)}")
        self.forms.setdefault(register, set()).add(form)

    def get_float(self, register: str, form: str) -> Real:
        if form not in self.forms.get(register, ()):
            self.settle()
            self._fetch(register, form)
        value = self.value(f"load {fp.TYPE[form]}, ptr {self._float_slot(register, form)}")
        raw = self.raw.get(register)
        return Real(form, value, raw.name if raw is not None else "")

    def token(self, real: Real) -> str:
        """An i64 operand that stands for a real; its bits, should anybody want them."""
        if real.form == DOUBLE:
            operand = self.value(f"bitcast double {real.name} to i64")
        else:
            narrow = self.value(f"bitcast float {real.name} to i32")
            operand = self.value(f"zext i32 {narrow} to i64")
            if real.form == BOXED:
                operand = self.value(f"or i64 {operand}, {_BOX}")
        self.reals[operand] = real
        return operand

    def real(self, operand: str, form: str) -> Real:
        """The double or single that an operand is the bits of."""
        known = self.reals.get(operand)
        if known is not None and known.form == form:
            return known
        if form == DOUBLE:
            return Real(form, self.value(f"bitcast i64 {operand} to double"))
        narrow = self.value(f"trunc i64 {operand} to i32")
        return Real(form, self.value(f"bitcast i32 {narrow} to float"))

    def read_float(self, index: str) -> str:
        """All 64 bits of a register (the lower half will do, when that is all that is stored)."""
        forms = self.forms.get(index, set())
        if DOUBLE in forms or (not forms and not self._stores_word()):
            return self.token(self.get_float(index, DOUBLE))
        if index in self.boxed:
            single = self.get_float(index, SINGLE)
            return self.token(Real(BOXED, single.name, single.origin))
        if self._stores_word():
            value = self.value(f"load float, ptr {self._place(index)}, align 8")
            return self.token(Real(SINGLE, value))
        return self.token(Real(DOUBLE, self.value(f"load double, ptr {self._place(index)}")))

    def _stores_word(self) -> bool:
        """Whether the instruction stores 4 bytes of a register, in a box or not."""
        assert self.site.decoded is not None
        return any(
            isinstance(n, Call) and n.name == "store" and n.args[2] == Const(4)
            for n in self.site.decoded.instruction.semantics.nodes
        )

    def write_float(self, index: str, operand: str) -> None:
        """Write a register, here and in the hart."""
        real = self.reals.get(operand)
        if real is None or real.form == SINGLE:
            real = self.real(operand, DOUBLE)
        form = DOUBLE if real.form == DOUBLE else SINGLE
        place = self._place(index)
        for target in (self._float_slot(index, form), place):
            self.emit(f"store {fp.TYPE[form]} {real.name}, ptr {target}")
        self.boxed.discard(index)
        if form == SINGLE:
            self.emit(f"store i32 -1, ptr {self.address(place, 4)}")
            self.boxed.add(index)
        self.forms[index] = {form}
        self.raw.pop(index, None)
        if real.origin:
            self.raw[index] = Real(form, real.origin)

    # --- memory ------------------------------------------------------------------------------

    def store_guest(self, value: str, pointer: str, size: int) -> None:
        known = self.reals.get(value)
        if known is not None and (known.form == DOUBLE) == (size == 8):
            kind = fp.TYPE[DOUBLE if size == 8 else SINGLE]
            self.emit(f"store volatile {kind} {known.name}, ptr {pointer}, align 1")
            return
        width = 8 * size
        if width < 64:
            value = self.value(f"trunc i64 {value} to i{width}")
        self.emit(f"store volatile i{width} {value}, ptr {pointer}, align 1")

    # --- the walk ----------------------------------------------------------------------------

    def expr(self, node: Expr) -> str:
        if isinstance(node, Call) and node.function is not None:
            if node.function.name == "unbox" and isinstance(node.args[0], Register):
                return self.token(self.get_float(self.expr(node.args[0].index), SINGLE))
            if node.function.name == "box":
                single = self.real(self.expr(node.args[0]), SINGLE)
                return self.token(Real(BOXED, single.name, single.origin))
        return super().expr(node)

    def binary(self, op: str, a: str, b: str) -> str:
        known = self.reals.get(a)
        if op == "xor" and known is not None and _SIGN.get(known.form) == b:
            # A raw NaN may keep any sign: only operations do this to one that is not settled.
            flipped = self.value(f"fneg {fp.TYPE[known.form]} {known.name}")
            return self.token(Real(known.form, flipped, known.origin))
        return super().binary(op, a, b)

    # --- operations --------------------------------------------------------------------------

    def constrained(self, result: str, name: str, args: Sequence[str], metadata: str) -> str:
        declaration, text = fp.constrained(result, name, args, metadata)
        self.float_parts.setdefault(declaration)
        return self.value(text)

    def is_nan(self, form: str, a: str, b: str) -> str:
        real = fp.TYPE[form]
        return self.constrained("i1", f"fcmp.{form}", [f"{real} {a}", f"{real} {b}"], fp.UNORDERED)

    def float_op(self, name: str, args: list[str]) -> str:
        form, _, rest = name.partition("_")
        mode = args.pop() if fp.takes_rounding(name) else ""
        if rest.startswith("from_"):
            return self._from_integer(form, rest[5:], args[0])
        reals = [self.real(a, form) for a in args]
        operands = [f"{fp.TYPE[form]} {r.name}" for r in reals]
        if rest in ("lt", "le", "eq"):
            kind = "fcmp" if rest == "eq" else "fcmps"
            return self.constrained("i1", f"{kind}.{form}", operands, fp.ordered(rest))
        if rest.startswith(("to_i", "to_u")):
            return self._to_integer(name, reals[0], args[0], mode)
        if rest == "to_f32":
            result = self.constrained("float", "fptrunc.f32.f64", operands, fp.DYNAMIC)
        elif rest == "to_f64":
            result = self.constrained("double", "fpext.f64.f32", operands, fp.STRICT)
        else:
            intrinsic = rest if rest in ("fma", "sqrt") else f"f{rest}"
            result = self.constrained(fp.TYPE[form], f"{intrinsic}.{form}", operands, fp.DYNAMIC)
        if rest == "fma":
            self.fused.append((form, result, reals[0].name, reals[1].name))
        origins = frozenset(r.origin for r in reals if r.origin)
        self.ancestors[result] = origins.union(*map(self._ancestors, origins))
        target = rest[3:] if rest.startswith("to_") else form
        return self.token(Real(target, result, result))

    def _from_integer(self, form: str, kind: str, operand: str) -> str:
        if kind == "i32":
            source = f"i32 {self.value(f'trunc i64 {operand} to i32')}"
        elif kind == "u32":
            source = f"i64 {self.binary('and', operand, str(0xFFFFFFFF))}"
        else:
            source = f"i64 {operand}"
        name = f"sitofp.{form}.{source.split()[0]}"
        if kind != "u64":
            return self.token(
                Real(form, self.constrained(fp.TYPE[form], name, [source], fp.DYNAMIC))
            )
        # With the top bit set: half of it, its last bit sticky, converted and doubled (exactly).
        large, small, after = self.new_label(), self.new_label(), self.new_label()
        self.branch_if(self.value(f"icmp slt {source}, 0"), large, small)
        self.label(large)
        half = self.value(f"lshr {source}, 1")
        sticky = self.value(f"or i64 {half}, {self.value(f'and {source}, 1')}")
        part = self.constrained(fp.TYPE[form], name, [f"i64 {sticky}"], fp.DYNAMIC)
        part = f"{fp.TYPE[form]} {part}"
        double = self.constrained(fp.TYPE[form], f"fadd.{form}", [part, part], fp.DYNAMIC)
        self.jump_to(after)
        self.label(small)
        plain = self.constrained(fp.TYPE[form], name, [source], fp.DYNAMIC)
        self.jump_to(after)
        self.label(after)
        real = self.value(f"phi {fp.TYPE[form]} [ {double}, %{large} ], [ {plain}, %{small} ]")
        return self.token(Real(form, real))

    def _to_integer(self, name: str, real: Real, bits: str, mode: str) -> str:
        """By the host's conversion; what it cannot represent, it says so and we say what it is."""
        form, _, kind = name.partition("_to_")
        kept_apart = mode not in ("1", "%frm")
        if kind[0] == "u" or kept_apart:
            # The host's result is signed; and what is too large, rounded first, would be inexact.
            self.float_parts |= dict.fromkeys(fp.condition_parts(name))
            self.guard(self.value(f"call i1 @can_{name}(i64 {bits})"))
        value = f"{fp.TYPE[form]} {real.name}"
        letters = "sd" if form == DOUBLE else "ss"
        if kept_apart:
            if mode not in fp.HOST_ROUNDING:
                self.guard("false")
                return "0"
            rounded = f'"round{letters} $${fp.HOST_ROUNDING[mode]}, $1, $0", "=x,x"({value})'
            value = (
                f"{fp.TYPE[form]} {self.value(f'call {fp.TYPE[form]} asm sideeffect {rounded}')}"
            )
        width = 32 if kind == "i32" else 64
        instruction = f"cvt{'' if mode == '%frm' else 't'}{letters}2si"
        converted = self.value(
            f'call i{width} asm sideeffect "{instruction} $1, $0", "=r,x"({value})'
        )
        if kind[0] == "i":
            least, most = -(1 << width - 1), (1 << width - 1) - 1
            odd, after = self.new_label(), self.new_label()
            plain = self.label_name
            rare = self.value(f"icmp eq i{width} {converted}, {least}")
            self.branch_if(rare, odd, after, SEEN_RARELY)
            self.label(odd)
            operands = [f"{fp.TYPE[form]} {real.name}", f"{fp.TYPE[form]} 0.0"]
            positive = self.constrained("i1", f"fcmp.{form}", operands, fp.NOT_LESS)
            limit = self.value(f"select i1 {positive}, i{width} {most}, i{width} {least}")
            self.jump_to(after)
            self.label(after)
            converted = self.value(f"phi i{width} [ {converted}, %{plain} ], [ {limit}, %{odd} ]")
        if kind == "u32":
            converted, width = self.value(f"trunc i64 {converted} to i32"), 32
        return self.value(f"sext i32 {converted} to i64") if width == 32 else converted

    def is_exact(self) -> bool:
        """Whether the instruction's result is the same by every rounding mode."""
        assert self.site.decoded is not None
        used = self.site.decoded.instruction.semantics.builtins & FP_BUILTINS
        return used <= {"f64_from_i32", "f64_from_u32", "f32_to_f64"}

    # --- settling ----------------------------------------------------------------------------

    def settle(self) -> None:
        """See to it that nothing is raw."""
        if not (self.raw or self.fused):
            return
        results = {r.name: r.form for r in self.raw.values()}
        results |= {result: form for form, result, _, _ in self.fused}
        covered = frozenset().union(*map(self._ancestors, results))
        odd, after = self.new_label(), self.new_label()
        for form in (DOUBLE, SINGLE):
            names = [n for n, f in results.items() if f == form and n not in covered]
            for i in range(0, len(names), 2):
                following = self.new_label()
                condition = self.is_nan(form, names[i], names[min(i + 1, len(names) - 1)])
                self.branch_if(condition, odd, following, SEEN_RARELY)
                self.label(following)
        self.jump_to(after)
        self.label(odd)
        for register, real in self.raw.items():
            kind = fp.TYPE[real.form]
            nan = self.is_nan(real.form, real.name, real.name)
            safe = self.select(nan, fp.CANONICAL_LITERAL[real.form], real.name, kind)
            for place in (self._float_slot(register, real.form), self._place(register)):
                self.emit(f"store {kind} {safe}, ptr {place}")
        self._look_at_fused(self.fused)
        self.jump_to(after)
        self.label(after)
        self.raw, self.ancestors, self.fused = {}, {}, []

    def _look_at_fused(self, fused: list[tuple[str, str, str, str]]) -> None:
        for form, result, a, b in fused:
            self.float_parts |= dict.fromkeys(fp.fused_parts(form))
            real = fp.TYPE[form]
            self.emit(
                f"call preserve_allcc void @fp_fused_{form}(ptr %hart, {real} {a}, {real} {b}, "
                f"{real} {result})"
            )

    def _ancestors(self, result: str) -> frozenset[str]:
        """None are known of a result that was settled between its being read and its use."""
        return self.ancestors.get(result, frozenset())

    def note_way_out(self) -> None:
        """The instruction may leave to tier 0 from here: remember what is raw."""
        self._left_raw = ({n: real.form for n, real in self.raw.items()}, list(self.fused))

    def put_in_order(self) -> None:
        """On that way out: make the hart what it would be, had all been settled."""
        registers, fused = self._left_raw
        for register, form in registers.items():
            self.float_parts |= dict.fromkeys(fp.settle_parts(form))
            self.emit(f"call void @fp_settle_{form}(ptr {self._place(register)})")
        self._look_at_fused(fused)
