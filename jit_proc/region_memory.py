"""Loads and stores inside a region.

The problem: most accesses hit a page that the TLB holds, and that must cost a handful of host
instructions; all others must be exact, and small.

- An access alone looks at the TLB, then asks the engine (`hart.tlb_load`, `tlb_store`) for a host
  address; when there is none (a fault, a device, a store over code) tier 0 executes the
  instruction, before anything was changed.
- The first access of a group (`groups.py`) looks for the group's whole span. When that lies in one
  page and the TLB allows it, the members use its host address; else each asks the engine, which
  finds by the TLB what is there. Which of the two, the address says: it is 0 in the second case.
- What comes out of a look is what makes a host address of a guest's, so that the two are never
  put together but in an instruction's operand.
- In a loop, an access may go by the look of the turn before (`carried.py`).

Invariants: a group's look changes nothing, neither TLB nor page table: what is not there yet, and
a page's accessed and dirty bits, are single accesses' doing, each at its own turn. So a fault is
its own instruction's, with all that came before it done.

Read next: `lift.py` (`RegionEmitter`), `runtime.py` (`region_load`, `region_store`).
"""

from __future__ import annotations

from collections.abc import Iterable

from jit_proc import carried, fp
from jit_proc.emit import TYPES
from jit_proc.float_idioms import FloatIdioms
from jit_proc.float_needs import DOUBLE, SINGLE, written
from jit_proc.float_regions import Real
from jit_proc.groups import Member, plan
from jit_proc.handlers import UNLIKELY
from jit_proc.select import Selection
from protocol.layout import PAGE_SIZE, TLB_ENTRY
from protocol.riscv.language import Call, Function

PAGE, ADDEND, BOUND = range(3)  # words of what is carried
NO_PAGE = "4095"  # carried: no address has these bits, when those of its size are left out
_LIKELY_NOT = ", !prof !1"


def extends_sign(function: Function, size: int) -> bool:
    """Whether all that an instruction does with what it loads is to extend its sign."""
    return any(
        isinstance(n, Call)
        and n.name == "sext"
        and isinstance(n.args[0], Call)
        and n.args[0].name == "load"
        and getattr(n.args[1], "value", 0) == 8 * size
        for n in function.nodes
    )


