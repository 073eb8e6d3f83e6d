"""What may stand in a memory map, and how overlapping pieces become one flat table.

The problem: a remap is seldom one piece for another. Flash hides behind its own registers, a boot
window shows flash or RAM, a debugger lays a page over another; several such changes belong
together, and nobody may see half of them. So whoever changes the map describes layers (`Change`):
slots with a priority, switched on or off, and aliases that show a part of another layer. What harts
look up is the flat table that `flatten` makes of them.

Invariants:
- At each address the enabled layer with the highest priority is seen. Two of equal priority that
  overlap are an error of the board (`MapError`), never a matter of order.
- An alias shows what its target holds, wherever the target stands and whatever lies over it there;
  nothing, while the target is disabled. Targets are older than their aliases: there is no circle.
- A layer nobody covers is in the table as the very slot that was given; otherwise as its parts.
- `flatten` is a pure function; a `Change` that fails leaves the map as it was.

Read next: `memory_map.py`, which commits changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from protocol.layout import PAGE_SIZE

ADDRESS_BITS = 56
"""Width of a physical address (privileged architecture, section 4.3.1: Sv39)."""
TOP = 1 << ADDRESS_BITS


class Window(Protocol):
    """What the map needs of a device: see `devices.device.Device`."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class MapError(Exception):
    """A commit that cannot be: slots overlap, or one is not whole pages. A bug of the board."""


@dataclass(frozen=True, eq=False)
class Backing:
    """A memory object: RAM, a ROM's or a flash's contents, mapped anywhere, twice or not at all.

    `view`: its host bytes, writable by this process, a whole number of pages. `first_page`: index
    of its first page in the machine's array of page descriptors. `fd`: the memfd behind `view`, its
    byte 0 first; long stores go through it while no seal forbids (see `_fill`).
    """

    name: str
    view: memoryview
    first_page: int
    fd: int | None = None

    def page(self, offset: int) -> int:
        """Index of the page descriptor of byte `offset`."""
        return self.first_page + offset // PAGE_SIZE


@dataclass(frozen=True, eq=False)
class Slot:
    """[`base`, `base` + `size`): memory if it has a `backing` (from `offset` on), else a `device`.

    `readonly`: a guest's store does not reach the memory. It goes to `device` if there is one too
    (flash in read-array mode), else it faults.
    """

    name: str
    base: int
    size: int
    backing: Backing | None = None
    offset: int = 0
    readonly: bool = False
    device: Window | None = None
    window: int = 0
    """Offset in the device's window of the slot's first byte: not 0 for a part of a device."""

    @property
    def end(self) -> int:
        """First address after it."""
        return self.base + self.size


