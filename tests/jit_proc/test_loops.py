"""Loops: what is found is what can be reached again; where control may enter a region's loops.

Read next: `jit_proc/loops.py`.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from jit_proc import loops
from jit_proc.select import select
from tests.jit_proc import region_machine
from tests.jit_proc.region_machine import CODE

NODES = 9
GRAPHS = st.lists(
    st.lists(st.integers(0, NODES - 1), max_size=3, unique=True), min_size=NODES, max_size=NODES
).map(lambda ahead: dict(enumerate(ahead)))


def reached(graph: dict[int, list[int]], start: int, without: frozenset[int]) -> set[int]:
    """What one or more steps from a block lead to, some blocks left out."""
    found: set[int] = set()
    todo = [start]
    while todo:
        for target in graph[todo.pop()]:
            if target not in found and target not in without:
                found.add(target)
                todo.append(target)
    return found


@settings(max_examples=300, deadline=None)
@given(GRAPHS)
def test_loops_are_what_leads_to_itself(graph: dict[int, list[int]]) -> None:
    found = loops.find(graph)
    again = {node for node in graph if node in reached(graph, node, frozenset())}
    assert found.heads | found.members.keys() == again
    assert not found.heads & found.members.keys()
    # Without heads nothing is a cycle: each loop has one, those within loops too.
    for node in found.members:
        assert node not in reached(graph, node, frozenset(found.heads))
    for node, loop in found.members.items():
        assert node in loop
        assert all(node in reached(graph, other, frozenset()) for other in loop)


@settings(max_examples=100, deadline=None)
@given(GRAPHS, st.permutations(range(NODES)))
def test_the_order_of_blocks_does_not_matter(graph: dict[int, list[int]], order: list[int]) -> None:
    assert loops.find({node: graph[node] for node in order}) == loops.find(graph)


def entries(source: str, *asked: str, level: int = 0) -> list[str]:
    """Entries of the region for these labels, by the labels that stand there."""
    program = region_machine.guest(source)
    slots = tuple(sorted((program.symbols[name] - CODE) // 2 for name in asked))
    content = program.data.ljust(4096, bytes(1))
    names = {address - CODE: name for name, address in program.symbols.items()}
    return [names[offset] for offset in select(content, slots, level).entries]


DIAMOND = """
        li    a0, 9
head:   andi  a1, a0, 1
        beqz  a1, skip
        addi  a2, a2, 1
skip:   addi  a0, a0, -1
        bnez  a0, head
        j     STOP
"""


def test_a_loop_is_entered_at_its_head() -> None:
    assert entries(DIAMOND, "head", "skip") == ["head"]
    assert entries(DIAMOND, "skip") == ["head"]
    assert entries(DIAMOND, "head", "skip", level=1) == ["head"]


def test_a_loop_turned_round_is_entered_at_its_test() -> None:
    source = """
start:  li    a0, 9
        j     test
body:   addi  a2, a2, 1
        addi  a0, a0, -1
test:   bgtz  a0, body
        j     STOP
"""
    assert entries(source, "start", "body", "test") == ["start", "test"]


def test_what_comes_back_from_tier_0_may_enter_anywhere() -> None:
    source = """
head:   addi  a0, a0, -1
        ecall
back:   addi  a2, a2, 1
        bnez  a0, head
        j     STOP
"""
    assert entries(source, "head") == ["head", "back"]


def test_an_indirect_jump_stays_in_its_loop() -> None:
    source = """
head:   lbu   a1, 0(a0)
        addi  a0, a0, 1
        jr    a3
one:    addi  a2, a2, 1
        j     head
two:    addi  a2, a2, 2
        j     head
"""
    program = region_machine.guest(source)
    slots = tuple(sorted((program.symbols[n] - CODE) // 2 for n in ("head", "one", "two")))
    found = select(program.data.ljust(4096, bytes(1)), slots)
    assert found.hot == [2 * slot for slot in slots]
