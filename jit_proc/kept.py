"""What the switches for kept pointers to code put into regions (none is there without a switch).

The problem and the structures are told in `protocol/kept.py`. A region that leaves its page looks
there first: an entry with its key is a pointer to code, followed without a look at the record.

Invariant: `keeper()` is None unless a switch is on; then regions are as `lift.py` makes them.

Read next: `lift.py` (`RegionEmitter.leave`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol import kept, mutants

if TYPE_CHECKING:
    from jit_proc.lift import RegionEmitter
    from jit_proc.select import Site


class Keeper:
    """Emits the use of kept pointers."""

    def __init__(self) -> None:
        self.jumps = kept.any_armed(kept.JUMPS)
        self.links = kept.any_armed(kept.LINKS)
        self.stack = kept.any_armed(kept.STACK)
        self.two_steps = mutants.armed("M17")
        self.shared = mutants.armed("M40")

    def area(self, out: RegionEmitter) -> str:
        """Address of the hart's words; with M40 all harts use the first one's."""
        control = out.binary("add", out.read_field("control"), str(kept.AREA))
        if self.shared:
            return control
        place = out.binary("mul", out.read_field("hartid"), str(kept.HART_SIZE))
        return out.binary("add", control, place)

    def calls(self, out: RegionEmitter, site: Site) -> None:
        """Before a call: the return stack keeps the code behind it (M18)."""
        if not self.stack or not site.links or site.end >= 4096:
            return
        area = self.area(out)
        height = out.load_word(out.pointer(out.binary("add", area, str(kept.HEIGHT))))
        entry = self._entry(out, area, height)
        record = out.record_at(str(site.end))
        address = out.binary("add", "%page", str(site.end))
        handler = out.load_word(record)
        known = out.select(self._is_region(out, handler), address, "0")
        self._fill(out, entry, known, handler, record, "%bias")
        self._set_height(out, area, out.binary("add", height, "1"))

    def leaves(self, out: RegionEmitter, where: str, count: str) -> None:
        """A way out of the page to the address `where`: by a kept pointer, if there is one."""
        decoded = out.site.decoded
        assert decoded is not None
        direct = out.site.target is not None
        by_link = decoded.operands.get("rs1") in (1, 5)  # a return, or `call` (auipc and jalr)
        returns = not direct and not out.site.links and by_link
        jumps = self.jumps and out.site.links and not by_link
        if not ((self.stack and returns) or (self.links if direct else jumps)):
            return
        look, follow = out.new_label(), out.new_label()
        out.branch_if(out.due(count), look, follow)
        out.label(follow)
        area = self.area(out)
        if self.stack:
            height = out.load_word(out.pointer(out.binary("add", area, str(kept.HEIGHT))))
            height = out.binary("sub", height, "1")
            self._set_height(out, area, height)
            self._follow(out, self._entry(out, area, height), where, look, count)
        else:
            key = out.special("pc") if direct else where
            self._by_table(out, area, key, where, count)
        out.label(look)

    def _by_table(self, out: RegionEmitter, area: str, key: str, where: str, count: str) -> None:
        entry = self._entry(out, area, out.binary("lshr", key, "1"))
        miss = out.new_label()
        self._follow(out, entry, key, miss, count)
        out.label(miss)
        fresh = entry
        if self.two_steps:
            # M17: a link is made of what an earlier look found, though the links were broken since.
            fresh = out.binary("add", area, str(kept.PENDING))
            same, other = out.new_label(), out.new_label()
            out.branch_if(out.compare("eq", self._word(out, fresh, 0), key), same, other)
            out.label(same)
            words = [self._word(out, fresh, i) for i in (1, 2, 3)]
            self._store(out, fresh, 0, "0")
            self._fill(out, entry, key, words[0], out.pointer(words[1]), words[2])
            out.tail_call(out.pointer(words[0]), out.pointer(words[1]), count, words[2])
            out.label(other)
        if self.shared:
            # M40: first the key of a link that is there, then its pointer, which stays the old one
            # if the look for the new one leaves.
            vacant = out.compare("eq", self._word(out, entry, 0), "0")
            self._store(out, entry, 0, out.select(vacant, "0", key))
        record, bias = out.find(where, count)
        handler = out.load_word(record)
        keep, pass_by = out.new_label(), out.new_label()
        out.branch_if(self._is_region(out, handler), keep, pass_by)
        out.label(keep)
        self._fill(out, fresh, key, handler, record, bias)
        out.tail_call(out.pointer(handler), record, count, bias)
        out.label(pass_by)
        out.arrive(record, count, bias)

    def _follow(self, out: RegionEmitter, entry: str, key: str, miss: str, count: str) -> None:
        hit = out.new_label()
        out.branch_if(out.compare("eq", self._word(out, entry, 0), key), hit, miss)
        out.label(hit)
        handler, record, bias = (self._word(out, entry, i) for i in (1, 2, 3))
        out.tail_call(out.pointer(handler), out.pointer(record), count, bias)

    @staticmethod
    def _is_region(out: RegionEmitter, handler: str) -> str:
        inside = out.binary("sub", handler, out.read_field("engine"))
        return out.compare("uge", inside, out.read_field("engine_size"))

    @staticmethod
    def _entry(out: RegionEmitter, area: str, number: str) -> str:
        index = out.binary("and", number, str(kept.ENTRIES - 1))
        return out.binary("add", area, out.binary("mul", index, str(kept.ENTRY_SIZE)))

    def _fill(
        self, out: RegionEmitter, entry: str, key: str, handler: str, record: str, bias: str
    ) -> None:
        place = out.value(f"ptrtoint ptr {record} to i64")
        for i, value in enumerate((key, handler, place, bias)):
            self._store(out, entry, i, value)

    def _set_height(self, out: RegionEmitter, area: str, height: str) -> None:
        out.store_word(height, out.pointer(out.binary("add", area, str(kept.HEIGHT))))

    @staticmethod
    def _word(out: RegionEmitter, entry: str, index: int) -> str:
        place = out.pointer(out.binary("add", entry, str(8 * index)))
        return out.value(f"load volatile i64, ptr {place}, align 8")

    @staticmethod
    def _store(out: RegionEmitter, entry: str, index: int, value: str) -> None:
        place = out.pointer(out.binary("add", entry, str(8 * index)))
        out.emit(f"store volatile i64 {value}, ptr {place}, align 8")


def stay_in_loop(out: RegionEmitter, count: str, head: str) -> None:
    """M29: at a loop's end only a request to stop is heard; no call to look at the records again.

    Continues emission where it is heard.
    """
    quiet, stay, heard = out.new_label(), out.new_label(), out.new_label()
    out.branch_if(_attention(out), heard, quiet)
    out.label(quiet)
    out.write_field("limit", out.binary("add", count, out.read_field("slice")))
    out.emit("fence seq_cst")
    missed = out.new_label()
    out.branch_if(_attention(out), missed, stay)
    out.label(stay)
    out.jump_to(head)
    out.label(missed)
    out.write_field("limit", "0")
    out.jump_to(heard)
    out.label(heard)


def _attention(out: RegionEmitter) -> str:
    value = out.value(f"load volatile i64, ptr {out.field('attention')}, align 8")
    return out.compare("ne", value, "0")


def keeper() -> Keeper | None:
    """What adds kept pointers to a region; None without a switch."""
    return Keeper() if kept.any_armed(kept.JUMPS + kept.LINKS + kept.STACK) else None
