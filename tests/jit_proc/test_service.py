"""The translator service as machines meet it: over its socket, with real segments and workers."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jit_proc.outcomes import current_engine_key
from jit_proc.process import child_environment
from protocol import engine_image
from protocol.generations import identity_of
from protocol.messages import Stats
from protocol.session import (
    CodeSpaceFull,
    EngineFailed,
    EngineLoaded,
    Publish,
    StatsArrived,
    SwapFailed,
    SwapReady,
    TranslatorDead,
)
from tests.jit_proc import fake_lifter as fake
from tests.jit_proc.fake_machine import DEADLINE, FakeMachine
from tests.jit_proc.service_process import Connect, Service, returned


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("shared"))
    yield service
    log = service.end()
    assert service.process.returncode == 0, log
    assert "Traceback" not in log


def test_a_request_becomes_code_in_the_segment(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.write(3, fake.page(value=1000))
    machine.request(3, (1, 5, 9))
    answer = machine.translated()
    assert answer.stamp == machine.stamp(3)
    assert [(slot, returned(machine, offset)) for slot, offset in answer.entries] == [
        (1, 1001),
        (5, 1005),
        (9, 1009),
    ]
    assert answer.identity == identity_of(fake.page(value=1000), answer.spans)
    assert answer.lines == 2**64 - 1
    assert answer.instructions == 3
    assert min(answer.timings.codegen, answer.timings.publish, answer.timings.cpu) > 0


def test_two_machines_have_a_segment_each(shared: Service, connect: Connect) -> None:
    machines = [connect(shared).attached() for _ in range(2)]
    for number, machine in enumerate(machines):
        machine.write(0, fake.page(value=100 + number))
        machine.request(0)
    for number, machine in enumerate(machines):
        answer = machine.translated()
        assert answer.code_offset == 0
        assert returned(machine, answer.entries[0].offset) == 100 + number


def test_bytes_that_moved_are_not_translated(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.write(1, fake.page())
    stamp = machine.stamp(1)
    machine.write(1, fake.page(value=1))
    machine.act(machine.session.request(stamp, (0,), 1))
    assert machine.rejected().reason == "bytes_moved"


def test_a_map_that_moved_rejects_too(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.map_generation += 1
    machine.request(1)  # the counter in the segment is still the old one
    assert machine.rejected().reason == "bytes_moved"


def test_bytes_that_move_while_they_are_translated_leave_nothing(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    machine = connect(shared).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(1, fake.page(fake.SLOW, 1, f"{go} {started}"))
    machine.request(1)
    machine.until(started.exists)
    machine.write(1, fake.page(value=2))
    go.touch()
    assert machine.rejected().reason == "bytes_moved"
    machine.request(1)
    answer = machine.translated()
    assert answer.code_offset == 0  # what came too late was never placed
    assert returned(machine, 0) == 2


def test_a_counter_of_another_epoch_is_stale(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.epoch += 1
    machine.store_counters()
    machine.epoch -= 1
    machine.request(1)
    assert machine.rejected().reason == "stale_epoch"


def test_pages_the_machine_does_not_have_are_refused(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    for page in (64, 2**35 - 1):
        machine.act(machine.session.request(replace(machine.stamp(0), page=page), (0,), 1))
        assert machine.rejected().reason == "not_backed"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (fake.REFUSE, "not_code"),
        (fake.BUG, "compiler_failed"),
        (fake.BAD_IR, "compiler_failed"),
        (fake.BAD_SPANS, "compiler_failed"),
        (fake.DIE, "compiler_crashed"),
    ],
)
def test_what_cannot_be_translated_is_refused_and_the_next_is_done(
    shared: Service, connect: Connect, what: int, reason: str
) -> None:
    machine = connect(shared).attached()
    machine.write(1, fake.page(what))
    machine.write(2, fake.page(value=7))
    machine.request(1)
    machine.request(2)
    answer = machine.rejected()
    assert (answer.reason, answer.page) == (reason, 1)
    assert returned(machine, machine.translated().code_offset) == 7


def test_a_worker_that_died_once_is_replaced_and_the_job_done(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    machine = connect(shared).attached()
    machine.write(1, fake.page(fake.DIE_ONCE, 9, str(tmp_path / "died")))
    machine.request(1)
    assert returned(machine, machine.translated().code_offset) == 9
    assert (tmp_path / "died").exists()


def test_the_hottest_is_translated_first(shared: Service, connect: Connect, tmp_path: Path) -> None:
    machine = connect(shared).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(0, fake.page(fake.SLOW, 0, f"{go} {started}"))
    machine.request(0)
    machine.until(started.exists)
    for page, heat in ((1, 10), (2, 30), (3, 20)):
        machine.write(page, fake.page(value=page))
        machine.request(page, heat=heat)
    machine.act(machine.session.ask_stats())
    machine.until(lambda: dict(machine.wait(StatsArrived).message.counters)["queued"] == 3)
    go.touch()
    assert [machine.translated().page for _ in range(4)] == [0, 2, 3, 1]


def test_with_heat_0_nothing_is_made_and_the_answer_waits_for_no_worker(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    machine = connect(shared).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(0, fake.page(fake.SLOW, 0, f"{go} {started}"))
    machine.write(1, fake.page(fake.REFUSE))
    machine.write(2, fake.page(value=2))
    machine.request(1)
    assert machine.rejected().reason == "not_code"
    machine.request(0)
    machine.until(started.exists)
    machine.request(2, heat=0)
    assert machine.rejected().reason == "not_kept"
    machine.request(1, heat=0)
    assert machine.rejected().reason == "not_code", "which is known"
    machine.request(2)
    machine.act(machine.session.ask_stats())
    machine.until(lambda: dict(machine.wait(StatsArrived).message.counters)["queued"] == 1)
    go.touch()
    assert [machine.translated().page for _ in range(2)] == [0, 2]


def test_retirement_forgets_queue_running_jobs_and_code(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    machine = connect(shared).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(0, fake.page(value=1))
    machine.request(0)
    first = machine.translated()
    machine.write(1, fake.page(fake.SLOW, 2, f"{go} {started}"))
    machine.write(2, fake.page(value=3))
    machine.request(1)
    machine.request(2)
    machine.until(started.exists)
    machine.retire()
    done = machine.retired().message
    assert (done.queued, done.running, done.modules) == (1, 1, 1)
    assert done.bytes == first.code_size
    assert done.live_older == 0
    go.touch()
    machine.request(2)
    answer = machine.translated()
    assert (answer.epoch, answer.page, answer.code_offset) == (machine.epoch, 2, 0)
    assert returned(machine, 0) == 3
    assert not [action for action in machine.seen if isinstance(action, Publish)]


def test_many_retirements_leak_nothing(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{shared.process.pid}/fd"))

    machine.retire()
    machine.retired()
    before = descriptors()
    for _ in range(20):
        machine.retire()
        machine.retired()
    assert descriptors() == before


def test_cancelled_requests_get_no_answer(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    machine = connect(shared).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(0, fake.page(fake.SLOW, 0, f"{go} {started}"))
    machine.write(1, fake.page())
    machine.request(0)
    machine.request(1)
    machine.until(started.exists)
    machine.act(machine.session.cancel_page(0))
    machine.act(machine.session.cancel_page(1))
    go.touch()
    machine.write(2, fake.page(value=5))
    machine.request(2)
    assert machine.translated().page == 2
    assert machine.code is not None
    assert returned(machine, 0) == 5


def test_a_full_code_space_asks_for_a_new_epoch(
    start: Callable[..., Service], connect: Connect
) -> None:
    machine = connect(start("--code-space", "64K")).attached()
    machine.write(0, fake.page(fake.BIG))
    while not any(isinstance(action, CodeSpaceFull) for action in machine.seen):
        machine.request(0)
        machine.until(lambda: machine.session.outstanding == 0)
    assert machine.rejected().reason == "code_space_full"
    machine.seen.clear()
    machine.retire("code_space_full")
    assert machine.retired().message.modules > 0
    machine.request(0)
    assert machine.translated().code_offset == 0


def test_the_engine_is_built_once_and_found_again(
    start: Callable[..., Service], connect: Connect
) -> None:
    service = start()
    key = current_engine_key()
    for _ in range(2):
        machine = connect(service)
        machine.act(machine.session.ask_engine(key))
        loaded = machine.wait(EngineLoaded)
        image = engine_image.read(loaded.path, key)
        assert image.symbols == {"enter": 0}
        assert Path(loaded.path).parent == service.cache
        assert Path(loaded.path).read_bytes()[image.code_offset :] == fake.build()[0]
    assert service.end().count("engine_built") == 1


def test_another_installations_engine_is_refused(shared: Service, connect: Connect) -> None:
    machine = connect(shared)
    machine.act(machine.session.ask_engine("0" * 32))
    assert "same installation" in machine.wait(EngineFailed).text


def test_an_engine_that_cannot_be_built_says_why(
    start: Callable[..., Service], connect: Connect
) -> None:
    machine = connect(start("--engine", f"{fake.__name__}:build_fails"))
    machine.act(machine.session.ask_engine(current_engine_key()))
    assert "no engine today" in machine.wait(EngineFailed).text


def test_backends_can_be_asked_for(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.act(machine.session.swap("llvm"))
    assert machine.wait(SwapReady).backend == "llvm"
    machine.act(machine.session.swap("magic"))
    assert "llvm" in machine.wait(SwapFailed).text


def test_segments_that_could_shrink_are_refused(shared: Service, connect: Connect) -> None:
    machine = connect(shared, seals=0)
    assert machine.wait(TranslatorDead).reason == "attach_failed"


def test_no_page_is_writable_and_executable_and_no_llvm_is_in_the_broker(
    shared: Service, connect: Connect
) -> None:
    connect(shared).attached()
    maps = Path(f"/proc/{shared.process.pid}/maps").read_text().splitlines()
    assert not [line for line in maps if "w" in line.split()[1] and "x" in line.split()[1]]
    assert not [line for line in maps if "llvm" in line.lower()]
    assert [line.split()[1] for line in maps if "memfd:ram" in line] == ["r--s"]
    assert "rw-s" in [line.split()[1] for line in maps if "memfd:coldboot-code" in line]


def test_a_machine_that_was_killed_is_forgotten_at_once(shared: Service, connect: Connect) -> None:
    program = """
