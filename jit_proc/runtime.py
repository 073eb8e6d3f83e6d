"""The engine's own routines, in the semantics language: TLBs, memory, fetching, traps, slices.

The problem: all that is frequent must happen in native code - a TLB miss, a page walk, a trap, a
look at the clock - and the machine process must see only what is rare. These routines are written
in the same language as the ISA, over the structures of `protocol/layout.py`; `peek` and `poke`
reach host memory by address.

Invariants:
- A TLB entry is made only for a whole page that PMP judges alike, that one map slot covers, and,
  for stores, that is writable; a tracked page (`lines` not 0) never gets a plain write tag.
- **Tracking.** `decode_record` marks the lines of an instruction before it reads its bytes; every
  store to a marked line bumps the page's generation and makes the records that held any written
  byte undecoded, before the next instruction. A line with region code in it also makes the hart
  leave (`EXIT_RETIRE`) at once.
- **Several harts share records.** A page's records, lines and generation change under its lock. A
  record's operands are written only when no hart can hold a handler that goes with older ones: when
  a record is taken back the page notes the time (`tick`), and until every other hart has since been
  seen between two instructions (`hart.tick`) or out of native code, its instructions are executed
  from the scratch array. The same wait covers a store that another hart had under way, by an old
  TLB entry, when the page began to be tracked. Whoever stores looks at `lines` after the bytes are
  visible, whoever decodes marks `lines` before it reads: one of the two sees the other.
- `hart.limit` is the one word that calls a hart: `look_up` re-arms it, then looks at `attention`
  again, so a request between the two is not lost.

Read next: `cold.py` (how this is compiled), `handlers.py` (who calls it).
"""

from __future__ import annotations

from protocol import layout
from protocol.layout import CONTROL, FETCH_ENTRY, HART, PAGE, SLOT, TLB_ENTRY
from protocol.riscv.isa import routine
from protocol.riscv.language import Function
from protocol.riscv.mmu import NOWHERE, translate
from protocol.riscv.privileged import (
    NO_INTERRUPT,
    interrupt_waiting,
    pending_interrupt,
    take_trap,
    update_context,
)
from protocol.riscv.words import *

FETCH, LOAD, STORE = 0, 1, 2

SLOTS_AT = HART.offset("slots")
DATA_AT = HART.offset("data_tlbs")
FETCH_AT = HART.offset("fetch_tlbs")
HOT_AT = HART.offset("hot")
SCRATCH_PAGE_AT = HART.offset("scratch_page")
SCRATCH_BYTES_AT = HART.offset("scratch_bytes")
SLOT_BYTES = SLOT.size
ENTRY_BYTES = TLB_ENTRY.size
DATA_SET_BYTES = layout.DATA_TLB_ENTRIES * ENTRY_BYTES
FETCH_SET_BYTES = layout.FETCH_TLB_ENTRIES * ENTRY_BYTES
DATA_BYTES = layout.DATA_SETS * DATA_SET_BYTES
FETCH_BYTES = layout.FETCH_SETS * FETCH_SET_BYTES
DATA_MASK = layout.DATA_TLB_ENTRIES - 1
FETCH_MASK = layout.FETCH_TLB_ENTRIES - 1
NO_PAGE = layout.NO_PAGE
PAGE_BYTES = PAGE.size
LINES = PAGE.offset("lines")
REGION_LINES = PAGE.offset("region_lines")
GENERATION = PAGE.offset("generation")
LOCK = PAGE.offset("lock")
PAGE_TICK = PAGE.offset("tick")
CONTROL_TICK = CONTROL.offset("tick")
PEERS_AT = HART.offset("peers")
LIMIT = HART.offset("limit")
IDLE = HART.offset("idle")
HART_TICK = HART.offset("tick")
WRITE_TAG = TLB_ENTRY.offset("write_tag")
ADDEND = TLB_ENTRY.offset("addend")
ENTRY_PAGE = TLB_ENTRY.offset("page")
F_RECORDS = FETCH_ENTRY.offset("records")
F_BIAS = FETCH_ENTRY.offset("bias")
F_PAGE = FETCH_ENTRY.offset("page")
STRIDE = layout.RECORD_ARRAY_STRIDE
ARRAY_HOST = layout.RECORD_ARRAY_HOST
ARRAY_PAGE = layout.RECORD_ARRAY_PAGE
ARRAY_END = layout.SLOTS_PER_PAGE * layout.RECORD_SIZE
HOT_RING = layout.HOT_RING
EXIT_ATTENTION = layout.EXIT_ATTENTION
EXIT_WAIT = layout.EXIT_WAIT
EXIT_RETIRE = layout.EXIT_RETIRE
EXIT_POOL = layout.EXIT_POOL
EXIT_STOP = layout.EXIT_STOP
EXIT_HOT = layout.EXIT_HOT
EXIT_TRAP = layout.EXIT_TRAP
FAULT = 1  # what `resolve` answers for a fault; no host address is 1


