"""Logs of real services against the model: what they did is admitted, what they must not do is not.

Read next: `protocol/model/replay.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.errors import UserError
from protocol.model import replay
from tests.oracle import require
from tests.system import programs, runner
from tests.system.runner import Machine
from tests.system.test_retirement import VICTIM

RESTLESS = """
    .equ OLD, 0x00b00513        # li a0, 11
    .equ NEW, 0x00c00513        # li a0, 12
    .equ MTIME, 0x200bff8
    .equ FLASH, 0x22000000
main:
    la s4, victim
    li s5, NEW
    li s7, 11
    li s9, 3                    # patches before a reset
    li s10, 0
1:
    la s0, start                # gets hot, and is asked for
    li s1, 2000
    mv s2, s7
    li s3, 1
    call check
    li t0, 2000000              # 0.2 s: it is published, or too late
    call pause
    la s0, start
    li s1, 10
    mv s2, s7
    li s3, 2
    call check
    sw s5, 0(s4)                # patch
    fence.i
    li t0, OLD ^ NEW
    xor s5, s5, t0
    xori s7, s7, 11 ^ 12
    lw t0, 8(s4)                # a branch decoded anew counts from the beginning
    sw t0, 8(s4)
    fence.i
    li t0, FLASH                # remap: the bank becomes I/O, and memory again
    li t1, 0x90
    sw t1, 0(t0)
    li t1, 0xff
    sw t1, 0(t0)
    li t1, UART                 # until a key is pressed
    lbu t0, 5(t1)
    andi t0, t0, 1
    bnez t0, PASS
    addi s9, s9, -1
    bnez s9, 1b
    li t0, 0x7777               # reset
    li t1, FINISHER
    sw t0, 0(t1)
    j .

pause:                          # t0 ticks
    li t1, MTIME
    ld t2, 0(t1)
    add t0, t0, t2
2:
    ld t2, 0(t1)
    bltu t2, t0, 2b
    ret
    .align 12
"""

Log = list[replay.Event]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """What a machine and its two translators said: patches, remaps, resets, and a kill."""
    require("spin", "gcc")
    folder = tmp_path_factory.mktemp("restless")
    with Machine(["--threshold", "64", programs.elf(RESTLESS + VICTIM, folder)], folder) as machine:
        first = machine.translator()
        machine.wait_event("region_published", 2)
        before = len(machine.events("everything_retired"))  # some without a translator
        machine.wait_event("everything_retired", before + 1)
        runner.until(
            lambda: (
                epochs(machine.log_path, "region_published")
                & epochs(machine.error_path, "epoch_retired")
            ),
            "a region of an epoch that began with a retirement",
            also=machine.pump,
        )
        incarnation = machine.events("translator_attached")[-1]["incarnation"]
        os.kill(first, signal.SIGKILL)
        machine.translator(incarnation)
        machine.wait_event("region_published", len(machine.events("region_published")) + 2)
        machine.send("x")
        assert 0 == machine.wait(), machine.diagnosis()
        return replay.read([machine.log_path, machine.error_path])


def epochs(path: Path, name: str) -> set[int]:
    """The epochs of the events of a name so far."""
    return {event["epoch"] for event in runner.read_events(path) if event["event"] == name}


def places(log: Log, name: str) -> list[int]:
    return [place for place, event in enumerate(log) if event["event"] == name]


def test_a_real_run_is_admitted(log: Log, tmp_path: Path):
    causes = {event["cause"] for event in log if event["event"] == "epoch_bumped"}
    assert {"system_reset", "translator_restart"} <= causes
    assert len(places(log, "service_started")) == 2

    verdict = replay.replay(log, tmp_path)

    assert verdict.admitted, verdict
    assert verdict.events > 40


def late_publication(log: Log) -> Log:
    """A region is published once more, after its epoch was retired."""
    published = log[places(log, "region_published")[0]]
    after = next(
        place
        for place in places(log, "everything_retired")
        if log[place]["epoch"] > published["epoch"]
    )
    return [*log[: after + 1], published, *log[after + 1 :]]


def published_twice(log: Log) -> Log:
    place = places(log, "region_published")[0]
    return [*log[:place], log[place], *log[place:]]


def published_though_the_page_changed(log: Log) -> Log:
    place = places(log, "region_published")[0]
    event = {**log[place], "page_generation": log[place]["page_generation"] + 1}
    return [*log[:place], event, *log[place + 1 :]]


def retirement_not_answered(log: Log) -> Log:
    """The harts go on, and regions are published, without a word of the translator."""
    place = next(
        place
        for place in places(log, "epoch_retired")
        if any(log[at]["epoch"] == log[place]["epoch"] for at in places(log, "region_published"))
    )
    return [*log[:place], *log[place + 1 :]]


def attached_under_the_epoch_of_a_dead_one(log: Log) -> Log:
    lost = places(log, "translator_lost")[0]
    bumped = next(place for place in places(log, "epoch_bumped") if place > lost)
    epoch = log[bumped]["epoch"]
    return [event for event in log if event.get("epoch") != epoch or event["event"] not in
            ("epoch_bumped", "everything_retired")]  # fmt: skip


DOCTORED: list[Callable[[Log], Log]] = [
    late_publication,
    published_twice,
    published_though_the_page_changed,
    retirement_not_answered,
    attached_under_the_epoch_of_a_dead_one,
]


@pytest.mark.parametrize("doctor", DOCTORED, ids=lambda doctor: doctor.__name__)
def test_a_doctored_log_is_refused(doctor: Callable[[Log], Log], log: Log, tmp_path: Path):
    verdict = replay.replay(doctor(log), tmp_path)

    assert not verdict.admitted, verdict
    assert verdict.why == "no run of the model has these events"


def test_a_log_without_a_session():
    with pytest.raises(UserError, match="no session"):
        replay.trace_of([{"event": "system_reset_done", "logger": "machine"}])