import sys, time
from tests.jit_proc.fake_machine import FakeMachine
machine = FakeMachine(sys.argv[1]).attached()
print("attached", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, shared.endpoint],
        stdout=subprocess.PIPE,
        env=child_environment(),
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"attached\n"
        machine = connect(shared).attached()

        def mapped() -> int:
            maps = Path(f"/proc/{shared.process.pid}/maps").read_text()
            return maps.count("memfd:ram")

        before = mapped()
        other.kill()
        machine.until(lambda: mapped() == before - 1)


def test_two_translators_cannot_share_an_endpoint(
    shared: Service, connect: Connect, tmp_path: Path
) -> None:
    connect(shared).attached()
    second = subprocess.run(
        [sys.executable, "-m", "jit_proc", "--endpoint", shared.endpoint],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=child_environment(),
    )
    assert second.returncode == 2
    assert second.stderr.startswith(f"coldboot: endpoint {shared.endpoint} is in use")
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--workers", "0"),
        ("--workers", "many"),
        ("--nice", "-3"),
        ("--nice", "20"),
        ("--code-space", "5"),
        ("--code-space", "1T"),
        ("--endpoint", "nowhere"),
        ("--endpoint", "ipc:///no/such/folder/t"),
        ("--log-level", "loud"),
        ("--cache", __file__),
        ("--surprise",),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jit_proc", *options],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=child_environment(),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("coldboot: ")
    assert done.stderr.count("\n") == 1
    assert options[-1].removeprefix("ipc://").removesuffix("/t") in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_finishes_says_goodbye_and_cleans_up(
    start: Callable[..., Service], connect: Connect, tmp_path: Path, number: signal.Signals
) -> None:
    service = start()
    machine = connect(service).attached()
    started, go = tmp_path / "started", tmp_path / "go"
    machine.write(1, fake.page(fake.SLOW, 4, f"{go} {started}"))
    machine.request(1)
    machine.until(started.exists)
    service.process.send_signal(number)
    go.touch()
    assert machine.translated().page == 1  # what was under way is still answered
    assert "goodbye" in machine.wait(TranslatorDead).reason
    log = service.end()
    assert service.process.returncode == 0, log
    assert "service_stopped" in log
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("t")]


