"""Jobs come back from the pool whatever they do to the workers."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jit_proc.job import Crash, EngineBuilt, EngineJob, Job, Refusal, Region
from jit_proc.pool import Pool, Result
from tests.jit_proc import fake_lifter as fake

DEADLINE = 240.0
Make = Callable[..., Pool]


@pytest.fixture
def make() -> Iterator[Make]:
    pools: list[Pool] = []

    def make(count: int = 1, **options: object) -> Pool:
        name = fake.__name__
        settings = {"lifter": f"{name}:translate", "engine": f"{name}:build", "nice": 0}
        pool = Pool(count, **{**settings, **options})  # type: ignore[arg-type]
        pools.append(pool)
        pool.start()
        return pool

    yield make
    for pool in pools:
        pool.close()


def wait(pool: Pool, count: int = 1) -> dict[int, object]:
    """Collect `count` results, waiting as the broker does."""
    end = time.monotonic() + DEADLINE
    results: list[Result] = []
    while len(results) < count:
        assert time.monotonic() < end, f"only {results} came"
        due = pool.deadline()
        limit = 1.0 if due is None else min(1.0, max(0.0, due - time.monotonic()))
        select.select(pool.filenos(), [], [], limit)
        results += pool.collect()
    return dict(results)


def job(what: int = fake.TRANSLATE, value: int = 0, note: object = "", entries=(0,)) -> Job:
    return Job(7, fake.page(what, value, str(note)), entries, 0)


def test_a_job_becomes_an_image(make: Make) -> None:
    pool = make()
    pool.submit(1, job(value=42, entries=(0, 3, 9)))
    region = wait(pool)[1]
    assert isinstance(region, Region)
    assert [slot for slot, _ in region.entries] == [0, 3, 9]
    offset = dict(region.entries)[3]
    assert region.code[offset:].startswith(b"\xb8\x2d\0\0\0\xc3")  # mov eax, 45; ret
    assert region.instructions == 3
    assert pool.idle == 1


def test_equal_jobs_have_equal_results(make: Make) -> None:
    pool = make(2)
    for ticket in range(4):
        pool.submit(ticket, job(value=5, entries=(0, 8)))
    results = wait(pool, 4)
    assert len({region.code for region in results.values()}) == 1  # type: ignore[attr-defined]


def test_a_refusal_and_failures_are_answers(make: Make) -> None:
    pool = make()
    for ticket, what in enumerate((fake.REFUSE, fake.BAD_IR, fake.BUG, fake.NOISE)):
        pool.submit(ticket, job(what))
    results = wait(pool, 4)
    assert results[0] == Refusal("not_code", "illegal at slot 7")
    for ticket, text in ((1, "IRError"), (2, "KeyError: 'lifter'")):
        refusal = results[ticket]
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "compiler_failed"
        assert text in refusal.text
    assert isinstance(results[3], Region)
    assert pool.died == 0


def test_a_job_that_kills_its_worker_says_so_and_harms_no_other(make: Make) -> None:
    pool = make()
    pool.submit(1, job(fake.DIE))
    pool.submit(2, job(value=1))
    results = wait(pool, 2)
    crash = results[1]
    assert isinstance(crash, Crash)
    assert "SIGABRT" in crash.text
    assert "ran out of registers" in crash.text
    assert isinstance(results[2], Region)  # the innocent one is done, by the next worker
    assert (pool.died, pool.started) == (1, 2)


def test_ir_that_llvm_dies_of_is_a_crash_with_its_words(make: Make) -> None:
    pool = make()
    pool.submit(1, job(fake.KILL_LLVM))
    crash = wait(pool)[1]
    assert isinstance(crash, Crash)
    assert "ran out of registers" in crash.text


def test_a_job_that_takes_too_long_is_ended(make: Make) -> None:
    pool = make(translate_limit=0.2)
    pool.submit(1, job(fake.HANG))
    pool.submit(2, job())
    results = wait(pool, 2)
    crash = results[1]
    assert isinstance(crash, Crash)
    assert "time limit" in crash.text
    assert isinstance(results[2], Region)


def test_abandoned_jobs_never_come_back(make: Make, tmp_path: Path) -> None:
    pool = make()
    pool.submit(1, job(fake.SLOW, note=tmp_path / "go"))
    pool.submit(2, job())
    pool.submit(3, job())
    assert pool.abandon(1)
    assert pool.abandon(2)
    assert not pool.abandon(1)
    assert not pool.abandon(99)
    (tmp_path / "go").touch()
    assert list(wait(pool)) == [3]
    assert pool.collect() == []
    assert pool.idle == 1


def test_a_worker_builds_the_engine(make: Make) -> None:
    pool = make()
    pool.submit(1, EngineJob())
    assert wait(pool)[1] == EngineBuilt(*fake.build())


def test_workers_that_cannot_start_break_the_pool_once_and_for_all(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jit_proc.process.child_environment", lambda: {"PYTHONHOME": "/nowhere"})
    pool = make()
    pool.submit(1, job())
    refusal = wait(pool)[1]
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "compiler_failed"
    assert "cannot start" in refusal.text
    pool.submit(2, job())
    assert isinstance(wait(pool)[2], Refusal)
    assert pool.started == 3


def test_close_ends_even_a_worker_that_hangs(make: Make) -> None:
    pool = make(2)
    pool.submit(1, job())
    wait(pool)
    processes = [worker.process for worker in pool._workers]
    pool.submit(2, job(fake.HANG))
    pool.close()
    assert all(process.poll() is not None for process in processes)
    assert pool.filenos() == []
