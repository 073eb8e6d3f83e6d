"""What there is to tell of a retirement: where, what was taken back, and which counters moved.

The problem: the one place that knows is the one that retires, at that moment; a little later the
map is another one, the store's registers are gone, and regions are forgotten. So the facts are
gathered there, cheaply, as plain data (`Event.more`), and put into words when somebody asks: the
monitor (`explain`, `info retirement`), or the file of `coldboot run --explain` (`explain_file.py`).

Invariant: nothing here changes a machine.

Read next: docs/retirement.md (every field), `culprit.py`, `retirement.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cpu_proc import culprit
from protocol.layout import PAGE_SIZE

if TYPE_CHECKING:
    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine
    from cpu_proc.placement import Slot
    from cpu_proc.retirement import Event

SHOWN = 10  # events that the monitor's `explain` shows by default


# --- gathering: while it happens -----------------------------------------------------------------


def before_store(machine: Machine, hart: Hart, page: int) -> dict[str, Any]:
    """Of a store that a hart left native code for: its pc, lines written, virtual pages."""
    state = hart.state
    return {
        "pc": culprit.store_pc(state),
        "lines": int(state.exit_lines),
        "virtual": culprit.store_pages(state, int(state.exit_page)),
    }


def where(
    machine: Machine,
    page: int,
    before: int | None = None,
    *,
    lines: int = 0,
    virtual: list[int] | None = None,
) -> dict[str, Any]:
    """Of a page's retirement, just after it. `before`: its generation then.

    For a guest's store the generation before is that under which the oldest region taken back was
    published: what it was worth until now.
    """
    gone = machine.records.gone
    if before is None:
        before = min((region.generation for region in gone), default=None)
    return {
        "memory": memory_of(machine, page),
        "lines": lines,
        "physical": physical_pages(machine.memory.slots, page),
        "virtual": virtual or [],
        "generation": (before, machine.records.generation(page)),
        "regions": [(region.id, [slot * 2 for slot, _ in region.entries]) for region in gone],
        "tick": int(machine.control.words.tick),
    }


def memory_of(machine: Machine, page: int) -> tuple[str, int]:
    """Which memory object a page is of, and its offset there."""
    for name, backing in machine.guest.backings.items():
        offset = (page - backing.first_page) * PAGE_SIZE
        if 0 <= offset < len(backing.view):
            return name, offset
    raise IndexError(f"page {page} is of no memory")


def map_change(machine: Machine, generation: int) -> dict[str, Any]:
    """Of a commit to the memory map, just after it: what came and what went."""
    former, present = machine.memory.former, machine.memory.slots
    return {
        "map_generation": (generation - 1 & 2**64 - 1, generation),
        "gone": [_range(slot) for slot in former if slot not in present],
        "come": [_range(slot) for slot in present if slot not in former],
    }


def _range(slot: Slot) -> tuple[str, int, int]:
    return slot.name, slot.base, slot.size


def physical_pages(slots: tuple[Slot, ...], page: int) -> list[int]:
    """The guest-physical pages at which a backing page is mapped at the moment."""
    found = []
    for slot in slots:
        if slot.backing is not None:
            number = page - slot.backing.page(slot.offset)
            if 0 <= number < slot.size // PAGE_SIZE:
                found.append(slot.base + number * PAGE_SIZE)
    return found


def lines_in(bitmap: int) -> list[int]:
    """The numbers of its lines: 64 bytes each."""
    return [line for line in range(64) if bitmap >> line & 1]


# --- telling: the monitor ------------------------------------------------------------------------


def events(machine: Machine, argument: str) -> str:
    """The last N events, newest last: the monitor's `explain [N]`."""
    try:
        count = int(argument or SHOWN)
    except ValueError:
        count = 0
    if count < 1:
        return f"explain {argument}: how many events, 1 or more, is expected"
    book = machine.retirement
    history = list(book.history)[-count:]
    lines = [line(event) for event in history]
    earlier = book.number - len(history)
    if earlier:
        kept = len(book.history)
        lines.insert(0, f"{earlier} earlier, of which the book keeps {kept - len(history)}")
    return "\n".join(lines) or "nothing was retired"


def line(event: Event) -> str:
    """One event in one line."""
    parts = [f"#{event.number} {event.when:.6f} s {event.cause} by {who_text(event.who)}"]
    more, details = event.more, event.details
    if "memory" in more:
        name, offset = more["memory"]
        numbers = ",".join(map(str, lines_in(more["lines"])))
        place = f"at {more['physical'][0]:#x}" if more["physical"] else "not mapped"
        parts.append(f"{name}+{offset:#x} ({place}) line {numbers}")
    if "regions" in details:
        parts.append(f"{details['regions']} region(s)")
    if "pages" in details:
        parts.append(f"{details['pages']} page(s) of records")
    for name in ("epoch", "map_generation", "generation"):
        if name in more:
            before, after = more[name]
            parts.append(f"{name} {before} to {after}")
    if event.ms:
        parts.append(
            f"harts out after {event.waited_ms:.2f} ms, translator after {event.translator_ms:.2f}"
        )
    return ", ".join(parts)


def who_text(who: culprit.Who, symbol: str = "") -> str:
    """Whoever it was, in words."""
    name = who.device or who.by
    text = f"{name} ({who.did})" if who.did else name
    if who.hart is None:
        return text
    place = f" at {who.pc:#x}" if who.pc is not None else ""
    place += f" <{symbol}>" if symbol else ""
    hart = f"hart {who.hart}{place}"
    if who.by == "hart":
        return f"{hart} ({who.did})" if who.did else hart
    return f"{text} for {hart}"


def totals(machine: Machine) -> str:
    """The monitor's `info retirement`."""
    book, words = machine.retirement, machine.control.words
    lines = [
        f"epoch {book.epoch}, map generation {int(words.map_generation)}, "
        f"{machine.records.region_count} regions published now",
        f"{book.number} events: "
        + (", ".join(f"{cause} {n}" for cause, n in sorted(book.counts.items())) or "none"),
    ]
    stores = ", ".join(f"hart {h.index} {int(h.state.stat_stores)}" for h in machine.harts)
    lines.append(f"writes to tracked lines, most of which retire records alone: {stores}")
    whole = [event for event in book.history if event.ms]
    if whole:
        last = whole[-1]
        lines.append(
            f"everything last retired after {last.when:.3f} s ({last.cause}): harts out after "
            f"{last.waited_ms:.2f} ms, records gone after {last.records_ms:.2f} ms, translator "
            f"after {last.translator_ms:.2f} ms"
        )
    return "\n".join(lines)
