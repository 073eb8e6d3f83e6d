"""The lifter: a stretch of guest code to one LLVM function, a region.

The problem: tier 0 pays for every instruction a jump through its record and its registers' way
through memory. A region is many blocks of one page as one function, with guest registers in SSA
values and loops inside.

How control and state stand:

- A region has a handler's signature (`handlers.PARAMS`) and is entered through a record; which of
  its entries is meant, the record's own place tells. It depends on no address: pc is the page's
  virtual address, worked out from record and bias, plus an offset.
- A guest register that is written is read from SSA from then on, and stored to the hart at once, or
  where it is soon written again, owed (`write_back.py`): each way out pays first. So where a region
  leaves the hart in memory is exact (NaNs not settled yet: see `float_regions.py`).
- What a region cannot do (a TLB miss that is a fault or a device, a store over code, an instruction
  that is not a handler's) it leaves to the engine's `execute_one`, before it has changed anything.
- Every cycle - a back edge, a way out - compares `count` with `hart.limit`.

Whether guest time is counted (`STATE_EXACT`) is fixed for a machine's life; that no hart translates
addresses (`STATE_FLAT`) is advice. Nothing else of the hart's state is baked into the code but that
FS is Dirty and frm valid, where floating point is used (`float_guards.py`).

Invariants: translating is a pure function of the job; bytes outside `spans` had no influence.
Guest accesses are one load or store each, in order, never hoisted out of a spin loop: volatile,
but for narrow loads where LLVM selects fast (`MemoryRegions._read`).

Read next: `select.py` (what a region consists of), `region_memory.py`, `float_regions.py` (its
accesses, its floating point), `handlers.py` (`ValueEmitter`), `worker.py` (who calls `translate`).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from jit_proc import csr_regions, float_guards, kept, write_back
from jit_proc.cold import ColdEmitter
from jit_proc.emit import is_literal, literal
from jit_proc.handlers import GUARDS, PARAMS
from jit_proc.job import Job, Translation, Untranslatable
from jit_proc.region_exits import RegionExits
from jit_proc.select import Selection, Site, select, spans_of
from protocol import mutants
from protocol.layout import (
    LINE_SIZE,
    PAGE_SIZE,
    RECORD_ARRAY_STRIDE,
    STATE_EXACT,
    STATE_FLAT,
    STATE_LOOKS,
)
from protocol.riscv import isa
from protocol.riscv.language import FP_BUILTINS, Function

LONG_BLOCK = 24  # computing instructions that are worth a better selection
_LIKELY_NOT = ", !prof !1"


@dataclass(frozen=True, slots=True)
class Copy:
    """A block to be emitted again from `start` on, and what holds there."""

    block: list[Site]
    start: int
    pending: int
    owed: set[str]
    floats: tuple[Any, ...]


class RegionEmitter(RegionExits):
    """Emits one region."""

    def __init__(self, selection: Selection, state: int, level: int = 0) -> None:
        """`state`, `level`: as in `Job`."""
        super().__init__(selection, bool(state & STATE_FLAT))
        self.selection = selection
        self.exact = bool(state & STATE_EXACT)  # look at the limit at every taken branch
        self.looks = bool(state & STATE_LOOKS)  # see `float_guards.py`
        self.level = level
        self.looked: set[str] = set()  # what this block has looked at
        self.site = next(iter(selection.sites.values()))
        self.pending = 0  # instructions retired in this block so far
        self.registers: dict[str, str] = {}  # "x5" -> its alloca
        self.float_ops: set[str] = set()
        self.routines: dict[str, Function] = {}
        self.turns: dict[tuple[int, ...], list[tuple[str, str]]] = {}
        self._slow = ""
        self.kept = kept.keeper()
        self.plan = write_back.plan(selection, self.groups)
        self.arrivals: set[int] = set()
        self.so_far: list[Site] = []  # of the block being emitted
        self.copies: dict[int, Copy] = {}  # of blocks, by their start
        self.missed: set[int] = set()  # where control comes to copies
        self.owed: set[str] = set()  # registers not yet stored to the hart

    # --- the whole ---------------------------------------------------------------------------

    def define(self) -> str:
        """The region's function, named `region`."""
        sites = [self.selection.sites[offset] for offset in sorted(self.selection.sites)]
        for site in sites:
            self.note_callees(site)
        # Selected fast, each look for a NaN would take three instructions, as would a rotation;
        # and long blocks without ways out cost little more. What runs for long is worth it.
        self.fast = (
            not self.level and not self.float_ops & FP_BUILTINS and self.plan.longest < LONG_BLOCK
        )
        for site in sites:
            self.emit_site(site)
        self.emit_copies()
        body, self.lines = self.lines, []
        self.done = False
        self.emit_entry()
        self.lines += body
        self.emit_turns()
        self.emit_arrivals()
        self.emit_exits()
        attributes = "nounwind strictfp" if self.float_ops else "nounwind"
        # The entry block comes first; allocas stand in it.
        return "\n".join(
            [
                f"define hidden preserve_nonecc void @region({PARAMS}) {attributes} {{",
                "entry:",
                *self.allocas,
                *self.lines,
                "}",
            ]
        )

    def emit_entry(self) -> None:
        """Load the registers, check what is assumed, go to the block that was meant."""
        self.allocas.append("  %counter = alloca i64")
        record = self.value("ptrtoint ptr %record to i64")
        self.emit(f"%base = and i64 {record}, {-RECORD_ARRAY_STRIDE}")
        shifted = self.binary("lshr", "%base", "3")
        self.emit(f"%page = add i64 {shifted}, %bias")
        self.emit("store i64 %count, ptr %counter")
        for name, slot in self.registers.items():
            self.allocas.append(f"  {slot} = alloca i64")
            place = self.field(name[0], int(name[1:]))
            self.emit(f"store i64 {self.load_word(place)}, ptr {slot}")
        self.begin_carried()
        self.enter_with_floats()
        self.emit(f"%frm = load i64, ptr {self.field('frm')}")
        if self.float_ops and not self.looks:
            float_guards.enter(self)
        entries = self.selection.entries
        inside = self.binary("and", record, str(RECORD_ARRAY_STRIDE - 1))
        offset = self.binary("lshr", inside, "3")
        cases = " ".join(f"i64 {o}, label %{self.arrival(o)}" for o in entries[1:])
        self.terminate(f"switch i64 {offset}, label %{self.arrival(entries[0])} [ {cases} ]")

    def emit_site(self, site: Site) -> None:
        """One instruction; begins a block where one begins."""
        if site.offset in self.selection.leaders or self.done or not self.lines:
            if not self.done and self.lines:
                self.settle_count()
                self.enter(site.offset)
            self.label(f"b{site.offset}")
            self.looked = set()
            self.owed = set(self.plan.inherits.get(site.offset, ()))
            self.begin_block(site.offset)
            self.pending = 0
            self.so_far = []
        self.so_far.append(site)
        self.emit_instruction(site)

    def emit_instruction(self, site: Site) -> None:
        self.site = site
        self._slow = ""
        self.begin_site(site)
        self.simple = write_back.is_simple(site)
        if not self.simple:
            self.pay(self.owed)
            self.owed = set()
        if not site.liftable or site.decoded is None:
            self.leave("slow", literal(site.offset))
            return
        function = site.decoded.instruction.semantics
        operands = {p: literal(v) for p, v in site.decoded.operands.items()}
        if self.kept is not None:
            self.kept.calls(self, site)
        if self.apart and site.offset in self.missed:
            self.settle()
            self.jump_to(f"g{site.offset}")
            self.label(f"g{site.offset}")
            self.looked = set()
        before, owed = self.pending, set(self.owed)
        self.body(function, operands)
        if not self.done:
            self.pending += 1
            if site.end not in self.selection.sites:
                self.settle()  # cut short here, behind what may have left a raw result
                self.go(site.end)
            elif not self.is_next(site):
                self.settle_count()
                self.enter(site.end)
        if self._slow:
            continued = self.done
            after = self.new_label()
            if not continued:
                self.jump_to(after)
            self.label(self._slow)
            self.put_in_order()
            self.pending, pending = before, self.pending
            self.owed, owed = owed, self.owed
            self.leave("slow", literal(site.offset))
            self.pending, self.owed = pending, owed
            if not continued:
                self.label(after)

    def leave_groups(self) -> None:
        state = self.float_state()
        self.settle()
        self.missed.add(self.site.offset)
        start = self.so_far[0].offset
        if start not in self.copies:
            self.copies[start] = Copy(
                self.so_far, self.site.offset, self.pending, set(self.owed), self.float_state()
            )
        self.jump_to(f"g{self.site.offset}")
        self.restore_floats(state)

    def emit_copies(self) -> None:
        """Blocks anew from their first group on, without groups, for when a group's look failed.

        Control comes to the first member of each group there, with nothing raw.
        """
        self.apart = True
        for copy in self.copies.values():
            self.done = True
            self.looked = set()
            self.pending, self.owed = copy.pending, copy.owed
            self.restore_floats(copy.floats)
            for site in copy.block:
                if site.offset >= copy.start:
                    self.emit_instruction(site)
            if not self.done:
                self.settle_count()
                self.enter(self.site.end)
        self.apart = False

    def is_next(self, site: Site) -> bool:
        """Whether the next site in the order of emission is the one behind it."""
        return not any(site.offset < o < site.end for o in self.selection.sites)

    def note_callees(self, site: Site) -> None:
        if site.decoded is None or not site.liftable:
            return
        function = site.decoded.instruction.semantics
        self.float_ops |= function.builtins & FP_BUILTINS
        if any(c.name in GUARDS for c in function.callees):
            self.float_ops |= {""}
        pending = [c for c in function.callees if c.name not in GUARDS | csr_regions.ROUTINES]
        pending += csr_regions.derived(site.decoded)
        while pending:
            routine = pending.pop()
            self.routines[routine.name] = routine
            self.float_ops |= routine.builtins & FP_BUILTINS
            pending += routine.callees

    # --- counting and leaving ------------------------------------------------------------------

    def counted(self, extra: int = 0) -> str:
        """`count` as it is now, plus `extra`."""
        value = self.value("load i64, ptr %counter")
        return self.binary("add", value, str(self.pending + extra))

    def settle_count(self, extra: int = 0) -> None:
        """At the end of a block: put what it retired into the counter."""
        if self.pending + extra:
            self.emit(f"store i64 {self.counted(extra)}, ptr %counter")

    def leave(self, how: str, where: str, extra: int = 0) -> None:
        """Go to a common way out: "slow" and "near" take an offset, "far" an address."""
        self.pay(self.owed)
        count = self.counted(extra)
        if how == "far" and self.kept is not None:
            self.kept.leaves(self, where, count)
        self.exits[how].append((self.label_name, where, count))
        self.jump_to(f"exit_{how}")

    def pay(self, names: Collection[str]) -> None:
        """Store registers to the hart whose stores waited."""
        for name in sorted(names):
            value = self.value(f"load i64, ptr {self._slot(name)}")
            self.store_word(value, self.field(name[0], int(name[1:])))

    def enter(self, offset: int) -> None:
        """Go on in a block of the region, which may take over what is owed."""
        self.pay(self.owed.difference(self.plan.inherits.get(offset, ())))
        loop = self.carried.simple.get(offset)
        if loop is not None and self.site.offset != loop.end:
            self.forget(loop.looks)
        self.jump_to(f"b{offset}")

    def arrival(self, offset: int) -> str:
        """The label by which control comes to a block from anywhere."""
        if offset not in self.carried.simple:
            return f"b{offset}"
        self.arrivals.add(offset)
        return f"a{offset}"

    def emit_arrivals(self) -> None:
        """Ways to the loops whose accesses carry in registers."""
        for offset in sorted(self.arrivals):
            self.label(f"a{offset}")
            self.begin_turn([offset])
            self.forget(self.carried.simple[offset].looks)
            self.jump_to(f"b{offset}")

    def go(self, offset: int, extra: int = 0) -> None:
        """Go on at an offset of the page that may lie outside of it."""
        if 0 <= offset < PAGE_SIZE:
            self.leave("near", literal(offset), extra)
        else:
            self.leave("far", self.binary("add", "%page", literal(offset)), extra)

    # --- what an instruction needs -------------------------------------------------------------

    def slow_label(self) -> str:
        if not self._slow:
            self._slow = self.new_label()
            self.note_way_out()
        return self._slow

    def converts(self) -> bool:
        assert self.site.decoded is not None
        builtins = self.site.decoded.instruction.semantics.builtins
        return any("_to_i" in b or "_to_u" in b for b in builtins)

    def fp_control(self) -> str:
        return "%frm"

    def call_routine(self, function: Function, args: tuple[str, ...] | list[str]) -> str:  # type: ignore[override]
        if function.name in ("requires_fp", "check_fp"):
            if self.looks:
                float_guards.look(self, "dirty")
            return ""
        if function.name in csr_regions.ROUTINES:
            return csr_regions.emit(self, function, list(args))
        if function.name == "rounding":
            mode = args[0]
            if mode == "7":
                if self.looks:
                    float_guards.look(self, "known")
                return "%frm"
            if not (self.converts() or (self.is_exact() and int(mode) <= 4)):
                self.guard(self.compare("eq", "%frm", mode))
            return mode
        return super().call_routine(function, args)

    def guard(self, condition: str) -> None:
        if condition != "true":
            super().guard(condition)

    def compare(self, predicate: str, a: str, b: str, type_: str = "i64") -> str:
        if predicate == "eq" and is_literal(a) and is_literal(b):
            return "true" if a == b else "false"
        return super().compare(predicate, a, b, type_)

    def _slot(self, name: str) -> str:
        return self.registers.setdefault(name, f"%r.{name}")

    def read_register(self, file: str, index: str) -> str:
        if file == "F":
            return self.read_float(index)
        if file == "X" and index == "0":
            return "0"
        return self.value(f"load i64, ptr {self._slot(file.lower() + index)}")

    def write_register(self, file: str, index: str, value: str) -> None:
        if file == "F":
            self.write_float(index, value)
            return
        if file == "X" and index == "0":
            return
        name = file.lower() + index
        self.emit(f"store i64 {value}, ptr {self._slot(name)}")
        if self.simple and self.site.offset in self.plan.waits:
            self.owed.add(name)
            return
        self.owed.discard(name)
        self.store_word(value, self.field(file.lower(), int(index)))

    def special(self, name: str) -> str:
        assert self.site.decoded is not None
        if name == "length":
            return str(self.site.decoded.length)
        assert name == "pc"
        return self.binary("add", "%page", literal(self.site.offset))

    def b_branch(self, offset: str) -> None:
        target = self.site.offset + int(offset)
        if target not in self.selection.sites:
            self.go(target, 1)
            return
        self.settle_count(1)
        if target <= self.site.offset or self.exact:
            count = self.value("load i64, ptr %counter")
            on, look = self.new_label(), self.new_label()
            self.branch_if(self.due(count), look, on, _LIKELY_NOT)
            self.label(look)
            if mutants.armed("M29"):
                kept.stay_in_loop(self, count, on)
            self.pay(self.owed)
            # `near` looks at the limit itself, and finds it reached.
            self.exits["near"].append((self.label_name, literal(target), count))
            self.jump_to("exit_near")
            self.label(on)
        self.enter(target)

    def b_amo(self, op: str, address: str, value: str, size: str) -> str:
        if mutants.armed("M39"):  # it is done before it is known whether a region may do it
            old = self.atomic(op, self.aligned_hit(address, int(size), "read_tag"), value, size)
            self.aligned_hit(address, int(size), "write_tag")
            return old
        return super().b_amo(op, address, value, size)

    def b_jump(self, target: str) -> None:
        inside = tuple(self.selection.turns(self.site))
        if not inside or self.kept is not None:
            self.leave("far", target, 1)
            return
        self.settle_count(1)
        self.pay(self.owed)
        self.carry_to_turn(inside)
        self.turns.setdefault(inside, []).append((self.label_name, target))
        self.jump_to(f"turn{list(self.turns).index(inside)}")

    def emit_turns(self) -> None:
        """Where indirect jumps find out whether they stay: one block for all of a kind."""
        for number, (inside, sources) in enumerate(self.turns.items()):
            self.label(f"turn{number}")
            self.begin_turn(inside)
            where = self.value("phi i64 " + ", ".join(f"[ {w}, %{b} ]" for b, w in sources))
            count = self.value("load i64, ptr %counter")
            away, on, near, far = (self.new_label() for _ in range(4))
            self.branch_if(self.due(count), away, on, _LIKELY_NOT)
            self.label(on)
            # Rotated: of what is shifted LLVM knows bits, and masks its index into the table.
            offset = self.binary("sub", where, "%page")
            slot = self.value(f"call i64 @llvm.fshl.i64(i64 {offset}, i64 {offset}, i64 63)")
            cases = " ".join(f"i64 {o // 2}, label %{self.arrival(o)}" for o in inside)
            self.terminate(f"switch i64 {slot}, label %{away} [ {cases} ]")
            self.label(away)
            offset = self.binary("sub", where, "%page")
            self.branch_if(self.compare("ult", offset, str(PAGE_SIZE)), near, far)
            for how, label, place in (("near", near, offset), ("far", far, where)):
                self.label(label)
                self.exits[how].append((label, place, count))
                self.jump_to(f"exit_{how}")

    def b_refetch(self) -> None:
        """Leave by the next instruction's record: this region itself may be retired by now."""
        self.emit('fence syncscope("singlethread") seq_cst')
        self.guard(self.compare("eq", self.read_field("peer_count"), "0"))  # else it may wait
        if mutants.armed("M36") and self.site.end in self.selection.sites:
            self.settle_count(1)
            self.jump_to(f"b{self.site.end}")
            return
        self.go(self.site.end, 1)

    def b_raise_flags(self, bits: str) -> None:
        old = self.read_field("fflags")
        self.write_field("fflags", self.value(f"or i64 {old}, {bits}"))


