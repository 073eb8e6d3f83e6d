"""What the monitor's `info` and memory dumps show.

Problem: whoever looks into a machine that misbehaves wants its registers, its memory map, what its
lookups hold and what was translated, all of one moment. So each piece is read at a safe point, with
every hart out of native code, and put into words afterwards.

Invariant: looking changes nothing the guest can see, but its time.

Read next: `monitor.py` (the commands), `protocol/layout.py` (the structures).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cpu_proc import explain, native
from cpu_proc.host_api import ABI
from cpu_proc.stats import CAUSES
from protocol import layout
from protocol.errors import UserError
from protocol.faults import AccessFault
from protocol.layout import FETCH_ENTRY, NO_PAGE, PAGE_SIZE, TLB_ENTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

SHOWN = 16  # lines of a list that may be long
MOST_BYTES = 4096  # of a dump


# --- the machine ---------------------------------------------------------------------------------


def status(machine: Machine) -> str:
    """One line on what it is doing."""
    count = sum(int(h.state.count) for h in machine.harts)
    return (
        f"{'paused' if machine.host.paused else 'running'}, {len(machine.harts)} hart(s), "
        f"{count} instructions, epoch {machine.retirement.epoch}, "
        f"{machine.records.region_count} regions, "
        f"{machine.resets} reset(s), backend {machine.backend}"
    )


def registers(machine: Machine) -> str:
    """Every hart's, as QEMU shows them."""
    return machine.host.at_safe_point(lambda: "\n".join(map(_registers, machine.harts)))


def _registers(hart: Hart) -> str:
    state = hart.state
    lines = [
        f"CPU#{hart.index}",
        f" pc       {state.pc:016x}",
        f" priv     {'US?M'[state.priv]}",
        f" count    {state.count}",
        *(f" {name:<8} {int(getattr(state, name)):016x}" for name in ("satp", "mstatus")),
        *(f" {name:<8} {int(getattr(state, name)):016x}" for name in ("mie", "mip", "irq")),
    ]
    for part in ("tvec", "epc", "cause", "tval", "scratch"):
        lines.append(
            f" m{part:<8}{getattr(state, 'm' + part):016x} s{part:<8}"
            f"{getattr(state, 's' + part):016x}"
        )
    for first in range(0, 32, 4):
        names = [f"x{i}/{ABI[i]}" for i in range(first, first + 4)]
        lines.append("".join(f" {n:<8} {state.x[first + i]:016x}" for i, n in enumerate(names)))
    for first in range(0, 32, 4):
        lines.append("".join(f" {f'f{i}':<8} {state.f[i]:016x}" for i in range(first, first + 4)))
    return "\n".join(lines)


def memory_tree(machine: Machine) -> str:
    """The memory map in force: memory with its backing, devices."""
    lines = [f"map generation {int(machine.control.words.map_generation)}"]
    for slot in machine.memory.slots:
        if slot.backing is not None:
            kind = "rom" if slot.readonly else "ram"
            what = f"{slot.name} = {slot.backing.name}+{slot.offset:#x}"
            what += f", stores to {slot.device.name}" if slot.device is not None else ""
        else:
            kind, what = "i/o", slot.name
        lines.append(f"  {slot.base:016x}-{slot.end - 1:016x} {kind} {what}")
    return "\n".join(lines)


# --- lookups -------------------------------------------------------------------------------------


def tlb(machine: Machine) -> str:
    """What the harts' lookups hold, of the sets in use."""

    def look() -> list[str]:
        lines = []
        for hart in machine.harts:
            data, fetch = sorted(_data(machine, hart)), sorted(_fetch(machine, hart))
            lines.append(
                f"hart {hart.index}: {len(data)} data pages, {len(fetch)} pages of instructions, "
                f"{hart.state.stat_walks} walks so far"
            )
            for virtual, access, where in [*data, *fetch]:
                lines.append(f"  {virtual:016x} {access:<3} {where}")
        return lines

    return "\n".join(machine.host.at_safe_point(look))


