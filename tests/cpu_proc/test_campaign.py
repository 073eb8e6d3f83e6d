"""`coldboot stress`: a little of each kind; findings, shrinking, replays, reports, mistakes."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cpu_proc import cli
from cpu_proc.stress import campaign, draw, equality, finding, hunt, page, pool, report, shrink
from cpu_proc.stress.job import Job, Result
from protocol.errors import UserError


class Here:
    """A pool that does everything at once, by a function of the test's."""

    width = 2

    def __init__(self, run: Any) -> None:
        self.run = run

    def submit(self, function: Any, *arguments: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            wanted = function is shrink.shrink
            future.set_result(function(*arguments, self.run) if wanted else self.run(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def passed(job: Job) -> Result:
    return {"kind": "passed", "verdict": "", "wall": 0.1, "events": 7, "stores": 3,
            "retired": {"dma": 4}, "values": []}  # fmt: skip


def stress(*words: str) -> int:
    return cli.main(["stress", *words])


# --- what is drawn -------------------------------------------------------------------------------


def first(wish: draw.Wish, count: int) -> list[Job]:
    return list(itertools.islice(draw.jobs(wish), count))


@pytest.mark.parametrize("kind", draw.KINDS)
def test_jobs_are_a_function_of_the_seed(kind: str):
    assert first(draw.Wish(5, kind), 30) == first(draw.Wish(5, kind), 30)
    assert first(draw.Wish(5, kind), 30) != first(draw.Wish(6, kind), 30)


def test_every_scenario_comes_in_every_mode():
    wish = draw.Wish(1, "scenarios")
    every = draw.every_scenario(wish)
    drawn = first(wish, len(every))

    key = lambda job: (job["scenario"], job["mode"], job["harts"])  # noqa: E731
    assert sorted(map(key, every)) == sorted(map(key, drawn))


def test_wishes_are_kept_to():
    wish = draw.Wish(2, "chaos", ["mixed"], [2], ["m06_store_forms"], ["M6"])

    for job in first(wish, 10):
        assert ("m06_store_forms", "mixed", 2, ["M6"]) == (
            job["scenario"], job["mode"], job["harts"], job["mutants"])  # fmt: skip
        assert set(job["chaos"]) <= set(draw.SPANS)


# --- a campaign's book ---------------------------------------------------------------------------


def test_a_campaign_counts_and_ends_at_its_count(tmp_path: Path):
    limits = campaign.Limits(count=9, out=tmp_path)
    book = campaign.run(draw.jobs(draw.Wish()), Here(passed), limits)  # type: ignore[arg-type]

    assert (9, 63, []) == (book.jobs, book.events, book.findings)
    assert {"dma": 36, "store": 27} == dict(book.causes)


def test_a_finding_is_a_folder_that_has_been_shrunk_and_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(job: Job) -> Result:
        kept = set(job.get("keep", range(40)))
        kind = "stale" if {3, 17} <= kept else "passed"
        return {**passed(job), "kind": kind, "verdict": "report 1: 2 where 1", "values": [2]}

    jobs = iter([{"random": 5, "operations": 40, "mode": "tier0", "harts": 1}])
    book = campaign.run(jobs, Here(run), campaign.Limits(out=tmp_path))  # type: ignore[arg-type]

    (found,) = book.findings
    folder = Path(found.folder)
    assert [3, 17] == json.loads((folder / "job.json").read_text())["keep"]
    assert "keep" not in json.loads((folder / "first.json").read_text())
    assert (2, "2 of 2") == (found.operations, found.seen)
    assert "2\n" == (folder / "actual.txt").read_text()
    assert f"coldboot stress --replay {folder}" in (folder / "README.md").read_text()
    monkeypatch.setattr(finding, "run_job", run)
    assert 1 == stress("--replay", str(folder))
    monkeypatch.setattr(finding, "run_job", passed)
    assert 0 == stress("--replay", str(folder))


def test_a_worker_that_is_lost_does_not_end_a_campaign(tmp_path: Path):
    def run(job: Job) -> Result:
        raise OSError("gone")

    limits = campaign.Limits(count=3, out=tmp_path)
    book = campaign.run(draw.jobs(draw.Wish()), Here(run), limits)  # type: ignore[arg-type]

    assert {"lost": 3} == dict(book.counted())


def test_a_finding_that_cannot_be_written_is_told_with_its_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    limits = campaign.Limits(count=1, shrink_seconds=0, out=tmp_path / "file")
    wrong = lambda job: {**passed(job), "kind": "stale"}  # noqa: E731
    book = campaign.run(draw.jobs(draw.Wish()), Here(wrong), limits)  # type: ignore[arg-type]

    (line,) = capsys.readouterr().err.splitlines()
    assert json.dumps(book.findings[0].job) in line
    assert 1 == len(book.unwritten)


@pytest.mark.parametrize("need", [set(), {0}, {19}, {2, 11}, {1, 2, 3, 4}, set(range(20))])
def test_what_is_left_is_what_is_needed(need: set[int]):
    assert sorted(need) == shrink.minimise(list(range(20)), lambda some: need <= set(some))


def test_what_does_not_fail_again_stays_as_it_was():
    job = {"random": 1, "operations": 9, "mode": "tier0"}
    made = shrink.shrink(job, "stale", 60, passed)

    assert (job, 0, None) == (made["job"], made["seen"], made["result"])


# --- the real thing ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["scenarios", "random", "race", "chaos"])
def test_a_cut_of_each_kind(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--seed", "4", "--mode", "tier0,mixed", "--count", "2", "--jobs", "2")
    path = tmp_path / "r.json"
    status = stress("--kind", kind, *words, "--json", str(path), "--out", str(tmp_path / "out"))

    made = json.loads(path.read_text())
    assert (0, []) == (status, made["findings"]), made["findings"]
    assert 2 == made["jobs"] + made["void"]
    assert "findings: none" in capsys.readouterr().out


def test_a_mistake_is_found_shrunk_and_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ("--mutant", "M6", "--kind", "random", "--mode", "tier0", "--harts", "1")
    html = tmp_path / "r.html"
    out = tmp_path / "out"
    assert 1 == stress(
        *words, "--shrink", "8", "--jobs", "1", "--out", str(out), "--html", str(html)
    )

    capsys.readouterr()
    (folder, *_) = out.glob("stale-*")
    assert 1 == stress("--replay", str(folder))
    assert capsys.readouterr().out.startswith("stale: ")
    text = html.read_text()
    assert "stale" in text
    assert "<svg" in text
    assert not re.search(r"""(src|href)=["']?(?!#)""", re.sub(r"xlink:href=\"#", "", text))


def test_a_table_of_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    html = tmp_path / "m.html"
    assert 0 == stress("--mutants", "M1,M3", "--seeds", "1", "--jobs", "2", "--html", str(html))

    out = capsys.readouterr().out
    assert re.search(r"^M1 +1 of 1 +m01_flash_program +tier0", out, re.MULTILINE)
    assert "2 of 2 mistakes found" in out
    assert "m03_disk_read" in html.read_text()


def test_a_mistake_that_is_not_found_is_told():
    row = hunt.hunt("M1", 0, 0.0, "random", passed)
    (line,) = hunt.table([row])

    assert (False, 1) == (row["found"], row["jobs"])
    assert "not found" in report.mutant_cells(line)


def test_final_states_are_equal(capsys: pytest.CaptureFixture[str]):
    job = equality.jobs_of(7, 0)
    assert len(equality.WAYS) == len({equality.way_of(one) for one in job})
    assert 1 == len({one["random"] for one in job})


def test_a_program_without_an_end_is_replaced_by_another():
    table = equality.Table()
    draw = equality.Draw(5, 2, table)
    first = next(draw)
    assert 5 == first["random"]
    table.add(first, {"kind": "void", "verdict": "still running"})
    left = list(draw)
    assert {6, 7} == {job["random"] for job in left}
    assert 2 * len(equality.WAYS) == len(left)
    table.add(left[0], {"kind": "void", "verdict": "still running"})
    assert {8} == {job["random"] for job in draw}
    assert [] == table.differences


def test_another_final_state_is_a_difference():
    table = equality.Table()
    job = equality.jobs_of(1, 0)[0]
    table.add(job, {"kind": "passed", "verdict": "", "state": "a", "reference": "a", "wall": 1})
    assert [] == table.differences
    table.add(job, {"kind": "passed", "verdict": "", "state": "b", "reference": "a", "wall": 1})
    assert 1 == len(table.differences)
    made = {"what": "equality", "seconds": 1, "where": "here", "width": 1, "wish": {},
            "programs": 1, "operations": 1, "rows": table.rows(),
            "differences": table.differences, "endless": 0}  # fmt: skip
    assert "1 are not" in report.text(made)
    assert "Differences" in page.page(made)


def test_it_ends_when_told_to_and_writes_its_reports(tmp_path: Path):
    path = tmp_path / "r.json"
    with subprocess.Popen(
        [sys.executable, "-m", "cpu_proc", "stress", "--minutes", "9", "--jobs", "1",
         "--json", str(path), "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 240
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=240)

    assert 0 == process.returncode
    assert "stopped before its time" in out
    assert json.loads(path.read_text())["stopped"]


# --- mistakes of users ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--kind tea", "--kind tea: there are scenarios"),
        ("--mode tier9", "tier0, regions, mixed"),
        ("--harts 9", "1 to 4"),
        ("--harts x", "numbers"),
        ("--scenario none", "m01_flash_erase to"),
        ("--mutant M99", "M1 to M48"),
        ("--mutants M99", "M1 to M48"),
        ("--minutes 0", "more than 0"),
        ("--minutes nan", "more than 0"),
        ("--jobs 0", "more than 0"),
        ("--shrink -1", "0 or more"),
        ("--seeds x", "invalid int"),
        ("--mutants M1 --equality 1", "exclude"),
        ("--replay /nonexistent", "No such file"),
        ("--json /nonexistent/r.json", "No such file"),
    ],
)
def test_a_mistake_is_one_line(words: str, told: str, capsys: pytest.CaptureFixture[str]):
    assert 2 == stress(*words.split())

    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert told in line
    assert "" == captured.out


def test_what_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="Dask is not installed"):
        pool.Pool(1, "tcp://127.0.0.1:1")
    with pytest.raises(UserError, match="matplotlib is not installed"):
        page.require()
    threads = pool.Pool(1)
    assert 3 == threads.submit(lambda: 3).result()
    threads.close()


def test_a_folder_that_is_no_finding_is_refused(tmp_path: Path):
    for name in ("job.json", "finding.json", "program.bin"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(UserError, match="not a finding"):
        finding.read(tmp_path)
