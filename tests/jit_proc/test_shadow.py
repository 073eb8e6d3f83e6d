"""The backend `shadow`: it finds a planted mistake, keeps it from the guest, and says how to see it
again.

Read next: `jit_proc/backends/shadow.py`, `wrong_backend.py` (the mistake).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from jit_proc import backend_tool
from jit_proc.backends import complaint
from jit_proc.job import Difference
from jit_proc.quarantine import Quarantine, Unproven
from protocol.engine_image import engine_key, engine_path
from protocol.layout import LAYOUT_HASH
from protocol.riscv.identity import isa_hash
from tests.cpu_proc.test_metrics import once, service
from tests.jit_proc import wrong_backend
from tests.system import programs, runner

ROUNDS = 3000
SUM = f"""
main:                           # a sum that depends on sltu of numbers of both signs
    li s6, {ROUNDS}
    li s0, 1
    li s2, 0x9e3779b97f4a7c15
again:
    mul s0, s0, s2
    addi s0, s0, 13
    xor t0, s0, s6
    .align 2
    sltu t1, s0, t0
    sltu t2, t0, s2
    slli t1, t1, 3
    add s3, s3, t1
    xor s3, s3, t2
    slli s3, s3, 1
    addi s6, s6, -1
    bnez s6, again
    srli s11, s3, 7
    xor s11, s11, s3
    andi s11, s11, 127
    j FAIL                      # the sum is the exit status
"""


@pytest.fixture
def wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend `wrong`, installed, and a cache of this test's own for what is found."""
    info = tmp_path / "site" / "wrong-1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(wrong_backend.__file__, tmp_path / "site")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[coldboot.backends]\nwrong = wrong_backend:WRONG\n")
    path = [str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
    # The engine is a second's work: the one that other tests use is taken along.
    engine = engine_path(engine_key(isa_hash(), LAYOUT_HASH))
    mine = tmp_path / "cache" / "coldboot"
    mine.mkdir(mode=0o700, parents=True)
    if engine.exists():
        shutil.copy2(engine, mine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(mine.parent))


def tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        runner.command("backends", *words),
        capture_output=True, text=True, timeout=240, check=False, env=runner.environment(),
    )  # fmt: skip


@pytest.mark.usefixtures("wrong")
def test_a_planted_mistake_is_found_and_does_no_harm(tmp_path: Path):
    tmp_path.chmod(0o700)
    endpoint = f"ipc://{tmp_path}/translator"
    run = ["-translator", endpoint, "-threshold", "1"]
    right = programs.run(SUM, tmp_path, "-translator", "none").returncode
    with service("translator", "--endpoint", endpoint, ready=str(tmp_path / "notify")):
        planted = programs.run(SUM, tmp_path, *run, "-backend", "wrong").returncode
        word = "shadow:wrong,llvm,sample=1"
        compared = programs.run(SUM, tmp_path, *run, "-backend", word).returncode
        trusted = programs.run(SUM, tmp_path, *run, "-backend", "wrong").returncode
        _, counts = once(endpoint)

    assert planted != right  # or nothing would be shown
    assert compared == right
    assert trusted == right  # what is in quarantine is not translated for anybody
    assert counts["coldboot_translator_differences_total"] > 0
    assert counts["coldboot_translator_quarantined_total"] > 0
    assert counts["coldboot_translator_states_compared_total"] > 0
    (file, *_) = (tmp_path / "cache" / "coldboot" / "differences").glob("*.json")

    again = tool("--replay", str(file))
    assert again.returncode == 1, again.stderr
    assert "sltu" in again.stdout
    assert "the interpreter disagrees with wrong\n" in again.stdout

    mended = json.loads(file.read_text())
    mended["of"] = "llvm"
    file.write_text(json.dumps(mended))
    again = tool("--replay", str(file))
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "nothing differs")


def counted(rounds: int) -> str:
    """`SUM` with its rounds in data, so that its code is the same whatever they are."""
    text = SUM.replace(f"li s6, {ROUNDS}", "la t0, rounds\n    ld s6, 0(t0)")
    return f"{text}\n    .data\n    .align 12\nrounds:\n    .dword {rounds}\n"


