"""`coldboot ctl` on machines that run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpu_proc import ab, control_socket
from cpu_proc.ab import Reading, Turn
from cpu_proc.cli import main
from cpu_proc.qmp_client import QmpClient
from tests.system import programs, runner

SOURCE = """
main:
1:
    addi s4, s4, 1
    j 1b
"""
DEADLINE = 240.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime folder with a machine that has a translator, and one that has none."""
    made = tmp_path_factory.mktemp("ctl")
    program = programs.elf(SOURCE, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(made))
        words = ("-m", "1M", "-serial", "null", "-threshold", "64")
        running = [
            subprocess.Popen(
                runner.command("run", *words, "-translator", translator, program),
                env=runner.environment(),
                stdin=subprocess.DEVNULL,
            )
            for translator in ("embedded", "none")
        ]
        try:
            runner.until(
                lambda: len(list(control_socket.all_of_this_user())) == 2, "sockets", DEADLINE
            )
            yield made
        finally:
            for process in running:
                process.terminate()
                process.wait()


@pytest.fixture
def sockets(folder: Path) -> tuple[str, str]:
    """Of the machine with a translator, and of the one without."""
    found = [str(path) for path in control_socket.all_of_this_user()]
    with QmpClient(found[0]) as client:
        has = client.ask("x-query-jit")["translator"] is not None
    return (found[0], found[1]) if has else (found[1], found[0])


def ctl(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status, and what was said."""
    capsys.readouterr()
    status = main(["ctl", *words])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_a_backend_is_swapped_on_one_machine_and_back(sockets, capsys):
    status, said = ctl(capsys, sockets[0], "swap", "none")
    assert 0 == status
    assert "to none in " in said
    assert "backend none" in ctl(capsys, sockets[0], "status")[1]
    assert "none to llvm,level=0" in ctl(capsys, sockets[0], "swap", "llvm,level=0")[1]
    assert "backend_swap 2" in ctl(capsys, sockets[0], "retirements", "1")[1]
    status, said = ctl(capsys, sockets[0], "swap", "magic")
    assert 1 == status
    assert "use one of" in said


def test_all_machines_of_a_translator_are_told(sockets, capsys):
    with QmpClient(sockets[0]) as client:
        endpoint = client.ask("x-query-jit")["translator"]["endpoint"]

    status, said = ctl(capsys, endpoint, "swap", "reference")

    assert 0 == status, said
    assert "to reference in" in said
    assert (2, "coldboot: ctl ipc:///x: no machine of this user has that translator\n") == ctl(
        capsys, "ipc:///x", "status"
    )


def test_a_machine_is_stopped_reset_and_looked_at(sockets, capsys):
    one = f"unix:{sockets[1]}"
    assert (0, "") == ctl(capsys, one, "stop")
    assert ctl(capsys, one, "status")[1].startswith("paused")
    assert (0, "") == ctl(capsys, one, "cont")
    assert ctl(capsys, one, "status")[1].startswith("running")
    assert (0, "") == ctl(capsys, one, "reset")
    assert "all retired in" in ctl(capsys, one, "retire")[1]
    assert "CPU#0" in ctl(capsys, one, "monitor", "info", "registers")[1]
    assert 2 == len(ctl(capsys, "list")[1].splitlines())


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["status"], "2 machines run: name one of"),
        (["/nowhere/q", "status"], "/nowhere/q: No such file"),
        (["frob"], "frob: unknown command"),
        (["swap"], "swap BACKEND is expected"),
        (["ab", "a", "b", "c"], "ab A B is expected"),
        (["/x"], "a command is expected"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, words, why, capsys):
    status, said = ctl(capsys, *words)

    assert 2 == status
    assert why in said
    assert 1 == len(said.splitlines())


def test_two_backends_take_turns(sockets, tmp_path, capsys):
    file = tmp_path / "turns"
    words = ["ab", "none", "llvm", "--slice", "0.2", "--for", "0.4", "--json", str(file)]

    status, said = ctl(capsys, sockets[0], *words)

    assert 0 == status, said
    assert all(f"  {name}: " in said for name in ("none", "llvm"))
    turns = [turn["backend"] for turn in json.loads(file.read_text())]
    assert ["none", "llvm", "llvm", "none"] == turns[:4]


def test_how_turns_are_told():
    turns = [
        Turn("a", Reading(300, 1.0), Reading(200, 0.5), 10.0),
        Turn("b", Reading(100, 1.0), Reading(100, 0.5), 10.0),
        Turn("b", Reading(100, 1.0), Reading(0, 0.0), 10.0),
    ]
    said = ab.report(("a", "b"), turns, 1.0)

    assert "a / b: 2.00" in said
    assert "in 1 second halves" in said
    sleepy = [turn._replace(whole=Reading(9, 0.0), late=Reading(0, 0.0)) for turn in turns]
    assert "slept all through its 2 turns" in ab.report(("a", "b"), sleepy, 1.0)
