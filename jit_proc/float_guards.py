"""What floating point asks of the hart's state, and where a region looks whether it is so.

The problem: floating point wants mstatus.FS Dirty, so that a result need not say so, and a valid
frm that the host's unit knows. That is so for who computes, always, and a look at the region's
entry is the cheapest. But where it is not so - integer code of a process without floating point
that shares a page with some; a rounding mode that the host lacks - the whole region would be left
to tier 0 for ever. So the entry's look counts in vain (`ways_out.assumed`), and such regions are
made anew, with `STATE_LOOKS` in the state word: these look at each block that needs it, and leave
to tier 0 for the one instruction that cannot be done.

Invariant: neither FS nor frm changes inside of a region, for no region holds what writes them.

Read next: `lift.py`, `csr_regions.py` (which CSRs are written in regions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jit_proc.handlers import UNLIKELY
from protocol import mutants

if TYPE_CHECKING:
    from jit_proc.lift import RegionEmitter

HOST_MODES = "4"  # values of frm below it are the host's


def dirty(out: RegionEmitter) -> str:
    """Whether FS is Dirty."""
    status = out.binary("and", out.read_field("mstatus"), str(3 << 13))
    return out.compare("eq", status, str(3 << 13))


def known(out: RegionEmitter) -> str:
    """Whether the host knows frm."""
    return out.compare("ult", "%frm", HOST_MODES)


def enter(out: RegionEmitter) -> None:
    """At the entry of a region that needs it: look, or leave for tier 0."""
    if mutants.armed("M23"):  # its mistake: assumed, not checked
        return
    condition = out.logical("&", dirty(out), known(out))
    good, bad = out.new_label(), out.new_label()
    out.branch_if(condition, good, bad, UNLIKELY)
    out.label(bad)
    out.leave_to("assumed", "%record", "%count")
    out.label(good)


def look(out: RegionEmitter, name: str) -> None:
    """Before an instruction that needs it, unless the block has looked already; `name`: one of
    `dirty` and `known`.
    """
    if name not in out.looked:
        out.guard(dirty(out) if name == "dirty" else known(out))
        out.looked.add(name)
