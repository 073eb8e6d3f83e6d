"""Jobs done by another host: every one comes back, by whatever happens; strangers get none."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jit_proc import agent
from jit_proc.agent_clients import AGENTS, JOBS, AgentSessions
from jit_proc.job import Job
from jit_proc.process import child_environment
from protocol import keys
from protocol.job_messages import JobHello, JobRefused, JobRequest, JobWelcome
from protocol.messages import Error
from protocol.session import SwapFailed, TranslatorDead
from protocol.transport import new_pair
from tests.jit_proc import fake_lifter as fake
from tests.jit_proc.agent_network import TERMS, Network, region_of
from tests.jit_proc.fake_machine import DEADLINE, FakeMachine
from tests.jit_proc.service_process import Service, returned

EVENTS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 41)), max_size=120)


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_every_job_comes_back_once_whatever_the_network_does(events: list[tuple[int, int]]):
    network = Network()
    for what, choice in events:
        network.step(what, choice)
    network.settle()


def test_many_jobs_are_under_way_at_once_and_agents_are_served_in_turn():
    network = Network()
    network.settle()
    for _ in range(10):
        for number in (0, 0, 0, 1):
            network.step(0, number)
    assert [one.running for one in network.agents] == [30, 10]
    while any(network.out):
        network.deliver_to_remote(0)
        network.deliver_to_remote(1)
    sessions = [task.session for _ in range(20) if (task := network.remote.take()) is not None]
    assert sessions[::2] == [sessions[0]] * 10
    assert sessions[1::2] == [sessions[1]] * 10
    assert network.whole == 0


def hello(session: int = 7) -> JobHello:
    return JobHello(session, *TERMS)


def sessions() -> AgentSessions:
    return AgentSessions(TERMS, ("x86_64",), 1, lambda word: "" if word == "llvm" else "unknown")


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        ({"layout_hash": "x"}, "layout_mismatch", "layout is x, the remote translator's layout"),
        ({"isa_hash": "x"}, "isa_mismatch", "instruction set is x"),
        ({"engine": "x"}, "engine_mismatch", "program is x.*same installation"),
        ({"host": "aarch64"}, "unsupported_host", "no code is made for aarch64 here, only for x86"),
        ({"cpu": "znver9"}, "unsupported_host", "no code is made for znver9"),
        ({"backend": "magic"}, "unknown_backend", "unknown"),
        ({"backend": "remote,host=x,port=1"}, "unknown_backend", "does not forward"),
    ],
)
def test_another_installation_or_host_is_refused_by_name(
    change: dict[str, Any], name: str, text: str
):
    [reply] = sessions().receive(b"a", replace(hello(), **change), 0.0)
    assert isinstance(reply.message, Error)
    assert reply.message.name == name
    assert re.search(text, reply.message.text)


def test_jobs_and_agents_beyond_the_limit_are_refused():
    remote = sessions()
    assert isinstance(remote.receive(b"a", hello(), 0.0)[0].message, JobWelcome)
    jobs = [JobRequest(7, id, 1, bytes(4096), (0,), 0, 0, (), b"") for id in range(1, JOBS + 2)]
    replies = [remote.receive(b"a", job, 0.0) for job in jobs]
    assert replies[:-1] == [[]] * JOBS
    [last] = replies[-1]
    assert isinstance(last.message, JobRefused)
    assert last.message.reason == "queue_full"
    for number in range(AGENTS - 1):
        remote.receive(f"{number}".encode(), hello(100 + number), 0.0)
    [reply] = remote.receive(b"one more", hello(99), 0.0)
    assert isinstance(reply.message, Error)
    assert reply.message.name == "too_many_sessions"
    remote.tick(1000.0)  # all were silent
    assert isinstance(remote.receive(b"one more", hello(99), 1000.0)[0].message, JobWelcome)
    assert remote.take() is None


# --- real processes ------------------------------------------------------------------------------


class Remote:
    """A remote translator, its address, and two folders of keys that know each other."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.folder, self.host = folder, host
        self.ours = keys.make(folder / "ours", new_pair)
        self.theirs = keys.make(folder / "theirs", new_pair)
        keys.authorize(self.ours, self.theirs.folder / keys.PUBLIC, "theirs")
        keys.authorize(self.theirs, self.ours.folder / keys.PUBLIC, "ours")
        self.port = 20000 + os.getpid() % 12000  # below those that the kernel gives out
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "remote.log"

    def start(self) -> None:
        host = f"[{self.host}]" if ":" in self.host else self.host
        command = [
            *(sys.executable, "-m", "jit_proc", "--listen", f"tcp://{host}:{self.port}"),
            *("--keys", str(self.theirs.folder), "--parent", str(os.getpid()), "--store", "off"),
            *("--lifter", f"{fake.__name__}:translate", "--log-level", "info"),
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, env=child_environment())

    def end(self, with_signal: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(DEADLINE)
            self.process = None

    def said(self, event: str) -> int:
        """How often it told of an event."""
        return self.log.read_text().count(f" {event} ") if self.log.exists() else 0

    def backend(self, more: str = "") -> str:
        """The backend with the keys' folder as `keys`, which must be short."""
        return f"remote,host={self.host},keys={self.ours.folder},port={self.port}{more}"


@pytest.fixture
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    one = Remote(tmp_path_factory.mktemp("r"))
    yield one
    one.end()


@pytest.fixture
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("l"))
    yield service
    log = service.end()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log