# --- the physical memory map --------------------------------------------------------------------


@routine(pure=True)
def find_slot(address):
    """Address of the map slot that covers a physical address, or 0."""
    slot = hart_address() + SLOTS_AT
    end = slot + hart.slot_count * SLOT_BYTES
    while slot != end:
        if address - peek(slot, 8) < peek(slot + 8, 8):
            return slot
        slot += SLOT_BYTES
    return 0


@routine(pure=True)
def physical_ok(address):
    return find_slot(address) != 0


@routine(pure=True)
def physical_read(address):
    slot = find_slot(address)
    return peek(address - peek(slot, 8) + peek(slot + 16, 8), 8)


@routine(pure=True)
def physical_compare_swap(address, old, new):
    """The page walk's update of A and D: a store like any other, so it is tracked."""
    slot = find_slot(address)
    offset = address - peek(slot, 8)
    done = False
    if peek(slot + 32, 8) != 0:
        done = host_compare_swap(offset + peek(slot + 16, 8), old, new)
        note_store(peek(slot + 24, 8) + (offset >> 12) * PAGE_BYTES, address & 4095, 8)
    return done


# --- TLBs ---------------------------------------------------------------------------------------


@routine(pure=True)
def choose_sets(data, fetch):
    hart.data_set = data
    hart.fetch_set = fetch
    hart.data_tlb = hart_address() + DATA_AT + data * DATA_SET_BYTES
    hart.fetch_tlb = hart_address() + FETCH_AT + fetch * FETCH_SET_BYTES


@routine(pure=True)
def flush_range(entry, end):
    while entry != end:
        poke(entry, NO_PAGE, 8)
        poke(entry + WRITE_TAG, NO_PAGE, 8)
        entry += ENTRY_BYTES


@routine(pure=True)
def flush_all():
    data = hart_address() + DATA_AT
    flush_range(data, data + DATA_BYTES)
    fetch = hart_address() + FETCH_AT
    while fetch != hart_address() + FETCH_AT + FETCH_BYTES:
        poke(fetch, NO_PAGE, 8)
        fetch += ENTRY_BYTES


@routine(pure=True)
def flush_page(address):
    """Every set may hold the page; a superpage is held as its small pages, so all go then too."""
    entry = hart_address() + DATA_AT + ((address >> 12) & DATA_MASK) * ENTRY_BYTES
    end = entry + DATA_BYTES
    while entry != end:
        poke(entry, NO_PAGE, 8)
        poke(entry + WRITE_TAG, NO_PAGE, 8)
        entry += DATA_SET_BYTES
    entry = hart_address() + FETCH_AT + ((address >> 12) & FETCH_MASK) * ENTRY_BYTES
    end = entry + FETCH_BYTES
    while entry != end:
        poke(entry, NO_PAGE, 8)
        entry += FETCH_SET_BYTES


