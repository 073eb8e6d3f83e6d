"""Every retirement of real machines is in the file, with who, where and what, and the sums agree.

The guests are scenarios of the stress tool: each causes one kind of event, a known number of times.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cpu_proc import explain_file
from cpu_proc.machine import Machine
from cpu_proc.options import parse
from cpu_proc.run_options import RunOptions
from cpu_proc.stress import scenario, trial
from protocol.errors import UserError
from protocol.riscv.assembler import assemble
from tests.cpu_proc.make_elf import ElfFile, Segment
from tests.system.runner import until

RAM = 0x8000_0000
Line = dict[str, Any]


class Trial(trial.Trial):
    def _options(self, harts: int, out: int) -> RunOptions:
        return replace(super()._options(harts, out), explain=str(self.folder / "explained"))


def run(folder: Path, name: str, mode: str) -> tuple[list[Line], trial.Trial]:
    """The lines of a scenario's file, which passes."""
    one = scenario.load_all()[name]
    made = Trial(one, scenario.MODES[mode], one.harts, folder)
    try:
        made.go(90)
    finally:
        made.close()
    outcome = made.judge()
    assert "passed" == outcome.kind, outcome.verdict
    lines = [json.loads(line) for line in (folder / "explained").read_text().splitlines()]
    assert {"file": "retirements", "version": 1} == {k: lines[0][k] for k in ("file", "version")}
    check_sums(lines, made.machine)
    return lines[1:-1], made


def check_sums(lines: list[Line], machine: Machine) -> None:
    """What the lines say in all is what the machine's counters say."""
    end, events = lines[-1], [line for line in lines if "n" in line]
    assert "end" == end["cause"]
    assert list(range(1, end["events"] + 1)) == [line["n"] for line in events]
    assert dict(machine.retirement.counts) == end["causes"] == dict(count(events))
    stores = sum(line["count"] for line in lines if line.get("cause") == "stores")
    writes = sum(line["cause"] == "memory_write" for line in events)
    assert (stores, writes) == (end["stores"], end["memory_writes"])
    assert stores + writes == end["page_generations_moved"]
    for line in lines:
        if line.get("cause") == "stores":
            pages = sum(page["count"] for page in line["pages"])
            assert line["count"] == pages + line["rest"]["count"]
    epochs = [line["counters"]["epoch"] for line in events]
    moved = [pair for pair in epochs if pair[0] != pair[1]]
    assert len(moved) == machine.retirement.epoch - 1 == end["epoch"] - 1
    assert all(after == before + 1 for before, after in moved)
    assert machine.memory.generation == end["map_generation"]
    assert 0 == end["lost"]


