"""Loads and stores inside a region.

The problem: most accesses hit a page that the TLB holds, and that must cost a handful of host
instructions; all others must be exact, and small.

- An access alone looks at the TLB, then asks the engine (`hart.tlb_load`, `tlb_store`) for a host
  address; when there is none (a fault, a device, a store over code) tier 0 executes the
  instruction, before anything was changed.
- The first access of a group (`groups.py`) looks for the group's whole span. When that lies in one
  page and the TLB allows it, the members use its host address; else control goes on in a copy of
  the rest of the block (`RegionEmitter.emit_copies`), where each member asks the engine.
- What comes out of a look is what makes a host address of a guest's, so that the two are never
  put together but in an instruction's operand.
- Where no hart translated addresses (`flat`), loads ask the window first: a map slot that is read
  as a whole. What is not there, the engine is asked for.
- In a loop, any other access may go by the look of the turn before (`carried.py`).

Invariants: a group's look changes nothing, neither TLB nor page table: what is not there yet, and
a page's accessed and dirty bits, are single accesses' doing, each at its own turn. So a fault is
its own instruction's, with all that came before it done.

Read next: `lift.py` (`RegionEmitter`), `runtime.py` (`region_load`, `region_store`).
"""

from __future__ import annotations

from collections.abc import Iterable

from jit_proc import carried, fp
from jit_proc.emit import TYPES, is_literal
from jit_proc.float_idioms import FloatIdioms
from jit_proc.float_needs import DOUBLE, SINGLE, written
from jit_proc.float_regions import Real
from jit_proc.groups import Member, kind_of, plan
from jit_proc.handlers import UNLIKELY
from jit_proc.select import Selection
from protocol.layout import LINE_SIZE, PAGE_SIZE, TLB_ENTRY
from protocol.riscv.language import Call, Function