@routine(pure=True)
def forbid_stores(page, who):
    """Take away a hart's write tags of a page that begins to be tracked."""
    entry = who + DATA_AT
    end = entry + DATA_BYTES
    while entry != end:
        if peek(entry + ENTRY_PAGE, 8) == page:
            poke(entry + WRITE_TAG, NO_PAGE, 8)
        entry += ENTRY_BYTES


@routine(pure=True)
def resolve(address, size, access):
    """Host address of `size` bytes that do not leave their page; FAULT; or 0 for I/O.

    Sets `hart.fault_cause` (fault), `hart.fault_value` (I/O: the physical address) or
    `hart.fault_page` (memory: the page's descriptor), and fills the data TLB where it may.
    """
    hart.stat_walks += 1
    physical = translate(address, size, access)
    if physical == NOWHERE:
        return FAULT
    whole_page = hart.fault_page == 0
    slot = find_slot(physical)
    hart.fault_value = physical
    if slot == 0:
        return 0
    if access == STORE and peek(slot + 32, 8) == 0:
        return 0
    offset = physical - peek(slot, 8)
    place = peek(slot + 16, 8) + offset
    page = peek(slot + 24, 8) + (offset >> 12) * PAGE_BYTES
    hart.fault_page = page
    if whole_page:
        entry = hart.data_tlb + ((address >> 12) & DATA_MASK) * ENTRY_BYTES
        tag = address & ~4095
        addend = place - address
        if peek(entry + ADDEND, 8) != addend:
            poke(entry, NO_PAGE, 8)
            poke(entry + WRITE_TAG, NO_PAGE, 8)
            poke(entry + ADDEND, addend, 8)
        if peek(entry, 8) != tag:
            poke(entry, NO_PAGE, 8)
            if (peek(entry + WRITE_TAG, 8) & ~1) != tag:
                poke(entry + WRITE_TAG, NO_PAGE, 8)
        poke(entry + ENTRY_PAGE, page, 8)
        if access == LOAD:
            poke(entry, tag, 8)
        else:
            allow_stores(entry, tag, page)
    return place


@routine(pure=True)
def allow_stores(entry, tag, page):
    """Fill in a write tag; a page that begins to be tracked meanwhile is noticed here or there."""
    poke(entry + WRITE_TAG, tag | word(peek(page + LINES, 8) != 0), 8)
    if hart.peer_count != 0:
        fence()
        poke(entry + WRITE_TAG, tag | word(peek(page + LINES, 8) != 0), 8)


@routine(pure=True)
def writable_place(address, size):
    """`resolve` for a store, by way of the TLB: a tracked page's entry is used as it stands."""
    entry = hart.data_tlb + ((address >> 12) & DATA_MASK) * ENTRY_BYTES
    tag = peek(entry + WRITE_TAG, 8)
    if (tag & ~1) == (address & ~4095) and tag != NO_PAGE:
        page = peek(entry + ENTRY_PAGE, 8)
        hart.fault_page = page
        if peek(page + LINES, 8) == 0:
            allow_stores(entry, tag & ~1, page)
        return address + peek(entry + ADDEND, 8)
    return resolve(address, size, STORE)


# --- loads and stores at leisure ------------------------------------------------------------------


@routine
def load_part(address, size):
    """A load that does not leave its page."""
    place = resolve(address, size, LOAD)
    if place == FAULT:
        enter_fault(hart.fault_cause, address)
    if place != 0:
        return peek(place, size)
    hart.stat_mmio += 1
    value = host_read(hart.fault_value, size)
    if hart.host_status != 0:
        enter_fault(5, address)
    return value


@routine
def enter_fault(cause, address):
    trap(cause, address)


@routine
def memory_load(address, size):
    if (address & 4095) + size <= 4096:
        return load_part(address, size)
    # Over a page's edge: both parts must be allowed before a byte is read.
    first = 4096 - (address & 4095)
    second = address + first
    if resolve(address, first, LOAD) == FAULT:
        enter_fault(hart.fault_cause, address)
    if resolve(second, size - first, LOAD) == FAULT:
        enter_fault(hart.fault_cause, second)
    value = 0
    i = 0
    while i < size:
        value = value | (load_part(address + i, 1) << (8 * i))
        i += 1
    return value


