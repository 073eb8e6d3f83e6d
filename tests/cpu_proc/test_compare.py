"""Other emulators: what they do is shown, not asserted; that they are asked fairly, is."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cpu_proc.compare import cli, side_by_side, table
from cpu_proc.compare.coldboot import Coldboot
from cpu_proc.compare.peer import IMPOSSIBLE, Cell, Guest, Peer
from cpu_proc.compare.qemu import Qemu, empty_qcow2
from cpu_proc.compare.spike import Spike, elf
from cpu_proc.compare.unicorn_peer import Unicorn
from cpu_proc.stress import scenario as scenarios
from tests.oracle import QEMU, do_without, require
from tests.system import runner

SCENARIOS = scenarios.load_all()
README = runner.REPOSITORY / "README.md"
KINDS = {"passed", "stale", "trap", "late", "ended", IMPOSSIBLE}


def ask(peer: Peer, name: str, folder: Path, harts: int = 1, patience: float = 60.0) -> Cell:
    scenario = SCENARIOS[name]
    path = scenarios.FOLDER / f"{name}.s"
    mode = scenarios.MODES["tier0"]
    return peer.run(Guest(path, scenario, mode, max(harts, scenario.harts), folder, patience))


@pytest.mark.parametrize(
    "name",
    [
        "m01_flash_program",  # flash in a file
        "m03_disk_read",  # a disk
        "m04_snapshot",  # the monitor
        "m05_host_write",  # the debugger
        "m19_single_step",
        "m28_remote_hart",  # two harts
        "m45_counted_time",
    ],
)
def test_qemu_runs_and_reports(name: str, tmp_path: Path):
    require(QEMU)

    cell = ask(Qemu(), name, tmp_path)

    assert cell.kind in KINDS - {IMPOSSIBLE}, cell
    assert cell.values, cell


@pytest.mark.parametrize("name", ["m09_boot_remap", "m37_reset_pending", "m46_backend_swap"])
def test_what_qemu_has_not_is_not_possible(name: str, tmp_path: Path):
    require(QEMU)

    cell = ask(Qemu(), name, tmp_path)

    assert IMPOSSIBLE == cell.kind
    assert cell.detail.startswith("no such ")


def test_a_qemu_that_does_not_start_is_no_verdict(tmp_path: Path):
    broken = tmp_path / "qemu"
    broken.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    broken.chmod(0o755)

    assert Cell("crashed", "no such machine") == ask(Qemu(str(broken)), "m05_host_write", tmp_path)


def test_an_empty_image_is_one_for_qemu_img(tmp_path: Path):
    tool = require("qemu-img")
    image = tmp_path / "image"
    image.write_bytes(empty_qcow2(1 << 20))

    subprocess.run([tool, "check", "-q", str(image)], check=True)
    said = subprocess.run(
        [tool, "info", "--output=json", str(image)], check=True, capture_output=True
    )

    assert 1 << 20 == json.loads(said.stdout)["virtual-size"]


@pytest.mark.parametrize("name", ["m05_host_write", "m04_snapshot", "m19_single_step"])
def test_unicorn_runs_and_reports(name: str, tmp_path: Path):
    if why := Unicorn().missing():
        do_without(why)

    cell = ask(Unicorn(), name, tmp_path)

    assert cell.kind in KINDS - {IMPOSSIBLE}, cell
    assert cell.values, cell


@pytest.mark.parametrize("name", ["m01_flash_program", "m28_remote_hart", "m45_counted_time"])
def test_what_unicorn_has_not_is_not_possible(name: str, tmp_path: Path):
    if why := Unicorn().missing():
        do_without(why)

    assert IMPOSSIBLE == ask(Unicorn(), name, tmp_path).kind


def test_a_file_for_spike_names_where_it_ends():
    guest = Guest(
        Path(), SCENARIOS["m05_host_write"], scenarios.MODES["tier0"], 1, Path(), patience=1.0
    )
    file = ELFFile(BytesIO(elf(guest.program())))

    table_of_symbols = file.get_section_by_name(".symtab")
    assert isinstance(table_of_symbols, SymbolTableSection)
    symbol = (table_of_symbols.get_symbol_by_name("tohost") or [])[0]
    assert 0x10_0000 == symbol["st_value"]
    (segment,) = file.iter_segments()
    assert scenarios.RAM_BASE == segment["p_vaddr"] == file["e_entry"]
    assert segment.data() == guest.program().data


def test_an_emulator_that_is_not_there_says_what_to_do(tmp_path: Path):
    assert "--spike" in Spike(str(tmp_path / "spike")).missing()
    assert "--qemu" in Qemu(str(tmp_path / "qemu")).missing()


# --- the command -------------------------------------------------------------------------------


def compare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        runner.command("compare", *words),
        capture_output=True,
        text=True,
        env=runner.environment(),
        timeout=runner.DEADLINE,
        check=False,
    )


def test_the_command_prints_a_table_and_writes_both_forms(tmp_path: Path):
    made, kept = tmp_path / "table.json", tmp_path / "table.md"

    done = compare(
        *("--on", "tier0", "--scenario", "m36", "--scenario", "M38"),
        *("--json", made, "--markdown", kept),
    )

    assert 0 == done.returncode, done.stderr
    assert re.search(r"m36_behind_fence +passed", done.stdout)
    cells = json.loads(made.read_text())["scenarios"]["m38_own_block"]["cells"]
    assert [0, 0, 0, 0] == cells["tier0"]["values"]
    assert "[m36_behind_fence]" in kept.read_text()


def test_the_demonstration_shows_six_rounds():
    done = compare("--demo", "--on", "tier0,regions")

    assert 0 == done.returncode, done.stderr
    rounds = re.findall(r"^ li a0, (\d) +(\d) +(\d) +(\d) *$", done.stdout, re.MULTILINE)
    assert [(str(n),) * 4 for n in range(1, 7)] == rounds


def test_the_demonstration_has_a_place_for_qemu():
    require(QEMU)

    done = compare("--demo", "--on", "qemu")

    assert 0 == done.returncode, done.stderr
    assert re.search(r"QEMU \d+\.\d+\.\d+: read back 1 2 3 4 5 6, ran \d", done.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--on", "abacus"), "abacus"),
        (("--on", "qemu", "--qemu", "/nowhere/qemu"), "/nowhere/qemu"),
        (("--scenario", "m99"), "m99"),
        (("--harts", "9"), "--harts"),
        (("--mode", "tier9"), "tier9"),
        (("--on", "tier0", "--scenario", "m36", "--json", "/nowhere/x"), "/nowhere/x"),
        (("--on", "tier0", "--seen", "/nowhere/y"), "/nowhere/y"),
        (("--on", "tier0", "--seen", "pyproject.toml"), "not made by compare"),
        (("--on", "tier0", "--scenario", "m36", "--markdown", "pyproject.toml"), "pyproject"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str):
    done = compare(*words)

    assert 2 == done.returncode
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("coldboot: compare")
    assert said in line


# --- the table ---------------------------------------------------------------------------------


def comparison(**cells: Cell) -> table.Comparison:
    return table.Comparison(
        {name: name.title() for name in cells}, "tier0", {"m36_behind_fence": dict(cells)}
    )


def test_a_cell_says_what_was_seen():
    stale = Cell("stale", "report 2: 1 where 2 or 3 was expected")

    assert "stale: 1, not 2 or 3" == table.text(stale)
    assert "trap 7" == table.text(Cell("trap", "trap 7 2147483648"))
    assert "not possible: no such event: swap" == table.text(
        Cell(IMPOSSIBLE, "no such event: swap")
    )
    made = table.markdown(comparison(qemu=stale, spike=Cell("late")), SCENARIOS)
    assert "| **stale: 1, not 2 or 3** | late |" in made
    assert "| stale | 1 |  |" in made


def test_a_table_is_renewed_between_its_marks(tmp_path: Path):
    path = tmp_path / "x.md"
    path.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")

    table.write_markdown(path, "new")

    assert f"before\n{table.BEGIN}\n\nnew\n{table.END}\nafter\n" == path.read_text()


def test_what_was_seen_earlier_is_taken_over():
    now = comparison(qemu=Cell("passed"))
    earlier = table.Comparison(
        {"tier0": "Tier 0", "qemu": "Old"},
        "tier0",
        {
            "m36_behind_fence": {"qemu": Cell("late"), "tier0": Cell("passed")},
            "m38_own_block": {"qemu": Cell("late")},
            "m00_gone": {"qemu": Cell("late")},
        },
    )

    again = table.from_json(
        json.loads(
            json.dumps(
                table.as_json(earlier, {**SCENARIOS, "m00_gone": SCENARIOS["m38_own_block"]})
            )
        )
    )
    assert earlier == again
    joined = now.joined(again, list(SCENARIOS))

    assert {"tier0": "Tier 0", "qemu": "Qemu"} == joined.heads
    assert ["m36_behind_fence", "m38_own_block"] == list(joined.cells)
    assert "passed" == joined.cells["m36_behind_fence"]["qemu"].kind
    assert "late" == joined.cells["m38_own_block"]["qemu"].kind
    assert "m38_own_block" in table.markdown(joined, SCENARIOS)


def test_a_failure_of_ours_is_the_exit_status(monkeypatch: pytest.MonkeyPatch):
    class Wrong(Coldboot):
        def run(self, guest: Guest) -> Cell:
            return Cell("stale", "report 1: 1 where 2 was expected", (1,))

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    options = parser.parse_args(["--on", "tier0", "--scenario", "m36"])
    monkeypatch.setattr(cli, "Coldboot", Wrong)

    assert 1 == cli.run(options)
    assert 1 == side_by_side.run([Wrong("tier0")], 60.0)


def test_the_readme_has_a_row_for_every_scenario_and_ours_passed():
    text = README.read_text(encoding="utf-8").partition(table.BEGIN)[2].partition(table.END)[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| [m")]
    heads = next(line for line in text.splitlines() if line.startswith("| scenario "))
    columns = heads.strip("| ").split(" | ")

    assert ["scenario", "what changes", "coldboot, tier 0", "coldboot, regions"] == columns[:4]
    assert re.fullmatch(r"QEMU \d+\.\d+\.\d+", columns[4])
    assert list(SCENARIOS) == [re.findall(r"\[(\w+)\]", row[0])[0] for row in rows], (
        "coldboot compare --markdown README.md makes the table anew"
    )
    # That they pass is shown scenario by scenario in test_stress.py.
    assert {("passed", "passed")} == {(row[2], row[3]) for row in rows}
