"""One hart: its state, its thread, and what happens when native code is left.

The problem: a hart spends its life in the engine's `run`, without the GIL; Python sees it when a
device is touched (a callback, with the frame of native code below), when it sleeps, and when
somebody called it. What others ask of a hart is never done in the middle of an instruction: they
set `attention` and `limit`, and the hart comes to its next safe point by itself.

Invariants:
- Only the hart's own thread enters native code for it, and writes its architectural state.
- A callback never raises into native code: what goes wrong stops the machine with the error.
- A sleeping hart holds no code pointer; it wakes on an interrupt line, a timer, or a request.

Read next: `machine.py` (safe points), `jit_proc/runtime.py` (`settle`, `look_up`).
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from typing import TYPE_CHECKING, Protocol

from cpu_proc import native
from protocol import layout, mutants
from protocol.faults import AccessFault
from protocol.layout import HART

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cpu_proc.engine import Engine
    from cpu_proc.memory_map import MemoryMap

MXCSR_DEFAULT = 0x1F80
NEVER = 2**64 - 1
TICK_NS = 100  # mtime counts at 10 MHz
SHORT_SLEEP_NS = 1_000_000  # of several harts: another one may have called it
POLL_NS = 50_000  # how long to look for an interrupt before a sleep
PATIENCE = (16, 4096)  # short sleeps before looking is tried, at least and at most
POLLS_TO_TRUST = 8  # looks not in vain that make up for one in vain
QUIET = 1 << 10  # instructions between two looks at timers for traps and their like
SLICE = 1 << 15  # instructions between two looks at the clock
MSIP, SEIP, MEIP = 1 << 3, 1 << 9, 1 << 11
STIE, MTIE = 1 << 5, 1 << 7
STCE = 1 << 63
_TLBS = (("data", layout.DATA_SET_ENTRIES), ("fetch", layout.FETCH_TLB_ENTRIES))


class Owner(Protocol):
    """What a hart needs of its machine."""

    def fail(self, error: BaseException) -> None:
        """Stop the machine because of a bug in a callback."""

    def guest_error(self, hart: Hart, address: int, fault: AccessFault) -> None:
        """The guest touched what nothing answers for; it gets an access fault."""


class Wake:
    """What a sleeping hart waits for: a `threading.Event` for one waiter, made of one lock.

    An event's waiter, once woken, waits for the event's own lock, which who woke it still holds:
    two more changes of thread for each call of a hart by another.
    """

    def __init__(self) -> None:
        self._unset = threading.Lock()  # held while nobody has called
        self._unset.acquire()

    def set(self) -> None:
        """Wake the hart, or keep it from sleeping."""
        with contextlib.suppress(RuntimeError):  # it is set already
            self._unset.release()

    def is_set(self) -> bool:
        return not self._unset.locked()

    def wait(self, seconds: float) -> bool:
        """Sleep until it is set, `seconds` at most; takes it back. Whether it was set."""
        return self._unset.acquire(timeout=seconds)

    def clear(self) -> None:
        """Take it back, if it is set."""
        self._unset.acquire(blocking=False)


class Hart:
    """A hart of a machine. `state` is its structure in the ctrl segment."""

    def __init__(
        self, index: int, address: int, engine: Engine, memory: MemoryMap, owner: Owner
    ) -> None:
        self.index = index
        self.address = address
        self.state = HART.ctype.from_address(address)
        self.wake = Wake()
        self.stopped = False
        self.sampled = False  # it was called to tell where it is: see `upgrades.py`
        self.alarm = NEVER  # mtime at which counted time calls a device: see `alarm.py`
        self._short_sleeps = self._polled = 0
        self._patience = PATIENCE[0]
        self._run = engine.function()
        self._step = engine.function("step")
        self._memory = memory
        self._owner = owner
        self._callbacks = (
            self._host_read,
            self._host_write,
            self._host_fp,
        )
        self._wire(engine)

    def _wire(self, engine: Engine) -> None:
        """What stays as long as the machine does."""
        state = self.state
        tlbs = HART.offset("data_tlbs")
        ctypes.memset(self.address + tlbs, 0xFF, HART.size - tlbs)
        state.window_limit = NEVER
        state.hartid = self.index
        names = ("host_read", "host_write", "host_fp")
        for name, callback in zip(names, self._callbacks, strict=True):
            setattr(state, name, id(callback))
        for number, name in enumerate(layout.PYTHON_API):
            function = getattr(ctypes.pythonapi, name)
            state.python[number] = ctypes.cast(function, ctypes.c_void_p).value
        state.clock_gettime = native.function_address("clock_gettime")
        state.far_jump = engine.address("h_far_jump")
        state.execute_one = engine.address("h_execute_one")
        state.way_out = engine.address("h_way_out")
        state.crossing = engine.address("h_crossing")
        state.assumed = engine.address("h_assumed")
        state.engine, state.engine_size = engine.base, engine.size
        state.tlb_load = engine.address("region_load")
        state.tlb_store = engine.address("region_store")
        state.slice = SLICE
        state.stop_count = NEVER

    def meet(self, control: int, harts: Sequence[Hart]) -> None:
        """Tell native code where the control page and the other harts are."""
        self.state.control = control
        self.state.idle = 1
        peers = [hart.address for hart in harts if hart is not self]
        self.state.peer_count = len(peers)
        for number, address in enumerate(peers):
            self.state.peers[number] = address

    # --- what the machine does to a hart that is not running ------------------------------------

    def reset(self, pc: int) -> None:
        """The state after reset (privileged architecture, section 3.4), with pc at `pc`.

        General registers are zeroed, as on QEMU; `count` goes on.
        """
        state = self.state
        start, end = HART.offset("x"), HART.offset("limit")
        ctypes.memset(self.address + start, 0, end - start)
        first, last = HART.offset("priv"), HART.offset("irq")
        ctypes.memset(self.address + first, 0, last - first)
        for name in ("pmpcfg", "pmpaddr"):
            ctypes.memset(self.address + HART.offset(name), 0, 128)
        state.pmp_active = state.pmp_end = 0
        state.priv = 3
        state.mstatus = 0xA_0000_0000  # SXL and UXL: 64 bits
        state.stimecmp = NEVER
        state.mtimecmp = NEVER
        state.mxcsr = MXCSR_DEFAULT
        state.reserved = NEVER
        state.waiting = 0
        state.irq = 0
        state.pc = pc
        state.exit_lines = 0
        state.stuck = 0
        state.between = 0
        state.hot_count = 0
        state.quiet_until = 0
        self.flush()
        self.choose_sets(0, 0)

    def flush(self) -> None:
        """Forget all TLB entries: of every set that was filled, whether it is in use or not."""
        state = self.state
        state.window_limit = NEVER
        for kind, entries in _TLBS:
            filled = int(getattr(state, f"{kind}_filled"))
            size = entries * layout.TLB_ENTRY_SIZE
            while filled:
                number = (filled & -filled).bit_length() - 1
                filled &= filled - 1
                place = self.address + HART.offset(f"{kind}_tlbs") + number * size
                ctypes.memset(place, 0xFF, size)
            setattr(state, f"{kind}_filled", 0)

    def choose_sets(self, data: int, fetch: int) -> None:
        """Look up in the TLB sets so numbered (`privileged.update_context`), which are empty.

        What native code does at each change of mode (`runtime_memory.choose_sets`), for a hart
        whose state was put into place with all lookups forgotten: its space gets the first bank.
        """
        state = self.state
        state.data_set, state.fetch_set = data, fetch
        state.bank_keys[:] = [0] * layout.TLB_BANKS
        state.bank_times[:] = [0] * layout.TLB_BANKS
        state.bank = 0
        data_at, fetch_at = int(data != 0), int(fetch != 0)
        if data not in (0, 7) or fetch in (1, 2):
            state.bank_keys[0] = state.satp | (3 < data < 7) << 62
        if data not in (0, 7):
            data_at = layout.FIXED_SETS + (data - 1) % layout.DATA_BANK_SETS
        if fetch in (1, 2):
            fetch_at = layout.FIXED_SETS + fetch - 1
        size = layout.TLB_ENTRY_SIZE
        first = self.address + HART.offset("data_tlbs")
        state.data_tlb = first + data_at * layout.DATA_SET_ENTRIES * size
        first = self.address + HART.offset("fetch_tlbs")
        state.fetch_tlb = first + fetch_at * layout.FETCH_TLB_ENTRIES * size

    def load_map(self, pages_address: int, memory_address: int) -> None:
        """Copy the memory map's slots of memory; flushes what was looked up in the old one.

        The map has no more than `layout.MAX_SLOTS` of them.
        """
        slots = [s for s in self._memory.slots if s.backing is not None]
        for number, slot in enumerate(slots):
            backing = slot.backing
            assert backing is not None
            page = backing.page(slot.offset)
            values = (
                slot.base,
                slot.size,
                memory_address + page * layout.PAGE_SIZE + slot.offset % layout.PAGE_SIZE,
                pages_address + page * layout.PAGE.size,
                int(not slot.readonly),
            )
            for place, value in enumerate(values):
                self.state.slots[5 * number + place] = value
        self.state.slot_count = len(slots)
        if not mutants.armed("M9"):  # M9: a new map is for accesses to come that look into it
            self.flush()

    # --- callers from any thread -----------------------------------------------------------------

    def call(self) -> None:
        """Have the hart leave native code, or wake, at its next safe point."""
        self.state.attention = 1
        self.state.limit = 0
        self.wake.set()

    def set_line(self, bit: int, level: bool) -> None:
        """Drive an interrupt line. The caller holds the machine's lock."""
        old = self.state.irq
        new = old | bit if level else old & ~bit
        if new != old:
            self.state.irq = new
            if level:
                self.state.limit = 0
                self.wake.set()

    # --- running ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Execute guest code until there is a reason to leave; returns it (`layout.EXIT_*`)."""
        reason = int(self._run(self.address))
        self.state.stat_leaves[min(reason, 7)] += 1
        return reason

    def step(self) -> int:
        """Take one interrupt, or execute one instruction, in tier 0; returns the exit reason.

        EXIT_WAIT after a wfi with nothing to wake for, else most often EXIT_ATTENTION.
        """
        self.state.attention = 1
        self.state.limit = 0
        return int(self._step(self.address))

    def now(self) -> int:
        """mtime as this hart reads it."""
        state = self.state
        if state.icount:
            return int(state.time_offset + state.count * state.icount // TICK_NS) & NEVER
        return int(state.time_offset + time.monotonic_ns() // TICK_NS) & NEVER

    def next_timer(self) -> int:
        """The mtime at which the next timer interrupt that could wake the hart comes."""
        state = self.state
        when: int = state.mtimecmp if state.mie & MTIE else NEVER
        if state.menvcfg & STCE and state.mie & STIE:
            when = min(when, state.stimecmp)
        return when

    def sleep(self, limit: float) -> None:
        """Wait in wfi for a line, a timer or a call, `limit` seconds at most."""
        state = self.state
        when = min(self.next_timer(), self.alarm)
        if state.icount and when != NEVER:
            # Counted time stands still while the hart sleeps: go straight to the timer.
            state.time_offset += max(0, when - self.now())
            return
        seconds = limit
        if when != NEVER:
            seconds = min(limit, max(0, when - self.now()) * TICK_NS / 1e9)
        state.waiting = 1
        if seconds > 0 and not state.attention:
            asleep = time.monotonic_ns()
            self.wake.wait(seconds)
            if state.peer_count and time.monotonic_ns() - asleep < SHORT_SLEEP_NS:
                self._note_short_sleep()
        self.wake.clear()
        state.waiting = 0

    def _note_short_sleep(self) -> None:
        """Another hart seems to call this one all the time: have it look before it sleeps.

        The more looks were in vain lately, the more short sleeps it takes: on a host with fewer
        processors than harts the caller waits for this one's, and looking only takes time.
        """
        state = self.state
        if state.polled - self._polled > POLLS_TO_TRUST:
            self._patience = PATIENCE[0]
        self._short_sleeps += 1
        if self._short_sleeps >= self._patience:
            self._short_sleeps = 0
            self._patience = min(2 * self._patience, PATIENCE[1])
            self._polled = int(state.polled)
            state.poll = POLL_NS

    def let_pass(self, nanoseconds: int) -> None:
        """Time for which the machine stood; its host clock's guest shall not see it."""
        state = self.state
        if not state.icount:
            state.time_offset = state.time_offset - nanoseconds // TICK_NS & NEVER
            state.quiet_until = 0
        self.wake.set()

    # --- callbacks from native code --------------------------------------------------------------

    def _host_read(self, address: int, size: int, *_: int) -> int:
        try:
            value = self._memory.mmio_read(address, size)
            self.state.host_status = 0
            return value
        except AccessFault as fault:
            self.state.host_status = 1
            self._owner.guest_error(self, address, fault)
        except BaseException as error:
            self.state.host_status = 1
            self._owner.fail(error)
        return 0

    def _host_write(self, address: int, size: int, value: int, *_: int) -> int:
        try:
            # The store's bytes alone: `value` is the whole register.
            self._memory.mmio_write(address, size, value & (1 << 8 * size) - 1)
            self.state.host_status = 0
        except AccessFault as fault:
            self.state.host_status = 1
            self._owner.guest_error(self, address, fault)
        except BaseException as error:
            self.state.host_status = 1
            self._owner.fail(error)
        return 0

    def _host_fp(self, operation: int, a: int, b: int, c: int, mode: int) -> int:
        try:
            value, flags = float_operation(operation)(a, b, c, mode)
            self.state.fflags |= flags
            return value
        except BaseException as error:
            self._owner.fail(error)
        return 0


_float_operations: list[Callable[[int, int, int, int], tuple[int, int]]] = []


def float_operation(number: int) -> Callable[[int, int, int, int], tuple[int, int]]:
    """What the host's unit lacks, by its number in the engine: softfloat, imported when needed."""
    if not _float_operations:
        from protocol.riscv.language import BUILTINS, FP_BUILTINS
        from protocol.riscv.softfloat import OPERATIONS

        def adapt(name: str) -> Callable[[int, int, int, int], tuple[int, int]]:
            function, count = OPERATIONS[name], BUILTINS[name][0]
            return lambda a, b, c, mode: function(*(a, b, c)[: count - 1], mode)

        _float_operations.extend(adapt(name) for name in sorted(FP_BUILTINS))
    return _float_operations[number]
