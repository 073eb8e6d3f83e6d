"""Selection: which instructions of a page make a region.

The problem: a region is worth its translation when loops and what they call lie inside and cold
code does not. Selection knows bytes, the entries asked for, and what the machine advises, nothing
else: it is part of translating, a pure function of the job.

Invariants: a region's sites lie in one page; what is not among them had no influence on the code
made (`spans_of` names the bytes that had).

Read next: `lift.py` (what is made of a selection).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from jit_proc import loops
from jit_proc.csr_regions import is_plain
from jit_proc.handlers import is_hot
from protocol.fields import MAX_ENTRIES
from protocol.layout import PAGE_SIZE
from protocol.riscv import isa
from protocol.riscv.isa import Decoded
from protocol.riscv.language import Function

MAX_INSTRUCTIONS = 400  # of a region: a loop with what it calls
MOST_INSTRUCTIONS = 1000  # of one that several regions of a page are to become


@dataclass(frozen=True, slots=True)
class Site:
    """One instruction of the page: where, what, and whether a region can hold it.

    `size`: bytes that were looked at, of what is no instruction too.
    """

    offset: int
    decoded: Decoded | None
    liftable: bool
    size: int = 2

    @property
    def end(self) -> int:
        return self.offset + self.size

    @property
    def target(self) -> int | None:
        """Offset of a direct transfer's target relative to the page."""
        if self.decoded is None or "branch" not in self.decoded.instruction.semantics.builtins:
            return None
        return self.offset + self.decoded.operands["imm"]

    @property
    def ends_block(self) -> bool:
        """Whether control never simply goes on to the next instruction."""
        if self.decoded is None:
            return True
        semantics = self.decoded.instruction.semantics
        return bool(semantics.builtins & {"jump", "refetch"}) or (
            "branch" in semantics.builtins and semantics.name in ("jal", "jalr")
        )

    @property
    def links(self) -> bool:
        """Whether it is a call, or fence.i: control is likely to come back behind it."""
        if self.decoded is None or not self.ends_block:
            return False
        if "refetch" in self.decoded.instruction.semantics.builtins:
            return True
        return self.decoded.operands.get("rd", 0) in (1, 5)

    @property
    def jumps(self) -> bool:
        """Whether it is an indirect jump, or call, that is no return."""
        return self.ends_block and self.target is None and not self.returns

    @property
    def returns(self) -> bool:
        """Whether it is a return, by the registers' use (unprivileged architecture, 2.5.1)."""
        if self.decoded is None or self.target is not None or self.links:
            return False
        return self.decoded.operands.get("rs1") in (1, 5)


@functools.cache
def _liftable(function: Function) -> bool:
    return is_hot(function)


