"""Layers of a memory map: a naive model of every page, and what transactions promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cpu_proc.memory_map import Backing, MapError, MemoryMap, Slot
from cpu_proc.placement import Change, Placement
from protocol.layout import MAX_SLOTS

PAGE = 4096
PAGES = 24
WINDOWS = 6


class Registers:
    """A device that answers with where it was asked."""

    def __init__(self, name: str, pages: int) -> None:
        self.name = name
        self.size = pages * PAGE

    def read(self, offset: int, size: int) -> int:
        return offset

    def write(self, offset: int, size: int, value: int) -> None:
        pass


@dataclass
class Model:
    """A layer as one would explain it: page -> what is seen there."""

    base: int
    pages: int
    priority: int
    enabled: bool
    content: Callable[[int], tuple[object, int] | None]
    of: Placement | None = None


@dataclass
class World:
    models: dict[Placement, Model] = field(default_factory=dict)

    def at(self, page: int) -> tuple[object, int] | None:
        """(backing or device, page of it) seen at a page."""
        best: tuple[int, tuple[object, int]] | None = None
        for model in self.models.values():
            if not model.enabled or not model.base <= page < model.base + model.pages:
                continue
            seen = model.content(page - model.base)
            if seen is not None and (best is None or model.priority > best[0]):
                best = model.priority, seen
        return best[1] if best else None

    def ambiguous(self) -> bool:
        for page in range(PAGES):
            found = [
                m.priority
                for m in self.models.values()
                if m.enabled and m.base <= page < m.base + m.pages and m.content(page - m.base)
            ]
            if len(found) != len(set(found)):
                return True
        return False


class Maps(RuleBasedStateMachine):
    """Random transactions on a map and on the model."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[int] = []
        self.memory = MemoryMap(on_commit=self.commits.append)
        self.world = World()
        self.number = 0

    def _do(self, edits: list[tuple[str, int, int, int, int, bool]]) -> None:
        """One transaction of any edits; both sides agree on whether it can be."""
        models = dict(self.world.models)
        slots, generation = self.memory.slots, self.memory.generation
        world = World(models)
        try:
            with self.memory.change() as change:
                for edit in edits:
                    self._edit(change, world, *edit)
        except MapError:
            assert world.ambiguous()
            assert (slots, generation) == (self.memory.slots, self.memory.generation)
            return
        assert not world.ambiguous()
        assert self.memory.generation == generation + 1 == self.commits[-1]
        self.world = world

    def _edit(
        self, change: Change, world: World, kind: str, base: int, pages: int, pick: int, skip: int,
        on: bool,
    ) -> None:  # fmt: skip
        known = list(world.models)
        target = known[pick % len(known)] if known else None
        pages = min(pages, PAGES - base)
        if kind in ("memory", "device"):
            self.number += 1
            if kind == "memory":
                thing: object = Backing(
                    f"m{self.number}", memoryview(bytearray((pages + skip) * PAGE)), 0
                )
                slot = Slot(f"m{self.number}", base * PAGE, pages * PAGE, thing, skip * PAGE)  # type: ignore[arg-type]
                start = skip
            else:
                thing = Registers(f"d{self.number}", pages)
                slot = Slot(f"d{self.number}", base * PAGE, pages * PAGE, device=thing)
                start = 0
            placement = change.add(slot, priority=pick % 4, enabled=on)
            world.models[placement] = Model(
                base, pages, pick % 4, on, lambda page: (thing, start + page)
            )
        elif target is None:
            return
        elif kind == "alias":
            source = world.models[target]
            fits = skip + pages <= source.pages
            try:
                placement = change.alias(
                    "a", base * PAGE, pages * PAGE, target, offset=skip * PAGE, priority=base % 4,
                    enabled=on,
                )  # fmt: skip
            except MapError:
                assert not fits
                return
            assert fits
            world.models[placement] = Model(
                base, pages, base % 4, on,
                lambda page: world_content(source, page + skip), target,
            )  # fmt: skip
        elif kind == "remove":
            shown = any(model.of is target for model in world.models.values())
            try:
                change.remove(target)
            except MapError:
                assert shown
                return
            assert not shown
            del world.models[target]
        else:
            change.enable(target, on)
            # A copy of the model, and its aliases see it: contents are looked up through `models`.
            world.models[target].enabled = on

    @rule(
        edits=st.lists(
            st.tuples(
                st.sampled_from(["memory", "device", "alias", "alias", "remove", "enable"]),
                st.integers(0, PAGES - 1),
                st.integers(1, 8),
                st.integers(0, 40),
                st.integers(0, 3),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        )
    )
    def transaction(self, edits):
        # `enable` changes models in place: keep what they were, in case the transaction fails.
        before = {placement: model.enabled for placement, model in self.world.models.items()}
        generation = self.memory.generation
        self._do(edits)
        if self.memory.generation == generation:
            for placement, enabled in before.items():
                self.world.models[placement].enabled = enabled

    @precondition(lambda self: self.world.models)
    @rule()
    def an_error_inside_changes_nothing(self):
        slots, generation = self.memory.slots, self.memory.generation
        with pytest.raises(ZeroDivisionError), self.memory.change() as change:  # noqa: PT012
            change.enable(next(iter(self.world.models)), False)
            raise ZeroDivisionError
        assert (slots, generation) == (self.memory.slots, self.memory.generation)

    @invariant()
    def the_map_is_the_model(self):
        end = 0
        for one in self.memory.slots:
            assert one.base >= end
            end = one.end
        for page in range(PAGES + 1):
            found = self.memory.find(page * PAGE)
            expected = self.world.at(page)
            if found is None:
                assert expected is None
                continue
            slot = found
            within = page * PAGE - slot.base
            if slot.backing is not None:
                assert expected == (slot.backing, (slot.offset + within) // PAGE)
            else:
                assert expected == (slot.device, (slot.window + within) // PAGE)
                if expected[1] * PAGE + 4 <= slot.device.size:  # type: ignore[union-attr]
                    assert self.memory.mmio_read(page * PAGE, 4) == expected[1] * PAGE


def world_content(model: Model, page: int) -> tuple[object, int] | None:
    """What a layer shows to its aliases."""
    return model.content(page) if model.enabled else None


Maps.TestCase.settings = settings(max_examples=40, stateful_step_count=8, deadline=None)
TestMaps = Maps.TestCase


def backing(pages: int, name: str = "ram") -> Backing:
    return Backing(name, memoryview(bytearray(pages * PAGE)), 0)


def test_several_changes_are_one_commit():
    commits: list[int] = []
    memory = MemoryMap(on_commit=commits.append)
    with memory.change() as change:
        ram = change.add(Slot("ram", 0, 4 * PAGE, backing(4)))
        rom = change.add(Slot("rom", 0, PAGE, backing(1), readonly=True), priority=1)
        change.alias("high", 0x100000, PAGE, ram, offset=2 * PAGE)
    assert commits == [1]
    assert [slot.name for slot in memory.slots] == ["rom", "ram", "high"]
    with memory.change() as change:
        change.enable(rom, False)
        change.enable(ram)
    assert commits == [1, 2]
    memory.write(2 * PAGE, b"seen")
    assert memory.read(0x100000, 4) == b"seen"


def test_more_memory_than_harts_can_hold_is_refused_and_changes_nothing():
    memory = MemoryMap()
    whole = backing(1)
    with memory.change() as change:
        for number in range(MAX_SLOTS):
            change.add(Slot("page", 2 * number * PAGE, PAGE, whole))
    with pytest.raises(MapError, match="at most"):
        memory.add_ram(0x100000, PAGE, whole)
    assert len(memory.slots) == MAX_SLOTS


def test_a_layer_that_is_shown_cannot_go_before_its_alias():
    memory = MemoryMap()
    with memory.change() as change:
        ram = change.add(Slot("ram", 0, PAGE, backing(1)))
        alias = change.alias("alias", PAGE, PAGE, ram)
    with pytest.raises(MapError, match="alias shows it"), memory.change() as change:
        change.remove(ram)
    with memory.change() as change:
        change.remove(alias)
        change.remove(ram)
    assert memory.slots == ()


@given(st.integers(0, 7), st.integers(1, 8))
def test_a_device_is_asked_for_its_own_offsets_wherever_it_is_cut(skip: int, pages: int):
    memory = MemoryMap()
    pages = min(pages, 8 - skip)
    with memory.change() as change:
        device = change.add(Slot("device", 0, 8 * PAGE, device=Registers("device", 8)))
        change.alias("part", 0x10000, pages * PAGE, device, offset=skip * PAGE)
        change.add(Slot("ram", PAGE, 2 * PAGE, backing(2)), priority=1)
    assert memory.mmio_read(3 * PAGE + 8, 8) == 3 * PAGE + 8
    assert memory.mmio_read(0x10000 + 4, 4) == skip * PAGE + 4
