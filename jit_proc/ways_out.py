"""Handlers of the engine that are no instructions: their base, and those that find code hot.

The problem: what is worth a translation, or another one, must be found without a cost where code
runs as it should. So what is counted is leaving: a region that goes on in tier 0, one that goes on
in another of its page, one whose assumption does not hold. The counters stand in the hart, by a
hash of the record; at a threshold the record is noted in the hart's ring (`Hart.hot`).

Invariant: to note a record changes nothing that a guest can see.

Read next: `region_exits.py`, `lift.py` (who goes here), `cpu_proc/exits.py` (who reads the ring).
"""

from __future__ import annotations

from jit_proc.handlers import HotEmitter
from protocol.layout import HEAT_COUNTERS, HOT_ASSUMED
from protocol.riscv.isa import Instruction, parse_pattern
from protocol.riscv.language import routine_from_source

CROSSINGS = 10  # to the power of 2: times the threshold, for regions of one page to be made one
FAILURES = 6  # the same, for a region whose assumption does not hold to be made anew


def illegal(bits: int) -> Instruction:
    body = routine_from_source("illegal", "def illegal():\n trap(2, raw)", {})
    return Instruction("illegal", parse_pattern("0" * bits), "illegal", body, "")


class Special(HotEmitter):
    """Handlers that are not instructions."""

    def __init__(self) -> None:
        super().__init__(illegal(32), 4, near=False)

    def nowhere(self, name: str) -> str:
        """A place in the code that is no handler."""
        self.terminate("unreachable")
        return self.text(name)

    def record_word(self) -> str:
        return self.value("ptrtoint ptr %record to i64")


def hot() -> str:
    """Note the record, go on there."""
    out = Special()
    out.emit(f"call void @r_note_hot(ptr %hart, i64 {out.record_word()})")
    look, go = out.new_label(), out.new_label()
    out.branch_if(out.compare("uge", "%count", out.read_field("limit")), look, go)
    out.label(look)
    out.tail("@h_look", "%record", "%count")
    out.label(go)
    out.dispatch("%record", "%count")
    return out.text("hot")


def _count_heat(out: Special, table: str, threshold: str, cool: str, then: str = "@h_hot") -> None:
    """Count the record in a table, by a hash; at the threshold go on by `then`, else to `cool`.

    The counter fires 16 times as rarely from then on: what may not become a region must not cost
    much.
    """
    place = out.record_word()
    mixed = out.binary("xor", out.binary("lshr", place, "4"), out.binary("lshr", place, "16"))
    index = out.binary("and", mixed, str(HEAT_COUNTERS - 1))
    counter = out.address(out.field(table), out.binary("shl", index, "3"))
    heat = out.binary("add", out.load_word(counter), "1")
    out.store_word(heat, counter)
    hot = out.new_label()
    out.branch_if(out.compare("sge", heat, threshold), hot, cool, ", !prof !1")
    out.label(hot)
    out.store_word(out.binary("shl", out.binary("sub", "1", threshold), "4"), counter)
    out.tail(then, "%record", "%count")


def crossing() -> str:
    """From a region to another one of its page: very often, and they had better be one.

    A translation costs as much as a million such ways, so that many make it worth while.
    """
    out = Special()
    cool = out.new_label()
    threshold = out.binary("shl", out.read_field("threshold"), str(CROSSINGS))
    _count_heat(out, "crossings", threshold, cool)
    out.label(cool)
    out.dispatch("%record", "%count")
    return out.text("crossing")


def way_out() -> str:
    """A region leaves for a record of tier 0: count its heat, go on there.

    A record not decoded yet does not count: its line is not tracked, so an answer made from it
    could not be published.
    """
    out = Special()
    decoded, cool = out.new_label(), out.new_label()
    handler = out.value("load ptr, ptr %record, align 8")
    out.branch_if(out.value(f"icmp ne ptr {handler}, @h_decode"), decoded, cool)
    out.label(decoded)
    _count_heat(out, "heat", out.read_field("threshold"), cool)
    out.label(cool)
    out.dispatch("%record", "%count")
    return out.text("way_out")


def assumed() -> str:
    """What a region assumes of the hart's state did not hold: count it, go on in tier 0.

    Now and then that is as it should be (a process's first floating point after it was switched
    to); so often, and the region had better assume nothing.
    """
    out = Special()
    cool = out.new_label()
    out.write_field("stat_assumed", out.binary("add", out.read_field("stat_assumed"), "1"))
    threshold = out.binary("shl", out.read_field("threshold"), str(FAILURES))
    _count_heat(out, "failures", threshold, cool, "@h_assume_less")
    out.label(cool)
    out.tail("@h_execute_one", "%record", "%count")
    return out.text("assumed")


def assume_less() -> str:
    """Note the record as one whose region assumes what does not hold."""
    out = Special()
    noted = out.binary("or", out.record_word(), str(HOT_ASSUMED))
    out.emit(f"call void @r_note_hot(ptr %hart, i64 {noted})")
    out.tail("@h_execute_one", "%record", "%count")
    return out.text("assume_less")
