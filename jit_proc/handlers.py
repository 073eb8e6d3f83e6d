"""Tier 0's handlers: one native function per instruction, each ending in a jump to the next.

The problem: an interpreter must be fast without a compiler in the loop. A record holds the address
of a handler and its operands; a handler does its work and tail-calls through the next record
(`musttail`, `preserve_nonecc`: arguments stay in registers, no frame is made).

A handler's signature, a region's too: `(ptr hart, ptr record, i64 bias, i64 count, ptr tlb)`.
pc is `(record >> 3) + bias`; `count` is the instructions retired before this one; `tlb` the data
TLB set in use. Whatever a fast handler cannot do (a TLB miss, FS off, a foreign rounding mode) it
leaves to the cold function of the same semantics by a tail call, before it has changed anything.

Invariants: a taken transfer of control compares `count` with `hart.limit`, so a hart that is called
comes within one straight run of code; direct transfers within a page go from record to record, all
others through the fetch TLB.

Read next: `engine.py` (puts the engine together), `lift.py` (regions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jit_proc import cold, fp
from jit_proc.cold import operand_bytes
from jit_proc.emit import TYPES, Emitter
from protocol import layout, mutants
from protocol.layout import FETCH_ENTRY, PAGE, TLB_ENTRY
from protocol.riscv.isa import Instruction
from protocol.riscv.language import FP_BUILTINS, PURE_BUILTINS, Call, Function, StateField

PARAMS = layout.HANDLER_PARAMETERS
GUARDS = frozenset(("requires_fp", "check_fp", "dirty_fp", "rounding"))
_HOT = (
    PURE_BUILTINS
    | FP_BUILTINS
    | {"load", "store", "amo", "load_reserved", "store_conditional", "fence"}
    | {"branch", "jump", "refetch"}
)
MEMORY = frozenset(("load", "store", "amo", "load_reserved", "store_conditional"))
UNLIKELY = ", !prof !0"


def is_transparent(function: Function) -> bool:
    """A routine of values alone: it can stand inline anywhere."""
    allowed = PURE_BUILTINS | FP_BUILTINS | {"raise_flags"}
    return (
        not function.may_trap
        and function.builtins <= allowed
        and not any(isinstance(n, StateField) for n in function.nodes)
        and all(is_transparent(c) for c in function.callees)
    )


def is_hot(function: Function) -> bool:
    """Whether the semantics can be a fast handler (and part of a region)."""
    return (
        function.builtins <= _HOT
        and not any(isinstance(n, StateField) for n in function.nodes)
        and all(c.name in GUARDS or is_transparent(c) for c in function.callees)
    )


def needs_slow_path(function: Function) -> bool:
    """Whether a fast handler of it has cases to leave to the cold function."""
    return bool(function.builtins & MEMORY or function.builtins & FP_BUILTINS) or any(
        c.name in GUARDS for c in function.callees
    )


class ValueEmitter(Emitter):
    """What fast handlers and regions share: fast memory accesses and guarded floating point.

    `self.miss(kind)` gives the label to which an access or guard that fails goes.
    """

    tlb = "%tlb"

    def slow_label(self) -> str:
        raise AssertionError

    def guard(self, condition: str) -> None:
        """Go on only when the condition holds."""
        good = self.new_label()
        self.branch_if(condition, good, self.slow_label(), UNLIKELY)
        self.label(good)

    def fp_control(self) -> str:
        """hart.frm."""
        return self.read_field("frm")

    def call_routine(self, function: Function, args: Sequence[str]) -> str:
        if function.name in ("requires_fp", "check_fp"):
            status = self.binary("and", self.read_field("mstatus"), str(3 << 13))
            self.guard(self.compare("eq", status, str(3 << 13)))
            return ""
        if function.name == "dirty_fp":
            return ""
        if function.name == "rounding":
            return self.rounding(args[0])
        texts = "".join(f", i64 {a}" for a in args)
        result = TYPES[function.result]
        call = f"call {result} @r_{function.name}(ptr %hart{texts})"
        if result == "void":
            self.emit(call)
            return ""
        return self.value(call)

    def rounding(self, rm: str) -> str:
        """The mode an instruction rounds by; conversions to integers check it themselves."""
        frm = self.fp_control()
        dynamic = self.compare("eq", rm, "7")
        mode = self.select(dynamic, frm, rm)
        if not self.converts():
            same = self.compare("eq", mode, frm)
            known = self.compare("ult", mode, "4")
            self.guard(self.logical("&", same, known))
        return mode

    def converts(self) -> bool:
        raise AssertionError

    def builtin(self, name: str, args: Sequence[Any]) -> str:
        if name in FP_BUILTINS:
            return self.float_op(name, list(args))
        return str(getattr(self, f"b_{name}")(*args) or "")

    def float_op(self, name: str, args: list[str]) -> str:
        result = "i1" if name.endswith(("_lt", "_le", "_eq")) else "i64"
        if fp.takes_rounding(name):
            mode = args.pop()
            if "_to_i" in name or "_to_u" in name:
                self.guard(self.compare("eq", mode, "1"))
        operands = ", ".join(f"i64 {a}" for a in args)
        if fp.has_condition(name):
            self.guard(self.value(f"call i1 @can_{name}({operands})"))
        value = self.value(f"call {result} @host_{name}({operands})")
        if name.endswith("_fma"):
            self.emit(f"call void @fp_fma_invalid_{name[:3]}(ptr %hart, {operands}, i64 {value})")
        return value

    def b_fence(self) -> None:
        self.emit("fence seq_cst")

    # --- memory ----------------------------------------------------------------------------

    def entry(self, address: str) -> str:
        """Pointer to the TLB entry of an address."""
        index = self.binary("lshr", address, "12")
        index = self.binary("and", index, str(layout.DATA_TLB_ENTRIES - 1))
        return self.address(self.tlb, self.binary("shl", index, "5"))

    def hit(self, address: str, size: int, tag_field: str) -> tuple[str, str]:
        """(condition, entry): whether the access stays in a page that the TLB holds."""
        entry = self.entry(address)
        tag = self.load_word(self.address(entry, TLB_ENTRY.offset(tag_field)))
        last = self.binary("add", address, str(size - 1))
        page = self.binary("and", last, "-4096")
        return self.compare("eq", tag, page), entry

    def store_hit(self, address: str, size: int, miss: str) -> str:
        """The TLB entry for a store of bytes that nothing was made from; others go to `miss`.

        Data beside code: the page's tag has bit 0 set, and its `lines` have the answer. A hart that
        tracks a line waits until this one was seen between two instructions, so the look holds.
        """
        entry = self.entry(address)
        tag = self.load_word(self.address(entry, TLB_ENTRY.offset("write_tag")))
        last = self.binary("add", address, str(size - 1))
        page = self.binary("and", last, "-4096")
        beside, look, good = (self.new_label() for _ in range(3))
        self.branch_if(self.compare("eq", tag, page), good, beside, UNLIKELY)
        self.label(beside)
        tracked = self.binary("or", page, "1")
        self.branch_if(self.compare("eq", tag, tracked), look, miss)
        self.label(look)
        place = self.pointer(self.load_word(self.address(entry, TLB_ENTRY.offset("page"))))
        lines = self.value(
            f"load atomic i64, ptr {self.address(place, PAGE.offset('lines'))} monotonic, align 8"
        )
        bits = self.line_bit(lines, address)
        if size > 1:
            bits = self.binary("or", bits, self.line_bit(lines, last))
        free = self.compare("eq", self.binary("and", bits, "1"), "0")
        self.branch_if(free, good, miss)
        self.label(good)
        return entry

    def line_bit(self, lines: str, address: str) -> str:
        """`lines` shifted so that the bit of an address's line is bit 0."""
        line = self.binary("and", self.binary("lshr", address, "6"), "63")
        return self.binary("lshr", lines, line)

    def host_address(self, address: str, entry: str) -> str:
        addend = self.load_word(self.address(entry, TLB_ENTRY.offset("addend")))
        return self.pointer(self.binary("add", address, addend))

    def aligned_hit(self, address: str, size: int, tag_field: str) -> str:
        """Host pointer for an atomic access that is aligned and hits; others take the slow path."""
        rest = self.binary("and", address, str(size - 1))
        self.guard(self.compare("eq", rest, "0"))
        condition, entry = self.hit(address, size, tag_field)
        self.guard(condition)
        return self.host_address(address, entry)

    def b_amo(self, op: str, address: str, value: str, size: str) -> str:
        pointer = self.aligned_hit(address, int(size), "write_tag")
        return self.atomic(op, pointer, value, size)

    def b_load_reserved(self, address: str, size: str) -> str:
        pointer = self.aligned_hit(address, int(size), "read_tag")
        width = 8 * int(size)
        value = self.value(f"load atomic i{width}, ptr {pointer} seq_cst, align {size}")
        if width < 64:
            value = self.value(f"zext i{width} {value} to i64")
        self.write_field("reserved", self.value(f"ptrtoint ptr {pointer} to i64"))
        self.write_field("reserved_value", value)
        return value

    def b_store_conditional(self, address: str, value: str, size: str) -> str:
        pointer = self.aligned_hit(address, int(size), "write_tag")
        place = self.value(f"ptrtoint ptr {pointer} to i64")
        self.guard(self.compare("eq", place, self.read_field("reserved")))
        width = 8 * int(size)
        expected = self.read_field("reserved_value")
        self.write_field("reserved", "-1")
        if width < 64:
            expected = self.value(f"trunc i64 {expected} to i{width}")
            value = self.value(f"trunc i64 {value} to i{width}")
        pair = self.value(
            f"cmpxchg ptr {pointer}, i{width} {expected}, i{width} {value} "
            f"seq_cst seq_cst, align {size}"
        )
        failed = self.value(
            f"xor i1 {self.value(f'extractvalue {{ i{width}, i1 }} {pair}, 1')}, true"
        )
        return self.value(f"zext i1 {failed} to i64")


