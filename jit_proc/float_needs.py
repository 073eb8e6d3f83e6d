"""In which form each block of a region wants the floating-point registers it reads.

The problem: a region keeps a register's double (its 64 bits) or its single (what its NaN box
holds) as an SSA value. Which of the two is worth carrying into a block depends on what is read
there first, in it or behind it; a register that is written before it is read is worth nothing.

This is liveness, once for each form, over the selection's blocks. It decides about speed only:
`float_regions.py` fetches from the hart's memory whatever form it finds missing.

Read next: `float_regions.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from jit_proc.select import Selection, Site
from protocol.riscv.language import Assign, Call, Function, Local, Register, walk

DOUBLE, SINGLE = "f64", "f32"

Needs = Mapping[str, frozenset[str]]  # register's number -> forms
NOTHING: Needs = {}


@functools.cache
def reads(function: Function) -> tuple[tuple[str, str], ...]:
    """(parameter that names a floating-point register, form in which it is read)."""
    boxed = {id(n.args[0]) for n in function.nodes if _is_unbox(n)}
    return tuple(
        (n.index.name, SINGLE if id(n) in boxed else DOUBLE)
        for n in _registers(function)
        if isinstance(n.index, Local)
    )


@functools.cache
def written(function: Function) -> frozenset[str]:
    """Parameters that name floating-point registers written."""
    return function.indices("F", True)


def _is_unbox(node: object) -> bool:
    return (
        isinstance(node, Call)
        and node.function is not None
        and node.function.name == "unbox"
        and isinstance(node.args[0], Register)
    )


def _registers(function: Function) -> Iterable[Register]:
    targets = {id(n.target) for n in function.nodes if isinstance(n, Assign)}
    for node in walk(function.body):
        if isinstance(node, Register) and node.file == "F" and id(node) not in targets:
            yield node


def block_needs(selection: Selection) -> dict[int, Needs]:
    """The needs at the beginning of each block, by its offset; blocks without any are left out."""
    sites = selection.sites
    order = sorted(sites)
    if not any(_touches(site) for site in sites.values()):
        return {}
    before: dict[int, dict[str, frozenset[str]]] = {o: {} for o in order}
    changed = True
    while changed:
        changed = False
        for offset in reversed(order):
            needs = _before(
                sites[offset], [before[s] for s in _successors(selection, sites[offset])]
            )
            if needs != before[offset]:
                before[offset] = needs
                changed = True
    starts = selection.leaders & set(order)
    return {o: before[o] for o in order if o in starts or before[o]}


def _touches(site: Site) -> bool:
    if site.decoded is None or not site.liftable:
        return False
    semantics = site.decoded.instruction.semantics
    return bool(reads(semantics) or written(semantics))


def _successors(selection: Selection, site: Site) -> list[int]:
    if not site.liftable or site.decoded is None:
        return []
    found = [] if site.ends_block else [site.end]
    if site.target is not None:
        found.append(site.target)
    if "jump" in site.decoded.instruction.semantics.builtins:
        found += selection.turns(site)
    return [offset for offset in found if offset in selection.sites]


def _before(site: Site, after: list[dict[str, frozenset[str]]]) -> dict[str, frozenset[str]]:
    needs: dict[str, frozenset[str]] = {}
    for successor in after:
        for register, forms in successor.items():
            needs[register] = needs.get(register, frozenset()) | forms
    if site.decoded is None or not site.liftable:
        return needs
    semantics, operands = site.decoded.instruction.semantics, site.decoded.operands
    for param in written(semantics):
        needs.pop(str(operands[param]), None)
    for param, form in reads(semantics):
        register = str(operands[param])
        needs[register] = needs.get(register, frozenset()) | {form}
    return needs