def count(events: list[Line]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in events:
        found[line["cause"]] = found.get(line["cause"], 0) + 1
    return found


def of(lines: list[Line], cause: str) -> list[Line]:
    return [line for line in lines if line["cause"] == cause]


def place(made: trial.Trial, who: Line) -> str:
    """The assembly label at or before the instruction behind an event."""
    pc = int(who["pc"], 16)
    before = {at: name for name, at in made.program.symbols.items() if RAM <= at <= pc}
    return before[max(before)]


def test_patches_and_resets(tmp_path: Path):
    lines, _ = run(tmp_path, "m02_reset_copies", "regions")

    for line in of(lines, "system_reset"):
        assert ("device", "test-finisher", 0) == tuple(
            line["who"][name] for name in ("by", "device", "hart")
        )
        assert line["retired"]["everything"]
        assert line["retired"]["regions"] > 0
        assert line["translator_dropped"]["modules"] >= line["retired"]["regions"]
        assert all(line["took_ms"][name] > 0 for name in ("harts_out", "records", "translator"))
    stores = of(lines, "guest_store")
    assert len(of(lines, "system_reset")) + 1 == len(stores)
    for line in stores:
        assert ("hart", 0, "store") == (
            line["who"]["by"], line["who"]["hart"], line["who"]["did"]
        )  # fmt: skip
        assert "ram" == line["where"]["memory"]
        [page] = line["where"]["physical"]
        assert [page] == line["where"]["virtual"]
        published = line["retired"]["published"]
        assert len(published) == line["retired"]["regions"]
        assert all(e.startswith(page[:-3]) for one in published for e in one["entries"])
        before, after = line["counters"]["page_generation"]
        assert before < after


def test_a_disk_that_reads_over_code(tmp_path: Path):
    lines, _ = run(tmp_path, "m03_disk_read", "regions")

    assert {"memory_write"} == {line["cause"] for line in lines}
    for line in lines:
        assert ("device", "virtio-blk", "DMA") == tuple(
            line["who"][name] for name in ("by", "device", "did")
        )
        assert [*range(8)] == line["where"]["lines"]  # one sector
        assert [1] == [b - a for a, b in [line["counters"]["page_generation"]]]


def test_flash(tmp_path: Path):
    lines, _ = run(tmp_path, "m01_flash_program", "tier0")

    writes, remaps = of(lines, "memory_write"), of(lines, "remap")
    assert 2 * len(writes) + 2 == len(remaps)
    assert {"cfi-flash"} == {line["who"]["device"] for line in lines}
    assert {"flash1 program"} == {line["who"]["did"] for line in writes}
    for line in writes:  # while it is programmed a bank is no memory
        assert ("flash1", []) == (line["where"]["memory"], line["where"]["physical"])
    views = [(line["went"][0]["name"], line["came"][0]["name"]) for line in remaps]
    assert views == [("flash1", "flash1 registers"), ("flash1 registers", "flash1")] * (
        len(remaps) // 2
    )
    assert all([["0x22000000"]] == [[one["base"] for one in line["went"]]] for line in remaps)


def test_a_swap_and_a_debugger_belong_to_the_host(tmp_path: Path):
    lines, _ = run(tmp_path, "m46_backend_swap", "regions")
    assert {("backend_swap", "host")} == {(line["cause"], line["who"]["by"]) for line in lines}


def test_records_retired_by_native_code_alone_are_counted(tmp_path: Path):
    lines, made = run(tmp_path, "m05_host_write", "tier0")

    writes, stores = of(lines, "memory_write"), of(lines, "stores")
    assert {("host", "debugger's write")} == {(w["who"]["by"], w["who"]["did"]) for w in writes}
    tracked = sum(int(hart.state.stat_stores) for hart in made.machine.harts)
    by_hart = sum(sum(line["by_hart"]) for line in stores)
    assert tracked - len(writes) == by_hart == sum(line["count"] for line in stores) > 0


def test_harts_are_waited_for(tmp_path: Path):
    lines, _ = run(tmp_path, "m28_remote_hart", "regions")

    stores = of(lines, "guest_store")
    assert {0} == {line["who"]["hart"] for line in stores}
    assert all(line["took_ms"]["harts_out"] is not None for line in stores)


# --- the file ------------------------------------------------------------------------------------

SPIN = """
_start:
    la s0, victim
    li s1, 0x00000513           # li a0, 0
1:  li s2, CALLS
2:  call victim
    addi s2, s2, -1
    bnez s2, 2b
patch:
    sw s1, 0(s0)
    sw s1, 0(s0)
    j 1b
    .align 12
victim:
    li a0, 0
    ret
"""

Maker = Callable[..., Machine]


@pytest.fixture
def machine(tmp_path: Path):
    made: list[Machine] = []

    def make(*words: str, path: str = "", calls: int = 1) -> Machine:
        program = assemble(f".equ CALLS, {calls}\n{SPIN}", RAM)
        image = tmp_path / "program.elf"
        names = {name: program.symbols[name] for name in ("victim", "patch")}
        image.write_bytes(bytes(ElfFile([Segment(RAM, program.data)], symbols=names)))
        file = path or str(tmp_path / "e")
        words = ("-m", "4M", "-serial", "null", "-explain", file, *words, str(image))
        made.append(Machine(parse(words)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def read(tmp_path: Path) -> list[Line]:
    return [json.loads(line) for line in (tmp_path / "e").read_text().splitlines()]


def test_a_million_stores_are_few_lines(machine: Maker, tmp_path: Path):
    one = machine("-translator", "none")
    one.power_on()
    until(lambda: int(one.harts[0].state.stat_stores) > 1_000_000, "stores")
    one.close()

    lines = read(tmp_path)
    check_sums(lines, one)
    assert lines[-1]["stores"] > 1_000_000
    assert len(lines) < 1000
    pages = {page["physical"][0] for line in lines[1:-1] for page in line["pages"]}
    assert {hex(RAM + 0x1000)} == pages


def test_an_instruction_is_named_by_the_guests_symbols(machine: Maker, tmp_path: Path):
    one = machine("-threshold", "1", calls=20)
    one.power_on()
    until(lambda: one.retirement.counts["guest_store"] > 2, "a region is patched")
    one.close()

    symbols = {line["who"].get("symbol") for line in of(read(tmp_path)[1:], "guest_store")}
    assert symbols <= {"patch", "patch+0x4"}
    assert symbols


def test_what_does_not_fit_is_counted_and_told(
    machine: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(explain_file, "LIMIT", 5)
    one = machine("-translator", "none")
    for _ in range(40):
        more = {"memory": ("ram", 0)}
        one.retirement.note("memory_write", more=more, began=0.0, page=0, regions=0)
    one.close()

    lines = read(tmp_path)
    lost = lines[-1]["lost"]
    assert lost > 0
    assert 40 == lines[-1]["events"] == lost + sum("n" in line for line in lines)
    assert f"{lost} events are not in it" in capsys.readouterr().err


def test_a_full_disk_is_told_once_and_the_guest_runs_on(machine: Maker, capsys: Any):
    one = machine("-translator", "none", path="/dev/full")
    one.power_on()
    until(lambda: int(one.harts[0].state.stat_stores) > 1000, "stores")
    one.host.retire()
    one.close()

    assert one.failure is None
    said = capsys.readouterr().err.splitlines()
    assert ["coldboot: -explain /dev/full: No space left on device"] == [
        line.split(";")[0] for line in said
    ]


@pytest.mark.parametrize(
    ("value", "why"), [("-", "the terminal is the guest's"), ("/nowhere/e", "there is no folder")]
)
def test_a_name_that_cannot_be(value: str, why: str):
    with pytest.raises(UserError, match=why):
        parse(["-bios", "none", "-explain", value])


# --- the monitor ---------------------------------------------------------------------------------


def test_the_monitor_tells(machine: Maker):
    one = machine("-translator", "none")
    assert "nothing was retired\n" == one.command("explain")
    one.power_on()
    one.host.retire()
    one.host.reset_hart(0, RAM)

    said = one.command("explain 5").splitlines()
    assert "#1 " in said[0]
    assert "request by host" in said[0]
    assert "epoch 1 to 2" in said[0]
    assert "hart_reset by host" in said[1]
    assert ["1 earlier, of which the book keeps 1", said[1]] == one.command(
        "explain 1"
    ).splitlines()
    assert "2 events: hart_reset 1, request 1" in one.command("info retirement")
    assert "1 or more, is expected" in one.command("explain some")
