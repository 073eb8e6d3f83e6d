"""The contract about stale code, as tables: which event moves what, and what that retires.

Problem: whatever is derived from guest state (records, regions, lookups, queues, objects) must go
when that state changes, and the list of events times the list of structures is too long to keep in
one's head. So it is factored: an event moves counters (`EVENTS`), a counter's move does something
to each structure (`STRUCTURES`), what no counter covers is a rule of its own (`RULES`), and `cell`
puts an event and a structure together again: the whole product stands in the specification.

Invariants, each with a test that fails when it is broken (tests/protocol/test_contract.py):
- each class of stale-code mistake, M1 to M48, is answered by a row, and has a scenario in one, a
  switch and a witness; every scenario stands in a row, and every row names tests that exist;
- every cause of a retirement in the code, and every module that changes the memory map, belongs to
  a row; every field of the shared layout belongs to a structure, or holds nothing derived.

Read next: `protocol.contract_events` (`EVENTS`, `RULES`, `cell`); `protocol/SPEC.md`, which shows
all tables; `protocol.generations`.
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
    group: str
    code: str
    """Where it is kept: module and name."""
    fields: str = ""
    """Words of the shared layout that hold it."""


STRUCTURES = (
    Structure(
        "record",
        "machine",
        "dropped, harts stopped",
        "kept: it belongs to the backing page",
        "back to `decode`, in the lines written",
        "kept: its handler looks at the state itself",
        "code",
        "cpu_proc/records.py Records",
        "Page.records Page.lines Hart.pool_next Hart.scratch Hart.scratch_bytes "
        "Hart.scratch_page Hart.scratch_bias",
    ),
    Structure(
        "region (published)",
        "machine",
        "dropped with the records",
        "kept: unreachable while its page is not mapped",
        "each of its records gets its tier-0 handler back: one store each",
        "guard at the entry",
        "code",
        "cpu_proc/records.py Region",
        "Page.region_lines",
    ),
    Structure(
        "fetch TLB",
        "machine",
        "cleared on every hart, with banks not in use",
        "cleared on every hart, with banks not in use, before the mutator returns",
        "kept: it points to records",
        "another set or bank is chosen; that of a space without an ASID is cleared",
        "lookups",
        "jit_proc/runtime_fetch.py fetch_fill",
        "Hart.fetch_tlbs Hart.fetch_used Hart.fetch_filled Hart.fetch_tlb Hart.fetch_set "
        "Hart.fetch_bias Hart.megapages Hart.gigapages Hart.bank Hart.bank_clock Hart.bank_keys "
        "Hart.bank_times",
    ),
    Structure(
        "data TLB",
        "machine",
        "cleared on every hart, with banks not in use",
        "cleared on every hart, with banks not in use, before the mutator returns",
        "kept; cleared of a page's write entries, in every bank, when a line is first tracked",
        "another set or bank is chosen; that of a space without an ASID is cleared",
        "lookups",
        "jit_proc/runtime_memory.py resolve",
        "Hart.data_tlbs Hart.data_used Hart.data_filled Hart.data_tlb Hart.data_set "
        "Hart.window_last Hart.window_limit Hart.window_addend Page.writers",
    ),
    Structure(
        "look that a loop carries",
        "machine",
        "gone: harts have left their regions",
        "gone: harts have left their regions, before the mutator returns",
        "kept; a line first tracked is executed from scratch until the hart has left",
        "gone: what chooses another set or bank is done outside of regions",
        "lookups",
        "jit_proc/carried.py plan",
    ),
    Structure(
        "request outstanding",
        "machine",
        "forgotten",
        "its answer fails the publish rule",
        "cancelled, or its answer fails the publish rule",
        "part of it",
        "requests",
        "protocol/session_machine.py MachineSession",
    ),
    Structure(
        "job, queued or running",
        "translator",
        "dropped, abandoned; counted in RETIRED",
        "made in vain",
        "rejected as bytes_moved, or made in vain",
        "part of it",
        "translator",
        "protocol/session_translator.py TranslatorSessions",
    ),
    Structure(
        "job with another host",
        "translator",
        "abandoned with the job it is of, and cancelled there; its answer has no taker",
        "made in vain",
        "made in vain: the counters are confirmed before its code is placed here",
        "part of it",
        "translator",
        "jit_proc/agent_session.py AgentSession",
    ),
    Structure(
        "job of an agent",
        "translator",
        "knows none: cancelled by its agent, or made in vain",
        "knows none: made in vain",
        "knows none: it holds the bytes it was asked about, and no others are looked at",
        "part of it",
        "translator",
        "jit_proc/agent_clients.py AgentSessions",
    ),
    Structure(
        "page snapshot",
        "translator",
        "forgotten",
        "kept: pages have no address",
        "read anew by every job, the counters compared before and after",
        "does not depend",
        "translator",
        "protocol/reading.py Reader",
    ),
    Structure(
        "module, object",
        "translator",
        "freed; counted in RETIRED",
        "kept",
        "unreachable; freed with the epoch",
        "part of its key",
        "translator",
        "jit_proc/service.py Broker",
    ),
    Structure(
        "code segment",
        "translator",
        "replaced; the old one is unmapped by the machine, then closed",
        "kept",
        "kept: no byte of it is used twice within an epoch",
        "does not depend",
        "translator",
        "jit_proc/code_space.py CodeSpace",
    ),
    Structure(
        "negative result",
        "translator",
        "forgotten",
        "kept: pages have no address",
        "found by no others: its key holds the bytes of the whole page",
        "part of its key",
        "translator",
        "jit_proc/refusals.py Refusals",
    ),
    Structure(
        "content store (memory and disk)",
        "translator",
        "kept: its key holds all that decides the code but guest bytes, and these are compared",
        "kept",
        "kept: an entry stands for the bytes it was made from, and is found by no others",
        "part of its key",
        "translator",
        "jit_proc/content_store.py ContentStore",
    ),
    Structure(
        "breakpoint",
        "machine",
        "kept by address; set again into fresh records",
        "set again: its address may have another page",
        "set again into fresh records",
        "does not depend",
        "code",
        "cpu_proc/host_api.py HostApi",
    ),
    Structure(
        "hot list",
        "machine",
        "emptied on every hart; the backlog and what is to be asked for anew too",
        "kept: it names records",
        "kept: a request is stamped when it is sent",
        "does not depend",
        "requests",
        "cpu_proc/exits.py _serve_hot",
        "Hart.hot Hart.hot_count Hart.heat Hart.crossings Hart.failures",
    ),
    Structure(
        "copy of the memory map",
        "machine",
        "kept",
        "copied anew to every hart before the mutator returns",
        "kept",
        "does not depend",
        "lookups",
        "cpu_proc/hart.py load_map",
        "Hart.slots Hart.slot_count",
    ),
    Structure(
        "LR reservation",
        "machine",
        "dropped on every hart",
        "kept: SC compares the value",
        "kept: SC compares the value",
        "does not depend",
        "lookups",
        "jit_proc/cold.py b_store_conditional",
        "Hart.reserved Hart.reserved_value",
    ),
    Structure(
        "retirement asked for by a store",
        "machine",
        "dropped: what it would retire is gone",
        "kept: it names the backing page",
        "served before the hart goes on",
        "does not depend",
        "requests",
        "cpu_proc/exits.py retirement",
        "Hart.exit_page Hart.exit_lines",
    ),
    Structure(
        "engine",
        "translator",
        "kept: depends on layout, ISA and host alone",
        "kept",
        "kept",
        "does not depend",
        "translator",
        "cpu_proc/engine.py Engine",
    ),
)