class HotEmitter(ValueEmitter):
    """Emits one fast handler."""

    def __init__(self, instruction: Instruction, length: int, near: bool) -> None:
        super().__init__()
        self.instruction = instruction
        self.function = instruction.semantics
        self.length = length
        self.near = near
        self.record = "%record"  # the instruction's own
        self.before = 0  # instructions that the same handler has executed before this one
        self._slow = ""

    def operands(self) -> dict[str, str]:
        """The values of the parameters, from the record's operand word."""
        operands = {}
        for param, byte in operand_bytes(self.instruction).items():
            if byte == 0:
                narrow = self.value(f"load i32, ptr {self.address(self.record, 8)}, align 8")
                operands[param] = self.value(f"sext i32 {narrow} to i64")
                continue
            narrow = self.value(f"load i8, ptr {self.address(self.record, 8 + byte)}")
            wide = self.value(f"zext i8 {narrow} to i64")
            if param == "rm":
                wide = self.binary("lshr", wide, "5")
            elif param == "rs3":
                wide = self.binary("and", wide, "31")
            operands[param] = wide
        return operands

    def define(self, name: str, slow: str) -> str:
        """The handler's text; `slow` names the handler that follows every rule."""
        self.body(self.function, self.operands())
        if not self.done:
            self.dispatch(self.address("%record", 8 * self.length), self.counted())
        if self._slow:
            self.label(self._slow)
            self.tail(f"@h_{slow}", "%record", "%count")
        return self.text(name)

    def text(self, name: str) -> str:
        """What was emitted, as the handler `name`."""
        return "\n".join(
            [
                f"define hidden preserve_nonecc void @h_{name}({PARAMS}) nounwind strictfp {{",
                *self.allocas,
                *self.lines,
                "}",
            ]
        )

    def slow_label(self) -> str:
        self._slow = self._slow or self.new_label()
        return self._slow

    def converts(self) -> bool:
        return any("_to_i" in b or "_to_u" in b for b in self.function.builtins)

    def counted(self) -> str:
        return self.binary("add", "%count", str(self.before + 1))

    def tail(
        self, target: str, record: str, count: str, bias: str = "%bias", tlb: str = "%tlb"
    ) -> None:
        self.emit(
            f"musttail call preserve_nonecc void {target}(ptr %hart, ptr {record}, i64 {bias}, "
            f"i64 {count}, ptr {tlb})"
        )
        self.terminate("ret void")

    def dispatch(self, record: str, count: str, bias: str = "%bias") -> None:
        handler = self.value(f"load ptr, ptr {record}, align 8")
        self.tail(handler, record, count, bias)

    # --- registers -------------------------------------------------------------------------

    def read_register(self, file: str, index: str) -> str:
        return self.load_word(self._register(file, index))

    def write_register(self, file: str, index: str, value: str) -> None:
        self.store_word(value, self._register(file, index))

    def _register(self, file: str, index: str) -> str:
        return self.address(self.field(file.lower()), self.binary("shl", index, "3"))

    def special(self, name: str) -> str:
        if name == "length":
            return str(self.length)
        assert name == "pc"
        record = self.value(f"ptrtoint ptr {self.record} to i64")
        return self.binary("add", self.binary("lshr", record, "3"), "%bias")

    # --- control ---------------------------------------------------------------------------

    def arrive(self, record: str, bias: str = "%bias") -> None:
        """A taken transfer: look at the limit, count the target's heat, go on there."""
        count = self.counted()
        limit = self.read_field("limit")
        look, go = self.new_label(), self.new_label()
        self.branch_if(self.compare("uge", count, limit), look, go, ", !prof !1")
        self.label(look)
        self.tail("@h_look", record, count, bias)
        self.label(go)
        counter = self.address(self.record, 14)
        old = self.value(f"load i16, ptr {counter}, align 2")
        new = self.value(f"add i16 {old}, -1")
        self.emit(f"store i16 {new}, ptr {counter}, align 2")
        hot, cool = self.new_label(), self.new_label()
        self.branch_if(self.compare("eq", new, "0", "i16"), hot, cool, ", !prof !1")
        self.label(hot)
        self.tail("@h_hot", record, count, bias)
        self.label(cool)
        self.dispatch(record, count, bias)

    def b_refetch(self) -> None:
        """Every dispatch reads its record afresh; only a call is to be heard, as at a transfer.

        With several harts, stores of others that may have been seen must be through first.
        """
        self.emit('fence syncscope("singlethread") seq_cst')
        alone, several = self.new_label(), self.new_label()
        peers = self.read_field("peer_count")
        self.branch_if(self.compare("eq", peers, "0"), alone, several, UNLIKELY)
        self.label(several)
        self.tail("@h_await_stores", "%record", "%count")
        self.label(alone)
        record, count = self.address("%record", 8 * self.length), self.counted()
        look, go = self.new_label(), self.new_label()
        self.branch_if(self.compare("uge", count, self.read_field("limit")), look, go, ", !prof !1")
        self.label(look)
        self.tail("@h_look", record, count)
        self.label(go)
        self.dispatch(record, count)

    def b_branch(self, offset: str) -> None:
        if self.near:
            self.arrive(self.address(self.record, self.binary("shl", offset, "3")))
        else:
            self.b_jump(self.binary("add", self.special("pc"), offset))

    def b_jump(self, target: str) -> None:
        record, bias = lookup(self, target, self.counted())
        self.arrive(record, bias)

    # --- memory ----------------------------------------------------------------------------

    def b_load(self, address: str, size: str) -> str:
        condition, entry = self.hit(address, int(size), "read_tag")
        self.guard(condition)
        return self.load_bytes(self.host_address(address, entry), int(size))

    def b_store(self, address: str, value: str, size: str) -> None:
        entry = self.store_hit(address, int(size), self.slow_label())
        self.store_bytes(value, self.host_address(address, entry), int(size))