class MemoryRegions(FloatIdioms):
    """What `RegionEmitter` knows of memory."""

    def __init__(self, selection: Selection) -> None:
        super().__init__(selection)
        self.groups = plan(selection)
        self.carried = carried.plan(selection, self.groups)
        self.in_registers = {o for loop in self.carried.simple.values() for o in loop.looks}
        self.shared: dict[int, str] = {}  # id of a group -> its host address, or 0
        self._slow_value = ""  # of the access being emitted: what its slow path found
        self._miss: list[str] = []  # and the text of that path
        self.signed: dict[str, str] = {}  # loaded value -> from how many bits it was extended

    def pure(self, name: str, args: list[str]) -> str:
        if name == "sext" and self.signed.get(args[0]) == args[1]:
            return args[0]
        return super().pure(name, args)

    def slow_place(self, address: str, size: str, helper: str) -> str:
        """Host address by the engine's slow path; 0 when tier 0 has to execute the instruction."""
        function = self.value(f"load ptr, ptr {self.field(helper)}")
        return self.value(
            f"call preserve_mostcc i64 {function}(ptr %hart, i64 {address}, i64 {size})"
        )

    # --- groups ----------------------------------------------------------------------------

    def join_group(self, member: Member, address: str, alone: str) -> str:
        """Begin the arm of a member whose group hits; its host pointer. Others go to `alone`."""
        group = member.group
        if member.first:
            low = self.binary("sub", address, str(member.place))
            if self.carries():
                host = self.carry_group(low, group.span, group.kind, alone)
            else:
                host = self.binary("add", low, self.look(low, group.span, group.kind, alone))
            self.shared[id(group)] = host
        else:
            host = self.shared[id(group)]
            fast = self.new_label()
            self.branch_if(self.compare("ne", host, "0"), fast, alone, UNLIKELY)
            self.label(fast)
        return self.pointer(self.binary("add", host, str(member.place)))

    def look_again(self, member: Member, address: str) -> str:
        """Behind the first member's slow path: the group's host address, if the TLB has it now."""
        group = member.group
        low = self.binary("sub", address, str(member.place))
        tag = "read_tag" if group.kind == "load" else "write_tag"
        condition, entry = self.hit(low, group.span, tag)
        return self.select(
            condition, self.binary("add", low, self.load_word(self.address(entry, 16))), "0"
        )

    # --- carried looks ---------------------------------------------------------------------

    def carries(self) -> bool:
        """Whether the access being emitted carries its look."""
        return self.site.offset in self.in_registers or self.site.offset in self.carried.others

    def place_of_carried(self, offset: int, word: int) -> str:
        """A word of what the access at an offset carries."""
        if offset in self.in_registers:
            return f"%c{offset}.{word}"
        return self.address("%carried", 24 * self.carried.others[offset] + 8 * word)

    def begin_carried(self) -> None:
        """Nothing is carried when control enters.

        What is in memory is one object, with an offset that LLVM does not know: else it would take
        it apart, and move its parts about at each join of a large region.
        """
        for offset in self.in_registers:
            self.allocas += [f"  %c{offset}.{word} = alloca i64" for word in range(3)]
        if not self.carried.others:
            return
        self.allocas.append(f"  %area = alloca [{3 * len(self.carried.others)} x i64]")
        self.allocas.append("  %nothing = and i64 %count, 0")
        self.allocas.append("  %carried = getelementptr i8, ptr %area, i64 %nothing")
        self.forget(self.carried.others)

    def forget(self, offsets: Iterable[int]) -> None:
        """What accesses carry is nothing from now on."""
        for offset in offsets:
            word, value = (BOUND, "0") if offset in self.groups else (PAGE, NO_PAGE)
            self.store_word(value, self.place_of_carried(offset, word))

    def look(self, address: str, size: int, kind: str, miss: str) -> str:
        """The addend of the TLB's entry for an access; what does not hit goes to `miss`."""
        return self.look_for(address, size, kind, miss)[0]

    def look_for(self, address: str, size: int, kind: str, miss: str) -> tuple[str, str]:
        """The addend, and whether it is good for others of the page too: not for data beside code,
        whose lines are to be looked at.
        """
        if kind == "store":
            entry = self.store_hit(address, size, miss)
        else:
            good = self.new_label()
            condition, entry = self.hit(address, size, "read_tag")
            self.branch_if(condition, good, miss, UNLIKELY)
            self.label(good)
        free = "true"
        if kind == "store":
            tag = self.load_word(self.address(entry, TLB_ENTRY.offset("write_tag")))
            free = self.compare("eq", self.binary("and", tag, "1"), "0")
        return self.load_word(self.address(entry, TLB_ENTRY.offset("addend"))), free

    def carry(self, address: str, size: int, kind: str) -> str:
        """Host pointer of a lone access that carries its look."""
        here = self.site.offset
        page = self.binary("and", address, str(size - 1 - 4096))
        go_on, look, miss, found = (self.new_label() for _ in range(4))
        same = self.compare("eq", page, self.load_word(self.place_of_carried(here, PAGE)))
        self.branch_if(same, go_on, look, UNLIKELY)
        self.label(look)
        addend, free = self.look_for(address, size, kind, miss)
        page = self.select(free, self.binary("and", address, "-4096"), NO_PAGE)
        self.store_word(page, self.place_of_carried(here, PAGE))
        self.store_word(addend, self.place_of_carried(here, ADDEND))
        self.jump_to(go_on)
        self.label(miss)
        place = self.slow_place(address, str(size), f"tlb_{kind}")
        self.branch_if(self.compare("eq", place, "0"), self.slow_label(), found, _LIKELY_NOT)
        self.label(found)  # for this access alone
        self.store_word(NO_PAGE, self.place_of_carried(here, PAGE))
        self.store_word(self.binary("sub", place, address), self.place_of_carried(here, ADDEND))
        self.jump_to(go_on)
        self.label(go_on)
        addend = self.load_word(self.place_of_carried(here, ADDEND))
        return self.address(self.pointer(addend), address)

    def place_alone(self, address: str, size: int, kind: str) -> str:
        """Host pointer of a lone access."""
        if self.carries():
            return self.carry(address, size, kind)
        go_on, miss, found = (self.new_label() for _ in range(3))
        addend = self.look(address, size, kind, miss)
        hit = self.label_name
        self.jump_to(go_on)
        self.label(miss)
        place = self.slow_place(address, str(size), f"tlb_{kind}")
        self.branch_if(self.compare("eq", place, "0"), self.slow_label(), found, _LIKELY_NOT)
        self.label(found)
        other = self.binary("sub", place, address)
        self.jump_to(go_on)
        self.label(go_on)
        addend = self.value(f"phi i64 [ {addend}, %{hit} ], [ {other}, %{found} ]")
        return self.address(self.pointer(addend), address)

    def carry_group(self, low: str, span: int, kind: str, miss: str) -> str:
        """Host address of a group's first byte."""
        here = self.site.offset
        quick, look = self.new_label(), self.new_label()
        place = self.binary("sub", low, self.load_word(self.place_of_carried(here, PAGE)))
        same = self.compare("ult", place, self.load_word(self.place_of_carried(here, BOUND)))
        self.branch_if(same, quick, look, UNLIKELY)
        self.label(look)
        addend, free = self.look_for(low, span, kind, miss)
        self.store_word(self.binary("and", low, "-4096"), self.place_of_carried(here, PAGE))
        self.store_word(addend, self.place_of_carried(here, ADDEND))
        bound = self.select(free, str(PAGE_SIZE + 1 - span), "0")
        self.store_word(bound, self.place_of_carried(here, BOUND))
        self.jump_to(quick)
        self.label(quick)
        return self.binary("add", low, self.load_word(self.place_of_carried(here, ADDEND)))

    # --- loads -----------------------------------------------------------------------------

    def b_load(self, address: str, size: str) -> str:
        bytes_ = int(size)
        member = self.groups.get(self.site.offset)
        if member is None:
            pointer = self.place_alone(address, bytes_, "load")
            return self._loaded(self._read(pointer, bytes_), bytes_)
        found, after = self.new_label(), self.new_label()
        pointer = self._begin(member, address, bytes_, found)
        hit, quick = self.label_name, self._read(pointer, bytes_)
        self.jump_to(after)
        self.lines += self._miss
        self.label(found)
        slow = self._read(self.pointer(self._slow_value), bytes_)
        again = self.look_again(member, address) if member.first else ""
        self.jump_to(after)
        self.label(after)
        value = self.value(f"phi {self._kind(bytes_)} [ {quick}, %{hit} ], [ {slow}, %{found} ]")
        self._share(member, hit, found, again)
        return self._loaded(value, bytes_)

    def _loaded(self, value: str, size: int) -> str:
        if self._kind(size) != TYPES["word"]:
            return self.token(Real(DOUBLE if size == 8 else SINGLE, value))
        if self._signed(size):
            self.signed[value] = str(8 * size)
        return value

    def _begin(self, member: Member, address: str, size: int, found: str) -> str:
        """Begin the arm of a member whose group hits: its host pointer.

        Puts aside the text of the other, which ends at `found`, a host address in `_slow_value`.
        """
        miss = self.new_label()
        pointer = self.join_group(member, address, miss)
        here, lines = self.label_name, self.lines
        self.lines = []
        self.label(miss)
        self._slow_value = self.slow_place(address, str(size), f"tlb_{member.group.kind}")
        self.branch_if(
            self.compare("eq", self._slow_value, "0"), self.slow_label(), found, _LIKELY_NOT
        )
        self._miss, self.lines = self.lines, lines
        self.label_name, self.done = here, False
        return pointer

    def _kind(self, size: int) -> str:
        """What a floating-point register gets never is an integer."""
        assert self.site.decoded is not None
        if written(self.site.decoded.instruction.semantics):
            return fp.TYPE[DOUBLE if size == 8 else SINGLE]
        return TYPES["word"]

    def _signed(self, size: int) -> bool:
        assert self.site.decoded is not None
        return extends_sign(self.site.decoded.instruction.semantics, size)

    def _read(self, pointer: str, size: int) -> str:
        """The guest's access itself."""
        kind = self._kind(size)
        narrow = kind if kind != TYPES["word"] else f"i{8 * size}"
        value = self.value(f"load volatile {narrow}, ptr {pointer}, align 1")
        if narrow == kind:
            return value
        return self.value(f"{'sext' if self._signed(size) else 'zext'} {narrow} {value} to i64")

    # --- stores ----------------------------------------------------------------------------

    def b_store(self, address: str, value: str, size: str) -> None:
        bytes_ = int(size)
        member = self.groups.get(self.site.offset)
        if member is None:
            self.store_guest(value, self.place_alone(address, bytes_, "store"), bytes_)
            return
        found, after = self.new_label(), self.new_label()
        pointer = self._begin(member, address, bytes_, found)
        hit = self.label_name
        self.store_guest(value, pointer, bytes_)
        self.jump_to(after)
        self.lines += self._miss
        self.label(found)
        self.store_guest(value, self.pointer(self._slow_value), bytes_)
        again = self.look_again(member, address) if member.first else ""
        self.jump_to(after)
        self.label(after)
        self._share(member, hit, found, again)

    def _share(self, member: Member, hit: str, found: str, again: str) -> None:
        """Where the arms of a group's first member come together: what the others go by."""
        if again:
            host = self.shared[id(member.group)]
            self.shared[id(member.group)] = self.value(
                f"phi i64 [ {host}, %{hit} ], [ {again}, %{found} ]"
            )
