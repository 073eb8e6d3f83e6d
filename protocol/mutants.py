"""The fault switches: forty-eight ways to run stale code, each put back on demand.

The problem: a check that has never failed proves nothing. So for each class of stale-code mistake
(`docs/stale-code.md`) the mistake itself stands in the code, at the one place where it would be
made, behind `armed("M7")`; the stress tool switches it on and must see a guest go wrong.

Invariants:
- Nothing is armed but by `arm`, and only the stress tool and the simulator call it: for their own
  processes, and by way of `jit_proc.armed` for the translator a trial starts. No option of a
  command that runs a guest, no message and no variable of the environment arms a switch.
- A switch is armed before a machine or a translator is made, and stays so until the process ends.
- Switches that change native code (`engine=True`) are part of the engine's key: an engine with a
  mistake in it is never taken for a sound one.

Read next: `cpu_proc/stress/`, `contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Mutant(NamedTuple):
    """One class of mistake. `engine`: the switch changes the engine's code."""

    name: str
    mistake: str
    engine: bool = False


_ROWS = (
    Mutant("M1", "a device's write to memory retires nothing"),
    Mutant("M2", "a reset copies its images and retires nothing"),
    Mutant("M3", "DMA retires nothing"),
    Mutant("M4", "a restored snapshot retires nothing"),
    Mutant("M5", "a debugger's or the host's write retires nothing"),
    Mutant("M6", "an atomic's store is not tracked", engine=True),
    Mutant("M7", "records belong to an address, not to the page behind it", engine=True),
    Mutant("M8", "the page walk's A/D update is not tracked", engine=True),
    Mutant("M9", "a remap leaves lookups as they are"),
    Mutant("M10", "sfence.vma of a page or an ASID leaves the fetch TLB as it is", engine=True),
    Mutant("M11", "of code that ends in another page only the first page is tracked", engine=True),
    Mutant("M12", "a write retires what its first bytes made, whatever its length", engine=True),
    Mutant("M13", "a virtual page number is taken for a physical one", engine=True),
    Mutant("M14", "the fetch TLB's tag drops address bits above 4 GiB", engine=True),
    Mutant("M15", "a jump cache keeps pointers to code"),
    Mutant("M16", "a chained jump keeps a pointer to code"),
    Mutant("M17", "a link is made of what was looked up before links were broken"),
    Mutant("M18", "a return stack keeps pointers to code"),
    Mutant("M19", "a store takes back the records it hit, and no region"),
    Mutant("M20", "a refusal to translate is remembered for ever"),
    Mutant("M21", "the translator keeps its copy of a page's bytes"),
    Mutant("M22", "a descriptor survives the recycling of its code space"),
    Mutant("M23", "regions assume that FS is Dirty and frm valid, without a guard"),
    Mutant("M24", "mret leaves lookups in the sets of the mode it left", engine=True),
    Mutant("M25", "a content cache takes equal hashes of four bits for equal bytes"),
    Mutant("M26", "a cache of translations has the place of code for its identity"),
    Mutant("M27", "bytes are read before their lines are tracked, and not compared afterwards"),
    Mutant("M28", "a store clears the jump cache of the hart that stored only"),
    Mutant("M29", "a hart in a region's loop hears only requests to stop"),
    Mutant("M30", "a line with regions is let go before its regions are taken back"),
    Mutant("M31", "an answer is published though a counter moved"),
    Mutant("M32", "of two harts that store to one page at once the second is sent away"),
    Mutant(
        "M33",
        "the place of a page's former code is used again, with a hart asleep inside",
    ),
    Mutant("M34", "a store clears the jump caches of all harts but those that sleep"),
    Mutant("M35", "a counter wraps without a retirement of everything"),
    Mutant("M36", "fence.i does not end a region, nor does a store to its own code", engine=True),
    Mutant("M37", "a reset of a hart forgets the retirement that its last store asked for"),
    Mutant("M38", "a store to the region it stands in does not retire it"),
    Mutant("M39", "an atomic access that aborts a region has been carried out already"),
    Mutant("M40", "of a chained jump first the key is stored, then the target is looked up"),
    Mutant("M41", "an answer of an older incarnation is accepted"),
    Mutant("M42", "a retirement is not waited for"),
    Mutant("M43", "a content cache has only the first lines of the bytes in its key"),
    Mutant("M44", "code is visible before it is complete"),
    Mutant("M45", "a cache on disk leaves the state word out of its key"),
    Mutant("M46", "a backend swap leaves the old backend's code"),
    Mutant("M47", "a request's generation is read when it is served"),
    Mutant("M48", "an event is dropped where a list is full"),
)
MUTANTS = {row.name: row for row in _ROWS}

_armed: frozenset[str] = frozenset()


def arm(names: Iterable[str]) -> None:
    """Switch these on, for the life of this process. Raises KeyError for an unknown name."""
    global _armed
    wanted = frozenset(names)
    for name in wanted:
        MUTANTS[name]
    _armed = wanted


def armed(name: str) -> bool:
    """Whether a mistake is switched on. Raises KeyError for an unknown name."""
    return bool(_armed) and MUTANTS[name].name in _armed


def all_armed() -> tuple[str, ...]:
    """The names of all that are switched on, for processes that this one starts."""
    return tuple(sorted(_armed))


def translator_module() -> list[str]:
    """The module, and its first arguments, that a translator is started with."""
    return ["jit_proc.armed", ",".join(all_armed())] if _armed else ["jit_proc"]


def engine_suffix() -> str:
    """What the engine's key holds besides its inputs; empty unless native code is changed."""
    return "".join(f"+{name}" for name in all_armed() if MUTANTS[name].engine)
