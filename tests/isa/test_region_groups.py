"""Accesses that share a look at the TLB fault, cross pages and meet code like any others.

Random blocks of loads and stores from a few bases run in a region, in tier 0 and by the reference.
The bases lie at the ends of pages and of RAM, where nothing is, and beside the very code that runs,
so that any member of a group may be the one that goes wrong, with others done before it.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from jit_proc import groups
from jit_proc.select import select
from protocol.layout import PAGE_SIZE, STATE_FLAT
from tests.engine_harness import RAM
from tests.jit_proc import region_machine
from tests.jit_proc.region_machine import CODE, DATA, MANY, RAM_SIZE, Start, differences

LOADS = ("ld", "lw", "lwu", "lh", "lhu", "lb", "lbu")
STORES = ("sd", "sw", "sh", "sb")
STARTS = 150


def block(source: random.Random) -> str:
    """Some accesses by s0 to s3 in a row, their bases moved now and then."""
    lines = []
    for _ in range(source.randrange(8, 28)):
        base, other = (f"s{source.randrange(4)}" for _ in range(2))
        value = f"a{source.randrange(6)}"
        place = source.randrange(-6, 16) * 8 if source.random() < 0.8 else source.randrange(-40, 99)
        kind = source.random()
        if kind < 0.4:
            lines.append(f"  {source.choice(LOADS)} {value}, {place}({base})")
        elif kind < 0.75:
            lines.append(f"  {source.choice(STORES)} {value}, {place}({base})")
        elif kind < 0.85:
            lines.append(f"  {source.choice(('fld', 'fsd', 'flw', 'fsw'))} f1, {place}({base})")
        elif kind < 0.92:
            lines.append(f"  addi {base}, {other}, {source.randrange(-5, 6) * 8}")
        elif kind < 0.95:
            lines.append(f"  mv {base}, {other}")
        else:
            lines.append(f"  add {value}, {value}, a0")
    return "\n".join([*lines, "  li t0, STOP", "  jr t0"])


def bases(source: random.Random, end: int) -> dict[int, int]:
    """Values for s0 to s3: near an edge, mostly."""
    edges = (
        *(DATA + PAGE_SIZE, DATA + 3 * PAGE_SIZE, DATA + 0x800, DATA + 5 * PAGE_SIZE),
        *(RAM + RAM_SIZE, RAM, CODE + end + 72, CODE + PAGE_SIZE, region_machine.SYMBOLS["HOLE"]),
    )
    weights = (6, 6, 6, 6, 2, 1, 6, 3, 1)
    chosen = {}
    for register in (8, 9, 18, 19):
        edge = source.choices(edges, weights)[0]
        distance = source.randrange(-12, 12) * 8 if source.random() < 0.8 else source.randrange(64)
        # Below the end of the code stands code: what is stored there would be executed.
        chosen[register] = edge + (abs(distance) if edge == CODE + end + 72 else distance)
    return chosen


@pytest.mark.parametrize("seed", range(16))
def test_any_member_of_a_group_may_fault(seed: int) -> None:
    """All registers, memory, pc and count are the reference's, wherever the block ends."""
    source = random.Random(seed)
    program = region_machine.guest(block(source))
    start = Start(program, CODE, memory={DATA: source.randbytes(6 * PAGE_SIZE)})
    translation = region_machine.lift(start, [CODE], STATE_FLAT * (seed % 2))
    image = region_machine.compile_region(translation)
    ends = set()
    for number in range(STARTS):
        x = {10 + i: source.getrandbits(64) for i in range(6)}
        x |= bases(source, (len(program.data) + 63) & -64)
        case = replace(start, x=x, f={1: source.getrandbits(64)})
        expected = region_machine.run_reference(case)
        if number % 50 == 0:  # makes the page's records, too
            assert differences(expected, region_machine.run_tier_0(case)) == [], number
        found = region_machine.run_region(case, translation, image, MANY)
        assert differences(expected, found) == [], number
        ends.add((expected.mcause, expected.mepc))
    assert len(ends) > 3


def test_groups_are_what_lies_together() -> None:
    """Moved bases are followed; a base that is loaded anew, and far places, begin a group."""
    text = """
        addi sp, sp, -32
        sd ra, 24(sp)
        sd s0, 16(sp)
        addi s0, sp, 32
        sd a0, -24(s0)
        ld a1, 8(sp)
        ld a2, -32(s0)
        ld sp, 0(a2)
        ld a3, 8(sp)
        ld a4, 300(sp)
        sd a4, 0(sp)
        wfi
    """
    data = region_machine.guest(text).data
    selection = select(data + bytes(PAGE_SIZE - len(data)), (0,))
    sites = sorted(selection.sites)
    found = groups.plan(selection)
    parts = {sites.index(offset): member for offset, member in found.items()}
    assert sorted(parts) == [1, 2, 4, 5, 6]
    assert {id(parts[i].group) for i in (1, 2, 4)} == {id(parts[1].group)}
    assert [(parts[i].place, parts[i].first) for i in (1, 2, 4)] == [
        (16, True),
        (8, False),
        (0, False),
    ]
    assert (parts[1].group.kind, parts[1].group.span) == ("store", 24)
    assert [(parts[i].place, parts[i].first) for i in (5, 6)] == [(8, True), (0, False)]
    assert (parts[5].group.kind, parts[5].group.span) == ("load", 16)
