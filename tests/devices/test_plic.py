"""The PLIC as Linux drives it, the specification's corner cases, and random traffic."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from devices.device import AccessFault
from devices.plic import SOURCES, Plic

M0, S0, M1, S1 = range(4)


class Bench:
    """A PLIC for two harts, and the levels it drives."""

    def __init__(self) -> None:
        self.outputs = dict.fromkeys(range(4), False)
        self.changes = 0
        self.plic = Plic(2, self.drive)

    def drive(self, context: int, level: bool) -> None:
        self.outputs[context] = level
        self.changes += 1

    def set_priority(self, source: int, priority: int) -> None:
        self.plic.write(4 * source, 4, priority)

    def enable(self, context: int, *sources: int) -> None:
        for word in range(SOURCES // 32 + 1):
            value = sum(1 << source % 32 for source in sources if source // 32 == word)
            self.plic.write(0x2000 + 0x80 * context + 4 * word, 4, value)

    def set_threshold(self, context: int, threshold: int) -> None:
        self.plic.write(0x200000 + 0x1000 * context, 4, threshold)

    def claim(self, context: int) -> int:
        return self.plic.read(0x200004 + 0x1000 * context, 4)

    def complete(self, context: int, source: int) -> None:
        self.plic.write(0x200004 + 0x1000 * context, 4, source)

    def pending(self) -> set[int]:
        words = [self.plic.read(0x1000 + 4 * word, 4) for word in range(4)]
        return {source for source in range(128) if words[source // 32] >> source % 32 & 1}


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    for source in (1, 10, 33, 96):
        bench.set_priority(source, 1)
    bench.enable(S0, 1, 10, 33, 96)
    return bench


def test_an_interrupt_from_device_to_completion(bench: Bench) -> None:
    uart = bench.plic.line(10)
    uart(True)
    assert bench.outputs == {M0: False, S0: True, M1: False, S1: False}
    assert bench.pending() == {10}
    assert bench.claim(S0) == 10
    assert not bench.outputs[S0]
    assert bench.pending() == set()
    uart(False)
    bench.complete(S0, 10)
    assert not bench.outputs[S0]
    assert bench.claim(S0) == 0


def test_a_level_that_stays_high_interrupts_again_after_completion(bench: Bench) -> None:
    uart = bench.plic.line(10)
    uart(True)
    assert bench.claim(S0) == 10
    assert bench.claim(S0) == 0
    bench.complete(S0, 10)
    assert bench.outputs[S0]
    assert bench.claim(S0) == 10


def test_a_request_stays_pending_when_the_level_falls(bench: Bench) -> None:
    bench.plic.set_level(10, True)
    bench.plic.set_level(10, False)
    assert bench.outputs[S0]
    assert bench.claim(S0) == 10
    bench.complete(S0, 10)
    assert not bench.outputs[S0]


def test_a_pulse_between_claim_and_completion_is_not_forwarded(bench: Bench) -> None:
    bench.plic.set_level(10, True)
    assert bench.claim(S0) == 10
    bench.plic.set_level(10, False)
    bench.plic.set_level(10, True)
    bench.plic.set_level(10, False)
    bench.complete(S0, 10)
    assert bench.pending() == set()


def test_the_highest_priority_is_claimed_first_then_the_lowest_number(bench: Bench) -> None:
    bench.set_priority(33, 7)
    for source in (96, 33, 10, 1):
        bench.plic.set_level(source, True)
    assert [bench.claim(S0) for _ in range(5)] == [33, 1, 10, 96, 0]


def test_priority_zero_never_interrupts(bench: Bench) -> None:
    bench.set_priority(10, 0)
    bench.plic.set_level(10, True)
    assert not bench.outputs[S0]
    assert bench.claim(S0) == 0
    bench.set_priority(10, 1)
    assert bench.outputs[S0]


def test_the_threshold_masks_the_interrupt_but_not_the_claim(bench: Bench) -> None:
    bench.set_threshold(S0, 1)
    bench.plic.set_level(10, True)
    assert not bench.outputs[S0]
    bench.set_threshold(S0, 0)
    assert bench.outputs[S0]
    bench.set_threshold(S0, 7)
    assert not bench.outputs[S0]
    assert bench.claim(S0) == 10


def test_the_first_of_two_harts_gets_the_claim(bench: Bench) -> None:
    bench.enable(S1, 10)
    bench.plic.set_level(10, True)
    assert bench.outputs[S0]
    assert bench.outputs[S1]
    assert bench.claim(S1) == 10
    assert not bench.outputs[S0]
    assert bench.claim(S0) == 0


def test_a_completion_of_a_source_not_enabled_here_is_ignored(bench: Bench) -> None:
    bench.plic.set_level(10, True)
    assert bench.claim(S0) == 10
    bench.complete(S1, 10)  # hart 1 never enabled it
    assert bench.pending() == set()
    bench.enable(S0)  # Linux masks while it handles, and completes again after unmasking
    bench.complete(S0, 10)
    assert bench.pending() == set()
    bench.enable(S0, 10)
    bench.complete(S0, 10)
    assert bench.pending() == {10}


@pytest.mark.parametrize("source", [0, 11, 97, 0xFFFF_FFFF])
def test_a_nonsensical_completion_is_ignored(bench: Bench, source: int) -> None:
    bench.plic.set_level(10, True)
    assert bench.claim(S0) == 10
    bench.complete(S0, source)
    assert bench.pending() == set()


def test_registers_keep_what_they_can_hold(bench: Bench) -> None:
    plic = bench.plic
    plic.write(4 * 96, 4, 0xFFFF_FFFF)
    assert plic.read(4 * 96, 4) == 7
    plic.write(0, 4, 5)
    assert plic.read(0, 4) == 0
    for word in range(32):
        plic.write(0x2000 + 4 * word, 4, 0xFFFF_FFFF)
    words = [plic.read(0x2000 + 4 * word, 4) for word in range(32)]
    assert words == [0xFFFF_FFFE, 0xFFFF_FFFF, 0xFFFF_FFFF, 1, *[0] * 28]
    assert plic.read(0x2080, 4) == 1 << 1 | 1 << 10
    plic.write(0x200000, 4, 0xFF)
    assert plic.read(0x200000, 4) == 7
    plic.write(0x1000, 4, 0xFFFF_FFFF)
    assert bench.pending() == set()


def test_contexts_that_do_not_exist_read_zero(bench: Bench) -> None:
    for offset in (0x2200, 0x204000, 0x204004, 0x200008, 0x5FFFFC):
        bench.plic.write(offset, 4, 0xFFFF_FFFF)
        assert bench.plic.read(offset, 4) == 0


@pytest.mark.parametrize(("offset", "size"), [(4, 1), (4, 2), (8, 8), (0x200006, 4)])
def test_only_aligned_words_are_decoded(bench: Bench, offset: int, size: int) -> None:
    with pytest.raises(AccessFault):
        bench.plic.read(offset, size)
    with pytest.raises(AccessFault):
        bench.plic.write(offset, size, 0)


def test_reset_forgets_all_but_the_inputs(bench: Bench) -> None:
    bench.plic.set_level(10, True)
    bench.plic.set_level(33, True)
    bench.plic.set_level(33, False)
    bench.claim(S0)
    bench.plic.reset()
    assert bench.outputs == dict.fromkeys(range(4), False)
    assert bench.pending() == {10}
    bench.set_priority(10, 1)
    bench.enable(M0, 10)
    assert bench.outputs[M0]


def test_a_restored_state_goes_on(bench: Bench) -> None:
    bench.plic.set_level(10, True)
    bench.plic.set_level(96, True)
    bench.claim(S0)
    other = Bench()
    other.plic.restore(copy.deepcopy(bench.plic.state))
    assert other.outputs == bench.outputs
    assert other.claim(S0) == 96
    other.complete(S0, 10)
    assert other.pending() == {10}


def test_sources_and_harts_are_checked() -> None:
    bench = Bench()
    for source in (0, 97):
        with pytest.raises(ValueError, match="source"):
            bench.plic.line(source)
    with pytest.raises(ValueError, match="harts"):
        Plic(0, bench.drive)


sources = st.sampled_from([1, 2, 31, 32, 63, 64, 95, 96])
contexts = st.integers(0, 3)


class Traffic(RuleBasedStateMachine):
    """Any order of accesses, beside the specification written down naively, source by source."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.level: set[int] = set()
        self.ip: set[int] = set()
        self.in_service: set[int] = set()
        self.priority = dict.fromkeys(range(1, SOURCES + 1), 0)
        self.enabled: dict[int, set[int]] = {context: set() for context in range(4)}
        self.threshold = dict.fromkeys(range(4), 0)

    def gateway(self, source: int) -> None:
        if source in self.level and source not in self.in_service:
            self.ip.add(source)

    @rule(source=sources, level=st.booleans())
    def drive(self, source: int, level: bool) -> None:
        rising = level and source not in self.level
        (self.level.add if level else self.level.discard)(source)
        if rising:
            self.gateway(source)
        self.bench.plic.set_level(source, level)

    @rule(source=sources, priority=st.integers(0, 7))
    def set_priority(self, source: int, priority: int) -> None:
        self.priority[source] = priority
        self.bench.set_priority(source, priority)

    @rule(context=contexts, chosen=st.sets(sources))
    def enable(self, context: int, chosen: set[int]) -> None:
        self.enabled[context] = chosen
        self.bench.enable(context, *chosen)

    @rule(context=contexts, threshold=st.integers(0, 7))
    def set_threshold(self, context: int, threshold: int) -> None:
        self.threshold[context] = threshold
        self.bench.set_threshold(context, threshold)

    @rule(context=contexts)
    def claim(self, context: int) -> None:
        able = [s for s in self.ip & self.enabled[context] if self.priority[s]]
        expected = min(able, key=lambda s: (-self.priority[s], s), default=0)
        if expected:
            self.ip.remove(expected)
            self.in_service.add(expected)
        assert self.bench.claim(context) == expected

    @rule(context=contexts, source=sources)
    def complete(self, context: int, source: int) -> None:
        if source in self.enabled[context] and source in self.in_service:
            self.in_service.remove(source)
            self.gateway(source)
        self.bench.complete(context, source)

    @rule()
    def save_and_restore(self) -> None:
        other = Bench()
        other.plic.restore(copy.deepcopy(self.bench.plic.state))
        self.bench = other

    @invariant()
    def outputs_and_pending_bits_agree(self) -> None:
        assert self.bench.pending() == self.ip
        assert self.bench.outputs == {
            context: any(
                self.priority[s] > self.threshold[context] for s in self.ip & self.enabled[context]
            )
            for context in range(4)
        }


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(0, 0x17FFFF), st.integers(0, (1 << 32) - 1))
@settings(max_examples=200, deadline=None)
def test_no_access_is_too_strange(word: int, value: int) -> None:
    bench = Bench()
    bench.plic.write(4 * word, 4, value)
    assert 0 <= bench.plic.read(4 * word, 4) < 1 << 32
