"""A chaotic connection: what it may do to messages, and what it may not."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.chaos import Chaos, Plan
from protocol.codec import CodecError
from protocol.messages import Message, Ping, Pong, Rejected
from protocol.transport import Ready

CALM = Plan(1, delay=0.0, duplicate=0.0, send_twice=0.0, disconnect=0.0)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class FakeConnection:
    """Delivers what it is given, at once."""

    def __init__(self) -> None:
        self.waiting: list[Message | CodecError] = []
        self.sent: list[Message] = []
        self.waits: list[float] = []
        self.closed = False

    def watch(self, fd: int) -> None:
        pass

    def poll(self, timeout: float) -> Ready:
        self.waits.append(timeout)
        return Ready(bool(self.waiting), frozenset(), False)

    def receive(self) -> list[Message | CodecError]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    def close(self) -> None:
        self.closed = True


def answer(id: int) -> Rejected:
    return Rejected(1, id, 1, 1, 1, 1, 0, (0,), "unsupported", "")


def pong(token: int) -> Pong:
    return Pong(1, token, 9)


def deliver(
    plan: Plan, messages: list[Message | CodecError], steps: int = 1000
) -> tuple[list[Message | CodecError], Chaos]:
    """Send the messages through, one each millisecond; what comes out, in order."""
    clock, inner = Clock(), FakeConnection()
    chaos = Chaos(plan, clock)
    connection = chaos.wrap(inner)
    heard: list[Message | CodecError] = []
    queue = list(messages)
    for _ in range(len(messages) + steps):
        if queue:
            inner.waiting.append(queue.pop(0))
        ready = connection.poll(1.0)
        if ready.disconnected:
            break
        if ready.messages:
            heard += connection.receive()
        clock.time += 0.001
    return heard, chaos


def test_a_calm_plan_changes_nothing():
    messages: list[Message | CodecError] = [
        pong(1),
        answer(1),
        CodecError("malformed", ""),
        pong(2),
    ]
    heard, chaos = deliver(CALM, messages)

    assert messages == heard
    assert not chaos.counts.total()


@pytest.mark.parametrize("seed", range(10))
def test_answers_overtake_and_others_keep_their_order(seed: int):
    plan = dataclasses.replace(CALM, seed=seed, delay=0.7)
    messages: list[Message | CodecError] = []
    for n in range(100):
        messages += [pong(n), answer(n)]
    heard, _ = deliver(plan, messages)

    assert sorted(map(repr, messages)) == sorted(map(repr, heard))
    tokens = [m.token for m in heard if isinstance(m, Pong)]
    ids = [m.id for m in heard if isinstance(m, Rejected)]
    assert sorted(tokens) == tokens
    assert sorted(ids) != ids


def test_messages_come_twice():
    messages: list[Message | CodecError] = [answer(n) for n in range(200)]
    heard, chaos = deliver(dataclasses.replace(CALM, duplicate=0.5), messages)

    assert 50 < chaos.counts["duplicate"] == len(heard) - len(messages)
    assert {m.id for m in heard if isinstance(m, Rejected)} == set(range(200))


def test_what_is_sent_is_sent_twice():
    inner = FakeConnection()
    connection = Chaos(dataclasses.replace(CALM, send_twice=1.0)).wrap(inner)

    assert connection.send(Ping(1, 1))
    assert [Ping(1, 1)] * 2 == inner.sent


def test_a_broken_connection_loses_what_is_under_way_and_leaves_the_rest():
    clock, inner = Clock(), FakeConnection()
    plan = dataclasses.replace(CALM, delay=1.0, longest=50.0, leftover=1.0)
    chaos = Chaos(plan, clock)
    connection = chaos.wrap(inner)
    inner.waiting = [answer(1)]
    connection.poll(1.0)
    chaos.plan = dataclasses.replace(plan, disconnect=1.0)
    inner.waiting = [answer(2)]

    assert connection.poll(1.0).disconnected
    assert connection.poll(1.0).disconnected
    assert connection.send(Ping(1, 1))
    assert [] == inner.sent
    connection.close()
    assert inner.closed

    chaos.plan = CALM
    following = chaos.wrap(FakeConnection())
    clock.time += plan.longest + CALM.longest
    assert following.poll(1.0).messages
    assert [answer(1)] == following.receive()


def test_a_wait_ends_when_something_is_due():
    clock, inner = Clock(), FakeConnection()
    connection = Chaos(dataclasses.replace(CALM, delay=1.0, longest=2.0), clock).wrap(inner)
    inner.waiting = [answer(1)]
    connection.poll(5.0)
    connection.poll(5.0)

    assert 5.0 == inner.waits[0]
    assert 0.0 < inner.waits[1] <= 2.0


def test_a_seed_repeats_itself():
    plan = Plan(42, disconnect=0.0)
    messages: list[Message | CodecError] = [answer(n) for n in range(300)]

    assert deliver(plan, messages)[0] == deliver(plan, messages)[0]
    assert deliver(plan, messages)[0] != deliver(dataclasses.replace(plan, seed=43), messages)[0]
