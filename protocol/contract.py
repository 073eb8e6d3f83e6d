"""The contract about stale code, as tables: which event moves what, and what that retires.

Problem: whatever is derived from guest state (records, regions, lookups, queues, objects) must go
when that state changes, and the list of events times the list of structures is too long to keep in
one's head. So it is factored: an event moves counters (`EVENTS`), a counter's move does something
to each structure (`STRUCTURES`), and what no counter covers is a rule of its own (`RULES`).

Invariant: each class of stale-code mistake, M1 to M48, is answered by at least one row; the
scenarios under tests/ carry the same numbers. A test holds this module and the specification
together.

Read next: `protocol/SPEC.md`, which shows these tables; `protocol.generations`.
"""

from __future__ import annotations

from typing import NamedTuple


class Generation(NamedTuple):
    """A counter: who moves it, who reads it and how, and what a move retires."""

    name: str
    writer: str
    readers: str
    order: str
    bumped_by: str
    retires: str


GENERATIONS = (
    Generation(
        "epoch",
        "machine, harts stopped",
        "translator; every publish",
        "stored with release before RETIRE is sent; loaded with acquire before and after reading "
        "guest bytes",
        "power-on, system reset, snapshot restore, backend swap, translator restart, code space "
        "full, overflow of any list, wrap of another counter",
        "every translation, record, request, page snapshot and negative result, everywhere",
    ),
    Generation(
        "map_generation",
        "machine, harts stopped",
        "translator; every publish",
        "release and acquire, as above",
        "a commit to the memory map: remap, flash mode switch, region added or removed",
        "lookups, and answers under way; translations stay valid for their backing page",
    ),
    Generation(
        "page generation",
        "machine: the hart or device that writes; one counter per backing page",
        "translator; every publish",
        "the write, then the bump with release; loaded with acquire before and after the bytes",
        "a write to a tracked line of the page: guest store, DMA, device, ROM copy, debugger",
        "the records of the lines, and every region made from bytes of the page",
    ),
    Generation(
        "state word",
        "the hart it belongs to",
        "that hart's guards",
        "none: reader and writer are one",
        "trap, xRET, CSR writes, hart start (no counter: it returns to old values)",
        "nothing: a guard compares it at a region's entry",
    ),
)


class Structure(NamedTuple):
    """Something derived from guest state, and what becomes of it when a counter moves."""

    name: str
    keeper: str
    epoch: str
    map_generation: str
    page_generation: str
    state_word: str


STRUCTURES = (
    Structure(
        "record",
        "machine",
        "dropped, harts stopped",
        "kept: it belongs to the backing page",
        "back to `decode`, in the lines written",
        "kept: its handler looks at the state itself",
    ),
    Structure(
        "region (published)",
        "machine",
        "dropped with the records",
        "kept: unreachable while its page is not mapped",
        "each of its records gets its tier-0 handler back: one store each",
        "guard at the entry",
    ),
    Structure(
        "fetch TLB",
        "machine",
        "cleared on every hart",
        "cleared on every hart before the mutator returns",
        "kept: it points to records",
        "another set is chosen, or it is cleared",
    ),
    Structure(
        "data TLB",
        "machine",
        "cleared on every hart",
        "cleared on every hart before the mutator returns",
        "kept; cleared of a page's write entries when a line of it is first tracked",
        "another set is chosen, or it is cleared",
    ),
    Structure(
        "request outstanding",
        "machine",
        "forgotten",
        "its answer fails the publish rule",
        "cancelled, or its answer fails the publish rule",
        "part of it",
    ),
    Structure(
        "job, queued or running",
        "translator",
        "dropped, abandoned; counted in RETIRED",
        "made in vain",
        "rejected as bytes_moved, or made in vain",
        "part of it",
    ),
    Structure(
        "page snapshot",
        "translator",
        "forgotten",
        "kept: pages have no address",
        "read anew by every job, the counters compared before and after",
        "does not depend",
    ),
    Structure(
        "module, object",
        "translator",
        "freed; counted in RETIRED",
        "kept",
        "unreachable; freed with the epoch",
        "part of its key",
    ),
    Structure(
        "code segment",
        "translator",
        "replaced; the old one is unmapped by the machine, then closed",
        "kept",
        "kept: no byte of it is used twice within an epoch",
        "does not depend",
    ),
    Structure(
        "negative result",
        "machine, translator",
        "forgotten",
        "stale: its stamp is not current",
        "stale: its stamp is not current",
        "part of its key",
    ),
    Structure(
        "content store (memory and disk)",
        "translator",
        "kept: the key holds every input",
        "kept",
        "kept: other bytes have another key",
        "part of its key",
    ),
    Structure(
        "breakpoint",
        "machine",
        "kept by address; set again into fresh records",
        "set again: its address may have another page",
        "set again into fresh records",
        "does not depend",
    ),
    Structure(
        "engine",
        "translator",
        "kept: depends on layout, ISA and host alone",
        "kept",
        "kept",
        "does not depend",
    ),
)