class Placement:
    """A handle of one layer of a map: what `Change.add` and `Change.alias` return."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True)
class Layer:
    """A slot at its place; an alias (`of`) takes its contents from there, from `skip` bytes on."""

    slot: Slot
    priority: int
    enabled: bool
    of: Placement | None = None
    skip: int = 0


Layers = Mapping[Placement, Layer]


class Change:
    """A transaction on a map: any number of edits, one commit. See `MemoryMap.change`."""

    def __init__(self, layers: Layers) -> None:
        self.layers = dict(layers)

    def add(self, slot: Slot, *, priority: int = 0, enabled: bool = True) -> Placement:
        """Place a slot. Where layers overlap, the higher priority is seen."""
        check(slot)
        placement = Placement(slot.name)
        self.layers[placement] = Layer(slot, priority, enabled)
        return placement

    def alias(
        self,
        name: str,
        base: int,
        size: int,
        of: Placement,
        *,
        offset: int = 0,
        priority: int = 0,
        enabled: bool = True,
    ) -> Placement:
        """Show `size` bytes of `of`, from its byte `offset` on, at `base` as well."""
        target = self._layer(of).slot
        if not 0 <= offset <= target.size - size:
            raise MapError(f"{name} at {base:#x} reaches beyond the end of {of.name}")
        slot = replace(target, name=name, base=base, size=size)
        if (base | size | offset) % PAGE_SIZE or size <= 0 or not 0 <= base <= TOP - size:
            raise MapError(f"{name} at {base:#x}: base, size ({size:#x}), offset: whole pages")
        placement = Placement(name)
        self.layers[placement] = Layer(slot, priority, enabled, of, offset)
        return placement

    def remove(self, placement: Placement) -> None:
        """Take a layer away; first the aliases that show it."""
        self._layer(placement)
        for other, layer in self.layers.items():
            if layer.of is placement:
                raise MapError(f"{placement.name} cannot go: {other.name} shows it")
        del self.layers[placement]

    def enable(self, placement: Placement, on: bool = True) -> None:
        """Switch a layer on or off."""
        self.layers[placement] = replace(self._layer(placement), enabled=on)

    def _layer(self, placement: Placement) -> Layer:
        if placement not in self.layers:
            raise MapError(f"{placement.name} is not mapped")
        return self.layers[placement]


def flatten(layers: Layers) -> tuple[Slot, ...]:
    """What is seen of the layers: slots that do not overlap, lowest address first."""
    seen: list[Slot] = []
    shown = [(layer.priority, slot) for layer in layers.values() if (slot := _shown(layers, layer))]
    shown.sort(key=lambda one: (-one[0], one[1].base))
    above: tuple[int, Slot] | None = None
    for priority, slot in shown:
        if above is not None and above[0] == priority and above[1].end > slot.base:
            raise MapError(
                f"{slot.name} at {slot.base:#x} overlaps {above[1].name} "
                f"({above[1].base:#x}..{above[1].end:#x})"
            )
        above = priority, slot
        seen += _visible(slot, seen)
        seen.sort(key=lambda one: one.base)
    return tuple(seen)


def _shown(layers: Layers, layer: Layer) -> Slot | None:
    """The slot of a layer with its contents; None while there is nothing to be seen of it."""
    if not layer.enabled:
        return None
    if layer.of is None:
        return layer.slot
    target = _shown(layers, layers[layer.of])
    if target is None:
        return None
    own = layer.slot
    return replace(_moved(target, layer.skip), name=own.name, base=own.base, size=own.size)


def _visible(slot: Slot, above: list[Slot]) -> list[Slot]:
    """The parts of a slot that no other covers; `above` is sorted and does not overlap."""
    parts = []
    at = slot.base
    for other in above:
        if other.end <= at or other.base >= slot.end:
            continue
        if other.base > at:
            parts.append(_part(slot, at, other.base))
        at = other.end
    if at < slot.end:
        parts.append(_part(slot, at, slot.end))
    return parts


def _part(slot: Slot, start: int, end: int) -> Slot:
    if (start, end) == (slot.base, slot.end):
        return slot
    return replace(_moved(slot, start - slot.base), base=start, size=end - start)


def _moved(slot: Slot, by: int) -> Slot:
    """The slot with its contents from `by` bytes on."""
    offset = slot.offset + by if slot.backing is not None else slot.offset
    window = slot.window + by if slot.device is not None else slot.window
    return replace(slot, offset=offset, window=window)


def check(slot: Slot) -> None:
    """Raise `MapError` for a slot that cannot be."""
    where = f"{slot.name} at {slot.base:#x}"
    if slot.backing is None and slot.device is None:
        raise MapError(f"{where} has neither memory nor a device")
    if slot.size <= 0 or (slot.base | slot.size | slot.offset) % PAGE_SIZE:
        raise MapError(f"{where}: base, size ({slot.size:#x}) and offset must be whole pages")
    if slot.base < 0 or slot.end > TOP:
        raise MapError(f"{where} ends beyond {ADDRESS_BITS} address bits")
    if slot.backing is not None and not 0 <= slot.offset <= len(slot.backing.view) - slot.size:
        raise MapError(f"{where} reaches beyond the end of {slot.backing.name}")
