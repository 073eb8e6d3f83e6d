"""Accesses of loops that carry what the TLB said from one turn to the next.

The problem: in a short loop the look at the TLB is more than half of a load or store, and where
the address goes in small steps it almost always finds what it found a turn before. So such an
access keeps the page of its last look and what makes a host address of a guest's, and looks again
only in another page. Where the address comes out of memory or of a hash, it is better to look.

Invariants:

- What is carried is gone when control leaves the region. So it is never older than the last time
  that this hart left native code or looked at its calls, and what empties TLBs waits for it as for
  a look just made: sfence.vma, a new memory map and a new address space are done outside of
  regions, and who begins to track a line waits until this hart was seen between two instructions
  (`runtime_tracking.py`).
- A store carries only what the TLB allows without a look at the page's lines.
- Planning depends on the selection alone.

Where it is kept: a loop of one block (`Carried.simple`) has it in host registers, and begins with
nothing wherever it is entered. Elsewhere it stands in the region's frame: values that live through
many blocks would be moved about at each of their joins.

Read next: `region_memory.py` (what is made of it), `groups.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jit_proc.groups import Member, base_of, kind_of, writes_x
from jit_proc.select import Selection, Site

MOST_IN_LOOP = 8  # looks in a loop whose accesses carry
MOST_IN_REGISTERS = 4  # of those, in a loop of one block
MOST = 12  # looks in a region that are carried in its frame: as many stores at its entry


@dataclass
class Loop:
    """A loop of one block: its last instruction, and its accesses that carry."""

    end: int
    looks: list[int]


@dataclass
class Carried:
    """Accesses that carry. `simple`: loops of one block by their first offset; `others`: the
    offsets of all other accesses, numbered.
    """

    simple: dict[int, Loop] = field(default_factory=dict)
    others: dict[int, int] = field(default_factory=dict)


# What leads from places that are passed in small steps to others; a byte chooses among near ones.
_STEPS = frozenset(
    {"addi", "add", "sub", "slli", "addiw", "addw", "subw", "slliw", "lui", "auipc"}
    | {"add_uw", "slli_uw", "sh1add", "sh2add", "sh3add"}
    | {"sh1add_uw", "sh2add_uw", "sh3add_uw"}
)
_NEAR = frozenset({"lb", "lbu"})
_NARROW = 511  # a mask that keeps no more leaves what is as good as a byte
_KEPT = frozenset({2, 3, 4, 8, 9, *range(18, 28)})  # registers that a call leaves as they are


def _wild(loop: list[Site]) -> set[int]:
    """Registers whose value may be anywhere after a turn of a loop."""
    writes = []  # register, what it is made of
    wild: set[int] = set()
    for site in loop:
        assert site.decoded is not None
        function, operands = site.decoded.instruction.semantics, site.decoded.operands
        if site.links:
            wild |= set(range(1, 32)) - _KEPT
        if "rd" not in operands or function.name in _NEAR or not writes_x(function):
            continue
        if function.name == "andi" and 0 <= operands["imm"] <= _NARROW:
            continue
        if function.name not in _STEPS:
            wild.add(operands["rd"])
        writes.append((operands["rd"], {operands.get("rs1", 0), operands.get("rs2", 0)}))
    known = -1
    while known != len(wild):
        known = len(wild)
        wild |= {target for target, sources in writes if sources & wild}
    return wild - {0}


def plan(selection: Selection, groups: Mapping[int, Member], flat: bool) -> Carried:
    """Which accesses carry: those of short loops, the shortest first; no loads where all look at
    the window (`flat`).
    """
    looks = [
        offset
        for offset, site in sorted(selection.sites.items())
        if site.liftable and base_of(site) is not None
        if offset not in groups or groups[offset].first
        if not (flat and kind_of(site) == "load")
    ]
    loops = sorted(
        {
            (site.target, offset)
            for offset, site in selection.sites.items()
            if site.target is not None and site.target <= offset and site.target in selection.sites
        },
        key=lambda loop: loop[1] - loop[0],
    )
    found = Carried()
    chosen: set[int] = set()
    for start, end in loops:
        inside = [offset for offset in looks if start <= offset <= end]
        if not inside or len(inside) > MOST_IN_LOOP:
            continue
        sites = (s for o, s in selection.sites.items() if start <= o <= end)
        wild = _wild([site for site in sites if site.decoded is not None])
        inside = [offset for offset in inside if base_of(selection.sites[offset]) not in wild]
        new = [offset for offset in inside if offset not in chosen]
        if not new:
            continue
        if len(inside) <= MOST_IN_REGISTERS and not any(
            start < leader <= end for leader in selection.leaders if leader in selection.sites
        ):
            found.simple[start] = Loop(end, new)
        elif len(found.others) + len(new) <= MOST:
            found.others |= {offset: len(found.others) + i for i, offset in enumerate(new)}
        else:
            continue
        chosen.update(new)
    return found