def read_site(content: bytes, offset: int) -> Site:
    """Decode the instruction at an offset of the page."""
    raw = int.from_bytes(content[offset : offset + 4], "little")
    if raw & 3 == 3 and offset + 4 > PAGE_SIZE:
        return Site(offset, None, False)
    decoded = isa.decode(raw)
    if decoded is None:
        return Site(offset, None, False, 4 if raw & 3 == 3 else 2)
    liftable = _liftable(decoded.instruction.semantics) or is_plain(decoded)
    return Site(offset, decoded, liftable, decoded.length)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a region consists of: its sites by offset, its entries, where blocks begin.

    `behind_calls`, `hot`: where an indirect jump of the region may go on in it - a return behind
    one of its calls, any other at what was asked for, but in the middle of a loop without it.
    """

    sites: dict[int, Site]
    entries: list[int]
    leaders: set[int]
    behind_calls: list[int]
    hot: list[int]

    def turns(self, site: Site) -> list[int]:
        """Offsets in the region to which the indirect jump at a site may go."""
        return self.behind_calls if site.returns else self.hot


def select(
    content: bytes,
    entries: tuple[int, ...],
    level: int = 0,
    known: tuple[int, ...] = (),
    seen: bytes = b"",
) -> Selection:
    """Choose the instructions of a region: from the entries along direct control flow, in the page.

    Nearest first, so that loops are whole before far code is begun. Besides the entries asked for,
    those where control is likely to come back from outside become entries: behind calls that leave
    the region, behind instructions left to tier 0, and the heads of loops. What else lies in a loop
    is no entry, though it was asked for (`loops.py`).

    Where another region is entered (`known`), control goes on by the record: the code there is not
    made twice. A way that no one took so far (`seen`, as in TRANSLATE) is left out: it costs
    nothing until it proves hot itself.
    """
    sites: dict[int, Site] = {}
    wanted = [2 * slot for slot in entries]
    elsewhere = {2 * slot for slot in known}.difference(wanted)
    limit = MOST_INSTRUCTIONS if level else MAX_INSTRUCTIONS
    taken = int.from_bytes(seen, "little") if seen else -1
    extra: dict[int, None] = {}
    calls: dict[int, int | None] = {}  # what comes behind -> what is called
    leaders = set(wanted)
    pending = list(wanted)

    def is_cold(offset: int) -> bool:
        return not taken >> (offset >> 1) & 1

    while pending and len(sites) < limit:
        offset = pending.pop(0)
        while (
            offset < PAGE_SIZE
            and offset not in sites
            and offset not in elsewhere
            and len(sites) < limit
        ):
            site = read_site(content, offset)
            sites[offset] = site
            target = site.target
            if target is not None and 0 <= target < PAGE_SIZE and target % 2 == 0:
                leaders.add(target)
                if not is_cold(target):
                    pending.append(target)
                if target <= offset:
                    extra[target] = None
            following = site.end
            if site.links:
                calls[following] = target
            elif not site.liftable:
                extra[following] = None
            if site.decoded is None:
                break
            if site.ends_block:
                if site.links and not is_cold(following):
                    pending.append(following)
                break
            if target is not None or not site.liftable:
                leaders.add(following)
                if is_cold(following):
                    break
            offset = following
    back = {following for following, target in calls.items() if target not in sites}
    back |= {site.end for site in sites.values() if not site.liftable}
    blocks = _blocks(sites, leaders)
    found = loops.find({start: _ahead(last, blocks) for start, last in blocks.items()})
    inner = found.members.keys() - back
    if not any(o in sites and sites[o].liftable for o in [*wanted, *extra] if o not in inner):
        inner = set()
    jumps = {start for start, last in blocks.items() if last.jumps}
    hot = [
        offset
        for offset in sorted(wanted)
        if offset in sites and (offset not in inner or not jumps.isdisjoint(found.members[offset]))
    ]
    chosen = [
        offset
        for offset in dict.fromkeys([*wanted, *extra, *sorted(found.heads), *sorted(back)])
        if offset not in inner and offset in sites and sites[offset].liftable
    ]
    chosen = sorted(chosen[:MAX_ENTRIES])
    behind_calls = sorted({s.end for s in sites.values() if s.links and s.end in sites})
    # Where two instructions overlap, control from the first jumps over the second.
    begin = {s.end for s in sites.values() if s.offset + 2 < s.end and s.offset + 2 in sites}
    for site in sites.values():
        if site.target is not None:
            begin.add(site.target)
        if site.target is not None or not site.liftable:
            begin.add(site.end)
    return Selection(sites, chosen, begin | {*chosen, *behind_calls, *hot}, behind_calls, hot)


def _blocks(sites: dict[int, Site], leaders: set[int]) -> dict[int, Site]:
    """Blocks: where they begin, and their last instructions."""
    found: dict[int, Site] = {}
    start = end = -1
    for offset in sorted(sites):
        if offset != end or offset in leaders:
            start = offset
        found[start] = sites[offset]
        end = -1 if sites[offset].ends_block else sites[offset].end
    return found


def _ahead(last: Site, blocks: dict[int, Site]) -> list[int]:
    """Where a block leads by its last instruction: a call, behind it."""
    found = [] if last.ends_block and not last.links else [last.end]
    if last.target is not None and not last.links:
        found.append(last.target)
    return [offset for offset in found if offset in blocks]


def spans_of(sites: dict[int, Site]) -> tuple[tuple[int, int], ...]:
    """The code bytes of the sites as (offset, length), ascending and not touching."""
    spans: list[list[int]] = []
    for offset in sorted(sites):
        end = min(sites[offset].end, PAGE_SIZE)
        if spans and offset <= spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([offset, end])
    return tuple((start, end - start) for start, end in spans)