def test_a_job_that_hangs_does_not_keep_it_from_ending(
    start: Callable[..., Service], connect: Connect, tmp_path: Path
) -> None:
    service = start()
    machine = connect(service).attached()
    started = tmp_path / "started"
    machine.write(1, fake.page(fake.SLOW, 4, f"{tmp_path}/never {started}"))
    machine.request(1)
    machine.until(started.exists)
    service.end()
    assert service.process.returncode == 0


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    program = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-m", "jit_proc", "--endpoint", "ipc://{tmp_path}/t",
    "--parent", str(os.getpid()), "--lifter", "{fake.__name__}:translate"])
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=child_environment()
    ) as parent:
        assert parent.stdout is not None
        service = os.pidfd_open(int(parent.stdout.readline()))
        machine = FakeMachine(f"ipc://{tmp_path}/t").attached()
        parent.kill()
        assert select.select([service], [], [], DEADLINE)[0], "the translator lives on"
        machine.wait(TranslatorDead)
        machine.close()
        os.close(service)


def test_the_engine_can_be_built_beforehand(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jit_proc", "--build-engine", "--cache", str(tmp_path)]

    def run(builder: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, "--engine", f"{fake.__name__}:{builder}", "--log-level", "off"],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            env=child_environment(),
        )

    failed = run("build_fails")
    assert failed.returncode == 2
    assert failed.stderr == (
        "coldboot: the engine cannot be built: RuntimeError: no engine today\n"
    )
    (tmp_path / "file").touch()
    command[-1] = str(tmp_path / "file" / "cache")
    nowhere = run("build")
    assert nowhere.returncode == 2
    assert f"{tmp_path}/file/cache" in nowhere.stderr
    command[-1] = str(tmp_path)
    first, second = run("build"), run("build_fails")  # the second finds it and builds nothing
    assert first.stdout == second.stdout
    key = current_engine_key()
    assert engine_image.read(first.stdout.strip(), key).symbols == {"enter": 0}


def test_counts_are_told(shared: Service, connect: Connect) -> None:
    machine = connect(shared).attached()
    machine.write(0, fake.page())
    machine.request(0)
    machine.translated()
    machine.client.send(Stats(0))
    end = time.monotonic() + DEADLINE
    found: dict[str, int] = {}
    while not found:
        assert time.monotonic() < end
        machine.client.poll(0.1)
        for message in machine.client.receive():
            found = dict(getattr(message, "counters", ()))
    assert found["workers"] == 1
    assert found["sessions"] >= 1