@routine
def store_part(address, value, size):
    place = writable_place(address, size)
    if place == FAULT:
        enter_fault(hart.fault_cause, address)
    if place != 0:
        page = hart.fault_page
        poke(place, value, size)
        note_store(page, address & 4095, size)
        return
    hart.stat_mmio += 1
    host_write(hart.fault_value, size, value)
    if hart.host_status != 0:
        enter_fault(7, address)


@routine
def memory_store(address, value, size):
    if (address & 4095) + size <= 4096:
        store_part(address, value, size)
        return
    # Both parts must be allowed, and memory, before a byte is written.
    first = 4096 - (address & 4095)
    second = address + first
    place = writable_place(address, first)
    if place == FAULT:
        enter_fault(hart.fault_cause, address)
    other = writable_place(second, size - first)
    if other == FAULT:
        enter_fault(hart.fault_cause, second)
    if place == 0:
        enter_fault(7, address)
    if other == 0:
        enter_fault(7, second)
    i = 0
    while i < size:
        store_part(address + i, value >> (8 * i), 1)
        i += 1


@routine
def atomic_place(address, size, access):
    """Host address for an atomic access; misaligned ones and devices trap."""
    if (address & (size - 1)) != 0:
        enter_fault(4 if access == LOAD else 6, address)
    place = FAULT
    if access == STORE:
        place = writable_place(address, size)
    else:
        place = resolve(address, size, LOAD)
    if place == FAULT:
        enter_fault(hart.fault_cause, address)
    if place == 0:
        enter_fault(5 if access == LOAD else 7, address)
    return place


# --- tracking -------------------------------------------------------------------------------------


@routine(pure=True)
def lock_page(page):
    while not host_compare_swap(page + LOCK, 0, 1):
        fence()


@routine(pure=True)
def unlock_page(page):
    fence()
    poke(page + LOCK, 0, 8)


@routine(pure=True)
def note_time(page):
    """Records of the page were taken back: let other harts be seen between two instructions."""
    if hart.peer_count == 0:
        return
    place = hart.control + CONTROL_TICK
    tick = peek(place, 8)
    while not host_compare_swap(place, tick, tick + 1):
        tick = peek(place, 8)
    poke(page + PAGE_TICK, tick + 1, 8)
    fence()
    i = 0
    while i < hart.peer_count:
        poke(hart.peers[i] + LIMIT, 0, 8)
        i += 1


@routine(pure=True)
def all_seen(since):
    """Whether every other hart was between two instructions, or out of native code, since then."""
    i = 0
    while i < hart.peer_count:
        peer = hart.peers[i]
        if peek(peer + IDLE, 8) == 0 and peek(peer + HART_TICK, 8) < since:
            return False
        i += 1
    return True


@routine(pure=True)
def note_write(page, offset, size):
    """Retire records made from `size` bytes at `offset` of a page, which have just been written.

    Returns the lines written that regions were made from: those are the machine's to retire.
    """
    if hart.peer_count != 0:
        fence()  # the bytes before the look at what is tracked
    first_line = offset >> 6
    last_line = ((offset + size - 1) & 4095) >> 6
    touched = (NO_PAGE >> (63 - (last_line - first_line))) << first_line
    if (peek(page + LINES, 8) & touched) == 0:
        return 0
    hart.stat_stores += 1
    lock_page(page)
    poke(page + GENERATION, peek(page + GENERATION, 8) + 1, 8)
    records = peek(page, 8)
    if records != 0:
        # An instruction that begins one halfword before the store may reach into it.
        record = records + (offset >> 1) * 16 - word(offset > 1) * 16
        last = records + ((offset + size - 1) >> 1) * 16
        changed = False
        while record <= last:
            if peek(record, 8) != handler("decode"):
                poke(record, handler("decode"), 8)
                changed = True
            record += 16
        if changed:
            note_time(page)
        if ((offset + size) & 63) == 0 and (peek(page + REGION_LINES, 8) & touched) == 0:
            forget_line(page, records, (offset + size - 1) >> 6)
    regions = peek(page + REGION_LINES, 8) & touched
    unlock_page(page)
    return regions


