"""The simulator repeats itself, finds nothing in sound code, and every mistake that is armed."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from cpu_proc import cli
from protocol import mutants
from protocol.session import Abandon
from protocol.session_machine import MachineSession
from protocol.session_translator import TranslatorSessions
from protocol.simulate.script import Outcome, Script, draw, replay, shrink
from protocol.simulate.world import EVENTS, Shape

MISTAKES = ("M20", "M21", "M22", "M31", "M35", "M41", "M42", "M44", "M46", "M47", "M48")
PATIENCE = 40  # runs of 10,000 steps within which a mistake must be found


@pytest.fixture(autouse=True)
def _disarm():
    yield
    mutants.arm(())


def found(runs: int = PATIENCE, steps: int = 10_000) -> tuple[Script, Outcome]:
    """The first run that fails."""
    for seed in range(runs):
        script, outcome = draw(seed, steps)
        if outcome.violation is not None:
            return script, outcome
    raise AssertionError(f"nothing was found in {runs} runs of {steps} steps")


def test_nothing_is_found_and_everything_happens():
    counts: Counter[str] = Counter()
    for seed in range(1000, 1060):
        script, outcome = draw(seed, 5000)
        assert outcome.violation is None, f"seed {seed}, {script.shape}"
        counts += outcome.counts
    for name in (
        *("executed", "published", "acknowledged", "lost", "code_space_full", "overflow"),
        *("system_reset", "backend_swap", "translator_restart", "counter_wrap"),
        *("late_epoch", "late_page_generation", "late_map_generation"),
        *("refused_bytes_moved", "refused_not_code", "refused_compiler_crashed"),
        *("dropped_other_session", "dropped_stale_epoch", "dropped_duplicate"),
    ):
        assert counts[name], f"{name} did not happen"
    assert counts["executed"] > 10_000


def test_every_kind_of_event_happens():
    kinds = {kind for seed in range(8) for kind, _ in draw(seed, 5000)[0].events}
    assert set(EVENTS) == kinds


def test_a_seed_is_a_run_and_a_script_repeats_it():
    for seed in range(5):
        script, outcome = draw(seed, 3000)
        assert outcome.trace == draw(seed, 3000)[1].trace
        assert outcome.trace == replay(script).trace
        assert outcome.trace == replay(script, telling=True).trace
        assert outcome.trace == replay(Script.parse(script.dump(), "here")).trace
    assert draw(1, 3000)[1].trace != draw(2, 3000)[1].trace


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(name: str):
    mutants.arm([name])
    script, outcome = found()

    again = replay(script)
    assert again.violation is not None
    assert outcome.violation is not None
    assert (outcome.violation.rule, outcome.trace) == (again.violation.rule, again.trace)
    mutants.arm(())
    assert replay(script).violation is None


def test_a_run_is_shrunk_to_what_matters():
    mutants.arm(["M31"])
    script, outcome = found()
    assert outcome.violation is not None
    short = shrink(script, outcome.violation.rule)

    assert len(short.events) < 40 < len(script.events)
    told = replay(short, telling=True)
    assert told.violation is not None
    assert outcome.violation.rule == told.violation.rule
    assert any("publishes page" in line for line in told.told)
    for at in range(len(short.events)):  # not one event can go
        less = Script(short.shape, short.events[:at] + short.events[at + 1 :])
        other = replay(less).violation
        assert other is None or other.rule != told.violation.rule
    mutants.arm(())
    assert replay(short).violation is None


def test_a_machine_that_is_never_served_is_noticed(monkeypatch: pytest.MonkeyPatch):
    timer = MachineSession.timer
    monkeypatch.setattr(
        MachineSession, "timer", lambda self, name: [] if name == "reconnect" else timer(self, name)
    )
    _, outcome = found()
    assert outcome.violation is not None
    assert "no_progress" == outcome.violation.rule


def test_a_retirement_without_an_end_is_noticed(monkeypatch: pytest.MonkeyPatch):
    timer = MachineSession.timer
    ignored = ("retire", "heartbeat")
    monkeypatch.setattr(
        MachineSession, "timer", lambda self, name: [] if name in ignored else timer(self, name)
    )
    _, outcome = found()
    assert outcome.violation is not None
    assert "retirement_late" == outcome.violation.rule


def test_jobs_that_outlive_their_epoch_are_noticed(monkeypatch: pytest.MonkeyPatch):
    drop = TranslatorSessions._drop_jobs
    monkeypatch.setattr(
        TranslatorSessions,
        "_drop_jobs",
        lambda self, one: [a for a in drop(self, one) if not isinstance(a, Abandon)],
    )
    _, outcome = found()
    assert outcome.violation is not None
    assert "older_alive" == outcome.violation.rule


# --- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_it_did(capsys: pytest.CaptureFixture[str]):
    assert 0 == cli.main(["simulate", "--seed", "3", "--runs", "2", "--steps", "2000"])
    said = capsys.readouterr().out
    assert "2 runs" in said
    assert "nothing found" in said


def test_the_command_writes_down_what_it_finds(tmp_path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "found.json"
    words = ["simulate", "--mutant", "M44", "--steps", "5000", "--save", str(path)]
    assert 1 == cli.main(words)
    said = capsys.readouterr().out
    assert "broken: incomplete_code" in said
    assert f"--replay {path}" in said
    mutants.arm(())

    assert 1 == cli.main(["simulate", "--replay", str(path)])
    assert "armed: M44" in (again := capsys.readouterr().out)
    assert "broken: incomplete_code" in again
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "mutants": []}))
    assert 0 == cli.main(["simulate", "--replay", str(path)])
    assert "nothing is broken" in capsys.readouterr().out


def test_several_processes_search_the_same_seeds(tmp_path, capsys: pytest.CaptureFixture[str]):
    words = ["--mutant", "M44", "--steps", "5000", "--no-shrink", "--save", str(tmp_path / "found")]
    assert 1 == cli.main(["simulate", *words])
    one = capsys.readouterr().out
    mutants.arm(())
    assert 1 == cli.main(["simulate", "--jobs", "2", *words])
    assert one == capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mutant", "M99"], "M1 to M48"),
        (["--runs", "0"], "at least 1"),
        (["--replay", "there/is/none"], "there/is/none"),
        (["--replay", "README.md"], "not a script"),
    ],
)
def test_a_users_mistake_is_one_line(words, said, capsys: pytest.CaptureFixture[str]):
    assert 2 == cli.main(["simulate", *words])
    lines = capsys.readouterr().err.splitlines()
    assert 1 == len(lines)
    assert said in lines[0]


@pytest.mark.parametrize(
    "change",
    [
        {"events": [["teleport", 1]]},
        {"events": [["hart", "x"]]},
        {"shape": Shape(harts=0).as_dict()},
        {"shape": {"sides": 3}},
        {"mutants": ["M0"]},
    ],
)
def test_a_script_is_believed_nothing(change, tmp_path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "script.json"
    whole = {"shape": Shape().as_dict(), "mutants": [], "seed": 1, "events": []}
    path.write_text(json.dumps(whole | change))
    assert 2 == cli.main(["simulate", "--replay", str(path)])
    assert 1 == len(capsys.readouterr().err.splitlines())
