"""The engine's routines for memory: the map, the TLBs, loads and stores at leisure.

The problem: a miss in a TLB, a page walk, an access that crosses a page or reaches a device must be
exact and stay in native code. `resolve` is the one way from an address to a host address; what
fills a TLB entry is there.

Invariants:
- A TLB entry is made only for a whole page that PMP judges alike, that one map slot covers, and,
  for stores, that is writable; a tracked page (`lines` not 0) never gets a plain write tag.
- The lookups of an address space (satp, with its ASID and root) stand in a bank of sets of their
  own and survive a switch to another space; when all banks are taken, that of the space longest not
  chosen is emptied for the new one. So whatever empties entries or takes write tags away goes
  through *every* set that is filled (`data_filled`), in use or not.
- A set of the data TLB has a second level, where what a new page displaces is kept: two hot pages
  of one index change places instead of being walked for. It lies in the set's entries and in its
  `data_used`, so what goes through these finds both levels; what goes by a page's index must look
  at `second_place` too. A page stands in one of the two at most, so that nothing older can come
  back. The second level never holds a plain write tag: another hart that takes such tags away could
  miss one that moves.
- Without translation a hart has a *window* besides: one map slot, the whole of which PMP lets
  loads read. It is of the set in use, and gone when that is emptied or another one chosen. Regions
  made where no hart translates (`STATE_FLAT`) look at it first.
- A store that leaves its page is checked whole before its first byte; each part is noted
  (`runtime_tracking.note_store`) after its bytes are there.

Read next: `runtime_flush.py`, `runtime_tracking.py`, `runtime_fetch.py`.
"""

from __future__ import annotations

from jit_proc.offsets import *
from jit_proc.runtime_flush import flush_bank, note_used, second_place
from jit_proc.runtime_tracking import begin_store, note_store, note_writer
from protocol.riscv.isa import routine
from protocol.riscv.mmu import ALLOWED, NOWHERE, access_mode, pmp_match, translate
from protocol.riscv.words import *

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
        if UNTRACKED_WALK == 0:
            begin_store()
        done = host_compare_swap(offset + peek(slot + 16, 8), old, new)
        if UNTRACKED_WALK == 0:  # M8: page tables are no code
            note_store(peek(slot + 24, 8) + (offset >> 12) * PAGE_BYTES, address & 4095, 8)
    return done


# --- TLBs ---------------------------------------------------------------------------------------


@routine(pure=True)
def choose_bank(key):
    """The bank of an address space: that which holds it, or that longest not chosen, emptied."""
    place = hart_address() + BANK_KEYS_AT
    oldest = 0
    i = 0
    while i < TLB_BANKS and peek(place + i * 8, 8) != key:
        if hart.bank_times[i] < hart.bank_times[oldest]:
            oldest = i
        i += 1
    if i == TLB_BANKS:
        i = oldest
        flush_bank(i)
        hart.bank_keys[i] = key
    hart.bank_clock += 1
    hart.bank_times[i] = hart.bank_clock
    hart.bank = i


@routine(pure=True)
def choose_sets(data, fetch):
    """Look up in these sets (`privileged.update_context`) of the address space that satp names."""
    same = data == hart.data_set and fetch == hart.fetch_set
    if same and ((data == 0 and fetch == 0) or hart.bank_keys[hart.bank] == hart.satp):
        return  # it is so already; what has MXR in its key is found below
    hart.window_limit = NO_PAGE
    hart.data_set = data
    hart.fetch_set = fetch
    at = word(data != 0)  # without translation
    if (data != 0 and data != 7) or fetch == 1 or fetch == 2:
        key = hart.satp | (word(data > 3 and data != 7) << 62)
        if hart.bank_keys[hart.bank] != key:
            choose_bank(key)
        if data != 0 and data != 7:
            at = FIXED_SETS + hart.bank * DATA_BANK_SETS + (data - 1 if data < 4 else data - 4)
    hart.data_tlb = hart_address() + DATA_AT + at * DATA_SET_BYTES
    at = word(fetch != 0)
    if fetch == 1 or fetch == 2:
        at = FIXED_SETS + hart.bank * FETCH_BANK_SETS + fetch - 1
    hart.fetch_tlb = hart_address() + FETCH_AT + at * FETCH_SET_BYTES


@routine(pure=True)
def forbid_stores(page, who):
    """Take away a hart's write tags of a page that begins to be tracked, in all of its sets."""
    bit = 1 << peek(who + HARTID, 8)
    if (peek(page + WRITERS, 8) & bit) == 0:
        return
    left = peek(who + DATA_FILLED_AT, 8)
    while left != 0:
        i = ctz(left) * DATA_SET_WORDS
        end = i + DATA_SET_WORDS
        left = left & (left - 1)
        while i != end:
            bits = peek(who + DATA_USED_AT + i * 8, 8)
            while bits != 0:
                entry = who + DATA_AT + (i * 64 + ctz(bits)) * ENTRY_BYTES
                if peek(entry + ENTRY_PAGE, 8) == page:
                    poke(entry + WRITE_TAG, NO_PAGE, 8)
                bits = bits & (bits - 1)
            i += 1
    done = False
    while not done:
        old = peek(page + WRITERS, 8)
        done = host_compare_swap(page + WRITERS, old, old & ~bit)