@routine(pure=True)
def note_store(page, offset, size):
    """`note_write` for a store of this hart: with region code in its lines, the hart leaves."""
    regions = note_write(page, offset, size)
    if regions != 0:
        if hart.exit_lines != 0 and hart.exit_page != page:
            page = 0  # two pages in one instruction: the machine retires every region
        hart.exit_page = page
        hart.exit_lines = hart.exit_lines | regions
        hart.limit = 0


@routine(pure=True)
def forget_line(page, records, line):
    """Stop tracking a line in which nothing decoded is left (copies end each line they cross)."""
    record = records + line * 512
    end = record + 512
    if line != 0:
        record -= 16
    while record != end:
        if peek(record, 8) != handler("decode"):
            return
        record += 16
    poke(page + LINES, peek(page + LINES, 8) & ~(1 << line), 8)


# --- fetching -------------------------------------------------------------------------------------


@routine(pure=True)
def fetch_fill(address):
    """The record of the instruction at a virtual address, with `hart.fetch_bias`.

    0: a trap was taken (hart.pc moved), or the hart must leave (`exit_reason` set).
    """
    physical = translate(address, 2, FETCH)
    if physical == NOWHERE:
        enter_trap(hart.fault_cause, address)
        return 0
    slot = find_slot(physical)
    if slot == 0:
        enter_trap(1, address)
        return 0
    if hart.fault_page != 0:
        return fetch_single(address)
    offset = physical - peek(slot, 8)
    page = peek(slot + 24, 8) + (offset >> 12) * PAGE_BYTES
    records = peek(page, 8)
    if records == 0:
        records = make_array((peek(slot + 16, 8) + offset) & ~4095, page)
        if records == 0:
            hart.exit_reason = EXIT_POOL
            return 0
    bias = (address & ~4095) - (records >> 3)
    entry = hart.fetch_tlb + ((address >> 12) & FETCH_MASK) * ENTRY_BYTES
    poke(entry, address & ~4095, 8)
    poke(entry + F_RECORDS, records, 8)
    poke(entry + F_BIAS, bias, 8)
    poke(entry + F_PAGE, page, 8)
    hart.fetch_bias = bias
    return records + ((address & 4095) << 3)


@routine(pure=True)
def make_array(host, page):
    """The record array of a page that has none yet, or 0 when there is no memory for it."""
    lock_page(page)
    records = peek(page, 8)
    if records == 0 and hart.pool_next != hart.pool_end:
        records = hart.pool_next
        hart.pool_next = records + STRIDE
        fill_array(records, host, page)
        fence()
        poke(page, records, 8)
    unlock_page(page)
    return records


@routine(pure=True)
def fill_array(records, host, page):
    record = records
    while record != records + ARRAY_END:
        poke(record, handler("decode"), 8)
        record += 16
    poke(record, handler("page_end"), 8)
    poke(record + 16, handler("page_end"), 8)
    poke(records + ARRAY_HOST, host, 8)
    poke(records + ARRAY_PAGE, page, 8)


@routine(pure=True)
def fetch_half(address, pc_):
    """Two bytes of code, translated anew; NOWHERE after a trap was taken at `pc_`."""
    physical = translate(address, 2, FETCH)
    cause = hart.fault_cause
    slot = 0
    if physical != NOWHERE:
        cause = 1
        slot = find_slot(physical)
    if slot == 0:
        hart.pc = pc_
        enter_trap(cause, address)
        return NOWHERE
    return peek(physical - peek(slot, 8) + peek(slot + 16, 8), 2)