@pytest.mark.usefixtures("wrong")
def test_code_of_the_same_bytes_that_was_never_compared_is_retired(tmp_path: Path):
    tmp_path.chmod(0o700)
    endpoint = f"ipc://{tmp_path}/translator"
    (tmp_path / "long").mkdir()
    guest = programs.elf(counted(1 << 40), tmp_path / "long")
    rare = "shadow:wrong,llvm,sample=999999"
    words = ["-m", "32M", "-backend", rare, "-translator", endpoint, guest]
    with (
        service("translator", "--endpoint", endpoint, ready=str(tmp_path / "notify")),
        runner.Machine(words, tmp_path / "long") as machine,
    ):
        machine.wait_event("region_published")
        assert machine.events("everything_retired") == []

        word = "shadow:wrong,llvm,sample=1"
        run = ["-translator", endpoint, "-threshold", "1", "-backend", word]
        programs.run(counted(ROUNDS), tmp_path, *run)

        machine.wait_event("everything_retired", cause="translator_restart")
        machine.wait_event("translator_attached", 2)
        os.kill(machine.pid, signal.SIGTERM)
        machine.wait()
    assert {event["epoch"] for event in machine.events("region_published")} == {1}


def test_a_quarantine_outlives_the_translator(tmp_path: Path):
    content = bytes(range(256)) * 16
    path = tmp_path / "quarantine.jsonl"
    found = Difference("llvm,level=2", ((64, 8), (128, 4)), "x5: 0x1 and 0x0", "")
    first = Quarantine(path)
    first.add(found, content)
    first.add(found, content)
    with path.open("a") as file:
        file.write('{"backend": 1}\nno line of ours\n')

    second = Quarantine(path)

    assert len(first) == len(second) == 1
    for one in (first, second):
        assert one.holds("llvm", content, ((0, 66),))
        assert one.holds("shadow:llvm,reference", content, ((130, 2),))
        assert not one.holds("reference", content, ((64, 8),))
        assert not one.holds("llvm", content, ((72, 56),))
        changed = content[:70] + b"\0" + content[71:]
        assert not one.holds("llvm", changed, ((64, 8),))
        assert one.holds_entries("llvm", content, (33, 64))
        assert not one.holds_entries("llvm", content, (33, 36))


def test_machines_with_code_that_was_never_compared_are_suspected():
    content = bytes(range(256)) * 16
    live = Unproven()
    live.placed(1, "shadow:llvm,reference", content, ((60, 20),))
    live.placed(2, "shadow:llvm,reference", content, ((72, 20),))
    live.placed(3, "shadow:llvm,reference", bytes(4096), ((60, 20),))
    live.placed(4, "shadow:other,reference", content, ((60, 20),))
    live.placed(5, "shadow:llvm,reference", content, ((60, 20),))
    live.forget(5)

    assert live.suspects(Difference("llvm", ((64, 8),), "", ""), content) == [1]


def test_so_are_machines_that_compare_nothing():
    content = bytes(range(256)) * 16
    found = Difference("llvm", ((64, 8),), "", "")
    live = Unproven()
    live.placed(1, "llvm", bytes(4096), ((60, 20),))  # before anybody compared: nothing is known
    live.placed(2, "reference", content, ((60, 20),))
    live.placed(3, "shadow:llvm,reference", bytes(4096), ((60, 20),))
    live.placed(4, "llvm,level=2", content, ((60, 20),))
    live.placed(5, "llvm", bytes(4096), ((60, 20),))

    assert live.suspects(found, content) == [1, 4]
    live.forget(1)
    live.forget(4)
    assert live.suspects(found, content) == []


def test_two_backends_agree_about_random_code():
    done = tool("--try", "llvm,reference", "--seed", "7", "--count", "8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("8 pages ")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("shadow", "made of two others: write shadow:llvm,reference"),
        ("llvm:none,none", "not made of two others"),
        ("shadow:llvm,magic", "backend magic is unknown"),
        ("shadow:llvm/level=9,reference", "level=9 is not possible"),
        ("shadow:llvm,none", "none is nothing to compare"),
        ("shadow:llvm,reference,sample=0", "sample=0 is not possible"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(word: str, says: str):
    assert says in complaint(word)


def test_files_that_are_no_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "x.json"
    for text in ("", "[]", "{}", '{"kind": "coldboot difference 1"}', "\xff"):
        file.write_text(text, encoding="latin-1")
        assert backend_tool.main(["--replay", str(file)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"coldboot: backends --replay: {file} is not a difference")
        assert len(said.splitlines()) == 1