@functools.cache
def _routine_text(function: Function) -> str:
    text = ColdEmitter(function).define()
    return text.replace(" nounwind {", " nounwind strictfp alwaysinline {", 1)


_PRELUDE = """
declare i64 @llvm.ctlz.i64(i64, i1)
declare i64 @llvm.cttz.i64(i64, i1)
declare i64 @llvm.ctpop.i64(i64)
declare i64 @llvm.bswap.i64(i64)
declare i32 @llvm.expect.i32(i32, i32)
declare i64 @llvm.expect.i64(i64, i64)
declare i64 @llvm.fshl.i64(i64, i64, i64)
!0 = !{!"branch_weights", i32 2000, i32 1}
!1 = !{!"branch_weights", i32 1, i32 2000}
"""


def translate(job: Job) -> Translation:
    """Lift a job to IR. Raises Untranslatable when there is nothing to lift at its entries."""
    isa.load_all()
    began = time.perf_counter_ns()
    selection = select(job.content, job.entries, job.level, job.known, job.seen)
    selected = time.perf_counter_ns()
    if not selection.entries:
        raise Untranslatable("unsupported", "no instruction at the entries can stand in a region")
    emitter = RegionEmitter(selection, job.state_word, job.level)
    text = emitter.define()
    parts = {_PRELUDE: None, text: None}
    parts |= emitter.float_parts
    parts |= {_routine_text(r): None for r in emitter.routines.values()}
    spans = spans_of(selection.sites)
    lines = 0
    for offset, length in spans:
        for line in range(offset // LINE_SIZE, (offset + length - 1) // LINE_SIZE + 1):
            lines |= 1 << line
    return Translation(
        ir="\n".join(parts),
        entries={offset // 2: "region" for offset in selection.entries},
        spans=spans,
        lines=lines,
        instructions=len(selection.sites),
        select_us=(selected - began) // 1000,
        passes=(
            *(("always-inline",) if emitter.routines or emitter.float_ops else ()),
            "sroa",
            "instcombine",
            "simplifycfg",
        ),
        isel="fast" if emitter.fast else "dag",
    )
