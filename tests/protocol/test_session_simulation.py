"""Long lives of a session, drawn at random: what takes many steps to go wrong.

The same world as in `test_session_world`, where hypothesis looks for short stories; here ordinary
days are long and mishaps are rare, so that queues fill and late messages meet new epochs.
"""

from __future__ import annotations

import random

import pytest

from protocol.codec import decode
from protocol.generations import MASK
from tests.protocol.world import PAGES, World


def natural(world: World, rng: random.Random) -> None:
    kinds = world.possible()
    if kinds:
        world.do(rng.choice(kinds), rng.randrange(1000))


def hot(world: World, rng: random.Random) -> None:
    if world.machine.settled and not world.must_bump:
        slots = rng.sample([0, 2, 4, 6], rng.randint(1, 3))
        world.request(rng.randrange(PAGES), rng.randrange(2), slots, rng.randrange(9))


def write(world: World, rng: random.Random) -> None:
    page = rng.randrange(PAGES)
    world.write(page)
    if rng.random() < 0.5:
        world.do_machine(world.machine.cancel_page(page))


def remap(world: World, rng: random.Random) -> None:
    world.remap()


def retire(world: World, rng: random.Random) -> None:
    world.retire(rng.choice(["system_reset", "snapshot_restore", "overflow"]))


def glitch(world: World, rng: random.Random) -> None:
    towards = rng.choice(["translator", "machine"])
    queue = world.to_translator if towards == "translator" else world.to_machine
    if queue:
        index = rng.randrange(len(queue))
        what = rng.random()
        if what < 0.1:
            queue.pop(index)
        else:
            world.deliver(towards, index, keep=what < 0.7)


def deadline(world: World, rng: random.Random) -> None:
    if world.timers:
        world.fire(rng.randrange(len(world.timers)))


def heartbeat(world: World, rng: random.Random) -> None:
    for index, timer in enumerate(world.timers):
        if timer.name == "heartbeat":
            world.fire(index)
            return


def fail(world: World, rng: random.Random) -> None:
    if world.translator and world.translator.jobs:
        outcome = rng.choice(["crash", "crash", "full"])
        world.finish(rng.randrange(len(world.translator.jobs)), outcome)


def crash(world: World, rng: random.Random) -> None:
    if world.translator is not None:
        world.crash_translator()


def start(world: World, rng: random.Random) -> None:
    if world.translator is None:
        world.start_translator()


def lost(world: World, rng: random.Random) -> None:
    world.do_machine(world.machine.disconnected())


def overflow(world: World, rng: random.Random) -> None:
    if world.to_translator and world.to_translator[-1][0] == world.connection:
        _, sent = world.to_translator.pop()
        world.do_machine(world.machine.send_failed(decode(sent)))


def swap(world: World, rng: random.Random) -> None:
    world.do_machine(world.machine.swap(rng.choice(["llvm", "reference"])))


def engine(world: World, rng: random.Random) -> None:
    world.do_machine(world.machine.ask_engine("engine"))


def well(world: World, rng: random.Random) -> None:
    world.settle()


STEPS = {
    natural: 100,
    hot: 30,
    write: 8,
    glitch: 3,
    heartbeat: 2,
    fail: 1,
    remap: 1,
    retire: 1,
    well: 2,
    deadline: 0.3,
    crash: 0.3,
    start: 5,
    lost: 0.2,
    overflow: 0.2,
    swap: 0.3,
    engine: 0.3,
}


@pytest.mark.parametrize("seed", range(20))
def test_a_long_life(seed: int):
    rng = random.Random(seed)
    world = World(MASK - rng.randrange(20), MASK - rng.randrange(200))
    published = 0
    for step in rng.choices(list(STEPS), weights=list(STEPS.values()), k=4000):
        before = len(world.published)
        step(world, rng)
        published += len(world.published) > before
        for message, content in world.published:
            assert message.epoch == world.epoch
            assert content == world.content[message.page]
    world.settle()
    assert published > 100
    assert world.retirements > 5
