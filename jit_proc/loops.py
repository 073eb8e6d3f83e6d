"""Loops of a selection, and where control may enter them.

The problem: tier 0 finds each block of a hot loop hot, and asks for each. Entered in its middle, a
loop has no head: LLVM takes it for no loop at all, keeps in memory what the loop wants in
registers, and each place of entry is a join of all registers. So a loop is entered at its head
alone. Who comes elsewhere, seldom, goes on in tier 0 until he meets the head.

The head is where control comes from outside of the loop. Of a loop that the compiler turned round,
which is entered at its test, that is not the target of the branch back.

Invariant: what is found depends on the graph alone, not on the order of its blocks.

Read next: `select.py`, which asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Graph = Mapping[int, Sequence[int]]
"""Blocks by their offsets, and where each leads: to others of the graph."""


@dataclass
class Loops:
    """`heads`: of all loops, those within loops too. `members`: every other block of a loop, and
    the blocks of the innermost one that it lies in.
    """

    heads: set[int] = field(default_factory=set)
    members: dict[int, frozenset[int]] = field(default_factory=dict)


def find(graph: Graph, entered: Collection[int] = ()) -> Loops:
    """The loops of a graph. `entered`: blocks to which control comes from elsewhere.

    A loop that nothing in the graph leads to has the lowest target of its branches back for head.
    """
    into: dict[int, list[int]] = {node: [] for node in graph}
    for node, ahead in graph.items():
        for target in ahead:
            into[target].append(node)
    found = Loops()
    for component in _components(graph):
        heads = {n for n in component if n in entered or not component.issuperset(into[n])}
        if not heads:
            heads = {min(n for n in component if max(into[n]) >= n)}
        rest = {
            n: [t for t in graph[n] if t in component and t not in heads]
            for n in sorted(component - heads)
        }
        inner = find(rest, {t for head in heads for t in graph[head] if t in rest})
        found.heads |= heads | inner.heads
        found.members |= dict.fromkeys(rest.keys() - inner.heads, component) | inner.members
    return found


def _components(graph: Graph) -> Iterator[frozenset[int]]:
    """The strongly connected components that are cycles (Tarjan, SIAM J. Computing 1, 1972)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    open_: set[int] = set()
    for root in graph:
        work = [] if root in index else [(root, iter(graph[root]))]
        while work:
            node, ahead = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                open_.add(node)
            deeper = None
            for target in ahead:
                if target not in index:
                    deeper = target
                    break
                if target in open_:
                    low[node] = min(low[node], index[target])
            if deeper is not None:
                work.append((deeper, iter(graph[deeper])))
                continue
            work.pop()
            if work:
                outer = work[-1][0]
                low[outer] = min(low[outer], low[node])
            if low[node] == index[node]:
                at = stack.index(node)
                component = frozenset(stack[at:])
                del stack[at:]
                open_ -= component
                if len(component) > 1 or node in graph[node]:
                    yield component