START, BOUND, ADDEND = range(3)  # words of what is carried: good from `START`, so far
NOWHERE = "4095"  # a lone load carries its page's address alone: none has these bits
_SUMS = frozenset({"addw", "addiw", "subw", "mulw"})
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

    def __init__(self, selection: Selection, flat: bool) -> None:
        super().__init__(selection)
        self.flat = flat
        self.groups = plan(selection)
        self.carried = carried.plan(selection, self.groups, flat)
        self.stores = {o for o, s in selection.sites.items() if kind_of(s) == "store"}
        self.in_registers = {o for loop in self.carried.simple.values() for o in loop.looks}
        self.shared: dict[int, str] = {}  # id of a group -> its host address
        self.fast = False  # whether LLVM is to select instructions fast
        self.apart = False  # whether a copy is emitted: no groups
        self.signed: dict[str, str] = {}  # loaded value -> from how many bits it was extended

    def pure(self, name: str, args: list[str]) -> str:
        if name == "sext" and self.signed.get(args[0]) == args[1]:
            return args[0]
        if name == "sext" and args[1] == "32" and self.sums() and not is_literal(args[0]):
            narrow = self.value(f"trunc i64 {args[0]} to i32")
            return self.value(f"sext i32 {self.hidden(narrow, 'i32')} to i64")
        return super().pure(name, args)

    def sums(self) -> bool:
        """Whether the instruction is one of 32 bits that nothing is to be combined with."""
        assert self.site.decoded is not None
        return self.site.decoded.instruction.semantics.name in _SUMS

    def hidden(self, value: str, kind: str) -> str:
        """A value whose origin instcombine does not see, where instructions are selected fast.

        It would make an extension two shifts, and compare a byte before it is extended: good for
        who selects by patterns, an instruction more for who does not. It costs nothing itself.
        """
        if not self.fast:
            return value
        return self.value(f"call {kind} @llvm.expect.{kind}({kind} {value}, {kind} 0)")

    # --- places ----------------------------------------------------------------------------

    def place_of(self, address: str, size: int, kind: str) -> str:
        """Host pointer of the access being emitted."""
        member = self.groups.get(self.site.offset)
        if member is None:
            return self.place_alone(address, size, kind)
        if not self.apart:
            return self.place_in_group(member, address)
        found = self.new_label()
        place = self.ask(address, size, kind, found)
        self.label(found)
        return self.pointer(place)

    def place_alone(self, address: str, size: int, kind: str) -> str:
        go_on, miss, found = (self.new_label() for _ in range(3))
        addend = self.look(address, size, kind, go_on, miss)
        hit = self.label_name
        self.label(miss)
        place = self.ask(address, size, kind, found)
        self.label(found)
        other = self.binary("sub", place, address)
        if self.carries():  # good for this access alone
            self.forget([self.site.offset])
            self.store_word(other, self.place_of_carried(self.site.offset, ADDEND))
        self.jump_to(go_on)
        self.label(go_on)
        if self.carries():
            addend = self.load_word(self.place_of_carried(self.site.offset, ADDEND))
        else:
            addend = self.value(f"phi i64 [ {addend}, %{hit} ], [ {other}, %{found} ]")
        return self.address(self.pointer(addend), address)

    def place_in_group(self, member: Member, address: str) -> str:
        group = member.group
        if member.first:
            low = self.binary("sub", address, str(member.place))
            go_on, miss, there, apart = (self.new_label() for _ in range(4))
            addend = self.look(low, group.span, group.kind, go_on, miss)
            hit = self.label_name
            self.label(miss)
            place = self.call_engine(address, member.size, group.kind)
            self.branch_if(self.compare("eq", place, "0"), apart, there, _LIKELY_NOT)
            self.label(there)  # the TLB has the first member's page, as far as it may
            other = self.look(low, group.span, group.kind, go_on, apart, again=True)
            there = self.label_name
            self.label(apart)
            self.leave_groups()
            self.label(go_on)
            if self.carries():
                addend = self.load_word(self.place_of_carried(self.site.offset, ADDEND))
            else:
                addend = self.value(f"phi i64 [ {addend}, %{hit} ], [ {other}, %{there} ]")
            self.shared[id(group)] = self.binary("add", low, addend)
        return self.pointer(self.binary("add", self.shared[id(group)], str(member.place)))

    def leave_groups(self) -> None:
        """Go on in the copy, with the instruction being emitted."""
        raise AssertionError

    def call_engine(self, address: str, size: int, kind: str) -> str:
        """Host address by the engine's slow path; 0 when tier 0 has to execute the instruction."""
        function = self.value(f"load ptr, ptr {self.field(f'tlb_{kind}')}")
        return self.value(
            f"call preserve_mostcc i64 {function}(ptr %hart, i64 {address}, i64 {size})"
        )

    def ask(self, address: str, size: int, kind: str, found: str) -> str:
        """Host address by the engine's slow path, at `found`; else tier 0 has to do it."""
        place = self.call_engine(address, size, kind)
        self.branch_if(self.compare("eq", place, "0"), self.slow_label(), found, _LIKELY_NOT)
        return place

    def look(
        self, address: str, size: int, kind: str, go_on: str, miss: str, again: bool = False
    ) -> str:
        """What makes a host address of a guest's, at `go_on`; what does not hit goes to `miss`.

        What the access carries is asked first, unless it was (`again`), and is then up to date.
        """
        if self.carries() and not again:
            self.ask_carried(address, size, go_on)
        if kind == "store":
            entry = self.store_hit(address, size, miss)
        elif self.flat and not again:
            return self.look_at_window(address, go_on, miss)
        else:
            good = self.new_label()
            condition, entry = self.hit(address, size, "read_tag")
            self.branch_if(condition, good, miss, UNLIKELY)
            self.label(good)
        addend = self.load_word(self.address(entry, TLB_ENTRY.offset("addend")))
        if self.carries():
            self.keep(address, size, kind, entry, addend)
        self.jump_to(go_on)
        return addend

    def look_at_window(self, address: str, go_on: str, miss: str) -> str:
        """What `look` does, by the window: a load that begins in it ends in its slot."""
        good = self.new_label()
        place = self.binary("sub", self.read_field("window_last"), address)
        inside = self.compare("ugt", place, self.read_field("window_limit"))
        self.branch_if(inside, good, miss, UNLIKELY)
        self.label(good)
        # Volatile, or it would become one load with that of the TLB, of an address to be chosen.
        addend = self.value(f"load volatile i64, ptr {self.field('window_addend')}")
        self.jump_to(go_on)
        return addend

    # --- carried looks ---------------------------------------------------------------------

    def carries(self) -> bool:
        """Whether the access being emitted carries its look."""
        return self.site.offset in self.in_registers or self.site.offset in self.carried.others

    def by_page(self, offset: int) -> bool:
        """Whether an access that carries is a lone load."""
        return offset not in self.groups and offset not in self.stores

    def ask_carried(self, address: str, size: int, go_on: str) -> None:
        """To `go_on`, if what is carried is good for an access."""
        here, look = self.site.offset, self.new_label()
        start = self.load_word(self.place_of_carried(here, START))
        if self.by_page(here):
            same = self.compare("eq", self.binary("and", address, str(size - 1 - PAGE_SIZE)), start)
        else:
            place = self.binary("sub", address, start)
            same = self.compare("ult", place, self.load_word(self.place_of_carried(here, BOUND)))
        self.branch_if(same, go_on, look, UNLIKELY)
        self.label(look)

    def keep(self, address: str, size: int, kind: str, entry: str, addend: str) -> None:
        """Carry what a look found."""
        here = self.site.offset
        start = self.binary("and", address, str(-PAGE_SIZE))
        bound = str(PAGE_SIZE + 1 - size)
        if kind == "store":  # data beside code: what was seen holds for the line
            tag = self.load_word(self.address(entry, TLB_ENTRY.offset("write_tag")))
            free = self.compare("eq", self.binary("and", tag, "1"), "0")
            start = self.select(free, start, self.binary("and", address, str(-LINE_SIZE)))
            bound = self.select(free, bound, str(LINE_SIZE + 1 - size))
        self.store_word(start, self.place_of_carried(here, START))
        if not self.by_page(here):
            self.store_word(bound, self.place_of_carried(here, BOUND))
        self.store_word(addend, self.place_of_carried(here, ADDEND))

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
            word, value = (START, NOWHERE) if self.by_page(offset) else (BOUND, "0")
            self.store_word(value, self.place_of_carried(offset, word))

    # --- loads -----------------------------------------------------------------------------

    def b_load(self, address: str, size: str) -> str:
        pointer = self.place_of(address, int(size), "load")
        return self._loaded(self._read(pointer, int(size)), int(size))

    def _loaded(self, value: str, size: int) -> str:
        if self._kind(size) != TYPES["word"]:
            return self.token(Real(DOUBLE if size == 8 else SINGLE, value))
        if self._signed(size):
            self.signed[value] = str(8 * size)
        return value

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
        # Volatile forbids to load and extend at once where instructions are selected fast; none of
        # the few passes moves a load there.
        volatile = "" if self.fast and narrow != kind else "volatile "
        value = self.value(f"load {volatile}{narrow}, ptr {pointer}, align 1")
        if narrow == kind:
            return value
        value = self.value(f"{'sext' if self._signed(size) else 'zext'} {narrow} {value} to i64")
        return self.hidden(value, "i64")

    # --- stores ----------------------------------------------------------------------------

    def b_store(self, address: str, value: str, size: str) -> None:
        self.store_guest(value, self.place_of(address, int(size), "store"), int(size))