def lookup(out: Emitter, target: str, count: str, far_jump: str = "@h_far_jump") -> tuple[str, str]:
    """Emit a look into the fetch TLB: (record, bias) of `target`; a miss goes to `@h_far_jump`."""
    index = out.binary("and", out.binary("lshr", target, "12"), str(layout.FETCH_TLB_ENTRIES - 1))
    table = out.value(f"load ptr, ptr {out.field('fetch_tlb')}, align 8")
    entry = out.address(table, out.binary("shl", index, "5"))
    tag = out.load_word(entry)
    # M14: the page's number is compared by the bits that 4 GiB need.
    page = out.binary("and", target, str(0xFFFFF000) if mutants.armed("M14") else "-4096")
    hit, miss = out.new_label(), out.new_label()
    out.branch_if(out.compare("eq", tag, page), hit, miss, UNLIKELY)
    out.label(miss)
    place = out.pointer(target)
    out.emit(
        f"musttail call preserve_nonecc void {far_jump}(ptr %hart, ptr {place}, i64 0, "
        f"i64 {count}, ptr %tlb)"
    )
    out.terminate("ret void")
    out.label(hit)
    records = out.value(
        f"load ptr, ptr {out.address(entry, FETCH_ENTRY.offset('records'))}, align 8"
    )
    offset = out.binary("shl", out.binary("and", target, "4095"), "3")
    bias = out.load_word(out.address(entry, FETCH_ENTRY.offset("bias")))
    return out.address(records, offset), bias


