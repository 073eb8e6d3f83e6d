"""Random sequences through regions by the thousand: lifted, compiled and published in this process.

`test_regions.py` has a real translator do it, one hot record after another; here all sequences of a
batch are translated before they run, several to a region, so that many can be compared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from jit_proc import lift, select
from jit_proc.job import Job, Untranslatable
from protocol import layout
from protocol.layout import PAGE_SIZE, STATE_FLAT
from tests import native_code
from tests.engine_harness import EngineMachine, Stopped
from tests.isa.batch import RAM, RAM_MIB, Batch, differences, run_reference
from tests.isa.generate import Generator

TOGETHER = 8  # sequences to a region
DONE = 0x5555


class Translated(EngineMachine):
    """A machine that retires regions when it is told to."""

    def run(self, instructions: int) -> int:
        """Run until the finisher is stored to."""
        state = self.state
        state.stop_count = state.count + instructions
        state.limit = 0
        while True:
            reason = self.hart.run()
            if self.error is not None:
                raise Stopped from self.error
            state.hot_count = 0
            state.attention = 0
            if reason == layout.EXIT_RETIRE:
                page = self.records.page_of(state.exit_page)
                for number in list(self.records.regions) if page is None else [page]:
                    self.records.retire_regions(number, state.exit_lines or 2**64 - 1)
                state.exit_lines = 0
            if self.finisher.value is not None or reason == layout.EXIT_STOP:
                return reason


@functools.cache
def machine() -> Translated:
    return Translated(RAM_MIB << 20)


def groups(batch: Batch) -> Iterator[tuple[int, list[int]]]:
    """Page and slots of sequences that are translated together."""
    pages: dict[int, list[int]] = {}
    for entry in batch.entries:
        pages.setdefault((entry - RAM) // PAGE_SIZE, []).append((entry - RAM) % PAGE_SIZE // 2)
    for page, slots in pages.items():
        for at in range(0, len(slots), TOGETHER):
            yield page, slots[at : at + TOGETHER]


def run_in_regions(batch: Batch, state: int = 0) -> tuple[list[bytes], int]:
    """The results, and at how many records a region was entered."""
    one = machine()
    one.reset()
    one.load(RAM, batch.image)
    one.run(1 << 40)  # pages of code have records from now on
    one.load(RAM, batch.image + bytes((RAM_MIB << 20) - len(batch.image)))
    one.hart.reset(RAM)
    one.finisher.value = None
    entered = 0
    for page, slots in groups(batch):
        content = bytes(one.guest.page_bytes(page))
        try:
            made = lift.translate(Job(page, content, tuple(slots), state))
        except Untranslatable:
            continue  # every sequence of the group begins with what only tier 0 does
        image = native_code.build(made.ir, made.passes, made.level, made.isel)
        entries = [(slot, image.base + image.symbols[name]) for slot, name in made.entries.items()]
        one.control.pages[(page * layout.PAGE.size + layout.PAGE.offset("lines")) // 8] |= (
            made.lines
        )
        assert one.records.publish(page, made.lines, entries) is not None
        entered += len(set(slots) & set(made.entries))
    one.hart.flush()
    one.run(1 << 40)
    assert one.finisher.value == DONE
    return batch.results(bytes(one.ram)), entered


@pytest.mark.parametrize("seed", range(6))
def test_regions_do_what_the_reference_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "MAX_INSTRUCTIONS", 600)
    batch = Batch(Generator(500 + seed).sequences(2000), counted=False)
    found, entered = run_in_regions(batch, STATE_FLAT * (seed % 2))
    wrong = differences(batch, run_reference(batch), found)
    assert entered > 1500
    if wrong:
        pytest.fail(f"{len(wrong)} sequences differ\n{wrong[0]}", pytrace=False)
