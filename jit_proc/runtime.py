"""The engine's own routines, in the semantics language: time, slices, and all of them by name.

The problem: all that is frequent must happen in native code - a TLB miss, a page walk, a trap, a
look at the clock - and the machine process must see only what is rare. These routines are written
in the same language as the ISA, over the structures of `protocol/layout.py`; `peek` and `poke`
reach host memory by address. Memory is in `runtime_memory.py` and `runtime_flush.py`, tracked
stores are in `runtime_tracking.py`, fetching in `runtime_fetch.py`; `ROUTINES` is all of them.

Invariant: `hart.limit` is the one word that calls a hart: `look_up` re-arms it, then looks at
`attention` again, so a request between the two is not lost.

Read next: `cold.py` (how this is compiled), `handlers.py` (who calls it).
"""

from __future__ import annotations

from jit_proc import runtime_fetch, runtime_flush, runtime_memory, runtime_tracking
from jit_proc.offsets import *
from jit_proc.runtime_fetch import enter_trap
from jit_proc.runtime_memory import note_window, resolve, writable_place
from jit_proc.runtime_tracking import note_store
from protocol.mutants import armed
from protocol.riscv.isa import routine
from protocol.riscv.language import Function
from protocol.riscv.mmu import NOWHERE
from protocol.riscv.privileged import (
    NO_INTERRUPT,
    interrupt_waiting,
    pending_interrupt,
)
from protocol.riscv.words import *


@routine(pure=True)
def now():
    """mtime: the host's monotonic clock, or instructions with -icount; in ticks of 100 ns."""
    if hart.icount != 0:
        return hart.time_offset + divu(hart.count * hart.icount, 100)
    return hart.time_offset + divu(host_clock(), 100)


@routine(pure=True)
def timer_limit(compare):
    """`count` at which, under -icount, a compare register is reached."""
    ticks = compare - hart.time_offset  # the offset may stand for a negative one: it wraps
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
    if hart.stuck != 0:
        hart.exit_reason = EXIT_FATAL
        return 1
    if hart.attention != 0:
        hart.exit_reason = EXIT_ATTENTION
        return 1
    if hart.count >= hart.stop_count:
        hart.exit_reason = EXIT_STOP
        return 1
    if hart.hot_count >= hart.hot_least and hart.hot_count != 0:
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
    hart.quiet_until = 0
    if interrupt_waiting():
        return settle()
    if hart.exit_lines != 0:
        hart.exit_reason = EXIT_RETIRE
        return 1
    if hart.poll != 0 and hart.icount == 0:
        if comes_soon():
            return settle()
    hart.exit_reason = EXIT_WAIT
    return 1


@routine(pure=True)
def comes_soon():
    """Whether something comes for the hart within `hart.poll`: it need not be woken then.

    Harts that call one another (a remote fence, a flush of TLBs) sleep some microseconds in
    between, less than a thread takes to wake. `Hart.sleep` sets the time after short sleeps; one
    look in vain ends it, for the caller may wait for this hart's very processor.
    """
    end = host_clock() + hart.poll
    while host_clock() < end:
        if hart.limit == 0 or interrupt_waiting():
            hart.polled += 1
            return True
        hart.tick = peek(hart.control + CONTROL_TICK, 8)
    hart.poll = 0
    return False


@routine(pure=True)
def note_hot(record):
    """Put a record into the ring of hot ones, unless it stands there or nobody reads it."""
    if hart.hot_limit == 0:
        return
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
    """A region's TLB miss: the host address, or 0 for tier 0 to execute the instruction.

    No miss at all for a member of a group whose span is not allowed as a whole.
    """
    if (address & 4095) + size > 4096:
        return 0
    entry = hart.data_tlb + ((address >> 12) & DATA_MASK) * ENTRY_BYTES
    if peek(entry, 8) == (address & ~4095):
        if hart.window_limit == NO_PAGE:
            note_window(address)
        return address + peek(entry + ADDEND, 8)
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


if armed("M36"):

    @routine(pure=True)
    def region_store(address, size):
        """M36: what is made of the bytes is retired when the region ends."""
        if (address & 4095) + size > 4096:
            return 0
        place = writable_place(address, size)
        if place == FAULT or place == 0:
            return 0
        note_store(hart.fault_page, address & 4095, size)
        return place


def _collect() -> dict[str, Function]:
    """Every routine the engine needs, by name; two of one name are refused."""
    found: dict[str, Function] = {}
    modules = (runtime_memory, runtime_flush, runtime_tracking, runtime_fetch)
    scopes = [*(vars(module) for module in modules), globals()]
    pending = [v for scope in scopes for v in scope.values() if isinstance(v, Function)]
    while pending:
        routine_ = pending.pop()
        known = found.setdefault(routine_.name, routine_)
        if known is not routine_:
            raise ValueError(f"two routines are called {routine_.name}")
        pending += [c for c in routine_.callees if c.name not in found]
    return found


ROUTINES = _collect()
