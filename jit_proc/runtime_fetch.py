"""The engine's routines for fetching: from an address to a record, and from bytes into it.

The problem: a page's records are made when it is first executed and filled one instruction at a
time; what may stand in no page's records (an instruction over a page's edge, a page that PMP
splits) is decoded into the hart's scratch array and executed from there.

Invariants: an instruction's lines are tracked before its bytes are read; a record is filled under
its page's lock, and only when no other hart can hold a handler that goes with older operands.

Read next: `runtime_tracking.py`, `decoder.py` (`decode_word`).
"""

from __future__ import annotations

from jit_proc.offsets import *
from jit_proc.runtime_flush import note_used
from jit_proc.runtime_memory import find_slot, forbid_stores
from jit_proc.runtime_tracking import all_seen, lock_page, note_time, unlock_page
from protocol.riscv.isa import routine
from protocol.riscv.mmu import MACHINE, NOWHERE, translate
from protocol.riscv.privileged import NO_INTERRUPT, pending_interrupt, take_trap
from protocol.riscv.words import *


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
    if VIRTUAL_PAGE != 0:
        # M13: what was made from a page is filed under the address it was fetched by.
        seen_at = find_slot(address)
        if seen_at != 0:
            page = peek(seen_at + 24, 8) + ((address - peek(seen_at, 8)) >> 12) * PAGE_BYTES
    records = peek(page, 8)
    if ALIAS_OWN_RECORDS != 0 and records != 0 and hart.pool_next != hart.pool_end:
        # M7: records belong to an address; those of a page's second one are found by no store.
        if peek(records + ARRAY_VIRTUAL, 8) != address >> 12:
            records = hart.pool_next
            hart.pool_next = records + STRIDE
            fill_array(records, (peek(slot + 16, 8) + offset) & ~4095, page)
    if records == 0:
        records = make_array((peek(slot + 16, 8) + offset) & ~4095, page)
        if records == 0:
            hart.exit_reason = EXIT_POOL
            return 0
        if ALIAS_OWN_RECORDS != 0:
            poke(records + ARRAY_VIRTUAL, address >> 12, 8)
    bias = (address & ~4095) - (records >> 3)
    entry = hart.fetch_tlb + ((address >> 12) & FETCH_MASK) * ENTRY_BYTES
    base = hart_address()
    note_used(base + FETCH_FILLED_AT, base + FETCH_USED_AT, entry, base + FETCH_AT, FETCH_SET_SHIFT)
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
def drop_arrays(array, end, low, high):
    """Let go of the record arrays from `array` to `end`, harts stopped: their pages have none.

    Descriptors lie from `low` to `high`; an array of another is nobody's. The arrays stay as they
    are: nothing points to them, and `fill_array` makes them new.
    """
    while array != end:
        page = peek(array + ARRAY_PAGE, 8)
        if page - low < high - low:
            poke(page, 0, 8)
            poke(page + LINES, 0, 8)
            poke(page + REGION_LINES, 0, 8)
        array += STRIDE


@routine(pure=True)
def fetch_part(address, pc_):
    """Code at an address, translated anew: the aligned word, or the second half of one.

    NOWHERE after a trap was taken at `pc_`.
    """
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
    place = physical - peek(slot, 8) + peek(slot + 16, 8)
    return peek(place, 4) if (address & 3) == 0 else peek(place, 2)


@routine(pure=True)
def fetch_single(address):
    """Decode the instruction at `address` into the scratch array; 0 after a trap was taken.

    For what may not stand in a page's records: an instruction over a page's edge (its second half
    is the mapping's, not the page's), a page that PMP splits, one step out of a region.
    """
    low = fetch_part(address, address)
    if low == NOWHERE:
        return 0
    if (low & 3) != 3:
        low = low & 0xFFFF
    elif (address & 3) != 0:
        high = fetch_part(address + 2, address)
        if high == NOWHERE:
            return 0
        low = low | ((high & 0xFFFF) << 16)
    poke(hart_address() + SCRATCH_BYTES_AT, low, 8)
    hart.fetch_bias = address - (hart.scratch >> 3)
    poke(hart.scratch, handler("decode"), 8)
    decode_word(low, hart.scratch, NO_OFFSET)
    return hart.scratch


