"""The engine's routines that empty the TLBs: of everything, of address spaces, of pages.

The problem: sfence.vma comes tens of thousands of times in a boot, most often for few entries or
none. So what is filled is marked, and a flush looks at the marks.

Invariants:
- An entry is marked (`note_used`) before it is filled; a flush of sets finds all that is marked.
- The window is of a set without translation, and goes with either of them.
- A flush by address empties both places where a set of the data TLB may hold the page
  (`second_place`), and the one of the fetch TLB, in all sets of the bank.

Read next: `runtime_memory.py` (what fills the data TLB), `runtime_fetch.py`.
"""

from __future__ import annotations

from jit_proc.offsets import *
from protocol.riscv.isa import routine
from protocol.riscv.mmu import ASID_MASK, ASID_SHIFT, EVERY_SPACE
from protocol.riscv.words import *


@routine(pure=True)
def second_place(address):
    """Where in a set the second level may hold a page."""
    return DATA_SECOND + (((address >> 12) * SCATTER) >> SCATTER_SHIFT) * ENTRY_BYTES


@routine(pure=True)
def note_used(filled, used, entry, first, shift):
    """Mark an entry that is about to be filled, and its set of `1 << shift` entries.

    A flush looks at marked ones alone.
    """
    number = (entry - first) >> 5
    poke(filled, peek(filled, 8) | (1 << (number >> shift)), 8)
    place = used + ((number >> 6) << 3)
    poke(place, peek(place, 8) | (1 << (number & 63)), 8)


@routine(pure=True)
def flush_data(sets):
    """Empty these data sets."""
    if (sets & FIXED_MASK) != 0:
        hart.window_limit = NO_PAGE
    left = hart.data_filled & sets
    hart.data_filled = hart.data_filled & ~sets
    while left != 0:
        i = ctz(left) * DATA_SET_WORDS
        end = i + DATA_SET_WORDS
        left = left & (left - 1)
        while i != end:
            place = hart_address() + DATA_USED_AT + i * 8
            bits = peek(place, 8)
            if bits != 0:
                poke(place, 0, 8)
            while bits != 0:
                entry = hart_address() + DATA_AT + (i * 64 + ctz(bits)) * ENTRY_BYTES
                poke(entry, NO_PAGE, 8)
                poke(entry + WRITE_TAG, NO_PAGE, 8)
                bits = bits & (bits - 1)
            i += 1


@routine(pure=True)
def flush_fetch(sets):
    """Empty these fetch sets."""
    left = hart.fetch_filled & sets
    hart.fetch_filled = hart.fetch_filled & ~sets
    while left != 0:
        i = ctz(left) * FETCH_SET_WORDS
        end = i + FETCH_SET_WORDS
        left = left & (left - 1)
        while i != end:
            place = hart_address() + FETCH_USED_AT + i * 8
            bits = peek(place, 8)
            if bits != 0:
                poke(place, 0, 8)
            while bits != 0:
                poke(hart_address() + FETCH_AT + (i * 64 + ctz(bits)) * ENTRY_BYTES, NO_PAGE, 8)
                bits = bits & (bits - 1)
            i += 1


@routine(pure=True)
def flush_bank(bank):
    flush_data(DATA_BANK_MASK << (FIXED_SETS + bank * DATA_BANK_SETS))
    flush_fetch(FETCH_BANK_MASK << (FIXED_SETS + bank * FETCH_BANK_SETS))


@routine(pure=True)
def flush_all():
    flush_data(NO_PAGE)
    flush_fetch(NO_PAGE)


@routine(pure=True)
def is_of(bank, asid):
    """Whether a bank holds lookups of an ASID, or (EVERY_SPACE) of any."""
    filled = (hart.data_filled >> (FIXED_SETS + bank * DATA_BANK_SETS)) & DATA_BANK_MASK
    fetched = (hart.fetch_filled >> (FIXED_SETS + bank * FETCH_BANK_SETS)) & FETCH_BANK_MASK
    same = ((hart.bank_keys[bank] >> ASID_SHIFT) & ASID_MASK) == asid
    return (filled | fetched) != 0 and (asid == EVERY_SPACE or same)