@routine(pure=True)
def fetch_single(address):
    """Decode the instruction at `address` into the scratch array; 0 after a trap was taken.

    For what may not stand in a page's records: an instruction over a page's edge (its second half
    is the mapping's, not the page's), a page that PMP splits, one step out of a region.
    """
    low = fetch_half(address, address)
    if low == NOWHERE:
        return 0
    if (low & 3) == 3:
        high = fetch_half(address + 2, address)
        if high == NOWHERE:
            return 0
        low = low | (high << 16)
    poke(hart_address() + SCRATCH_BYTES_AT, low, 8)
    hart.fetch_bias = address - (hart.scratch >> 3)
    poke(hart.scratch, handler("decode"), 8)
    decode_word(low, hart.scratch, 1 << 20)
    return hart.scratch


@routine(pure=True)
def fetch_step():
    """The scratch record of the instruction to execute now; 0 after an interrupt or a trap."""
    cause = pending_interrupt()
    if cause != NO_INTERRUPT:
        enter_trap(cause, 0)
        return 0
    return fetch_single(hart.pc)


@routine(pure=True)
def decode_record(record):
    """Fill a record from the bytes it stands for, and track their lines; 0 if not yet allowed."""
    records = record & ~(STRIDE - 1)
    offset = (record - records) >> 3
    host = peek(records + ARRAY_HOST, 8) + offset
    page = peek(records + ARRAY_PAGE, 8)
    lock_page(page)
    track(page, (1 << (offset >> 6)) | (1 << (((offset + 2) & 4095) >> 6)))
    seen = all_seen(peek(page + PAGE_TICK, 8))
    if seen:
        hart.stat_decodes += 1
        raw_bits = peek(host, 2)
        if (raw_bits & 3) == 3 and offset == 4094:
            poke(record, handler("straddle"), 8)
        else:
            if (raw_bits & 3) == 3:
                raw_bits = raw_bits | (peek(host + 2, 2) << 16)
            decode_word(raw_bits, record, offset)
    unlock_page(page)
    return word(seen)


@routine(pure=True)
def track(page, wanted):
    """Mark lines of a page, whose lock is held, before their bytes are read."""
    lines = peek(page + LINES, 8)
    if (lines & wanted) == wanted:
        return
    poke(page + LINES, lines | wanted, 8)
    fence()
    if lines == 0:
        forbid_stores(page, hart_address())
        i = 0
        while i < hart.peer_count:
            forbid_stores(page, hart.peers[i])
            i += 1
        note_time(page)


@routine(pure=True)
def raw_bits_at(record):
    """The bits of the instruction that a record stands for."""
    records = record & ~(STRIDE - 1)
    host = peek(records + ARRAY_HOST, 8) + ((record - records) >> 3)
    bits = peek(host, 2)
    if (bits & 3) == 3:
        bits = bits | (peek(host + 2, 2) << 16)
    return bits


# --- traps, time and slices -----------------------------------------------------------------------


@routine(pure=True)
def enter_trap(cause, value):
    hart.stat_traps += 1
    if hart.limit != 0:
        hart.limit -= 1  # a loop of traps retires nothing, yet must come to the end of its slice
    if hart.trace != 0:
        hart.trap_pc = hart.pc
        hart.trap_cause = cause
        hart.trap_value = value
        hart.limit = 0
    take_trap(cause, value)


@routine(pure=True)
def now():
    """mtime: the host's monotonic clock, or instructions with -icount; in ticks of 100 ns."""
    if hart.icount != 0:
        return hart.time_offset + divu(hart.count * hart.icount, 100)
    return hart.time_offset + divu(host_clock(), 100)


@routine(pure=True)
def timer_limit(compare):
    """`count` at which, under -icount, a compare register is reached."""
    ticks = compare - hart.time_offset
    if compare < hart.time_offset:
        ticks = 0
    if ticks > (1 << 54):
        return NOWHERE
    return divu(ticks * 100 + hart.icount - 1, hart.icount)