class Event(NamedTuple):
    """Something that changes guest state or the services, the counters it moves, and by when."""

    name: str
    moves: str
    visible: str
    classes: str


EVENTS = (
    Event("power-on", "epoch", "before the first instruction", ""),
    Event(
        "CPU reset (one hart)",
        "state word; lookups, reservation and hot list of the hart are cleared",
        "before the hart's next instruction",
        "M37",
    ),
    Event("system reset", "epoch", "before any hart's next instruction", "M2 M37"),
    Event("ROM or image copied", "page generation", "before the copy returns", "M2"),
    Event(
        "guest store, every form and every tier",
        "page generation, if a line of it is tracked",
        "this hart: next instruction; others: behind their next fence.i, or earlier",
        "M6 M7 M11 M12 M13 M14 M19 M21 M27 M28 M30 M32 M38 M39",
    ),
    Event("A/D update by a page walk", "page generation, as a store", "as a store", "M8"),
    Event("DMA", "page generation", "before the device reports completion", "M3 M12"),
    Event(
        "device-internal write (flash program, erase)",
        "page generation",
        "before the register access ends",
        "M1",
    ),
    Event("debugger or host write", "page generation", "before the command is answered", "M5"),
    Event("snapshot restore", "epoch", "before any hart's next instruction", "M4"),
    Event("remap", "map_generation", "before the mutator returns", "M9 M16 M26"),
    Event(
        "flash mode switch, boot-remap",
        "map_generation",
        "before the next instruction of the hart that switched",
        "M1 M9",
    ),
    Event(
        "permission change (page table, PMP)",
        "none: lookups of the hart are cleared by sfence.vma or the PMP write",
        "with that instruction",
        "M10",
    ),
    Event("sfence.vma", "none: lookups of the hart are cleared", "with the instruction", "M10"),
    Event(
        "fence.i",
        "none: records are current; the region is left",
        "this hart's next instruction",
        "M28 M36 M38",
    ),
    Event(
        "satp, privilege, FS or frm change", "state word", "this hart's next instruction", "M23 M24"
    ),
    Event(
        "hart started or stopped",
        "none: it starts with empty lookups, and stopped it holds no code pointer",
        "before its first instruction",
        "M24 M29 M33 M34",
    ),
    Event("backend swap", "epoch", "before any hart's next instruction", "M46"),
    Event("translator crash or restart", "epoch", "before a new session begins", "M41 M44"),
    Event("code space full", "epoch", "before space is used again", "M22 M33"),
    Event("overflow of a ring or list", "epoch", "instead of losing the event", "M48"),
    Event("wrap of a map or page generation", "epoch", "before the wrapped value is used", "M35"),
)


class Rule(NamedTuple):
    """What holds at all times, whatever the event."""

    name: str
    text: str
    classes: str


RULES = (
    Rule(
        "publish",
        "the stamp is compared and the entries are stored at one safe point",
        "M21 M27 M31 M42 M44 M47",
    ),
    Rule(
        "one pointer",
        "a record is the only thing that points to translated code; links go through records",
        "M15 M16 M17 M18 M40",
    ),
    Rule(
        "content keys",
        "a key holds the bytes, the state word and every option; equal hashes are not enough "
        "where bytes can be compared",
        "M25 M43 M45",
    ),
    Rule("negative results", "a rejection is retired like a translation", "M20"),
    Rule("quiescence", "no code is freed while a hart may be inside", "M29 M33"),
)
