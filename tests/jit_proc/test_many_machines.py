"""Several machines at one translator: fair between them, limited, and safe from each other."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from jit_proc.process import child_environment
from protocol.codec import CodecError, decode
from protocol.messages import Message, Rejected, Stats, StatsReply, Translate
from protocol.session import Publish, TranslatorDead
from tests.jit_proc import fake_lifter as fake
from tests.jit_proc.fake_machine import DEADLINE, PAGES, FakeMachine
from tests.jit_proc.service_process import Connect, Service, returned

Start = Callable[..., Service]


def flood(machine: FakeMachine, count: int) -> None:
    """Ask for so many regions, far more than a machine's window allows, each of a place of its
    own.
    """
    for number in range(count):
        page, slot = number % (PAGES - 1) + 1, number // (PAGES - 1)
        about = machine.stamp(page)
        request = Translate(
            machine.session.session,
            number + 100,
            about.epoch,
            about.map_generation,
            page,
            about.page_generation,
            about.state_word,
            (slot,),
            heat=1000,
        )
        machine.client.send(request)


def heard(machine: FakeMachine, wanted: Callable[[Message], bool]) -> list[Message]:
    """What the translator says to a machine that plays by its own rules, until something is said
    that is wanted.
    """
    found: list[Message] = []
    end = time.monotonic() + DEADLINE
    while not any(map(wanted, found)):
        assert time.monotonic() < end, found
        machine.client.poll(0.05)
        for message in machine.client.receive():
            assert not isinstance(message, CodecError), message
            found.append(message)
    return found


def counts(machine: FakeMachine) -> dict[str, int]:
    """What the translator counts of all machines."""
    machine.client.send(Stats(0))
    said = heard(machine, lambda message: isinstance(message, StatsReply) and not message.session)
    return dict(next(m for m in said if isinstance(m, StatsReply) and not m.session).counters)


def blocked(machine: FakeMachine, folder: Path) -> Path:
    """Have the worker busy with a job of this machine; what ends it."""
    started, go = folder / "started", folder / "go"
    machine.write(0, fake.page(fake.SLOW, 0, f"{go} {started}"))
    machine.request(0)
    machine.until(started.exists)
    return go


def events(log: str, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_a_flood_of_one_machine_makes_no_other_wait(
    start: Start, connect: Connect, tmp_path: Path
) -> None:
    service = start("--queue", "900", "--workers", "1")
    greedy, modest = connect(service).attached(), connect(service).attached()
    go = blocked(greedy, tmp_path)
    flood(greedy, 1000)
    refused = [m for m in heard(greedy, lambda m: getattr(m, "id", 0) == 1099)]
    assert {m.reason for m in refused if isinstance(m, Rejected)} == {"queue_full"}
    assert all("900 requests wait" in m.text for m in refused if isinstance(m, Rejected))
    assert len(refused) == 100
    for page in (1, 2):
        modest.write(page, fake.page(value=page))
        modest.request(page, heat=1)
    modest.act(modest.session.ask_stats())
    modest.until(lambda: any(type(a).__name__ == "StatsArrived" for a in modest.seen))
    go.touch()
    for _ in range(2):
        answer = modest.translated()
        assert returned(modest, answer.code_offset) == answer.page
    made = [e["session"] for e in events(service.end(), "block_translated")]
    theirs = [n for n, session in enumerate(made) if session == modest.session.session]
    # Of those of the greedy one: the one that was with the worker, and one for each of these.
    assert len(theirs) == 2
    assert theirs[0] <= 2
    assert theirs[1] <= 4


def test_machines_beyond_the_limit_are_told_so_and_come_when_there_is_room(
    start: Start, connect: Connect
) -> None:
    service = start("--machines", "1")
    first = connect(service).attached()
    dead = connect(service).wait(TranslatorDead)
    assert dead.reason == "too_many_sessions"
    assert "1 machines are served already" in dead.text
    first.act(first.session.close("it ends"))
    third = connect(service)
    third.until(lambda: third.code is not None or third.session.state == "dead")
    while third.code is None:  # it asked before the first one was gone
        third = connect(service)
        third.until(lambda: third.code is not None or third.session.state == "dead")  # noqa: B023


VICTIM = """
import sys
from tests.jit_proc import fake_lifter as fake
from tests.jit_proc.fake_machine import FakeMachine
machine = FakeMachine(sys.argv[1]).attached()
machine.write(1, fake.page(fake.SLOW, 1, sys.argv[2]))
machine.request(1)
for page in range(2, 60):
    machine.write(page, fake.page(value=page))
    machine.request(page)
