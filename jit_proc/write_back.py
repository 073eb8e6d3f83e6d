"""When a region stores guest registers to the hart: not before someone can look.

The problem: a register that is written has to be in the hart's memory wherever control may leave
the region. Stored at each write, a straight line of arithmetic is half stores, and no two
instructions become one (a rotation is three), for each result is wanted by itself. Stored only
where control leaves, each access, which can fault, carries the stores of all registers, in code and
in registers kept alive for it.

So a write waits (is *owed*) where its register is soon written again: in the same block, or where
the block leads in its loop, with few ways out between (`MOST_WAYS_OUT`). Those pay what is owed, on
their cold side. Any other write is stored at once.

Invariants:

- Planning decides what waits; that it is paid, `lift.py` sees to as it emits: each way out pays all
  that is owed there, each way to another block all that the block does not take over (`inherits`).
  So a plan can be bad, but not wrong.
- An owed register may be paid twice: what a region holds of it is always its value.
- Instructions that do more than compute (floating point too), load, store and branch are preceded
  by payment of all.

Read next: `lift.py` (`pay`), `groups.py` (another plan for blocks).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from jit_proc.groups import Member
from jit_proc.select import Selection, Site
from protocol.riscv.language import FP_BUILTINS, PURE_BUILTINS, Assign, Function, Local, Register

MOST_WAYS_OUT = 2
_ROUNDS = 3  # how many blocks ahead planning looks
_WAYS_OUT = frozenset({"load", "store"})
_SIMPLE = PURE_BUILTINS | FP_BUILTINS | _WAYS_OUT | {"branch"}
# What floating point calls: of the hart's memory it sees other words than integer registers.
_FLOAT = frozenset({"check_fp", "requires_fp", "dirty_fp", "rounding", "box", "unbox"})


@dataclass(frozen=True)
class _Effect:
    """What matters of an instruction's semantics."""

    simple: bool
    writes: bool  # X[rd]
    ways_out: int


@functools.cache
def _effect(function: Function) -> _Effect:
    assigned = [n for n in function.nodes if isinstance(n, Assign)]
    targets = [n.target for n in assigned if not isinstance(n.target, Local)]
    always = [n for n in function.body if isinstance(n, Assign)]
    plain = all(
        isinstance(t, Register)
        and (t.file != "X" or t.index == Local("rd", "word"))
        and any(n.target is t for n in always)
        for t in targets
    )
    called = {callee.name for callee in function.callees}
    return _Effect(
        simple=plain and called <= _FLOAT and function.builtins <= _SIMPLE,
        writes=any(isinstance(t, Register) and t.file == "X" for t in targets),
        ways_out=len(function.builtins & _WAYS_OUT),
    )


def is_simple(site: Site) -> bool:
    """Whether an instruction reads the hart's memory in no other way than a region does."""
    return (
        site.decoded is not None
        and site.liftable
        and _effect(site.decoded.instruction.semantics).simple
    )


@dataclass
class Plan:
    """`waits`: sites whose write is not stored at once. `inherits`: what blocks take over.

    `longest`: the most instructions of a block that only compute.
    """

    waits: Collection[int] = ()
    inherits: Mapping[int, Collection[str]] = field(default_factory=dict)
    longest: int = 0


class _Block:
    """A block's writes, as planning needs them."""

    def __init__(self, sites: list[Site], groups: Mapping[int, Member]) -> None:
        self.start = sites[0].offset
        self.ways_out = 0
        self.first: dict[str, int] = {}  # register -> ways out before it is first written
        self.last: dict[str, tuple[int, int]] = {}  # -> site and ways out up to its last write
        self.computing = 0
        self.waits: list[int] = []
        self.last_site = sites[-1]
        self.opaque = False
        for site in sites:
            self._add(site, groups.get(site.offset))

    def _add(self, site: Site, member: Member | None) -> None:
        if not is_simple(site):
            self.last.clear()
            self.opaque = True
            return
        assert site.decoded is not None
        effect = _effect(site.decoded.instruction.semantics)
        # Of a group, the first member alone may lead out; the copy that it leads to matters little.
        self.ways_out += effect.ways_out if member is None or member.first else 0
        self.computing += effect.writes and not effect.ways_out
        target = site.decoded.operands.get("rd", 0) if effect.writes else 0
        if not target:
            return
        name = f"x{target}"
        if name in self.last:
            before, ways_out = self.last[name]
            if self.ways_out - ways_out <= MOST_WAYS_OUT:
                self.waits.append(before)
        elif not self.opaque:
            self.first.setdefault(name, self.ways_out)
        self.last[name] = (site.offset, self.ways_out)

    def next_blocks(self, blocks: Mapping[int, _Block]) -> list[int]:
        """Where it leads in the region."""
        site = self.last_site
        found = [] if site.ends_block or not site.liftable else [site.end]
        if site.target is not None:
            found.append(site.target)
        return [offset for offset in found if offset in blocks]


def _split(selection: Selection, groups: Mapping[int, Member]) -> dict[int, _Block]:
    blocks: dict[int, _Block] = {}
    sites: list[Site] = []
    for offset in sorted(selection.sites):
        if sites and (offset in selection.leaders or sites[-1].end != offset):
            blocks[sites[0].offset] = _Block(sites, groups)
            sites = []
        sites.append(selection.sites[offset])
    if sites:
        blocks[sites[0].offset] = _Block(sites, groups)
    return blocks


def _ahead(blocks: dict[int, _Block]) -> dict[int, list[int]]:
    """Where each block leads, ways out of its innermost loop left out."""
    ahead = {start: block.next_blocks(blocks) for start, block in blocks.items()}
    loops = sorted(
        ((target, start) for start, found in ahead.items() for target in found if target <= start),
        key=lambda loop: loop[1] - loop[0],
    )
    for start, found in ahead.items():
        inner = next((loop for loop in loops if loop[0] <= start <= loop[1]), None)
        if inner is not None:
            ahead[start] = [t for t in found if inner[0] <= t <= inner[1]]
    return ahead


def plan(selection: Selection, groups: Mapping[int, Member]) -> Plan:
    """What waits in a region."""
    blocks = _split(selection, groups)
    ahead = _ahead(blocks)
    soon = {start: dict(block.first) for start, block in blocks.items()}

    def behind(start: int) -> dict[str, int]:
        """Registers written soon behind a block, whichever way control takes."""
        found = [soon[target] for target in ahead[start]]
        if not found:
            return {}
        first, *others = found
        return {
            name: max(cost, *(other[name] for other in others)) if others else cost
            for name, cost in first.items()
            if all(name in other for other in others)
        }

    for _ in range(_ROUNDS):
        for start in sorted(blocks, reverse=True):
            block = blocks[start]
            if block.opaque:
                continue
            for name, cost in behind(start).items():
                if name not in block.first and cost + block.ways_out <= MOST_WAYS_OUT:
                    soon[start].setdefault(name, cost + block.ways_out)
    waits: set[int] = set()
    for start, block in blocks.items():
        waits.update(block.waits)
        after = behind(start)
        for name, (offset, ways_out) in block.last.items():
            if after.get(name, MOST_WAYS_OUT + 1) + block.ways_out - ways_out <= MOST_WAYS_OUT:
                waits.add(offset)
    inherits = {
        start: {name for name, cost in found.items() if cost <= MOST_WAYS_OUT}
        for start, found in soon.items()
    }
    return Plan(waits, inherits, max(block.computing for block in blocks.values()))