@routine(pure=True)
def look_up():
    """The end of a slice: 1 to leave native code, 0 with a new limit."""
    if hart.exit_lines != 0:
        hart.exit_reason = EXIT_RETIRE
        return 1
    if hart.trace != 0 and hart.trap_pc != NO_PAGE:
        hart.exit_reason = EXIT_TRAP
        return 1
    if hart.attention != 0:
        hart.exit_reason = EXIT_ATTENTION
        return 1
    if hart.count >= hart.stop_count:
        hart.exit_reason = EXIT_STOP
        return 1
    if hart.hot_count != 0:
        hart.exit_reason = EXIT_HOT
        return 1
    limit = hart.count + hart.slice
    if hart.stop_count < limit:
        limit = hart.stop_count
    if hart.icount != 0:
        timer = timer_limit(hart.mtimecmp)
        if timer > hart.count and timer < limit:
            limit = timer
        timer = timer_limit(hart.stimecmp)
        if timer > hart.count and timer < limit:
            limit = timer
    hart.limit = limit
    fence()
    if hart.attention != 0:
        hart.limit = 0
    return 0


@routine(pure=True)
def settle():
    """Between two instructions, with all state in memory: 1 to leave, 0 to go on at hart.pc."""
    if hart.peer_count != 0:
        hart.tick = peek(hart.control + CONTROL_TICK, 8)
    # Counted time: a new timer comes into force at once, so that its interrupt's count is exact.
    if hart.count >= hart.limit or hart.icount != 0:
        if look_up() != 0:
            return 1
    if hart.between != 0:
        hart.between = 0
        if hart.icount != 0:
            # Who comes here, and when, is not the program's doing: the next transfer looks.
            hart.limit = 1
            return 0
    cause = pending_interrupt()
    if cause != NO_INTERRUPT:
        enter_trap(cause, 0)
    return 0


@routine(pure=True)
def fall_asleep():
    """After wfi: 1 to leave (nothing is pending), 0 to go on."""
    if interrupt_waiting():
        return settle()
    if hart.exit_lines != 0:
        hart.exit_reason = EXIT_RETIRE
    else:
        hart.exit_reason = EXIT_WAIT
    return 1


@routine(pure=True)
def note_hot(record):
    """Put a record into the ring of hot ones, unless it stands there."""
    i = 0
    ring = hart_address() + HOT_AT
    while i < hart.hot_count:
        if peek(ring + i * 16, 8) == record:
            return
        i += 1
    if hart.hot_count < HOT_RING:
        poke(ring + i * 16, record, 8)
        poke(ring + i * 16 + 8, peek((record & ~(STRIDE - 1)) + ARRAY_PAGE, 8), 8)
        hart.hot_count += 1
    if hart.hot_count >= hart.hot_limit:
        hart.limit = 0


@routine(pure=True)
def region_load(address, size):
    """A region's TLB miss: the host address, or 0 for tier 0 to execute the instruction."""
    if (address & 4095) + size > 4096:
        return 0
    place = resolve(address, size, LOAD)
    return 0 if place == FAULT else place


@routine(pure=True)
def region_store(address, size):
    """The same for a store; bytes beside code are the region's to write, code is not."""
    if (address & 4095) + size > 4096:
        return 0
    place = writable_place(address, size)
    if place == FAULT or place == 0:
        return 0
    offset = address & 4095
    touched = (1 << (offset >> 6)) | (1 << ((offset + size - 1) >> 6))
    return 0 if (peek(hart.fault_page + LINES, 8) & touched) != 0 else place


def _collect() -> dict[str, Function]:
    """Every routine the engine needs, by name; two of one name are refused."""
    found: dict[str, Function] = {}
    pending = [v for v in globals().values() if isinstance(v, Function)]
    while pending:
        routine_ = pending.pop()
        known = found.setdefault(routine_.name, routine_)
        if known is not routine_:
            raise ValueError(f"two routines are called {routine_.name}")
        pending += [c for c in routine_.callees if c.name not in found]
    return found


ROUTINES = _collect()
assert update_context is not None
