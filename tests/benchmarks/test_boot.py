"""What `make bench-boot` says of boots: seconds to the shell, and ratios of one round each."""

from __future__ import annotations

from pathlib import Path

from benchmarks import boot

RUNS: boot.Runs = {
    "QEMU": [(4.0, 4.0), (2.0, 2.0), (3.0, 3.0)],
    "store empty": [(2.0, 3.0), (2.0, 3.0), (2.0, 3.0)],
    "store filled": [(1.0, 1.5), (1.0, 1.5), (9.0, 1.5)],
}


def test_ratios_are_of_one_round_each():
    assert {"QEMU": 1.0, "store empty": 2 / 3, "store filled": 0.5} == boot.ratios(RUNS)


def test_a_line_for_each_way():
    head, *lines = boot.table(RUNS)

    assert len(lines) == len(RUNS)
    assert "store filled" in lines[2]
    assert lines[2].endswith("0.50x")
    assert "CPU median" in head


def test_an_empty_store_has_the_engine_alone(tmp_path: Path):
    store = boot.empty_store(tmp_path)

    (engine,) = (store / "coldboot").iterdir()
    assert engine.name.startswith("engine-")
    assert {"XDG_CACHE_HOME": str(store)}.items() <= (boot.environment(store) or {}).items()
    assert boot.environment(None) is None


def test_what_the_shell_is_to_do_stands_on_the_command_line():
    *_, line = boot.machine_words(Path("guests"), "cryptomgr.notests", "sleep 5")
    assert line.endswith('cryptomgr.notests run="sleep 5"')
