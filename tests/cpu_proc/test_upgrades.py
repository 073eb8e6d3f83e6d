"""Regions asked for anew: a guest that changes what it does gets back to speed, by the counters.

Read next: `cpu_proc/upgrades.py`.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpu_proc.machine import Machine
from cpu_proc.options import parse
from cpu_proc.records import Region
from cpu_proc.upgrades import HOT, PERIOD, UNDER_WAY, Upgrades, Wanted
from protocol.layout import FETCH_ENTRY, FETCH_TLB_ENTRIES, PAGE_SIZE
from protocol.messages import Rejected, Translate
from protocol.riscv.assembler import assemble
from protocol.session import Send
from tests.system.runner import until

RAM = 0x8000_0000
MAILBOX = RAM + 0x10_0000
COUNTER = MAILBOX + 8
START = f"""
    li t0, 0x6000               # FS: dirty
    csrs mstatus, t0
    li s0, {MAILBOX:#x}
    j outer
    .align 12
outer:
    sd s1, 8(s0)
    addi s1, s1, 1
    li t6, 3000
    ld t0, 0(s0)
"""
ROUNDED = f"""{START}
    csrw frm, t0
1:  andi t1, t6, 255
    bnez t1, 2f
    fadd.d fa0, fa0, fa1
2:  addi t6, t6, -1
    bnez t6, 1b
    j outer
"""
CHOOSING = f"""{START}
1:  bnez t0, other
    addi s2, s2, 1
2:  addi t6, t6, -1
    bnez t6, 1b
    j outer
other:
    addi s3, s3, 3
    xori s3, s3, 1
    j 2b
"""

Maker = Callable[[str], Machine]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Maker]:
    made: list[Machine] = []

    def make(text: str) -> Machine:
        image = tmp_path / "program.bin"
        image.write_bytes(assemble(text, RAM).data)
        words = ["-m", "4M", "-serial", "null", "-cold", "-threshold", "100", "-bios", str(image)]
        made.append(Machine(parse(words)))
        made[-1].power_on()
        return made[-1]

    yield make
    for one in made:
        one.close()


def counts(machine: Machine) -> dict[str, int]:
    assert machine.translator is not None
    return machine.translator.counts


def goes_on(machine: Machine, rounds: int = 100) -> None:
    """Until the guest has gone round so often."""

    def counter() -> int:
        return int.from_bytes(machine.host.read(COUNTER, 8), "little")

    end = counter() + rounds
    until(lambda: counter() >= end, f"round {end}")


def test_a_region_that_assumes_what_no_longer_holds_is_made_without(running: Maker):
    machine = running(ROUNDED)
    state = machine.harts[0].state
    until(lambda: counts(machine)["published"] > 0, "a region")
    goes_on(machine)
    assert state.stat_assumed == 0
    machine.host.write(MAILBOX, (4).to_bytes(8, "little"))  # RMM, which the host's unit lacks
    until(lambda: counts(machine)["anew_assumed_published"] > 0, "one that assumes nothing")
    assert state.stat_assumed > 0

    def holds() -> bool:
        failed = int(state.stat_assumed)
        goes_on(machine)
        return int(state.stat_assumed) == failed

    until(holds, "no region left at its entry")
    asked = counts(machine)["anew_assumed"]
    for mode in (0, 4):
        machine.host.write(MAILBOX, mode.to_bytes(8, "little"))
        assert holds()
    assert counts(machine)["anew_assumed"] == asked, "it does for every mode"


def test_a_way_that_nobody_took_becomes_part_of_the_region_that_runs(running: Maker):
    machine = running(CHOOSING)
    page = 1
    until(lambda: counts(machine)["anew_hot_published"] == 1, "what proved hot, made anew")
    (first,) = machine.records.regions[page]
    machine.host.write(MAILBOX, (1).to_bytes(8, "little"))

    def ways_out() -> list[int]:
        """How often control went from a region to another one, or to tier 0; by hash."""
        state = machine.harts[0].state
        return [ctypes.c_int64(count).value for count in (*state.heat, *state.crossings)]

    def one_again() -> bool:
        """Whether one region has both ways: control stays in it, but for the hart's own looks."""
        before = ways_out()
        goes_on(machine)  # 300,000 times round the loop
        changed = sum(abs(now - then) for now, then in zip(ways_out(), before, strict=True))
        return machine.records.regions[page][-1].id > first.id and changed < 3000

    until(one_again, "one region for both ways")
    assert counts(machine)["anew_hot"] + counts(machine)["anew_crossed"] >= 2


# --- what is asked for, and how often -----------------------------------------------------------


class Book:
    """`Upgrades` of a hart that runs on some pages, with a region at slot 0 of each."""

    def __init__(self, pages: int) -> None:
        self.regions = {page: [Region(page, 1, ((0, 0x1000),), page + 1)] for page in range(pages)}
        self.generations = Counter[int]()
        records = SimpleNamespace(
            regions=self.regions,
            page_of=lambda descriptor: descriptor,
            generation=lambda page: self.generations[page],
            entry_slots=lambda page: {s for r in self.regions[page] for s, _ in r.entries},
        )
        machine: Any = SimpleNamespace(records=records, harts=())
        self.counts = Counter[str]()
        self.upgrades = Upgrades(machine, self.counts)
        for page in range(pages):
            self.publish(page + 1)
        self.tlb = (ctypes.c_uint64 * (FETCH_TLB_ENTRIES * FETCH_ENTRY.size // 8))()
        self.numbers = 100
        self.answered: set[int] = set()

    def publish(self, number: int) -> None:
        done: Any = SimpleNamespace(id=number, instructions=1)
        self.upgrades.published(done)

    def run(self, page: int, slot: int = 0, samples: int = round(HOT / PERIOD)) -> None:
        """The hart is found there so often: as makes a small region hot."""
        entry = page % FETCH_TLB_ENTRIES * FETCH_ENTRY.size // 8
        self.tlb[entry] = page * PAGE_SIZE
        self.tlb[entry + FETCH_ENTRY.offset("page") // 8] = page
        state = SimpleNamespace(
            pc=page * PAGE_SIZE + 2 * slot, fetch_tlb=ctypes.addressof(self.tlb)
        )
        hart: Any = SimpleNamespace(state=state)
        for _ in range(samples):
            self.upgrades.sample(hart)
            self.upgrades.tick(1)

    def ask(self) -> Wanted | None:
        """What is asked for, if anything is."""
        self.upgrades.settle(lambda number: number not in self.answered)
        wanted = self.upgrades.take(lambda page: False)
        if wanted is not None:
            self.numbers += 1
            stamp = (1, self.numbers, 0, 0, wanted.page, 0, 0)
            self.upgrades.asked(wanted, [Send(Translate(*stamp, wanted.slots, 1, 1))])
        return wanted

    def refuse(self, page: int) -> None:
        """The translator has no answer to the last request."""
        self.answered.add(self.numbers)
        stamp = (1, self.numbers, 0, 0, page, 0, 0)
        self.upgrades.answered(Rejected(*stamp, (0,), "unsupported", ""))


def test_what_is_hot_is_asked_for_once_whatever_the_answer():
    book = Book(1)
    assert book.ask() is None
    book.run(0)
    assert book.ask() == (0, (0,), "hot")
    book.refuse(0)
    book.run(0)
    assert book.ask() is None, "what was refused"
    book.regions[0] = [Region(0, 1, ((0, 0x2000),), 50)]  # of new bytes
    book.publish(50)
    book.run(0)
    assert book.ask() == (0, (0,), "hot")
    assert book.counts == {"anew_hot": 2, "anew_hot_refused": 1}


def test_what_was_made_because_it_was_hot_is_not_asked_for_again():
    book = Book(1)
    book.run(0)
    assert book.ask() is not None
    book.answered.add(book.numbers)
    book.regions[0] = [Region(0, 1, ((0, 0x2000),), book.numbers)]
    book.publish(book.numbers)
    book.run(0)
    assert book.ask() is None
    book.upgrades.failing(0, [0])
    assert book.ask() == (0, (0,), "assumed"), "another reason"
    assert book.upgrades.looks(0)
    book.generations[0] += 1
    assert not book.upgrades.looks(0), "other bytes may do as they should"


def test_few_are_under_way_and_none_of_code_that_is_gone():
    book = Book(UNDER_WAY + 2)
    for page in range(UNDER_WAY + 2):
        book.run(page)
    del book.regions[0][:]
    for page in range(1, UNDER_WAY + 1):
        assert book.ask() == (page, (0,), "hot")
    assert book.ask() is None
    book.answered.add(book.numbers)
    assert book.ask() == (UNDER_WAY + 1, (0,), "hot")


def test_time_is_booked_to_the_region_where_a_hart_is():
    book = Book(1)
    book.regions[0] += [Region(0, 2, ((40, 0x1100),), 60)]
    book.run(0, 41)  # in the line of the second
    assert book.ask() == (0, (40,), "hot")
