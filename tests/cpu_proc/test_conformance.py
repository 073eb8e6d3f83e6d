"""The conformance kit: it passes what is right, and says which rule what is wrong breaks."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from cpu_proc import cli
from cpu_proc.conformance import clauses, guests, rules, runner
from cpu_proc.conformance.target import Target
from tests.cpu_proc import wrong_translators
from tests.cpu_proc.wrong_translators import MISTAKES, TEN

ROOT = Path(__file__).parents[2]
OURS = f"{sys.executable} -m jit_proc --workers 1"
PATIENT = ("--deadline", "90", "--retire-deadline", "60")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", found)


def judged(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The kit's status and report."""
    report = tmp_path / "report.json"
    status = cli.main(["conformance", *words, "--json", str(report)])
    return status, json.loads(report.read_text())


def failed(report: dict[str, Any]) -> list[str]:
    return [
        f"{one['name']} ({one['clause']}): {one['finding']}"
        for one in report["checks"]
        if one["verdict"] == "failed"
    ]


def test_ours_conforms(tmp_path: Path):
    status, report = judged(tmp_path, "--start", OURS, *PATIENT, "--protocol")

    assert ([], 0) == (failed(report), status)
    assert report["skipped"] == 0, report
    assert report["regions"] > 0


def test_the_example_of_the_documentation_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    site = tmp_path / "site"
    info = site / "template-1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "template_backend.py", site)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: template\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[coldboot.backends]\ntemplate = template_backend:TEMPLATE\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ["PYTHONPATH"]]))
    only = "handshake.*,requests.*,content.*,retire.*,guest.m21_patched_twice"
    words = ["--start", OURS, "--backend", "template", "--only", only, *PATIENT]
    status, report = judged(tmp_path, *words)

    assert ([], 0) == (failed(report), status)
    assert report["skipped"] == 0
    assert report["regions"] > 0


@pytest.mark.parametrize("name", TEN)
def test_a_wrong_one_is_told_its_rule(name: str, tmp_path: Path):
    mistake = MISTAKES[name]
    words = ["--start", wrong_translators.command(name), "--only", mistake.check]
    # What never comes is waited for; all else comes when it comes.
    waits = {"no PONG came": ("8", "60"), "no RETIRED came": ("90", "4")}
    patience = waits.get(mistake.says, ("90", "60"))
    words += ["--deadline", patience[0], "--retire-deadline", patience[1]]
    status, report = judged(tmp_path, *words)

    (one,) = report["checks"]
    assert (1, "failed", mistake.clause) == (status, one["verdict"], one["clause"]), one
    assert mistake.says in one["finding"]
    assert one["says"]


def test_one_that_runs_already_is_not_killed(tmp_path: Path):
    running = Target(command=OURS)
    try:
        running.start()
        status, report = judged(tmp_path, running.endpoint, "--only", "life.ping,restart.*")
        assert not running.ended()
    finally:
        running.close()

    verdicts = {one["name"]: one["verdict"] for one in report["checks"]}
    assert 0 == status
    assert {"life.ping": "passed", "restart.killed": "skipped", "restart.asked": "skipped"} == (
        verdicts
    )


def test_every_clause_is_one_of_the_specification():
    named = {one.clause for one in rules.load_all().values()}
    named |= {guest.clause for guest in guests.GUESTS} | {guests.CHECKSUM[0]}
    for path in (ROOT / "cpu_proc" / "conformance").glob("*.py"):
        named |= set(re.findall(r'"(\d(?:\.\d)+|[1357] [A-Za-z_ ]+)"', path.read_text()))

    assert len(named) > 30
    assert [] == [clause for clause in named if not clauses.quote(clause)]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "ENDPOINT or --start COMMAND"),
        (("ipc:///x/y", "--start", "z"), "ENDPOINT or --start COMMAND"),
        (("--start", "no-such-command-anywhere"), "No such file"),
        (("--start", "true"), "it does not listen"),
        (("--start", "'"), "No closing quotation"),
        (("--only", "magic.*"), "there is no such check"),
        (("--start", "true", "--deadline", "0"), "--deadline: seconds"),
        (("--start", "true", "--json", "/nowhere/x"), "No such file"),
        (("tcp://example.org:1",), "needs keys"),
        (
            ("--start", OURS, "--backend", "magic", "--only", "life.ping"),
            "backend magic is unknown",
        ),
    ],
)
def test_bad_input_is_one_line(words: tuple[str, ...], says: str, capsys: Any):
    assert 2 == cli.main(["conformance", *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("coldboot: ")
    assert says in line


def test_the_list_has_them_all(capsys: Any):
    assert 0 == cli.main(["conformance", "--list"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert runner.names(4) == listed
    assert len(listed) == len(set(listed))