@routine(pure=True)
def note_data(entry):
    base = hart_address()
    note_used(base + DATA_FILLED_AT, base + DATA_USED_AT, entry, base + DATA_AT, DATA_SET_SHIFT)


@routine(pure=True)
def put_aside(entry):
    """Move what a first-level entry of the set in use holds to the second level."""
    read = peek(entry, 8)
    write = peek(entry + WRITE_TAG, 8) | 1
    if (read & write) == NO_PAGE:
        return
    second = hart.data_tlb + second_place(write if read == NO_PAGE else read)
    note_data(second)
    poke(second, NO_PAGE, 8)
    poke(second + WRITE_TAG, NO_PAGE, 8)
    poke(second + ADDEND, peek(entry + ADDEND, 8), 8)
    poke(second + ENTRY_PAGE, peek(entry + ENTRY_PAGE, 8), 8)
    poke(second, read, 8)
    poke(second + WRITE_TAG, write, 8)
    poke(entry, NO_PAGE, 8)
    poke(entry + WRITE_TAG, NO_PAGE, 8)


@routine(pure=True)
def take_back(entry, tag):
    """Whether the second level held a page: it changes places with what is at `entry`."""
    second = hart.data_tlb + second_place(tag)
    read = peek(second, 8)
    write = peek(second + WRITE_TAG, 8)
    if read != tag and (write & ~1) != tag:
        return False
    addend = peek(second + ADDEND, 8)
    page = peek(second + ENTRY_PAGE, 8)
    poke(second, NO_PAGE, 8)
    poke(second + WRITE_TAG, NO_PAGE, 8)
    put_aside(entry)
    note_data(entry)
    poke(entry + ADDEND, addend, 8)
    poke(entry + ENTRY_PAGE, page, 8)
    poke(entry, read, 8)
    if write != NO_PAGE:
        allow_stores(entry, tag, page)
    return True


@routine(pure=True)
def resolve(address, size, access):
    """Host address of `size` bytes that do not leave their page; FAULT; or 0 for I/O.

    Sets `hart.fault_cause` (fault), `hart.fault_value` (I/O: the physical address) or
    `hart.fault_page` (memory: the page's descriptor), and fills the data TLB where it may.
    """
    entry = hart.data_tlb + ((address >> 12) & DATA_MASK) * ENTRY_BYTES
    tag = address & ~4095
    if take_back(entry, tag):
        # What was noted of the page is in the first level again; for this access too?
        if (peek(entry, 8) if access == LOAD else peek(entry + WRITE_TAG, 8) & ~1) == tag:
            hart.fault_page = peek(entry + ENTRY_PAGE, 8)
            return address + peek(entry + ADDEND, 8)
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
        addend = place - address
        if peek(entry, 8) != tag and (peek(entry + WRITE_TAG, 8) & ~1) != tag:
            put_aside(entry)
        note_data(entry)
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
            note_window(physical)
        else:
            allow_stores(entry, tag, page)
    return place


@routine(pure=True)
def note_window(physical):
    """Without translation: let all loads from the map slot there go ahead, if PMP does.

    `window_limit < window_last - address` is a load that begins in it; none leaves the slot. The
    largest slot that is read has the window, until another set is chosen or this one emptied.
    """
    if hart.data_set == 0 or hart.data_set == 7:
        slot = find_slot(physical)
        base = peek(slot, 8)
        size = peek(slot + 8, 8)
        limit = ~(size - WINDOW_MARGIN)
        if size > WINDOW_MARGIN and limit < hart.window_limit:
            if pmp_match(base, size, LOAD, access_mode(LOAD)) == ALLOWED:
                hart.window_last = base - 1
                hart.window_addend = peek(slot + 16, 8) - base
                hart.window_limit = limit


@routine(pure=True)
def allow_stores(entry, tag, page):
    """Fill in a write tag; a page that begins to be tracked meanwhile is noticed here or there.

    `writers` is marked before the tag is there, and `lines` is looked at after it: who tracks the
    page marks `lines` first, so either it finds the mark and takes the tag back, or it is seen.
    """
    if peek(page + LINES, 8) != 0:
        poke(entry + WRITE_TAG, tag | 1, 8)
        return
    note_writer(page)
    poke(entry + WRITE_TAG, tag, 8)
    if hart.peer_count != 0:
        fence()
        if peek(page + LINES, 8) != 0:
            poke(entry + WRITE_TAG, tag | 1, 8)


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
        begin_store()
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
