"""Pointers to code beside the records: the structures that some fault switches add.

The problem: nothing in this project but a record points to translated code, so the mistakes that
such pointers invite (a jump cache, a chained jump, a return stack) cannot be made here. To show
that the scenarios would see them, their switches add the structure, in words behind the control
page's that nothing else uses: for each hart eight entries, one entry that is being made, and the
height of a stack.

Invariant: without a switch no code reads or writes these words.

Read next: `mutants.py`, `jit_proc/kept.py` (native code), `cpu_proc/mistakes.py` (who clears them).
"""

from __future__ import annotations

from protocol import mutants
from protocol.layout import CONTROL, MAX_HARTS

AREA = 512  # offset in the control page of hart 0's words
HART_SIZE = 448
ENTRIES = 8
ENTRY_SIZE = 32  # key (an address; 0: none), code, record, bias
PENDING = ENTRIES * ENTRY_SIZE  # the entry that is being made (M17)
HEIGHT = PENDING + ENTRY_SIZE  # of the return stack (M18)

assert CONTROL.size <= AREA
assert AREA + MAX_HARTS * HART_SIZE <= 4096

JUMPS = ("M15", "M28", "M34")
"""Switches that add a jump cache: indirect calls, by target."""

LINKS = ("M16", "M17", "M40")
"""Switches that chain jumps: direct jumps out of a page, by their own place."""

STACK = ("M18",)
"""The switch that adds a return stack."""


def any_armed(names: tuple[str, ...]) -> bool:
    """Whether one of these switches is on."""
    return any(map(mutants.armed, names))
