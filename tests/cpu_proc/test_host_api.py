"""The host's operations on a real machine: pause, step, registers, memory, reset of one hart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpu_proc.machine import Machine
from cpu_proc.options import parse
from protocol import layout
from protocol.faults import AccessFault
from protocol.riscv.assembler import assemble
from tests.system.runner import until

RAM = 0x8000_0000
COUNTER = RAM + 0x10_0000

LOOP = f"""
    li s0, {COUNTER:#x}
    csrr t0, mhartid
    slli t0, t0, 3
    add s0, s0, t0
1:  call victim
    add s1, s1, a0
    sd s1, 0(s0)
    j 1b
    .align 12
victim:                         # a loop, that gets hot by itself
    li t6, 2
2:  li a0, 1
    addi t6, t6, -1
    bnez t6, 2b
    ret
"""
PROGRAM = assemble(LOOP, RAM)
VICTIM = PROGRAM.symbols["victim"]
PATCHED = VICTIM + 4  # behind `li t6, 2`, which takes four bytes
RET = VICTIM + 16

Maker = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Maker]:
    made: list[Machine] = []

    def make(*words: str, text: str = LOOP) -> Machine:
        image = tmp_path / "program.bin"
        image.write_bytes(assemble(text, RAM).data)
        options = parse(["-m", "4M", "-serial", "null", *words, "-bios", str(image)])
        made.append(Machine(options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def counter(machine: Machine, hart: int = 0) -> int:
    return int.from_bytes(machine.host.read(COUNTER + 8 * hart, 8), "little")


def body(value: int) -> bytes:
    """`li a0, VALUE` in four bytes."""
    return (0x513 | value << 20).to_bytes(4, "little")


def changed(machine: Machine, before: int) -> None:
    until(lambda: counter(machine) != before, "a new count")


def goes_on(machine: Machine, hart: int = 0) -> None:
    before = counter(machine, hart)
    until(lambda: counter(machine, hart) != before, f"hart {hart} going on")


MODES = {"tier 0": ["-translator", "none"], "regions": ["-threshold", "1"]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("harts", [1, 2])
def test_paused_harts_do_nothing_and_go_on_when_resumed(machine: Maker, harts: int, mode: str):
    here = machine("-smp", str(harts), *MODES[mode])
    here.power_on()
    for _ in range(20):
        for hart in range(harts):
            goes_on(here, hart)
        here.host.pause()
        before = (
            [counter(here, hart) for hart in range(harts)],
            [int(h.state.count) for h in here.harts],
        )
        assert here.host.at_safe_point(lambda: 7) == 7
        assert before == (
            [counter(here, hart) for hart in range(harts)],
            [int(h.state.count) for h in here.harts],
        )
        here.host.resume()
    with pytest.raises(RuntimeError, match="no hart is held"):
        here.host.resume()


@pytest.mark.parametrize("mode", MODES)
def test_a_write_of_the_host_s_is_run_by_the_next_call(machine: Maker, mode: str):
    here = machine("-smp", "2", *MODES[mode])
    here.power_on()
    for value in range(2, 30):
        for hart in range(2):
            goes_on(here, hart)
        here.host.write(PATCHED, body(value))
        here.host.pause()
        start = counter(here)
        here.host.set_register(0, "s1", 0)
        here.host.set_register(0, "pc", RAM)
        here.host.resume()
        assert start != 0
        changed(here, start)
        assert counter(here) % value == 0
    assert here.retirement.counts["memory_write"] > 10


def test_a_write_outside_memory_is_refused_and_stores_nothing(machine: Maker):
    here = machine("-translator", "none")
    here.power_on()
    end = RAM + (4 << 20)
    with pytest.raises(AccessFault):
        here.host.write(end - 4, bytes(8))
    with pytest.raises(AccessFault):
        here.host.read(0x1000_0000, 1)
    here.host.write(0x1000, b"\x13\0\0\0")
    assert here.host.read(0x1000, 4) == b"\x13\0\0\0"


def test_steps_and_registers(machine: Maker):
    here = machine("-translator", "none")
    with pytest.raises(KeyError):
        here.host.get_register(0, "q7")
    here.power_on()
    goes_on(here)
    with pytest.raises(RuntimeError, match="pause it first"):
        here.host.step_hart(0)
    here.host.pause()
    here.host.set_register(0, "pc", PATCHED)
    here.host.set_register(0, "ra", RAM)
    here.host.set_register(0, "x0", 5)
    count = here.host.get_register(0, "count")
    assert here.host.step_hart(0) == layout.EXIT_ATTENTION
    assert here.host.get_register(0, "a0") == 1
    assert here.host.get_register(0, "pc") == PATCHED + 4
    here.host.set_register(0, "pc", RET)
    here.host.step_hart(0)
    assert here.host.get_register(0, "pc") == RAM
    assert here.host.get_register(0, "zero") == 0
    assert here.host.get_register(0, "count") == count + 2
    with pytest.raises(KeyError):
        here.host.set_register(0, "satp", 1)
    here.host.resume()
    goes_on(here)


def test_a_step_is_one_instruction_whoever_waits_with_its_hart(machine: Maker):
    # It is done by the thread of any hart; the hart's own wakes up beside it, and waits on.
    here = machine("-translator", "none", "-smp", "4")
    here.power_on()
    until(lambda: all(h.state.count > 1000 for h in here.harts), "harts that run")
    here.host.pause()
    count = here.host.get_register(0, "count")
    for number in range(1, 301):
        here.host.step_hart(0, 20.0)
        assert here.host.get_register(0, "count") == count + number
    here.host.resume()


def test_a_step_whose_store_patches_code_retires_it(machine: Maker):
    here = machine("-threshold", "1")
    here.power_on()
    page = (VICTIM - RAM) // 4096
    until(lambda: page in here.records.regions, "a region")
    here.host.pause()
    old = here.records.region_count
    store = assemble("sw a1, 0(a2)", RAM + 0x2000).data
    here.host.write(RAM + 0x2000, store)
    here.host.set_register(0, "pc", RAM + 0x2000)
    here.host.set_register(0, "a1", int.from_bytes(body(5), "little"))
    here.host.set_register(0, "a2", PATCHED)
    here.host.step_hart(0)
    assert here.retirement.counts["guest_store"] >= 1
    assert here.records.region_count < old
    here.host.set_register(0, "pc", RAM)
    here.host.set_register(0, "s1", 0)
    here.host.write(COUNTER, bytes(8))
    here.host.resume()
    until(lambda: counter(here) > 0, "the loop")
    assert counter(here) % 5 == 0


@pytest.mark.parametrize("mode", MODES)
def test_reset_of_one_hart_leaves_the_other_and_the_epoch(machine: Maker, mode: str):
    here = machine("-smp", "2", *MODES[mode])
    here.power_on()
    for _ in range(5):
        goes_on(here, 0)
        goes_on(here, 1)
        epoch = here.retirement.epoch
        here.host.pause()
        here.host.set_register(1, "s1", 1 << 40)
        here.host.set_register(0, "s1", 1 << 40)
        here.host.resume()
        until(lambda: counter(here, 1) > 1 << 40, "hart 1")
        here.host.reset_hart(1)
        until(lambda: counter(here, 1) < 1 << 40, "hart 1 from its beginning")
        assert here.retirement.epoch == epoch
        goes_on(here, 0)
        assert counter(here, 0) > 1 << 40
        other = assemble(f"li t0, {COUNTER + 64:#x}\n li t1, 9\n sd t1, 0(t0)\n 1: wfi\n j 1b", RAM)
        here.host.write(RAM + 0x3000, other.data)
        here.host.write(COUNTER + 64, bytes(8))
        here.host.reset_hart(1, RAM + 0x3000)
        until(lambda: counter(here, 8) == 9, "hart 1 elsewhere")
        here.host.reset_hart(1)  # out of wfi
        goes_on(here, 1)


def test_reset_of_one_hart_finds_code_patched_meanwhile(machine: Maker):
    here = machine("-smp", "2", "-threshold", "1")
    here.power_on()
    for value in range(2, 12):
        goes_on(here, 1)
        here.host.pause()
        here.host.write(PATCHED, body(value))
        here.host.write(COUNTER + 8, bytes(8))
        here.host.reset_hart(1)
        here.host.resume()
        until(lambda: counter(here, 1), "hart 1")
        assert counter(here, 1) % value == 0


def test_forced_retirement_and_reset(machine: Maker):
    here = machine("-threshold", "1")
    here.power_on()
    for _ in range(5):
        goes_on(here)
        here.host.retire()
    assert here.retirement.epoch == 6
    assert here.retirement.counts["request"] == 5
    with pytest.raises(ValueError, match="no cause"):
        here.host.retire("whim")  # type: ignore[arg-type]
    here.host.request_reset()
    until(lambda: here.resets == 1, "the reset")
    goes_on(here)


def test_work_is_refused_on_a_hart_s_thread_and_errors_come_back(machine: Maker):
    here = machine("-translator", "none")
    here.power_on()
    goes_on(here)
    with pytest.raises(RuntimeError, match="post the work"):
        here.host.at_safe_point(lambda: here.host.retire())
    with pytest.raises(ZeroDivisionError):
        here.host.at_safe_point(lambda: 1 // 0)
    goes_on(here)


def test_a_hart_that_does_not_come_is_told(machine: Maker):
    here = machine("-translator", "none")
    here.power_on()
    goes_on(here)
    here.lock.acquire()
    inside = threading.Event()

    def wait_for_the_lock() -> None:
        inside.set()
        with here.lock:
            pass

    try:
        here.safe_point.post(wait_for_the_lock)
        assert inside.wait(240)
        done: list[int] = []
        with pytest.raises(TimeoutError, match="no safe point"):
            here.host.at_safe_point(lambda: done.append(1), seconds=0.05)
        with pytest.raises(TimeoutError, match="did not stop"):
            here.host.pause(seconds=0.05)
    finally:
        here.lock.release()
    goes_on(here)
    assert here.host.at_safe_point(lambda: len(done)) == 0


def test_before_power_on_and_after_the_end(machine: Maker):
    here = machine("-translator", "none")
    here.host.write(COUNTER, b"12345678")
    assert here.host.at_safe_point(lambda: here.host.read(COUNTER, 4)) == b"1234"
    here.power_on()
    goes_on(here)
    here.host.pause()
    here.end(0)  # a paused machine can end
    assert here.wait() == 0
    assert here.host.at_safe_point(lambda: 3) == 3
    assert here.host.get_register(0, "pc") >= 0x1000
