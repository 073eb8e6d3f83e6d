"""What control comes to is found hot, by whatever way it comes there in tier 0.

A loop that leaves its page each round: by a jump that finds nothing in the fetch TLB, by running
over the page's end, by an instruction that stands over it. The ring of hot records is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jit_proc import lift
from jit_proc.job import Job
from jit_proc.ways_out import CROSSINGS
from protocol import layout
from protocol.layout import FETCH_TLB_ENTRIES, HEAT_COUNTERS, PAGE_SIZE
from protocol.riscv.assembler import assemble
from tests import native_code
from tests.engine_harness import RAM, EngineMachine, shared_machine

ROUNDS = 200
THRESHOLD = 16
ALIKE = FETCH_TLB_ENTRIES * PAGE_SIZE  # pages so far apart share an entry of the fetch TLB
END = RAM + PAGE_SIZE


@pytest.fixture
def machine() -> Iterator[EngineMachine]:
    """A hart that finds code hot soon."""
    machine = shared_machine()
    machine.reset(RAM)
    machine.state.threshold = THRESHOLD
    for number in range(HEAT_COUNTERS):
        machine.state.heat[number] = 0
        machine.state.crossings[number] = 0
    yield machine
    machine.state.threshold = 65535
    machine.state.hot_count = 0
    machine.state.hot_least = 0


def hot(machine: EngineMachine, parts: dict[int, str]) -> set[int]:
    """Addresses found hot while the program in RAM runs some rounds; `parts`: text by address."""
    for address, text in parts.items():
        machine.load(address, assemble(text, address).data)
    state = machine.state
    state.stop_count = 10 * ROUNDS
    state.limit = 0
    found = set()
    reason = layout.EXIT_HOT
    while reason == layout.EXIT_HOT:
        reason = machine.hart.run()
        for number in range(state.hot_count):
            record, descriptor = state.hot[2 * number], state.hot[2 * number + 1]
            page = machine.records.page_of(descriptor)
            assert page is not None
            found.add(RAM + page * PAGE_SIZE + 2 * machine.records.slot_of(record))
        state.hot_count = 0
    assert reason == layout.EXIT_STOP
    return found


@pytest.mark.parametrize(
    ("least", "reason"), [(0, layout.EXIT_HOT), (2, layout.EXIT_HOT), (3, layout.EXIT_STOP)]
)
def test_few_hot_records_wait_for_more(machine: EngineMachine, least: int, reason: int) -> None:
    """A slice's end is no reason to leave, but for as many as `hot_least`; what is hot is kept."""
    text = "li a1, 40\n1: addi a1, a1, -1\n bnez a1, 1b\n 2: j 2b"
    machine.load(RAM, assemble(text, RAM).data)
    state = machine.state
    state.stop_count, state.limit, state.hot_least = 10_000_000, 0, least
    assert machine.hart.run() == reason
    assert state.hot_count == 2


def test_pages_that_jump_to_each_other_by_misses(machine: EngineMachine) -> None:
    there = RAM + ALIKE
    parts = {
        RAM: f"li t0, {there}\n jr t0",
        there: f"li t0, {RAM + 0x100}\n jr t0",
        RAM + 0x100: f"li t0, {there}\n jr t0",
    }
    assert hot(machine, parts) >= {there, RAM + 0x100}


def test_code_that_is_run_into_from_the_page_before(machine: EngineMachine) -> None:
    parts = {
        RAM: "j . + 0xff8",
        END - 8: "addi a0, a0, 1\n addi a0, a0, 1",
        END: "addi a0, a0, 1\n j . - 12",
    }
    assert END in hot(machine, parts)


def test_code_behind_an_instruction_over_the_edge(machine: EngineMachine) -> None:
    parts = {
        RAM: "j . + 0xff8",
        END - 8: "addi a0, a0, 1\n c.nop\n addi a0, a0, 1\n addi a0, a0, 1\n j . - 14",
    }
    assert END + 2 in hot(machine, parts)


def test_ways_between_regions_of_a_page_count_far_more_slowly(machine: EngineMachine) -> None:
    """A region that leaves to another one of its page, entered by the record."""
    rounds = 3 * THRESHOLD << CROSSINGS
    program = assemble(
        f"li a0, {rounds}\nj one\none: addi a0, a0, -1\nbnez a0, two\nwfi\ntwo: j one", RAM
    )
    machine.load(RAM, program.data)
    state = machine.state
    one, two = ((program.symbols[name] - RAM) // 2 for name in ("one", "two"))
    state.stop_count = 4 * rounds
    state.limit = 0
    found: list[int] = []
    images = []
    while True:
        if machine.hart.run() != layout.EXIT_HOT:
            break
        slots = [machine.records.slot_of(state.hot[2 * i]) for i in range(state.hot_count)]
        state.hot_count = 0
        page = machine.records.page_of(state.hot[1])
        assert page is not None
        for slot in slots:
            if slot in machine.records.entry_slots(page):
                found.append(slot)
                continue
            job = Job(page, bytes(machine.guest.page_bytes(page)), (slot,), 0, known=(one, two))
            made = lift.translate(job)
            images.append(native_code.build(made.ir, made.passes, made.level, made.isel))
            entries = [
                (s, images[-1].base + images[-1].symbols[n]) for s, n in made.entries.items()
            ]
            assert machine.records.publish(page, made.lines, entries) is not None
    assert machine.records.region_count == 2
    assert set(found) == {one, two}