@routine(pure=True)
def fetch_again(record):
    """The scratch record of the instruction a record stands for, whatever the record points to.

    For one step out of a region: the page is being executed, so nothing is translated anew, and
    what a region is made of never stands over a page's edge.
    """
    bits = raw_bits_at(record)
    poke(hart_address() + SCRATCH_BYTES_AT, bits, 8)
    poke(hart.scratch, handler("decode"), 8)
    decode_word(bits, hart.scratch, NO_OFFSET)
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
        raw_bits = peek(host, 2)
        # M11: what lies behind the page's bytes is taken for the next page.
        if (raw_bits & 3) == 3 and offset == 4094 and ONE_PAGE_ONLY == 0:
            hart.stat_decodes += 1
            poke(record, handler("straddle"), 8)
        else:
            decode_run(record, host, offset)
    unlock_page(page)
    return word(seen)


@routine(pure=True)
def bits_at(host):
    """The bits of the instruction at a host address, all in its page.

    By one load where it is aligned: another hart may be patching it, and Linux does so in the hope
    of old or new (Ziccif: "instruction fetches of naturally aligned power-of-2 sizes are atomic").
    """
    if (host & 3) == 0:
        bits = peek(host, 4)
        return bits if (bits & 3) == 3 else bits & 0xFFFF
    bits = peek(host, 2)
    if (bits & 3) == 3:
        bits = bits | (peek(host + 2, 2) << 16)
    return bits


@routine(pure=True)
def decode_run(record, host, offset):
    """Decode an instruction, and those behind it up to a transfer of control or the line's end.

    They are likely to be executed next, their line is tracked, and the page's lock is held. Where a
    sequence begins that has a handler of its own, the record gets that one (`fused.py`); to know,
    a few instructions behind those are looked at that are decoded already.
    """
    end = (offset & ~63) + 64
    spare = hart.scratch + SPARE
    decode = handler("decode")
    fresh = True
    going = True
    kinds = 0  # of the last four instructions, the newest in the highest of four bytes
    first = 0
    second = 0
    third = 0
    fourth = 0
    while True:
        kinds = kinds >> 8
        first = second
        second = third
        third = fourth
        fourth = 0
        if going:
            bits = bits_at(host)
            size = 4 if (bits & 3) == 3 else 2
            ends = ends_run(bits)
            if fresh:
                hart.stat_decodes += 1
                kinds = kinds | (decode_word(bits, record, offset) << 24)
                fourth = record
            elif offset + size <= end:
                kind = decode_word(bits, spare, offset)
                # Another hart may be storing here: what was made of the bytes is what counts.
                differ = peek(record + 8, 8) ^ peek(spare + 8, 8)
                if ends:
                    differ = differ & 0xFFFFFFFFFFFF  # the rest is heat
                if differ == 0:
                    kinds = kinds | (kind << 24)
            going = not ends
            host += size
            offset += size
            record += size * 8
            if offset + 2 > end:
                going = False
            elif going:
                whole = offset + 4 <= end or (peek(host, 2) & 3) != 3
                fresh = fresh and whole and peek(record, 8) == decode
        if first != 0:
            fuse(first, kinds)
        if not going and (kinds >> 8) == 0:
            return
        if not fresh and first == 0 and second == 0 and third == 0 and fourth == 0:
            return


@routine(pure=True)
def ends_run(bits):
    """Whether an instruction transfers control, or is none."""
    # Branches, jumps and system instructions have opcodes 11xxx11.
    ends = (bits & 0x63) == 0x63 or bits == 0
    # c.j, c.beqz, c.bnez
    ends = ends or ((bits & 3) == 1 and (bits & 0xE000) >= 0xA000)
    # c.jr, c.jalr, c.ebreak
    return ends or ((bits & 3) == 2 and (bits & 0xE07C) == 0x8000)


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
    # A peer may have looked at `lines` for a store that is still to come.
    note_time(page)


@routine(pure=True)
def raw_bits_at(record):
    """The bits of the instruction that a record stands for."""
    records = record & ~(STRIDE - 1)
    host = peek(records + ARRAY_HOST, 8) + ((record - records) >> 3)
    return bits_at(host)


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
    before = NOWHERE
    if hart.fatal != 0 and hart.priv == MACHINE and (cause >> 63) == 0:
        before = hart.pc
    take_trap(cause, value)
    if hart.pc == before:
        hart.stuck = 1  # the handler's first instruction traps: it will for ever
        hart.limit = 0
