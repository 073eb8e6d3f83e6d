"""What is asked for and when: what is kept at once, the rest once it is worth a worker's time.

Of code that is rewritten all the time it is asked for now and then, and again when it is at rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpu_proc import asking
from cpu_proc.asking import MOST_MERGES
from cpu_proc.machine import Machine
from cpu_proc.options import parse
from cpu_proc.upgrades import CROSSED
from protocol import session
from protocol.backlog import PATIENCE, WORTH
from protocol.messages import Rejected, Timings
from protocol.riscv.assembler import assemble
from tests.cpu_proc.translator_world import HERE, PAGES, World
from tests.system.runner import until

RAM = 0x8000_0000
ROUNDS = RAM + 0x10_0000
STEADY = ROUNDS + 8  # written by the host: leave the code alone

REWRITER = f"""
    li s0, {ROUNDS:#x}
    la s1, hot
    lw s2, 0(s1)
    li s3, 1 << 20
1:  ld t0, 8(s0)
    bnez t0, 2f
    add s2, s2, s3              # another constant in its first instruction
    sw s2, 0(s1)
    fence.i
2:  li a0, 100000
    call hot
    ld t0, 0(s0)
    addi t0, t0, 1
    sd t0, 0(s0)
    j 1b
    .align 12
hot:
    addi a1, a0, 3
    xor a2, a1, a0
    addi a0, a0, -1
    bnez a0, hot
    ret
"""


def test_code_that_is_rewritten_all_the_time_is_asked_for_now_and_then_and_at_last(tmp_path: Path):
    image = tmp_path / "program.bin"
    image.write_bytes(assemble(REWRITER, RAM).data)
    machine = Machine(parse(["-m", "4M", "-serial", "null", "-bios", str(image)]))
    try:
        machine.power_on()
        assert machine.translator is not None
        counts = machine.translator.counts

        def rounds() -> int:
            return int.from_bytes(machine.host.read(ROUNDS, 8), "little")

        until(lambda: counts["requested"] >= 5, "the first requests")
        start, asked = rounds(), counts["requested"]
        until(
            lambda: rounds() - start > 40 and rounds() - start > 5 * (counts["requested"] - asked),
            "many rewrites for each request",
        )
        machine.host.write(STEADY, b"\1")
        at_rest = rounds() + 1
        until(lambda: rounds() > at_rest and machine.records.region_count, "a region")
    finally:
        machine.close()


# --- in which order -----------------------------------------------------------------------------


class Session:
    """Keeps what was asked for; a test says how much is under way beside it."""

    state = "attached"

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int], int]] = []  # page, slots, heat
        self.levels: list[int] = []
        self.advice: list[tuple[Any, ...]] = []
        self.withdrawn: list[int] = []
        self.outstanding = 0

    def request(
        self, stamp: Any, slots: Any, heat: int, level: int, *advice: Any
    ) -> list[session.MachineAction]:
        self.asked.append((stamp.page, list(slots), heat))
        self.levels.append(level)
        self.advice.append(advice)
        self.outstanding += 1
        return []

    def is_asked(self, number: int) -> bool:
        return False

    def asks_about(self, page: int) -> bool:
        return False

    def asks_of_old(self, page: int, _stamp: Any) -> bool:
        return False

    def cancel_page(self, page: int) -> list[session.MachineAction]:
        self.withdrawn.append(page)
        self.outstanding -= 1
        return [session.RequestFailed(page, 0, (0,), "superseded")]


class Asking:
    """A link, its session and the time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.session = Session()
        self.now = 1000.0
        self.due = 0.0  # seconds after which it wants to be asked again
        timers: Any = SimpleNamespace(set=lambda name, seconds: setattr(self, "due", seconds))
        world.link._session, world.link._timers = self.session, timers  # type: ignore[assignment]

    def hot(self, *pages: int) -> None:
        self.world.link._asker.report({page: [page] for page in pages})

    def run(self, page: int, seconds: float = WORTH) -> None:
        """A hart was so long in what has no region there."""
        self.world.link._backlog.spent(page, seconds)

    def feed(self) -> list[tuple[int, int]]:
        """What goes out now: page, heat."""
        before = len(self.session.asked)
        self.world.link._feed()
        return [(page, heat) for page, _, heat in self.session.asked[before:]]

    def kept(self, page: int) -> None:
        """A probe is answered from the store."""
        self.session.outstanding -= 1
        message = self.world.message(page=page, timings=Timings(*[0] * 9))
        self.world.act(session.Publish(message, ()))

    def not_kept(self, page: int) -> None:
        self.session.outstanding -= 1
        stamp = {"epoch": 5, "map_generation": 2, "page_generation": 9, "state_word": 0}
        refusal = Rejected(11, 1, page=page, **stamp, entries=(0,), reason="not_kept", text="")
        self.world.act(session.RequestRefused(refusal))


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    world = World()
    made = Asking(world)
    monkeypatch.setattr(asking, "time", SimpleNamespace(monotonic=lambda: made.now))
    yield made
    world.link._code.drop()


def test_what_is_kept_is_asked_for_at_once_and_the_rest_when_it_took_time(link: Asking):
    link.hot(1, 2)
    assert link.feed() == [(2, 0), (1, 0)]
    link.kept(2)
    link.not_kept(1)
    assert link.feed() == [], "one is there, the other is not worth it yet"
    link.run(1, WORTH / 2)
    link.run(2, WORTH)
    assert link.feed() == []
    link.run(1, WORTH / 2)
    assert link.feed() == [(1, 1)]
    assert link.session.withdrawn == []
    counts = link.world.link.counts
    assert (counts["requested"], counts["refused_not_kept"], counts["translated"]) == (0, 1, 1)


def test_what_waits_for_long_is_asked_for_all_the_same(link: Asking):
    link.hot(1)
    link.feed()
    link.not_kept(1)
    assert link.feed() == []
    assert link.due == PATIENCE
    link.now += PATIENCE - 0.01
    assert link.feed() == []
    assert link.due == pytest.approx(0.01)
    link.now += link.due + 0.001
    assert link.feed() == [(1, 1)]


def test_who_waits_for_all_there_is_waits_for_no_time_to_pass(link: Asking):
    link.hot(1, 2)
    link.world.link._quiet.append(SimpleNamespace(set=lambda: None))  # type: ignore[arg-type]
    assert link.feed() == [(2, 1), (1, 1)]


def test_whoever_counts_executions_has_what_was_executed_so_often(link: Asking):
    link.world.options.threshold = 1024
    link.hot(1, 2)
    assert link.feed() == [(2, 1), (1, 1)]


def test_what_took_most_time_is_first_and_no_more_than_the_window_is_under_way(link: Asking):
    link.session.outstanding = asking.WINDOW - 2
    link.hot(*range(6))
    for page in range(6):
        link.run(page, WORTH * (page + 1))
    sent = link.feed()
    assert sent[:2] == [(5, 1), (4, 1)]
    assert sent[2:] == [(3, 0), (2, 0), (1, 0), (0, 0)], "what only the store is to answer"
    assert len(link.world.link._backlog) == 4
    link.session.outstanding -= 1
    assert link.feed() == [(3, 1)]
    assert link.session.withdrawn == [3], "its probe, before it is asked for with its heat"


def test_an_empty_store_is_not_asked_for_ever(link: Asking):
    for number in range(3 * asking.CREDIT):
        link.world.link._asker.report({number % PAGES: [number]})
        for page, _ in link.feed():
            link.not_kept(page)
    assert len(link.session.asked) == asking.CREDIT
    assert len(link.world.link._backlog) == PAGES


def test_a_store_that_knew_something_is_trusted_a_little_for_ever(link: Asking):
    link.hot(1)
    link.feed()
    link.kept(1)
    for number in range(3 * asking.CREDIT):
        link.world.link._asker.report({2 + number % 4: [number]})
        (probed,) = link.feed()
        link.not_kept(probed[0])
    assert len(link.session.asked) == 1 + 3 * asking.CREDIT


def test_slots_that_a_region_covers_already_are_not_asked_for(link: Asking):
    records = link.world.records
    records.publish(HERE, 1, [(0, 0x7000_0000)])
    link.world.link._backlog.add({HERE: [0, 4], 5: [1]})
    link.now += PATIENCE
    link.feed()
    seen = records.seen_slots(HERE)
    assert seen[0] & 1, "the region's record"
    assert link.session.asked == [(HERE, [4], 2), (5, [1], 1)]
    assert link.session.advice == [((0,), seen), ((), b"")]


def test_regions_of_one_page_that_are_found_hot_are_asked_for_as_one_some_times(link: Asking):
    records = link.world.records

    def crossed() -> list[tuple[int, list[int], int]]:
        before = len(link.session.asked)
        link.world.link._backlog.add({HERE: [0]})
        link.now += PATIENCE
        link.feed()
        return link.session.asked[before:]

    upgrades = link.world.link._asker.upgrades
    upgrades._sizes = {1: 100, 2: 100}
    records.publish(HERE, 1, [(0, 0x7000_0000)], 1)
    upgrades._times[1] = int(150e6 * CROSSED)
    assert crossed() == [], "it is one"
    records.publish(HERE, 1, [(4, 0x7000_0100)], 2)
    assert crossed() == [], "they ran for too short a time"
    upgrades._times[2] = int(51e6 * CROSSED)
    for _ in range(MOST_MERGES):
        assert crossed() == [(HERE, [0, 4], 1)]
        assert link.session.levels[-1] == 1
    assert crossed() == []