def _data(machine: Machine, hart: Hart) -> Iterator[tuple[int, str, str]]:
    size = TLB_ENTRY.size // 8
    words = native.words(int(hart.state.data_tlb), layout.DATA_SET_ENTRIES * size)
    for at in range(0, len(words), size):
        read, write = (words[at + TLB_ENTRY.offset(n) // 8] for n in ("read_tag", "write_tag"))
        tag = read if read != NO_PAGE else write
        if tag == NO_PAGE:
            continue
        tracked = write != NO_PAGE and write & 1
        access = ("r" if read != NO_PAGE else "-") + ("w" if write != NO_PAGE else "-")
        page = machine.records.page_of(words[at + TLB_ENTRY.offset("page") // 8])
        yield tag & -PAGE_SIZE, access + ("t" if tracked else ""), _place(machine, page)


def _fetch(machine: Machine, hart: Hart) -> Iterator[tuple[int, str, str]]:
    size = FETCH_ENTRY.size // 8
    words = native.words(int(hart.state.fetch_tlb), layout.FETCH_TLB_ENTRIES * size)
    for at in range(0, len(words), size):
        tag = words[at + FETCH_ENTRY.offset("tag") // 8]
        if tag != NO_PAGE:
            page = machine.records.page_of(words[at + FETCH_ENTRY.offset("page") // 8])
            yield tag & -PAGE_SIZE, "x", _place(machine, page)


def _place(machine: Machine, page: int | None) -> str:
    """A backing page in words."""
    if page is None:
        return "no page's"
    name, offset = explain.memory_of(machine, page)
    physical = explain.physical_pages(machine.memory.slots, page)
    return f"{name}+{offset:#x}" + (f" at {physical[0]:#x}" if physical else ", not mapped")


# --- translations --------------------------------------------------------------------------------


def jit_facts(machine: Machine) -> dict[str, Any]:
    """Generations, regions, translator and queue, as plain data."""
    words, link = machine.control.words, machine.translator

    def look() -> dict[str, Any]:
        return {
            "epoch": machine.retirement.epoch,
            "map-generation": int(words.map_generation),
            "tick": int(words.tick),
            "regions": machine.records.region_count,
            "pages-with-regions": sum(1 for found in machine.records.regions.values() if found),
            "retirements": dict(machine.retirement.counts),
            "backend": machine.backend,
            "harts": [
                {
                    "cpu-index": hart.index,
                    "instructions": int(hart.state.count),
                    "decodes": int(hart.state.stat_decodes),
                    "walks": int(hart.state.stat_walks),
                    "tracked-stores": int(hart.state.stat_stores),
                    "device-accesses": int(hart.state.stat_mmio),
                    "traps": int(hart.state.stat_traps),
                    "leaves": {
                        name: int(hart.state.stat_leaves[i]) for i, name in enumerate(CAUSES)
                    },
                }
                for hart in machine.harts
            ],
        }

    facts = machine.host.at_safe_point(look)
    facts["translator"] = link.facts() if link is not None else None
    return facts


def jit(machine: Machine) -> str:
    """What was translated and is in force, the pages with most regions first."""

    def look() -> list[str]:
        pages = {page: found for page, found in machine.records.regions.items() if found}
        lines = [
            f"{machine.records.region_count} regions in {len(pages)} pages, backend "
            f"{machine.backend}, epoch {machine.retirement.epoch}"
        ]
        by_size = sorted(pages, key=lambda page: (-len(pages[page]), page))
        for page in by_size[:SHOWN]:
            entries = sum(len(region.entries) for region in pages[page])
            lines.append(
                f"  {_place(machine, page)}: {len(pages[page])} region(s), {entries} entries, "
                f"generation {machine.records.generation(page)}"
            )
        if len(by_size) > SHOWN:
            lines.append(f"  and {len(by_size) - SHOWN} pages more")
        return lines

    lines = machine.host.at_safe_point(look)
    if machine.translator is not None:
        lines += machine.translator.summary()
    return "\n".join(lines)


def generations(machine: Machine) -> str:
    """Every counter that code's validity hangs on."""

    def look() -> list[str]:
        words = machine.control.words
        lines = [
            f"epoch {machine.retirement.epoch}",
            f"map generation {int(words.map_generation)}",
            f"tick {int(words.tick)} (records taken back)",
        ]
        pages = range(machine.guest.page_count)
        moved = [(machine.records.generation(page), page) for page in pages]
        moved = sorted((item for item in moved if item[0]), reverse=True)
        lines.append(f"{len(moved)} page(s) of {len(pages)} with a generation above 0")
        lines += [f"  {number} {_place(machine, page)}" for number, page in moved[:SHOWN]]
        return lines

    return "\n".join(machine.host.at_safe_point(look))


def translator(machine: Machine) -> str:
    """Who translates, what is asked for, what came of it."""
    if machine.translator is None:
        return "no translator: tier 0 carries the guest"
    facts = machine.translator.facts()
    counts = ", ".join(f"{name} {n}" for name, n in sorted(facts.pop("counts").items()))
    return "\n".join(
        [*(f"{name}: {value}" for name, value in facts.items()), f"counts: {counts or 'none'}"]
    )


# --- memory --------------------------------------------------------------------------------------


def dump(machine: Machine, argument: str, *, virtual: bool) -> str:
    """`/N ADDRESS`: N bytes. Raises UserError."""
    name = "x" if virtual else "xp"
    found = re.fullmatch(r"(?:/(\d+)[a-z]* )?(0x[0-9a-fA-F]+|\d+)", argument)
    if not found or not 0 < int(found[1] or 16) <= MOST_BYTES:
        raise UserError(f"{name} {argument}: /N ADDRESS is expected, N up to {MOST_BYTES} bytes")
    start, size = int(found[2], 0), int(found[1] or 16)
    data = b""
    try:
        if virtual:
            data = machine.host.at_safe_point(lambda: read_virtual(machine, 0, start, size))
        else:
            data = machine.host.read(start, size)
    except AccessFault as fault:
        raise UserError(f"{name} {argument}: no memory there ({fault})") from fault
    lines = []
    for at in range(0, size, 16):
        part = data[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start + at:016x}: {part.hex(' '):<47} {text}")
    return "\n".join(lines)


def read_virtual(machine: Machine, index: int, address: int, size: int) -> bytes:
    """Bytes as a hart sees them, at a safe point. Raises AccessFault where nothing is mapped."""
    data = b""
    while len(data) < size:
        at = address + len(data) & 2**64 - 1
        part = min(size - len(data), PAGE_SIZE - at % PAGE_SIZE)
        data += machine.memory.read(_physical(machine, index, at), part)
    return data


def _physical(machine: Machine, index: int, address: int) -> int:
    """Where a virtual address leads by the page tables alone (privileged architecture, 4.3.2)."""
    state = machine.harts[index].state
    mode = int(state.satp) >> 60
    if state.priv == 3 or mode == 0:
        return address
    levels = {8: 3, 9: 4, 10: 5}[mode]
    table = (int(state.satp) & (1 << 44) - 1) * PAGE_SIZE
    for level in reversed(range(levels)):
        shift = 12 + 9 * level
        entry = machine.memory.read(table + (address >> shift & 511) * 8, 8)
        pte = int.from_bytes(entry, "little")
        if not pte & 1:
            break
        table = (pte >> 10 & (1 << 44) - 1) * PAGE_SIZE
        if pte & 0b1110:
            return table & -(1 << shift) | address & (1 << shift) - 1
    raise AccessFault(address, 1, write=False)


TABLE: dict[str, tuple[str, Callable[[Machine], str]]] = {
    "status": ("what the machine is doing", status),
    "retirement": ("what was retired, in all", explain.totals),
    "registers": ("all harts' registers", registers),
    "mtree": ("the memory map", memory_tree),
    "tlb": ("what lookups hold", tlb),
    "jit": ("what is translated", jit),
    "generations": ("the counters that code's validity hangs on", generations),
    "translator": ("who translates, and its counts", translator),
}
"""`info NAME`: what it shows, and who tells."""