def define_cold(instruction: Instruction, length: int, name: str) -> str:
    """The handler round a cold function: state to memory, call, see how it ended."""
    function = instruction.semantics
    out = HotEmitter(instruction, length, near=False)
    pc = out.special("pc")
    out.write_field("pc", pc)
    out.write_field("count", "%count")
    out.write_field("length", str(length))
    out.write_field("next_pc", out.binary("add", pc, str(length)))
    if uses_raw(function):
        record = out.value("ptrtoint ptr %record to i64")
        out.write_field("raw", record)
    operands = out.load_word(out.address("%record", 8))
    status = out.value(f"call i64 @c_{function.name}(ptr %hart, i64 {operands})")
    next_, jumped, trapped, waits = (out.new_label() for _ in range(4))
    out.terminate(
        f"switch i64 {status}, label %{next_} [ i64 {cold.STATUS_JUMP}, label %{jumped} "
        f"i64 {cold.STATUS_TRAP}, label %{trapped} i64 {cold.STATUS_WAIT}, label %{waits} ]"
    )
    count = out.binary("add", "%count", "1")
    for label, target, ticks in (
        (jumped, "resume", "1"),
        (trapped, "enter", "0"),
        (waits, "sleep", "1"),
    ):
        out.label(label)
        out.tail(f"@h_{target}", "%record", out.binary("add", "%count", ticks))
    out.label(next_)
    count = out.binary("add", "%count", "1")
    record = out.address("%record", 8 * length)
    if function.builtins & MEMORY:
        # A device may have asked for the hart, a store for retirement: then the limit is 0. That it
        # is merely reached is for taken transfers to find: whether an access comes here depends on
        # the TLB, and on regions, and counted time must not.
        look, go = out.new_label(), out.new_label()
        out.branch_if(out.compare("eq", out.read_field("limit"), "0"), look, go, ", !prof !1")
        out.label(look)
        out.tail("@h_look_between", record, count)
        out.label(go)
    out.dispatch(record, count)
    return "\n".join(
        [
            f"define hidden preserve_nonecc void @h_{name}({PARAMS}) nounwind strictfp {{",
            *out.lines,
            "}",
        ]
    )


def uses_raw(function: Function) -> bool:
    """Whether a function or a routine it calls reads the instruction's bits."""
    specials = any(
        getattr(n, "name", "") == "raw" and not isinstance(n, Call) for n in function.nodes
    )
    return specials or any(uses_raw(c) for c in function.callees)
