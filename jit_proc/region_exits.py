"""The common ways out of a region.

The problem: control leaves a region in many places, and each way on - by the records of the page,
by the fetch TLB, into the engine - is long. So each place goes to one of three blocks, with where
control goes on and the count: "slow" for an instruction that tier 0 has to execute, "near" for one
of the page (both take an offset), "far" for one anywhere (an address).

Invariants: what is owed was paid before (`lift.py`); each way but "slow" compares the count with
`hart.limit`.

Read next: `lift.py` (`RegionEmitter.leave`), `handlers.py` (`lookup`).
"""

from __future__ import annotations

from jit_proc.handlers import lookup
from jit_proc.region_memory import MemoryRegions
from jit_proc.select import Selection

_LIKELY_NOT = ", !prof !1"


class RegionExits(MemoryRegions):
    """What `RegionEmitter` knows of leaving. `exits`: block, where to, count, of each place."""

    def __init__(self, selection: Selection, flat: bool) -> None:
        super().__init__(selection, flat)
        self.exits: dict[str, list[tuple[str, str, str]]] = {"slow": [], "near": [], "far": []}

    def leave_to(self, helper: str, record: str, count: str, bias: str = "%bias") -> None:
        place = self.value(f"load ptr, ptr {self.field(helper)}")
        self.tail_call(place, record, count, bias)

    def tail_call(self, target: str, record: str, count: str, bias: str) -> None:
        self.emit(
            f"musttail call preserve_nonecc void {target}(ptr %hart, ptr {record}, i64 {bias}, "
            f"i64 {count}, ptr %tlb)"
        )
        self.terminate("ret void")

    def record_at(self, offset: str) -> str:
        place = self.binary("add", "%base", self.binary("shl", offset, "3"))
        return self.pointer(place)

    def emit_exits(self) -> None:
        for how, sources in self.exits.items():
            if not sources:
                continue
            self.label(f"exit_{how}")
            wheres = ", ".join(f"[ {where}, %{block} ]" for block, where, _ in sources)
            counts = ", ".join(f"[ {count}, %{block} ]" for block, _, count in sources)
            where = self.value(f"phi i64 {wheres}")
            count = self.value(f"phi i64 {counts}")
            if how == "slow":
                self.leave_to("execute_one", self.record_at(where), count)
                continue
            look, on = self.new_label(), self.new_label()
            self.branch_if(self.due(count), look, on, _LIKELY_NOT)
            self.label(look)
            address = where if how == "far" else self.binary("add", "%page", where)
            self.leave_to("far_jump", self.pointer(address), count, "0")
            self.label(on)
            bias = "%bias"
            if how == "near":
                record = self.record_at(where)
            else:
                record, bias = self.find(where, count)
            self.arrive(record, count, bias, near=how == "near")

    def arrive(self, record: str, count: str, bias: str, near: bool = False) -> None:
        """Go on at a record outside: in another region, or in tier 0, which counts the heat.

        Regions of one page that control changes between very often had better be one: `crossing`.
        """
        handler = self.value(f"load ptr, ptr {record}")
        address = self.value(f"ptrtoint ptr {handler} to i64")
        inside = self.binary("sub", address, self.read_field("engine"))
        tier0, linked = self.new_label(), self.new_label()
        size = self.read_field("engine_size")
        self.branch_if(self.compare("ult", inside, size), tier0, linked)
        self.label(tier0)
        self.leave_to("way_out", record, count, bias)
        self.label(linked)
        if near:
            self.leave_to("crossing", record, count, bias)
        else:
            self.tail_call(handler, record, count, bias)

    def find(self, address: str, count: str) -> tuple[str, str]:
        """The record of an address by the fetch TLB; a miss leaves to the engine."""
        return lookup(
            self, address, count, far_jump=self.value(f"load ptr, ptr {self.field('far_jump')}")
        )

    def due(self, count: str) -> str:
        limit = self.value(f"load atomic i64, ptr {self.field('limit')} monotonic, align 8")
        return self.compare("uge", count, limit)
