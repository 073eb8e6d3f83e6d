"""The contract's events and rules, each with its tests; and what each event does to each structure.

Problem: a table of counters and one of events are each short, but whoever asks "what does DMA do to
a request under way?" wants that one answer. `cell` gives it.

Invariant: a row is complete in itself: `counters` decides the cells, `causes`, `code` and `tests`
tie it to the program (tests/protocol/test_contract.py).

Read next: `protocol.contract`, for the counters and structures.
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.contract import Structure


class Event(NamedTuple):
    """Something that changes guest state or the services, the counters it moves, and by when.

    `counters`: of GENERATIONS, or "lookups" for those of the hart alone. `causes`: as the machine's
    book and RETIRE name it. `code`: modules that change the memory map for it. `tests`: scenarios
    (names without a slash) and tests of the suite.
    """

    name: str
    moves: str
    visible: str
    classes: str
    counters: str
    tests: str
    causes: str = ""
    code: str = ""


EVENTS = (
    Event(
        "power-on",
        "epoch",
        "before the first instruction",
        "",
        "epoch",
        "tests/system/test_exits.py",
        "power_on",
    ),
    Event(
        "CPU reset (one hart)",
        "state word; lookups, reservation and hot list of the hart are cleared",
        "before the hart's next instruction",
        "M37",
        "state word, lookups",
        "m37_reset_pending tests/cpu_proc/test_host_api.py",
        "hart_reset",
    ),
    Event(
        "system reset",
        "epoch",
        "before any hart's next instruction",
        "M2 M37",
        "epoch",
        "m02_reset_copies m42_reset_while_made tests/system/test_reboot.py "
        "tests/system/test_watchdog.py tests/system/test_fatal.py",
        "system_reset",
    ),
    Event(
        "ROM or image copied",
        "page generation",
        "before the copy returns",
        "M2",
        "page generation",
        "m02_reset_copies",
        "memory_write",
    ),
    Event(
        "guest store, every form and every tier",
        "page generation, if a line of it is tracked",
        "this hart: next instruction; others: behind their next fence.i, or earlier",
        "M6 M7 M11 M12 M13 M14 M19 M21 M27 M28 M30 M32 M38 M39",
        "page generation",
        "m06_store_forms m07_two_addresses m07_physical_alias m11_tail_patched "
        "m12_store_over_edge m13_virtual_physical m14_above_4g m19_one_tier "
        "m19_single_step m21_patched_twice m27_read_before_tracked m28_remote_hart "
        "m30_window m30_polled_bytes m32_two_at_once m38_own_block m39_counted_once "
        "tests/system/test_retirement.py",
        "guest_store",
    ),
    Event(
        "A/D update by a page walk",
        "page generation, as a store",
        "as a store",
        "M8",
        "page generation",
        "m08_page_table_runs",
    ),
    Event(
        "DMA",
        "page generation",
        "before the device reports completion",
        "M3 M12",
        "page generation",
        "m03_disk_read m12_dma_length",
        "memory_write",
    ),
    Event(
        "device-internal write (flash program, erase)",
        "page generation",
        "before the register access ends",
        "M1",
        "page generation",
        "m01_flash_program m01_flash_erase tests/system/test_flash.py",
        "memory_write",
    ),
    Event(
        "debugger or host write",
        "page generation",
        "before the command is answered",
        "M5",
        "page generation",
        "m05_host_write tests/cpu_proc/test_host_api.py",
        "memory_write",
    ),
    Event(
        "snapshot restore",
        "epoch",
        "before any hart's next instruction",
        "M4",
        "epoch",
        "m04_snapshot tests/system/test_snapshot.py",
        "snapshot_restore",
    ),
    Event(
        "remap",
        "map_generation",
        "before the mutator returns",
        "M9 M16 M26",
        "map_generation",
        "m09_boot_remap m09_other_space m11_second_page m16_chained_jump m26_same_place "
        "tests/cpu_proc/test_memory_map.py",
        "remap",
        "cpu_proc/machine.py cpu_proc/board.py",
    ),
    Event(
        "flash mode switch, boot-remap",
        "map_generation",
        "before the next instruction of the hart that switched",
        "M1 M9",
        "map_generation",
        "m09_flash_mode m09_boot_remap tests/system/test_boot_remap.py tests/system/test_flash.py",
        "remap",
        "cpu_proc/flash_bank.py cpu_proc/boot_window.py",
    ),
    Event(
        "permission change (page table, PMP)",
        "none: lookups of the hart are cleared by sfence.vma or the PMP write",
        "with that instruction",
        "M10",
        "lookups",
        "m10_permissions m10_protection tests/system/test_protection.py",
    ),
    Event(
        "sfence.vma",
        "none: lookups of the hart are cleared, as far as address and ASID name them",
        "with the instruction",
        "M10",
        "lookups",
        "m10_permissions m10_other_space tests/isa/test_address_spaces.py tests/system/test_smp.py",
    ),
    Event(
        "fence.i",
        "none: records are current; the region is left",
        "this hart's next instruction",
        "M28 M36 M38",
        "none",
        "m36_behind_fence m28_remote_hart m38_own_block",
    ),
    Event(
        "satp, privilege, FS or frm change",
        "state word",
        "this hart's next instruction",
        "M23 M24",
        "state word",
        "m23_fp_state m24_mode_change",
    ),
    Event(
        "hart started or stopped",
        "none: it starts with empty lookups, and stopped it holds no code pointer",
        "before its first instruction",
        "M24 M29 M33 M34",
        "none",
        "m24_mode_change m29_spinning_hart m33_parked_inside m34_stopped_hart "
        "tests/system/test_hart_stop.py",
    ),
    Event(
        "backend swap",
        "epoch",
        "before any hart's next instruction",
        "M46",
        "epoch",
        "m46_backend_swap tests/system/test_swap.py",
        "backend_swap",
    ),
    Event(
        "translator crash or restart",
        "epoch",
        "before a new session begins",
        "M41 M44",
        "epoch",
        "m41_killed_translator m44_killed_writer m44_new_code tests/system/test_faults.py",
        "translator_restart",
    ),
    Event(
        "code space full",
        "epoch",
        "before space is used again",
        "M22 M33",
        "epoch",
        "m22_full_space m22_recycled_space m33_parked_inside",
        "code_space_full",
    ),
    Event(
        "overflow of a ring or list",
        "epoch",
        "instead of losing the event",
        "M48",
        "epoch",
        "m48_long_dma",
        "overflow",
    ),
    Event(
        "wrap of a map or page generation",
        "epoch",
        "before the wrapped value is used",
        "M35",
        "epoch",
        "m35_patched_round m35_near_maximum tests/cpu_proc/test_counter_wrap.py",
        "counter_wrap",
    ),
    Event(
        "a person or a tool asks for it",
        "epoch",
        "before the call returns",
        "M22",
        "epoch",
        "m22_recycled_space tests/cpu_proc/test_explain.py",
        "request",
    ),
)


class Rule(NamedTuple):
    """What holds at all times, whatever the event."""

    name: str
    text: str
    classes: str
    tests: str


RULES = (
    Rule(
        "publish",
        "the stamp is compared and the entries are stored at one safe point",
        "M21 M27 M31 M42 M44 M47",
        "m21_patched_twice m27_read_before_tracked m31_patched_while_made "
        "m42_forgotten_while_made m44_new_code m47_patched_while_made "
        "tests/protocol/test_model.py",
    ),
    Rule(
        "one pointer",
        "a record is the only thing that points to translated code; links go through records",
        "M15 M16 M17 M18 M40",
        "m15_jump_cache m16_chained_jump m17_link_again m18_return_stack m40_link_order",
    ),
    Rule(
        "content keys",
        "a key holds the bytes, the state word and every option; equal hashes are not enough "
        "where bytes can be compared",
        "M25 M43 M45",
        "m25_hashes m43_alike m45_counted_time tests/jit_proc/test_store_entry.py",
    ),
    Rule(
        "negative results",
        "a rejection is retired like a translation",
        "M20",
        "m20_illegal_then_valid",
    ),
    Rule(
        "quiescence",
        "no code is freed while a hart may be inside",
        "M29 M33",
        "m29_spinning_hart m33_parked_inside",
    ),
)

PLAIN = frozenset(
    [
        "Control.epoch",
        "Control.map_generation",
        "Control.pages",
        "Control.page_count",
        "Control.harts",
        "Control.hart_stride",
        "Control.hart_count",
        "Control.storing",
        "Control.tick",
        "Page.generation",
        "Page.lock",
        "Page.tick",
        "Page.spare",
        "Hart.x",
        "Hart.f",
        "Hart.limit",
        "Hart.count",
        "Hart.pc",
        "Hart.priv",
        "Hart.raw",
        "Hart.length",
        "Hart.next_pc",
        "Hart.fflags",
        "Hart.mxcsr",
        "Hart.irq",
        "Hart.mtimecmp",
        "Hart.hartid",
        "Hart.features",
        "Hart.pmp_active",
        "Hart.pmp_low",
        "Hart.pmp_end",
        "Hart.pmp_config",
        "Hart.pmpcfg",
        "Hart.pmpaddr",
        "Hart.fault_cause",
        "Hart.fault_value",
        "Hart.fault_page",
        "Hart.clock",
        "Hart.waiting",
        "Hart.attention",
        "Hart.between",
        "Hart.exit_reason",
        "Hart.trace",
        "Hart.trap_pc",
        "Hart.trap_cause",
        "Hart.trap_value",
        "Hart.fatal",
        "Hart.stuck",
        "Hart.control",
        "Hart.peer_count",
        "Hart.peers",
        "Hart.storing",
        "Hart.tick",
        "Hart.idle",
        "Hart.poll",
        "Hart.polled",
        "Hart.slice",
        "Hart.stop_count",
        "Hart.quiet",
        "Hart.quiet_until",
        "Hart.time_offset",
        "Hart.icount",
        "Hart.threshold",
        "Hart.hot_limit",
        "Hart.hot_least",
        "Hart.pool_end",
        "Hart.clock_gettime",
        "Hart.host_read",
        "Hart.host_write",
        "Hart.host_fp",
        "Hart.python",
        "Hart.host_status",
        "Hart.far_jump",
        "Hart.execute_one",
        "Hart.way_out",
        "Hart.crossing",
        "Hart.assumed",
        "Hart.engine",
        "Hart.engine_size",
        "Hart.tlb_load",
        "Hart.tlb_store",
        "Hart.stat_leaves",
        "Hart.stat_traps",
        "Hart.stat_decodes",
        "Hart.stat_walks",
        "Hart.stat_stores",
        "Hart.stat_mmio",
        "Hart.stat_assumed",
    ]
)
"""Words of the shared layout that hold nothing derived from guest code or the map: architectural
state, counters, scratch of one instruction, addresses of the engine. CSRs are not listed."""


def cell(event: Event, structure: Structure) -> str:
    """What an event does to a structure: by which counters, and what becomes of it."""
    said = []
    for counter in event.counters.split(", "):
        if counter == "lookups":
            if structure.name in ("fetch TLB", "data TLB", "look that a loop carries"):
                said.append("this hart: cleared with the instruction, no counter")
            elif event.name.startswith("CPU reset") and structure.name in _OF_A_HART:
                said.append("this hart: dropped, no counter")
        elif counter != "none":
            what = getattr(structure, counter.replace(" ", "_"))
            if counter != "state word" or what not in ("part of it", "does not depend"):
                said.append(f"`{counter}`: {what}")
    return "; ".join(said) or _NOTHING.get((event.name, structure.name), "kept")


_OF_A_HART = ("hot list", "LR reservation", "retirement asked for by a store")
_NOTHING = {
    ("fence.i", "record"): "current already: a store took it back",
    ("fence.i", "region (published)"): "left; behind it the record decides",
    ("fence.i", "look that a loop carries"): "gone: the region is left",
    ("fence.i", "retirement asked for by a store"): "of other harts: waited for",
    ("hart started or stopped", "fetch TLB"): "empty when it starts",
    ("hart started or stopped", "data TLB"): "empty when it starts",
    ("hart started or stopped", "look that a loop carries"): "none when it starts",
}