@routine(pure=True)
def flush_space(asid):
    """Empty the banks of an ASID, or all: the sets without translation hold nothing of it."""
    bank = 0
    while bank < TLB_BANKS:
        if is_of(bank, asid):
            if KEPT_FETCH == 0 or asid == EVERY_SPACE:
                flush_bank(bank)
            else:  # M10, as in `flush_small_page`
                flush_data(DATA_BANK_MASK << (FIXED_SETS + bank * DATA_BANK_SETS))
        bank += 1


@routine(pure=True)
def flush_page(address, shift, asid):
    """Empty what the banks of an ASID, or all, hold of the page of `1 << shift` bytes there."""
    bank = 0
    while bank < TLB_BANKS:
        if is_of(bank, asid):
            if shift == 12:
                flush_small_page(bank, address)
            elif shift < 63:
                flush_superpage(bank, address, shift)
            else:
                flush_bank(bank)
        bank += 1


@routine(pure=True)
def flush_small_page(bank, address):
    """Empty the entries of a bank that may hold a page of 4 KiB."""
    number = (address >> 12) & DATA_MASK
    entry = hart_address() + DATA_AT + (FIXED_SETS + bank * DATA_BANK_SETS) * DATA_SET_BYTES
    entry += number * ENTRY_BYTES
    end = entry + DATA_BANK_SETS * DATA_SET_BYTES
    second = second_place(address) - number * ENTRY_BYTES  # both from a set's start
    while entry != end:
        poke(entry, NO_PAGE, 8)
        poke(entry + WRITE_TAG, NO_PAGE, 8)
        poke(entry + second, NO_PAGE, 8)
        poke(entry + second + WRITE_TAG, NO_PAGE, 8)
        entry += DATA_SET_BYTES
    number = (address >> 12) & FETCH_MASK
    entry = hart_address() + FETCH_AT + (FIXED_SETS + bank * FETCH_BANK_SETS) * FETCH_SET_BYTES
    entry += number * ENTRY_BYTES
    end = entry + FETCH_BANK_SETS * FETCH_SET_BYTES
    while entry != end:
        if KEPT_FETCH == 0:  # M10: sfence.vma is about loads and stores, fence.i about fetches
            poke(entry, NO_PAGE, 8)
        entry += FETCH_SET_BYTES


@routine(pure=True)
def flush_superpage(bank, address, shift):
    """Empty the entries of a bank that lie in the page of `1 << shift` bytes round an address."""
    i = (FIXED_SETS + bank * DATA_BANK_SETS) * DATA_SET_WORDS
    end = i + DATA_BANK_SETS * DATA_SET_WORDS
    while i != end:
        bits = peek(hart_address() + DATA_USED_AT + i * 8, 8)
        while bits != 0:
            entry = hart_address() + DATA_AT + (i * 64 + ctz(bits)) * ENTRY_BYTES
            if (peek(entry, 8) ^ address) >> shift == 0:
                poke(entry, NO_PAGE, 8)
            if (peek(entry + WRITE_TAG, 8) ^ address) >> shift == 0:
                poke(entry + WRITE_TAG, NO_PAGE, 8)
            bits = bits & (bits - 1)
        i += 1
    i = (FIXED_SETS + bank * FETCH_BANK_SETS) * FETCH_SET_WORDS
    end = i + FETCH_BANK_SETS * FETCH_SET_WORDS
    while i != end and KEPT_FETCH == 0:
        bits = peek(hart_address() + FETCH_USED_AT + i * 8, 8)
        while bits != 0:
            entry = hart_address() + FETCH_AT + (i * 64 + ctz(bits)) * ENTRY_BYTES
            if (peek(entry, 8) ^ address) >> shift == 0:
                poke(entry, NO_PAGE, 8)
            bits = bits & (bits - 1)
        i += 1
