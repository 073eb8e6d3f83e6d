"""One hart from outside: reset, lines, calls, sleep, and what its callbacks do to a guest."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import pytest

from cpu_proc.hart import (
    MEIP,
    MSIP,
    MTIE,
    MXCSR_DEFAULT,
    NEVER,
    PATIENCE,
    POLLS_TO_TRUST,
    SEIP,
    STCE,
    STIE,
    Hart,
    Wake,
    float_operation,
)
from cpu_proc.memory_map import MapError
from protocol import layout
from protocol.faults import AccessFault
from protocol.layout import HART
from protocol.riscv.assembler import assemble
from protocol.riscv.language import FP_BUILTINS
from protocol.riscv.softfloat import OPERATIONS
from tests.engine_harness import RAM, EngineMachine, Stopped

DEVICE = 0x2000_0000
DEADLINE = 240.0


class Device:
    """A window that remembers what was done to it, and fails on demand."""

    name = "probe"
    size = layout.PAGE_SIZE

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None

    def read(self, offset: int, size: int) -> int:
        self.log.append(("read", offset, size))
        if self.error:
            raise self.error
        return 0x8182_8384_8586_8788 >> (8 * offset & 63) & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        self.log.append(("write", offset, size, value))
        if self.error:
            raise self.error


class Machine(EngineMachine):
    """A machine with the probe, that notes what its hart reports."""

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.probe = Device()
        super().__init__(1 << 16)
        self.memory.add_device(DEVICE, self.probe)

    def guest_error(self, hart: Hart, address: int, fault: AccessFault) -> None:
        self.faults.append(address)

    def execute(self, text: str, **registers: int) -> None:
        """Run to a wfi; traps end at one as well."""
        self.reset()
        self.faults.clear()
        self.probe.log.clear()
        self.probe.error = None
        self.state.mtvec = RAM + 0x8000
        self.load(RAM + 0x8000, assemble("1: wfi\n j 1b").data)
        self.load(RAM, assemble(f"{text}\n 1: wfi\n j 1b").data)
        for name, value in registers.items():
            self.state.x[int(name[1:])] = value


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


# --- reset ------------------------------------------------------------------------------------


def test_reset_makes_the_state_the_specification_says(machine):
    state = machine.state
    ctypes.memset(machine.hart.address, 0x5A, HART.offset("limit"))
    for name in ("mstatus", "mie", "medeleg", "satp", "frm", "fflags", "mtvec", "stimecmp", "mip"):
        setattr(state, name, 0x5A5A)
    state.priv, state.pmp_active, state.reserved, state.irq = 0, 3, RAM, MSIP
    state.pmpcfg[15] = state.pmpaddr[15] = 7
    state.count = 1234
    machine.hart.reset(0x1000)
    assert (state.pc, state.priv) == (0x1000, 3)
    assert not any(state.x)
    assert not any(state.f)
    assert state.mstatus == 0xA_0000_0000  # SXL and UXL say 64; MIE and MPRV are 0
    for name in ("mie", "mip", "medeleg", "satp", "frm", "fflags", "mtvec", "pmp_active", "irq"):
        assert getattr(state, name) == 0, name
    assert not any(state.pmpcfg)
    assert not any(state.pmpaddr)
    assert (state.stimecmp, state.mtimecmp, state.reserved) == (NEVER, NEVER, NEVER)
    assert state.mxcsr == MXCSR_DEFAULT
    assert state.count == 1234  # instructions since the machine was made


def test_what_the_machine_wired_survives_a_reset(machine):
    names = [
        *("hartid", "features", "host_read", "host_write", "host_fp", "clock_gettime", "scratch"),
        *("far_jump", "execute_one", "tlb_load", "tlb_store", "pool_end", "slot_count", "slice"),
    ]
    before = [getattr(machine.state, name) for name in names]
    machine.hart.reset(0)
    assert [getattr(machine.state, name) for name in names] == before
    assert all(before[1:])


def test_a_flush_leaves_no_tag(machine):
    state = machine.state
    for table in (state.data_tlbs, state.fetch_tlbs):
        table[0] = table[5] = table[len(table) - 4] = RAM
    state.data_filled = 1 | 1 << layout.DATA_SETS - 1
    state.fetch_filled = 1 | 1 << layout.FETCH_SETS - 1
    machine.hart.flush()
    words = layout.TLB_ENTRY_SIZE // 8
    assert all(state.data_tlbs[i] == NEVER for i in range(0, len(state.data_tlbs), words))
    assert all(state.data_tlbs[i + 1] == NEVER for i in range(0, len(state.data_tlbs), words))
    assert all(state.fetch_tlbs[i] == NEVER for i in range(0, len(state.fetch_tlbs), words))
    assert (state.data_filled, state.fetch_filled) == (0, 0)
    assert state.slot_count > 0
    assert list(HART.fields)[-2:] == [
        "data_tlbs",
        "fetch_tlbs",
    ]  # what is made empty ends where they end


# --- the memory map ---------------------------------------------------------------------------


def test_the_map_s_memory_is_copied_and_lookups_are_forgotten(machine):
    state = machine.state
    state.data_tlbs[0] = RAM
    state.data_filled = 1
    rom = machine.map_rom(0x1000)
    assert state.slot_count == 2
    assert state.data_tlbs[0] == NEVER
    slots = [list(state.slots[5 * i : 5 * i + 5]) for i in range(2)]
    host = machine.guest.segment.address
    pages = machine.control.pages_address
    first = (1 << 16) // layout.PAGE_SIZE  # the ROM's backing lies behind the RAM's
    assert slots[0] == [0x1000, 4096, host + (1 << 16), pages + first * layout.PAGE.size, 0]
    assert slots[1] == [RAM, 1 << 16, host, pages, 1]
    assert len(rom) == 4096
    machine.reset()
    assert state.slot_count == 1


def test_more_ranges_than_the_layout_holds_are_refused(machine):
    backing = machine.guest.backings["ram"]
    added = []
    try:
        used = sum(slot.backing is not None for slot in machine.memory.slots)
        for i in range(layout.MAX_SLOTS - used):
            added.append(machine.memory.add_ram(0x4000_0000 + 0x2000 * i, 4096, backing))
        machine.load_map()
        with pytest.raises(MapError, match=r"33 ranges of memory, at most 32 are supported"):
            machine.memory.add_ram(0x5000_0000, 4096, backing)
    finally:
        machine.memory.commit(remove=added)
        machine.load_map()
    with pytest.raises(MapError):
        machine.memory.commit(remove=added)


# --- callers from any thread ------------------------------------------------------------------


def test_a_call_sets_attention_and_brings_the_hart_out(machine):
    machine.execute("1: j 1b")
    hart = machine.hart
    machine.state.stop_count = NEVER
    threading.Timer(0.02, hart.call).start()
    while (reason := hart.run()) == layout.EXIT_HOT:
        machine.state.hot_count = 0
    assert reason == layout.EXIT_ATTENTION
    assert hart.wake.is_set()
    hart.wake.clear()
    machine.state.attention = 0


def test_a_line_that_rises_calls_and_one_that_falls_does_not(machine):
    hart, state = machine.hart, machine.state
    hart.reset(0)
    hart.wake.clear()
    state.limit = 1000
    hart.set_line(MSIP, True)
    assert (state.irq, state.limit, hart.wake.is_set()) == (MSIP, 0, True)
    hart.wake.clear()
    state.limit = 1000
    hart.set_line(MSIP, True)
    hart.set_line(SEIP, False)
    assert (state.irq, state.limit, hart.wake.is_set()) == (MSIP, 1000, False)
    hart.set_line(MEIP, True)
    hart.set_line(MSIP, False)
    assert state.irq == MEIP
    hart.set_line(MEIP, False)
    hart.wake.clear()


def test_a_line_interrupts_a_running_guest(machine):
    machine.execute("1: j 1b")
    state = machine.state
    machine.load(RAM + 0x8000, assemble("csrw mie, zero\n 1: wfi\n j 1b").data)
    state.mie, state.mstatus = MSIP, state.mstatus | 8
    timer = threading.Timer(0.02, machine.hart.set_line, (MSIP, True))
    timer.start()
    assert machine.run(1 << 40) == layout.EXIT_WAIT
    timer.join()
    assert (state.mcause, state.mepc) == (1 << 63 | 3, RAM)
    machine.hart.set_line(MSIP, False)
    machine.hart.wake.clear()


# --- running ----------------------------------------------------------------------------------


def test_reasons_to_leave_are_counted(machine):
    machine.execute("nop\n nop")
    leaves = machine.state.stat_leaves
    before = leaves[layout.EXIT_WAIT]
    assert machine.run(100) == layout.EXIT_WAIT
    assert leaves[layout.EXIT_WAIT] == before + 1
    assert machine.state.count == 3


def test_a_run_stops_at_its_count(machine):
    machine.execute("1: addi a0, a0, 1\n j 1b")
    assert machine.run(10) == layout.EXIT_STOP
    assert (machine.state.count, machine.state.x[10]) == (10, 5)


def test_a_step_is_one_instruction(machine):
    machine.execute("addi a0, a0, 1\n j 1f\n nop\n 1: addi a0, a0, 1")
    seen = []
    for _ in range(3):
        machine.step()
        seen.append((machine.state.pc - RAM, machine.state.count))
    assert seen == [(4, 1), (12, 2), (16, 3)]
    assert machine.step() == layout.EXIT_WAIT


# --- time -------------------------------------------------------------------------------------


def test_counted_time_is_a_function_of_the_count(machine):
    hart, state = machine.hart, machine.state
    state.icount, state.time_offset, state.count = 100, 7, 50
    assert hart.now() == 57
    state.count = 0
    state.time_offset = 0


def test_the_host_s_clock_goes_on_in_ticks_of_100_ns(machine):
    hart, state = machine.hart, machine.state
    saved = int(state.icount)
    state.icount = 0
    try:
        state.time_offset = -(time.monotonic_ns() // 100) & NEVER
        first = hart.now()
        deadline = time.monotonic_ns() + 2_000_000
        while time.monotonic_ns() < deadline:
            pass
        assert 20_000 <= hart.now() - first
    finally:
        state.icount, state.time_offset = saved, 0


def test_the_next_timer_is_one_that_could_wake(machine):
    hart, state = machine.hart, machine.state
    hart.reset(0)
    state.mtimecmp, state.stimecmp = 500, 300
    assert hart.next_timer() == NEVER  # neither is enabled
    state.mie = MTIE | STIE
    assert hart.next_timer() == 500  # stimecmp is there with menvcfg.STCE only
    state.menvcfg = STCE
    assert hart.next_timer() == 300
    state.mie = MTIE
    assert hart.next_timer() == 500


def test_sleep_in_counted_time_goes_straight_to_the_timer(machine):
    hart, state = machine.hart, machine.state
    machine.reset()
    state.mtimecmp, state.mie = 12345, MTIE
    hart.sleep(DEADLINE)
    assert hart.now() == 12345
    hart.sleep(DEADLINE)  # a timer that has come does not send it back
    assert hart.now() == 12345


@pytest.mark.parametrize("how", ["line", "call", "wake before"])
def test_a_sleeping_hart_is_woken(machine, how):
    hart, state = machine.hart, machine.state
    machine.reset()
    hart.wake.clear()
    woken = threading.Event()

    def sleep() -> None:
        hart.sleep(DEADLINE)
        woken.set()

    if how == "wake before":
        hart.call()
    thread = threading.Thread(target=sleep)
    thread.start()
    if how == "line":
        hart.set_line(MEIP, True)
    elif how == "call":
        hart.call()
    assert woken.wait(DEADLINE / 2)
    thread.join(DEADLINE)
    assert state.waiting == 0
    assert not hart.wake.is_set()
    hart.set_line(MEIP, False)
    state.attention = 0


def until(ask) -> None:
    deadline = time.monotonic() + DEADLINE
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_hart_that_looks_before_it_sleeps_need_not_be_woken(machine, monkeypatch):
    machine.execute("csrw mie, t0\n wfi\n csrw mie, zero", x5=MSIP)
    monkeypatch.setattr(machine.state, "icount", 0)
    machine.state.poll = 10**9 * int(DEADLINE)
    before = machine.state.polled

    def others() -> None:
        machine.hart.set_line(MSIP, True)
        until(lambda: machine.state.polled == before + 1)
        machine.hart.call()

    caller = threading.Timer(0.02, others)
    caller.start()
    try:
        assert layout.EXIT_ATTENTION == machine.hart.run()
    finally:
        caller.join()
        machine.hart.set_line(MSIP, False)
        machine.state.poll = 0
    assert before + 2 == machine.state.polled


def test_a_look_in_vain_is_the_last_one_for_a_while(machine, monkeypatch):
    machine.execute("nop")
    monkeypatch.setattr(machine.state, "icount", 0)
    machine.state.poll = 1000
    before = machine.state.polled
    assert layout.EXIT_WAIT == machine.hart.run()
    assert (0, before) == (machine.state.poll, machine.state.polled)


def test_short_sleeps_make_a_hart_look_the_rarer_the_more_were_in_vain(machine):
    hart, state = machine.hart, machine.state

    def sleeps_until_it_looks() -> int:
        state.poll = 0
        for count in range(1, 10000):
            hart._note_short_sleep()
            if state.poll:
                return count
        raise AssertionError("never")

    try:
        waits = [sleeps_until_it_looks() for _ in range(12)]
        assert [PATIENCE[0] << n for n in range(4)] == waits[:4]
        assert PATIENCE[1] == waits[-1]
        state.polled += POLLS_TO_TRUST + 1
        assert PATIENCE[0] == sleeps_until_it_looks()
    finally:
        state.poll = 0


# --- callbacks --------------------------------------------------------------------------------


def test_devices_are_read_and_written_by_address_and_size(machine):
    machine.execute("lbu a1, 3(a0)\n lw a2, 4(a0)\n ld a3, 0(a0)\n sh a3, 6(a0)", x10=DEVICE)
    machine.run(100)
    x = machine.state.x
    assert (x[11], x[12], x[13]) == (0x85, 0xFFFF_FFFF_8182_8384, 0x8182_8384_8586_8788)
    assert machine.probe.log == [
        ("read", 3, 1),
        ("read", 4, 4),
        ("read", 0, 8),
        ("write", 6, 2, 0x8788),
    ]


@pytest.mark.parametrize(
    ("text", "cause"), [("lw a1, 0(a0)", 5), ("sw a1, 0(a0)", 7), ("amoadd.w a1, a1, (a0)", 7)]
)
def test_where_nothing_answers_the_guest_gets_an_access_fault(machine, text, cause):
    machine.execute(text, x10=0x7000_0000)
    machine.run(100)
    assert (machine.state.mcause, machine.state.mtval) == (cause, 0x7000_0000)
    assert machine.state.mepc == RAM
    assert machine.faults in ([0x7000_0000], [])  # atomics ask no device


def test_a_device_s_refusal_is_an_access_fault_of_the_guest(machine):
    machine.execute("li a1, 5\n lw a1, 8(a0)", x10=DEVICE)
    machine.probe.error = AccessFault(8, 4, write=False)
    machine.run(100)
    assert (machine.state.mcause, machine.state.mtval) == (5, DEVICE + 8)
    assert machine.state.x[11] == 5
    assert machine.faults == [DEVICE + 8]


@pytest.mark.parametrize("text", ["lw a1, 0(a0)", "sw a1, 0(a0)"])
@pytest.mark.parametrize("error", [RuntimeError("a bug"), SystemExit(3), MemoryError()])
def test_a_bug_in_a_device_stops_the_machine_and_raises_nothing_into_native_code(
    machine, text, error
):
    machine.execute(text, x10=DEVICE)
    machine.probe.error = error
    with pytest.raises(Stopped) as info:
        machine.run(100)
    assert info.value.__cause__ is error
    machine.state.attention = 0


def test_the_host_s_floating_point_state_is_not_the_guest_s(machine):
    """A guest rounds down; Python, called by its device access, must not."""
    machine.execute(
        """
        li    t0, 0x6000
        csrs  mstatus, t0
        csrwi frm, 2
        fadd.d fa0, fa1, fa2
        ld    a1, 0(a0)
        fadd.d fa3, fa1, fa2
        """,
        x10=DEVICE,
    )
    state = machine.state
    state.f[11], state.f[12] = 0x3FF0 << 48, 0x3C00_0000_0000_0001
    sums: list[float] = []
    read = machine.probe.read

    def reading(offset: int, size: int) -> int:
        sums.append(sum((1.0, 2.0**-52 * 0.75)))
        return int(read(offset, size))

    machine.probe.read = reading
    try:
        machine.run(100)
    finally:
        del machine.probe.read
    assert sums == [1.0 + 2.0**-52]
    assert state.f[10] == state.f[13] == 0x3FF0 << 48
    assert machine.fflags == 1


def test_operations_that_the_host_lacks_have_one_number_each(machine):
    names = sorted(FP_BUILTINS)
    one, tiny = 0x3FF0 << 48, 0x3CA0 << 48
    number = names.index("f64_add")
    assert float_operation(number)(one, tiny, 0, 4) == OPERATIONS["f64_add"](one, tiny, 4)
    number = names.index("f64_to_i32")
    assert float_operation(number)(0x43F0 << 48, 0, 0, 1) == OPERATIONS["f64_to_i32"](
        0x43F0 << 48, 1
    )


def test_round_to_nearest_ties_away_is_computed_by_it(machine):
    machine.execute(
        "li t0, 0x6000\n csrs mstatus, t0\n fadd.d fa0, fa1, fa2, rmm\n fadd.d fa3, fa1, fa2, rne"
    )
    state = machine.state
    state.f[11], state.f[12] = 0x3FF0 << 48, 0x3CA0 << 48  # a tie
    machine.run(100)
    assert state.f[10] == (0x3FF0 << 48) + 1
    assert state.f[13] == 0x3FF0 << 48
    assert machine.fflags == 1


def test_a_wake_is_kept_until_it_is_waited_for_or_taken_back():
    wake = Wake()
    assert not wake.wait(0)
    wake.set()
    wake.set()  # twice is once
    assert wake.is_set()
    assert wake.wait(DEADLINE)
    assert not wake.is_set()
    wake.set()
    wake.clear()
    wake.clear()
    assert not wake.wait(0)
