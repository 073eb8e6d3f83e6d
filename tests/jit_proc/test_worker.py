"""The worker's side of the pipe, and what makes it end."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jit_proc.backends.llvm import DEFAULT_LIFTER
from jit_proc.job import (
    EngineBuilt,
    EngineJob,
    Frames,
    Job,
    Ready,
    Refusal,
    Region,
    Times,
    decode,
    encode,
)
from jit_proc.process import child_environment
from jit_proc.worker import perform
from protocol.riscv.assembler import assemble
from tests.jit_proc import fake_lifter as fake
from tests.system import runner

DEADLINE = 240.0
LIFTER = f"{fake.__name__}:translate"

_messages = st.one_of(
    st.builds(
        Job,
        page=st.integers(0, 2**35),
        content=st.binary(max_size=64),
        entries=st.lists(st.integers(0, 2047)).map(tuple),
        state_word=st.integers(0, 2**64 - 1),
        backend=st.text(),
    ),
    st.just(EngineJob()),
    st.builds(Refusal, reason=st.just("not_code"), text=st.text()),
    st.builds(Ready, identity=st.text()),
    st.builds(EngineBuilt, code=st.binary(), symbols=st.dictionaries(st.text(), st.integers(0, 9))),
    st.builds(
        Region,
        code=st.binary(),
        entries=st.just(((1, 2), (3, 4))),
        spans=st.just(((0, 2),)),
        lines=st.integers(0, 2**64 - 1),
        instructions=st.integers(0, 99),
        times=st.just(Times(1, 2, 3, 4, 5, 6, 7)),
    ),
)


@given(st.lists(_messages, max_size=4), st.integers(1, 50))
def test_frames_survive_any_cutting(messages: list[object], piece: int) -> None:
    data = b"".join(encode(message) for message in messages)  # type: ignore[arg-type]
    frames, received = Frames(), []
    for start in range(0, len(data), piece):
        received += list(frames.feed(data[start : start + piece]))
    assert received == messages


@given(st.binary(max_size=40))
def test_nonsense_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="makes no sense"):
        decode(data)


def test_absurd_lengths_are_refused_before_they_arrive() -> None:
    with pytest.raises(ValueError, match="announced"):
        list(Frames().feed(b"\xff\xff\xff\xff"))
    with pytest.raises(ValueError, match="unknown"):
        decode(encode(Refusal("bored", ""))[4:])  # type: ignore[arg-type]


def test_missing_lifters_and_engines_are_named() -> None:
    outcome = perform(Job(0, fake.page(), (0,), 0), lifter="jit_proc.nothing:translate")
    assert isinstance(outcome, Refusal)
    assert "jit_proc.nothing" in outcome.text
    outcome = perform(EngineJob(), engine=f"{fake.__name__}:build_fails")
    assert outcome == Refusal("compiler_failed", "RuntimeError: no engine today")


def start(*options: str, lifter: str = LIFTER) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "jit_proc.worker", "--lifter", lifter, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=child_environment(),
    )


def read_one(fd: int) -> object:
    frames, end = Frames(), time.monotonic() + DEADLINE
    while select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
        data = os.read(fd, 1 << 16)
        assert data, "the worker ended"
        for message in frames.feed(data):
            return message
    raise AssertionError("the worker says nothing")


def test_it_is_ready_polite_and_ends_with_its_input() -> None:
    with start("--nice", "3") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready = read_one(process.stdout.fileno())
        assert isinstance(ready, Ready)
        assert ready.identity.startswith("llvm-")
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 3
        process.send_signal(signal.SIGINT)  # a terminal's ^C does not reach its work
        process.stdin.write(encode(Job(0, fake.page(fake.NOISE, 3), (0,), 0)))
        assert isinstance(read_one(process.stdout.fileno()), Region)
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


def test_jobs_leave_nothing_behind() -> None:
    steps = "\n".join(f"addi a{n % 6}, a{n % 5}, {n}\nld a6, {8 * n}(sp)" for n in range(100))
    content = assemble(f"again:\n{steps}\nbne a0, a1, again\nret").data.ljust(4096, b"\0")
    with start(lifter=DEFAULT_LIFTER) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert isinstance(read_one(process.stdout.fileno()), Ready)
        private = []
        for _ in range(5):
            for state_word in range(8):
                process.stdin.write(encode(Job(state_word, content, (0,), 0)))
                region = read_one(process.stdout.fileno())
                assert isinstance(region, Region)
                assert 200 < region.instructions
            private.append(runner.memory_of(process.pid)["RssAnon"])
        process.stdin.close()
    # What a job leaves it leaves in each round; what a pool or the collector takes, in one or two.
    grown = [after - before for before, after in pairwise(private)]
    assert min(grown) < 140, f"kB after each eight jobs: {private}"


def test_it_ends_when_its_parent_is_another() -> None:
    with start("--parent", str(os.getpid() + 1)) as process:
        assert process.wait(DEADLINE) == -signal.SIGKILL


def test_it_ends_with_its_parent_even_while_it_works() -> None:
    program = f"""
import subprocess, sys, time
from jit_proc.job import Job, encode
from jit_proc.process import child_environment
from tests.jit_proc import fake_lifter as fake
from tests.system import runner
process = subprocess.Popen([sys.executable, "-m", "jit_proc.worker", "--lifter", {LIFTER!r}],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=child_environment())
process.stdout.read(4)  # it is ready
process.stdin.write(encode(Job(0, fake.page(fake.HANG), (0,), 0)))
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=child_environment()
    ) as parent:
        assert parent.stdout is not None
        handle = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        assert select.select([handle], [], [], DEADLINE)[0], "the worker lives on"
        os.close(handle)
