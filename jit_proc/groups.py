"""Accesses of a block that share one look at the TLB.

The problem: the look at the TLB is the largest cost of a load or store in a region, and code that
saves registers or reads a structure makes many from one base with different offsets. Where all lie
in one page, what the TLB says of the first holds for all.

A group's members are loads, or stores, of one block, at known distances from one another, whatever
registers were used: `addi` and `mv` only move a base. Loads and stores have groups of their own,
for PMP can allow either without the other. A group of stores is no longer than a line, so that it
touches two at most, and the look at what is tracked (`ValueEmitter.store_hit`) is one access's.

Invariants: members stand in one block, so that nothing is settled between them - no call heard, no
tracking begun that waits for this hart - and what the look found still holds. Planning depends on
the selection alone.

Read next: `region_memory.py` (what is made of a plan).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from jit_proc.select import Selection, Site
from protocol.riscv.language import (
    Assign,
    Binary,
    Call,
    Const,
    Function,
    Local,
    Register,
)

REACH = {"load": 256, "store": 64}  # bytes from the first to behind the last


@dataclass(slots=True)
class Group:
    """Members' bytes lie from `low` to `high`, relative to the value of a register."""

    kind: str
    low: int
    high: int
    members: int = 1

    @property
    def span(self) -> int:
        return self.high - self.low


@dataclass(frozen=True, slots=True)
class Member:
    """One access of a group. `place`: its first byte's distance from the group's."""

    group: Group
    place: int
    size: int
    first: bool


@dataclass(frozen=True, slots=True)
class _Access:
    kind: str
    size: int


@functools.cache
def _access(function: Function) -> _Access | None:
    """The one load or store at `X[rs1] + imm` that an instruction makes."""
    calls = [n for n in function.nodes if isinstance(n, Call) and n.name in REACH]
    if len(calls) != 1:
        return None
    address, size = calls[0].args[0], calls[0].args[-1]
    match address, size:
        case Binary("+", Register("X", Local("rs1")), Local("imm")), Const(value):
            return _Access(calls[0].name, int(value))
    return None


def base_of(site: Site) -> int | None:
    """The base register of a site's one load or store, if it is that."""
    if site.decoded is None or _access(site.decoded.instruction.semantics) is None:
        return None
    return site.decoded.operands["rs1"]


def kind_of(site: Site) -> str:
    """Whether a site's instruction is a "load" or "store" by a base register; else empty."""
    access = None if site.decoded is None else _access(site.decoded.instruction.semantics)
    return "" if access is None else access.kind


@functools.cache
def writes_x(function: Function) -> bool:
    """Whether semantics write an integer register."""
    return any(isinstance(n, Assign) and _is_x(n.target) for n in function.nodes)


def _is_x(node: object) -> bool:
    return isinstance(node, Register) and node.file == "X"


class _Bases:
    """Each register's value as a root, which stands for a value not known, and a distance."""

    def __init__(self) -> None:
        self.roots = 0
        self.known: dict[int, tuple[int, int]] = {}

    def of(self, register: int) -> tuple[int, int]:
        if register not in self.known:
            self.roots += 1
            self.known[register] = (self.roots, 0)
        return self.known[register]

    def follow(self, site: Site) -> None:
        """Take in what an instruction writes."""
        assert site.decoded is not None
        function, operands = site.decoded.instruction.semantics, site.decoded.operands
        if not writes_x(function):
            return
        target, source = operands.get("rd", 0), operands.get("rs1", 0)
        moved = None
        if function.name == "addi" and source != 0:
            root, distance = self.of(source)
            moved = (root, distance + operands["imm"])
        elif function.name == "add" and source == 0 and operands["rs2"] != 0:
            moved = self.of(operands["rs2"])
        self.known.pop(target, None)
        if moved is not None:
            self.known[target] = moved


def _blocks(selection: Selection) -> Iterable[list[Site]]:
    """The sites by blocks, as the region is emitted."""
    block: list[Site] = []
    for offset in sorted(selection.sites):
        site = selection.sites[offset]
        if block and (offset in selection.leaders or block[-1].end != offset):
            yield block
            block = []
        if site.decoded is None or not site.liftable:
            if block:
                yield block
            block = []
            continue
        block.append(site)
    if block:
        yield block


def plan(selection: Selection) -> dict[int, Member]:
    """The groups of a region: offset of an access -> its part in one."""
    found: dict[int, tuple[Group, int, int, bool]] = {}
    for block in _blocks(selection):
        bases = _Bases()
        growing: dict[tuple[int, str], Group] = {}
        for site in block:
            assert site.decoded is not None
            access = _access(site.decoded.instruction.semantics)
            base = site.decoded.operands.get("rs1", 0)
            if access is not None and base != 0:
                root, distance = bases.of(base)
                low = distance + site.decoded.operands["imm"]
                high = low + access.size
                group = growing.get((root, access.kind))
                first = group is None or (
                    max(group.high, high) - min(group.low, low) > REACH[access.kind]
                )
                if group is None or first:
                    group = growing[root, access.kind] = Group(access.kind, low, high)
                else:
                    group.low, group.high = min(group.low, low), max(group.high, high)
                    group.members += 1
                found[site.offset] = (group, low, access.size, first)
            bases.follow(site)
    return {
        offset: Member(group, low - group.low, size, first)
        for offset, (group, low, size, first) in found.items()
        if group.members > 1
    }
