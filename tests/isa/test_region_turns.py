"""Calls, returns and computed jumps that stay in a region, or only seem to.

Random call graphs run in regions and by the reference. Their functions return where they were
called from, an instruction further, with bit 0 set, or by another register; computed jumps go to
what was asked for and to what was not, into the middle of an instruction, and into another page.
"""

from __future__ import annotations

import random

import pytest

from jit_proc import lift
from jit_proc.job import Job
from protocol import layout
from protocol.layout import PAGE_SIZE
from protocol.riscv.assembler import assemble
from tests import native_code
from tests.isa.batch import (
    JUMP,
    RAM,
    RAM_MIB,
    SCRATCH_SIZE,
    Batch,
    Sequence,
    differences,
    run_reference,
)
from tests.isa.test_batched_regions import DONE, machine

FUNCTIONS = 5


class CallGraph:
    """A program of functions that call later ones, `text`, and what of it is asked for, `marks`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.marks = ["f0"]
        self.labels = 0
        rounds = self.random.randrange(2, 6)
        self.lines += [f"  li s0, {rounds}", "again:", "  jal ra, f0", "  addi a0, a0, 1"]
        self.lines += ["  addi s0, s0, -1", "  bnez s0, again", "  ecall"]
        for number in range(FUNCTIONS):
            self.function(number)
        self.text = "\n".join(self.lines)

    def work(self) -> None:
        for _ in range(self.random.randrange(4)):
            op = self.random.choice(("add", "xor", "sub", "mul", "sltu"))
            a, b, c = (self.random.randrange(6) for _ in range(3))
            self.lines.append(f"  {op} a{a}, a{b}, a{c}")

    def function(self, number: int) -> None:
        self.lines.append(f"f{number}:")
        if self.random.random() < 0.5:
            self.marks.append(f"f{number}")
        link = self.random.choice(("ra", "ra", "t0")) if number else "ra"
        self.work()
        self.lines.append(f"  mv s{2 + number}, ra")
        for callee in range(number + 1, FUNCTIONS):
            if self.random.random() < 0.5:
                self.call(callee)
        if self.random.random() < 0.6:
            self.choose()
        self.lines.append(f"  mv ra, s{2 + number}")
        self.leave(link)

    def call(self, callee: int) -> None:
        if self.random.random() < 0.6:
            self.lines.append(f"  jal ra, f{callee}")
        else:
            self.lines += [f"  la t1, f{callee}", "  jalr ra, 0(t1)"]
        self.lines += ["  addi a1, a1, 3", "  xor a2, a2, a1"]

    def choose(self) -> None:
        """A jump to one of three places, one of them in the middle of an instruction."""
        name = f"c{self.labels}"
        self.labels += 1
        self.work()
        self.lines += ["  andi t1, a0, 1", "  slli t1, t1, 3", f"  la t2, {name}"]
        self.lines += ["  add t2, t2, t1"]
        if self.random.random() < 0.3:
            self.lines.append("  addi t2, t2, 2")  # there stands the upper half: c.addi a1, 1
        self.lines += ["  jr t2", f"{name}:"]
        self.lines += ["  lui a3, 0x05850", "  addi a1, a1, 5"] * 2
        if self.random.random() < 0.5:
            self.marks.append(name)

    def leave(self, link: str) -> None:
        kind = self.random.random()
        if kind < 0.2:
            self.lines.append("  addi ra, ra, 4")
        elif kind < 0.3:
            self.lines.append("  addi ra, ra, 1")
        if link == "t0":
            self.lines += ["  mv t0, ra", "  jr t0"]
        elif self.random.random() < 0.2:
            self.lines += ["  mv t3, ra", "  jr t3"]
        else:
            self.lines.append("  ret")


def run_in_regions(batch: Batch, marks: list[list[int]]) -> tuple[list[bytes], int]:
    """The results, with one region for each program and page, and how many regions there were."""
    one = machine()
    one.reset()
    one.load(RAM, batch.image)
    one.run(1 << 40)  # pages of code have records from now on
    one.load(RAM, batch.image + bytes((RAM_MIB << 20) - len(batch.image)))
    one.hart.reset(RAM)
    one.finisher.value = None
    regions = 0
    for entry, offsets in zip(batch.entries, marks, strict=True):
        pages: dict[int, set[int]] = {}
        for place in (entry, *(entry + len(JUMP) + offset for offset in offsets)):
            pages.setdefault((place - RAM) // PAGE_SIZE, set()).add(place % PAGE_SIZE // 2)
        for page, slots in pages.items():
            content = bytes(one.guest.page_bytes(page))
            made = lift.translate(Job(page, content, tuple(sorted(slots)), 0))
            image = native_code.build(made.ir, made.passes, made.level)
            entries = [(slot, image.base + image.symbols[n]) for slot, n in made.entries.items()]
            lines_at = (page * layout.PAGE.size + layout.PAGE.offset("lines")) // 8
            one.control.pages[lines_at] |= made.lines
            assert one.records.publish(page, made.lines, entries) is not None
            regions += 1
    one.hart.flush()
    one.run(1 << 40)
    assert one.finisher.value == DONE
    return batch.results(bytes(one.ram)), regions


@pytest.mark.parametrize("seed", range(4))
def test_control_goes_where_the_reference_goes(seed: int) -> None:
    graphs = [CallGraph(1000 * seed + number) for number in range(40)]
    programs = [assemble(graph.text, 0) for graph in graphs]
    marks = [
        [program.symbols[mark] for mark in graph.marks]
        for graph, program in zip(graphs, programs, strict=True)
    ]
    pick = random.Random(seed)
    batch = Batch(
        [
            Sequence(
                program.data,
                tuple(pick.getrandbits(64) for _ in range(31)),
                (0,) * 32,
                0,
                bytes(SCRATCH_SIZE),
                {},
            )
            for program in programs
        ],
        counted=False,
    )
    found, regions = run_in_regions(batch, marks)

    wrong = differences(batch, run_reference(batch), found)
    assert regions >= len(graphs)
    if wrong:
        pytest.fail(f"{len(wrong)} programs differ\n{wrong[0]}", pytrace=False)