print("asked", flush=True)
machine.until(lambda: False)
"""


def test_a_machine_killed_with_requests_under_way_is_gone_with_all_it_had(
    start: Start, connect: Connect, tmp_path: Path
) -> None:
    service = start()
    other = connect(service).attached()

    def held() -> tuple[int, int, int]:
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
        files = len(os.listdir(f"/proc/{service.process.pid}/fd"))
        return maps.count("memfd:ram"), maps.count("memfd:coldboot-code"), files

    other.request(0)
    other.translated()  # all that is made once is there now
    before = held()
    started, go = tmp_path / "started", tmp_path / "go"
    command = [sys.executable, "-c", VICTIM, service.endpoint, f"{go} {started}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment()) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"asked\n"
        other.until(started.exists)
        assert held() > before
        victim.kill()
    other.until(lambda: held() == before)
    go.touch()
    other.write(5, fake.page(value=55))
    other.request(5)
    assert returned(other, other.translated().code_offset) == 55
    assert (counts(other)["queued"], counts(other)["running"]) == (0, 0)


def test_garbage_costs_its_sender_alone(start: Start, connect: Connect) -> None:
    service = start()
    bad, good = connect(service).attached(), connect(service).attached()
    socket = bad.client._socket
    assert socket is not None
    for junk in ([b""], [b"\xc1" * 50], [secrets.token_bytes(200)], [b"a", b"b"]):
        socket.send_multipart(junk)
    answers: list[Message] = []
    while len(answers) < 4:
        assert socket.poll(240_000)
        answers.append(decode(socket.recv(zmq.NOBLOCK)))
    assert {type(one).__name__ for one in answers} == {"Error"}
    good.request(3)
    good.translated()
    assert good.session.state == "attached"
    assert "Traceback" not in service.end()


def test_segments_shorter_than_announced_are_refused(start: Start, connect: Connect) -> None:
    service = start()
    good = connect(service).attached()
    assert connect(service, announced=1 << 30).wait(TranslatorDead).reason == "attach_failed"
    good.request(3)
    good.translated()


def test_a_socket_that_was_removed_comes_back(
    start: Start, connect: Connect, tmp_path: Path
) -> None:
    service = start()
    before = connect(service).attached()
    shutil.rmtree(tmp_path)
    after = connect(service).attached()
    for machine in (before, after):
        machine.request(1)
        machine.translated()
    assert before.session.state == after.session.state == "attached"


def test_a_refusal_is_remembered_until_the_bytes_or_the_epoch_change(
    start: Start, connect: Connect
) -> None:
    service = start()
    machine = connect(service).attached()

    def asked(page: int, entries: tuple[int, ...] = (0,)) -> str:
        machine.request(page, entries)
        machine.until(lambda: machine.session.outstanding == 0)
        done = machine.seen.pop()
        return "done" if isinstance(done, Publish) else machine_reason(done)

    def machine_reason(action: object) -> str:
        message = getattr(action, "message", None)
        assert isinstance(message, Rejected)
        return message.reason

    def died() -> tuple[int, int]:
        now = counts(machine)
        return now["workers_died"], now["refused_again"]

    machine.write(1, fake.page(fake.DIE))
    assert (asked(1), died()) == ("compiler_crashed", (2, 0))
    for again in (1, 2, 3):
        assert (asked(1), died()) == ("compiler_crashed", (2, again))
    machine.write(2, fake.page(fake.DIE))  # another page's bytes are another question
    assert (asked(2), died()) == ("compiler_crashed", (4, 3))
    machine.write(1, fake.page(value=5))
    assert asked(1) == "done"
    machine.write(1, fake.page(fake.REFUSE))
    assert [asked(1), asked(1)] == ["not_code", "not_code"]
    assert died() == (4, 4)
    assert asked(1, (3,)) == "not_code"  # another slot
    assert died() == (4, 4)
    machine.retire()
    machine.retired()
    assert asked(1) == "not_code"
    assert died() == (4, 4)