def ask(machine: FakeMachine, value: int) -> int:
    """What a page's code returns, whoever made it. A refusal as "try later" is followed."""
    while True:
        machine.write(1, fake.page(value=value))
        machine.request(1)
        machine.until(machine.answered)
        if any(type(action).__name__ == "Publish" for action in machine.seen):
            return returned(machine, machine.translated().entries[0].offset)
        assert machine.rejected().reason == "queue_full"
        machine.turn(0.2)  # not a flood: the service's log is a pipe that nobody reads yet


def test_it_is_killed_and_started_again_and_a_retirement_waits_for_nobody(
    remote: Remote, local: Service, tmp_path: Path
):
    machine = FakeMachine(local.endpoint, backend=remote.backend()).attached()
    machine.write(1, fake.page(value=1))
    machine.request(1)
    refused = machine.rejected()  # nobody listens yet
    assert refused.reason == "queue_full"
    assert "remote translator: nobody answers" in refused.text
    remote.start()
    assert ask(machine, 10) == 10
    with socket.create_connection(("127.0.0.1", remote.port)) as garbage:
        garbage.sendall(os.urandom(4096))
        assert ask(machine, 11) == 11
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(2, fake.page(fake.SLOW, 1, f"{go} {started}"))
    machine.request(2)
    machine.until(started.exists)
    machine.retire()
    machine.retired()
    go.touch()
    machine.write(2, fake.page(fake.SLOW, 1, f"{tmp_path / 'never'} {tmp_path / 'again'}"))
    machine.request(2)
    machine.until((tmp_path / "again").exists)
    remote.end()
    assert machine.rejected().reason == "queue_full"
    remote.start()
    assert ask(machine, 12) == 12
    machine.close()


def test_another_backend_stands_in_while_it_cannot_be_reached(remote: Remote, local: Service):
    machine = FakeMachine(local.endpoint, backend=remote.backend(",else=llvm")).attached()
    machine.write(1, fake.page(value=5))
    machine.request(1)
    assert returned(machine, machine.translated().entries[0].offset) == 5
    assert not remote.log.exists()
    remote.start()
    machine.until(lambda: ask(machine, 6) == 6 and remote.said("job_done"))
    keys.revoke(remote.ours, "theirs")
    assert "not trusted" in machine.wait(TranslatorDead).reason
    remote.end()
    machine.begin_again()
    machine.write(1, fake.page(value=7))
    machine.request(1)
    assert returned(machine, machine.translated().entries[0].offset) == 7
    machine.close()


def test_the_other_host_may_have_an_ipv6_address(
    tmp_path_factory: pytest.TempPathFactory, local: Service
):
    remote = Remote(tmp_path_factory.mktemp("r"), "::1")
    remote.start()
    try:
        machine = FakeMachine(local.endpoint, backend=remote.backend()).attached()
        assert ask(machine, 5) == 5
        assert remote.said("job_done") == 1
        machine.close()
    finally:
        remote.end()


def test_a_key_that_is_not_authorized_gets_nothing(remote: Remote, local: Service):
    (remote.theirs.folder / keys.AUTHORIZED / "ours.key").unlink()
    remote.start()
    machine = FakeMachine(local.endpoint, backend=remote.backend()).attached()
    machine.write(1, fake.page())
    machine.request(1)
    refused = machine.rejected()
    assert refused.reason == "queue_full"
    assert "not authorized" in refused.text
    assert remote.said("key_refused") > 0
    assert remote.said("job_done") == 0
    machine.act(machine.session.swap("remote,host=127.0.0.1,keys=/nowhere,port=7"))
    assert "coldboot keys" in machine.wait(SwapFailed).text
    machine.close()


@pytest.mark.parametrize("side", ["there", "here"])
def test_a_key_that_is_removed_ends_the_session_and_its_jobs(
    side: str, remote: Remote, local: Service, tmp_path: Path
):
    remote.start()
    machine = FakeMachine(local.endpoint, backend=remote.backend()).attached()
    assert ask(machine, 10) == 10
    started = tmp_path / "started"
    machine.write(2, fake.page(fake.SLOW, 1, f"{tmp_path / 'never'} {started}"))
    machine.request(2)
    machine.until(started.exists)
    done = remote.said("job_done")
    ours, theirs = remote.ours, remote.theirs
    folder, other, name = (theirs, ours, "ours") if side == "there" else (ours, theirs, "theirs")
    keys.revoke(folder, name)
    refused = machine.rejected()
    assert refused.reason == "queue_full"
    assert {"there": "no longer authorized", "here": "was removed"}[side] in refused.text
    if side == "here":  # what it made before is not to be run either
        assert "not trusted" in machine.wait(TranslatorDead).reason
    else:
        machine.write(1, fake.page(value=11))
        machine.request(1)
        assert machine.rejected().reason == "queue_full"
    assert remote.said("key_revoked") == (side == "there")
    assert remote.said("job_done") == done
    keys.authorize(folder, other.folder / keys.PUBLIC, name)
    if side == "here":
        machine.begin_again()
    assert ask(machine, 12) == 12
    machine.close()


def test_the_level_of_this_cpu_is_one_that_code_can_be_made_for():
    from jit_proc.llvm import compile_ir, make_for
    from jit_proc.worker import perform

    job = Job(0, b"\x13\0\0\0" * 1024, (0,), 0, cpu=agent.cpu_level())
    here, there = perform(replace(job, cpu="")), perform(job)
    assert type(here) is type(there)
    make_for("x86-64")
    ir = "define i64 @f(i64 %a, i64 %b) nounwind {\n %s = lshr i64 %a, %b\n ret i64 %s\n}"
    plain = compile_ir(ir).elf
    make_for("x86-64-v3")
    assert compile_ir(ir).elf != plain
    make_for("")
    assert region_of(job).entries == ((0, 0),)
