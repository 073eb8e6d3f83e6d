"""Loads and stores inside a region.

The problem: most accesses hit a page that the TLB holds, and that must cost a handful of host
instructions; all others must be exact, and small.

- An access alone looks at the TLB, then asks the engine (`hart.tlb_load`, `tlb_store`) for a host
  address; when there is none (a fault, a device, a store over code) tier 0 executes the
  instruction, before anything was changed.
- The first access of a group (`groups.py`) looks for the group's whole span. When that lies in one
  page and the TLB allows it, the members use its host address; else each asks the engine, which
  finds by the TLB what is there. Which of the two, the address says: it is 0 in the second case.
- Each arm has the access itself, so that a host address is never put together but in an
  instruction's operand.

Invariants: a group's look changes nothing, neither TLB nor page table: what is not there yet, and
a page's accessed and dirty bits, are single accesses' doing, each at its own turn. So a fault is
its own instruction's, with all that came before it done.

Read next: `lift.py` (`RegionEmitter`), `runtime.py` (`region_load`, `region_store`).
"""

from __future__ import annotations

from jit_proc import fp
from jit_proc.emit import TYPES
from jit_proc.float_idioms import FloatIdioms
from jit_proc.float_needs import DOUBLE, SINGLE, written
from jit_proc.float_regions import Real
from jit_proc.groups import Member, plan
from jit_proc.handlers import UNLIKELY
from jit_proc.select import Selection
from protocol.riscv.language import Call, Function

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
        fast = self.new_label()
        if member.first:
            low = self.binary("sub", address, str(member.place))
            if group.kind == "load":
                condition, entry = self.hit(low, group.span, "read_tag")
                self.branch_if(condition, fast, alone, UNLIKELY)
            else:
                entry = self.store_hit(low, group.span, alone)
                self.jump_to(fast)
            self.label(fast)
            addend = self.load_word(self.address(entry, 16))
            host = self.binary("add", low, addend)
            self.shared[id(group)] = host
        else:
            host = self.shared[id(group)]
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

    # --- loads -----------------------------------------------------------------------------

    def b_load(self, address: str, size: str) -> str:
        bytes_ = int(size)
        found, after = self.new_label(), self.new_label()
        member, pointer = self._begin(address, bytes_, found, "load")
        hit, quick = self.label_name, self._read(pointer, bytes_)
        self.jump_to(after)
        self.lines += self._miss
        self.label(found)
        slow = self._read(self.pointer(self._slow_value), bytes_)
        again = self.look_again(member, address) if member is not None and member.first else ""
        self.jump_to(after)
        self.label(after)
        kind = self._kind(bytes_)
        value = self.value(f"phi {kind} [ {quick}, %{hit} ], [ {slow}, %{found} ]")
        self._share(member, hit, found, again)
        if kind != TYPES["word"]:
            return self.token(Real(DOUBLE if bytes_ == 8 else SINGLE, value))
        if self._signed(bytes_):
            self.signed[value] = str(8 * bytes_)
        return value

    def _begin(self, address: str, size: int, found: str, kind: str) -> tuple[Member | None, str]:
        """Look for an access: goes on where it hits, with the host pointer.

        Ends another arm at `found`, with the host address in `_slow_value`.
        """
        member = self.groups.get(self.site.offset)
        miss = self.new_label()
        if member is not None:
            pointer = self.join_group(member, address, miss)
        elif kind == "load":
            hit = self.new_label()
            condition, entry = self.hit(address, size, "read_tag")
            self.branch_if(condition, hit, miss, UNLIKELY)
            self.label(hit)
            pointer = self.host_address(address, entry)
        else:
            pointer = self.host_address(address, self.store_hit(address, size, miss))
        here, lines = self.label_name, self.lines
        self.lines = []
        self.label(miss)
        self._slow_value = self.slow_place(address, str(size), f"tlb_{kind}")
        self.branch_if(
            self.compare("eq", self._slow_value, "0"), self.slow_label(), found, _LIKELY_NOT
        )
        self._miss, self.lines = self.lines, lines
        self.label_name, self.done = here, False
        return member, pointer

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
        found, after = self.new_label(), self.new_label()
        member, pointer = self._begin(address, bytes_, found, "store")
        hit = self.label_name
        self.store_guest(value, pointer, bytes_)
        self.jump_to(after)
        self.lines += self._miss
        self.label(found)
        self.store_guest(value, self.pointer(self._slow_value), bytes_)
        again = self.look_again(member, address) if member is not None and member.first else ""
        self.jump_to(after)
        self.label(after)
        self._share(member, hit, found, again)

    def _share(self, member: Member | None, hit: str, found: str, again: str) -> None:
        """Where the arms of a group's first member come together: what the others go by."""
        if again:
            assert member is not None
            host = self.shared[id(member.group)]
            self.shared[id(member.group)] = self.value(
                f"phi i64 [ {host}, %{hit} ], [ {again}, %{found} ]"
            )
