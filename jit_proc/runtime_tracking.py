"""The engine's routines for tracking: what a store does to what was made from its bytes.

The problem: code must never be older than the bytes it was made from, and data beside code must
cost nothing. A page's descriptor says which of its 64-byte lines hold bytes that records or regions
were made from; a store to one of these retires exactly the records that held a written byte.

Invariants:
- `decode_record` marks the lines of an instruction before it reads its bytes; every store to a
  marked line bumps the page's generation and makes the records that held any written byte
  undecoded, before the next instruction. A line with region code in it also makes the hart leave
  (`EXIT_RETIRE`) at once.
- **Several harts share records.** A page's records, lines and generation change under its lock. A
  record's operands are written only when no hart can hold a handler that goes with older ones: when
  a record is taken back the page notes the time (`tick`), and until every other hart has since been
  seen between two instructions (`hart.tick`) or out of native code, its instructions are executed
  from the scratch array. The same wait covers a store that another hart had under way, by an old
  TLB entry or after a look at `lines`, when the line began to be tracked. Whoever stores at leisure
  looks at `lines` after the bytes are visible, whoever decodes marks `lines` before it reads: one
  of the two sees the other.

- **fence.i waits for stores under way.** Bytes are visible before what was made of the old ones is
  taken back, and another hart may see them by a load. So a store over code is announced (`storing`)
  before its bytes, until records are taken back; `exit_lines` goes on until its regions are. A
  fence.i of another hart is executed again, with a look at calls between, until neither is set.

Read next: `runtime_fetch.py` (who decodes), `cpu_proc/records.py` (the machine's side).
"""

from __future__ import annotations

from jit_proc.offsets import *
from protocol.riscv.isa import routine
from protocol.riscv.words import *


@routine(pure=True)
def lock_page(page):
    while not host_compare_swap(page + LOCK, 0, 1):
        fence()


@routine(pure=True)
def unlock_page(page):
    poke_release(page + LOCK, 0)


@routine(pure=True)
def note_writer(page):
    """Mark that this hart's TLB may come to hold a plain write tag of a page."""
    bit = 1 << hart.hartid
    done = (peek(page + WRITERS, 8) & bit) != 0
    while not done:
        old = peek(page + WRITERS, 8)
        done = host_compare_swap(page + WRITERS, old, old | bit)


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

    Returns the lines written that regions were made from: those are the machine's to retire; all
    lines when the page's generation has wrapped to 0.
    """
    if FIRST_BYTES_ONLY != 0 and size > 2:
        size = 2  # M12: code begins where a store begins
    if hart.peer_count != 0:
        fence()  # the bytes before the look at what is tracked
    first_line = offset >> 6
    last_line = ((offset + size - 1) & 4095) >> 6
    touched = (NO_PAGE >> (63 - (last_line - first_line))) << first_line
    if (peek(page + LINES, 8) & touched) == 0:
        return 0
    hart.stat_stores += 1
    lock_page(page)
    generation = peek(page + GENERATION, 8) + 1
    poke(page + GENERATION, generation, 8)
    records = peek(page, 8)
    if records != 0:
        row = rewrites(records, offset)
        changed = unfuse(records, offset)
        # An instruction that begins one halfword before the store may reach into it.
        record = records + (offset >> 1) * 16 - word(offset > 1) * 16
        last = records + ((offset + size - 1) >> 1) * 16
        while record <= last:
            if peek(record, 8) != handler("decode"):
                poke(record, handler("decode"), 8)
                changed = True
            record += 16
        if changed:
            note_time(page)
            if (peek(page + REGION_LINES, 8) & touched) == 0 and row:
                forget_lines(page, records, first_line, last_line)
    regions = peek(page + REGION_LINES, 8) & touched
    if generation == 0:
        regions = NO_PAGE  # it wrapped: the machine sees to it that nothing older is alive
    unlock_page(page)
    return regions


@routine(pure=True)
def unfuse(records, offset):
    """Take back the records before a store whose handlers may execute the bytes at `offset` too.

    A sequence never begins in a line before; whether there were any.
    """
    start = (offset & 63) >> 1
    if start > FUSED_REACH >> 1:
        start = FUSED_REACH >> 1
    end = records + (offset >> 1) * 16
    record = end - start * 16
    first = handler("fused_first")
    size = handler("fused_end") - first
    changed = False
    while record != end:
        if peek(record, 8) - first < size:
            poke(record, handler("decode"), 8)
            changed = True
        record += 16
    return changed


@routine(pure=True)
def begin_store():
    """A store that may be over code is about to be visible; `note_store` ends what begins here."""
    if hart.peer_count != 0:
        hart.storing = 1
        fence()


@routine(pure=True)
def stores_done():
    """Whether all code is taken back whose new bytes this hart may have seen: fence.i waits for it.

    A hart need not be told of a store; it may read the code's bytes until they are new.
    """
    if peek(hart.control + CONTROL_STORING, 8) != 0:
        return 0
    i = 0
    while i < hart.peer_count:
        peer = hart.peers[i]
        if peek(peer + STORING, 8) != 0 or peek(peer + EXIT_LINES, 8) != 0:
            return 0
        i += 1
    return 1


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
    if hart.peer_count != 0:
        hart.storing = 0


@routine(pure=True)
def rewrites(records, offset):
    """Whether a store that changed code looks like one of a row of them: copies, a code generator.

    It begins a line, or nothing before it is decoded. A patch in the midst of code does not: there
    all but the instruction stays, with the heat its neighbours have gathered.
    """
    if (offset & 63) < 4:
        return (offset & 63) == 0
    record = records + (offset >> 1) * 16
    decode = handler("decode")
    return peek(record - 16, 8) == decode and peek(record - 32, 8) == decode


@routine(pure=True)
def forget_lines(page, records, first, last):
    """Undecode the lines that code was changed in, and stop tracking them.

    Who rewrites one instruction rewrites the next ones too: their stores find an untracked line.
    """
    record = records + first * 512
    end = records + last * 512 + 512
    if first != 0:
        record -= 16  # an instruction of the line before may reach into this one
    while record != end:
        poke(record, handler("decode"), 8)
        record += 16
    touched = (NO_PAGE >> (63 - (last - first))) << first
    poke(page + LINES, peek(page + LINES, 8) & ~touched, 8)
