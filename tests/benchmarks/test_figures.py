"""What is said of what was seen: figures from traces, ratios, means, and which runs are kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks import figures, report, suite, whole
from benchmarks.figures import Cost, Row
from benchmarks.processes import Sample, Trace


def row(name: str = "sieve", kind: str = "integer", **rounds: list[float | None]) -> Row:
    """A row whose rounds cost so much CPU."""
    names = {"qemu": "QEMU 7.2.22"}
    return Row(
        name,
        kind,
        1e6,
        {
            names.get(key, key): [None if c is None else Cost(2 * c, c, 0.0) for c in costs]
            for key, costs in rounds.items()
        },
    )


def test_a_cost_is_that_of_a_billion_instructions():
    trace = Trace(steady=Sample(wall=3.0, own=1.5, others=0.5, chunks=50), memory=(7, 8))

    cost = figures.cost(trace, instructions=10e6)

    assert Cost(6.0, 3.0, 1.0, 7, 8) == cost
    assert cost is not None
    assert 4.0 == cost.cpu


def test_a_run_that_was_never_warm_costs_nothing_known():
    assert figures.cost(Trace(), 1e6) is None
    assert figures.cost(Trace(steady=Sample(1, 1, 0, 0)), 1e6) is None


@pytest.mark.parametrize(
    ("found", "expected", "wrong"),
    [
        (["a", "b"], ["a", "b", "c"], None),
        (["a", "x"], ["a", "b", "c"], 1),
        (["x"], ["a"], 0),
        (["a", "b"], ["a"], 1),
        ([], [], None),
    ],
)
def test_the_first_wrong_chunk(found: list[str], expected: list[str], wrong: int | None):
    assert wrong == figures.wrong_at(found, expected)


def test_a_ratio_is_the_median_of_rounds_that_both_have():
    one = row(qemu=[4.0, 100.0, 6.0], coldboot=[2.0, None, 2.0])

    assert 2.5 == figures.ratio(one, "QEMU 7.2.22", "coldboot")
    assert 2.0 == figures.least_ratio(one, "QEMU 7.2.22", "coldboot")


def test_nothing_to_compare_is_no_number():
    assert math.isnan(figures.ratio(row(qemu=[1.0]), "QEMU 7.2.22", "coldboot"))
    assert math.isnan(figures.least_ratio(row(qemu=[None]), "QEMU 7.2.22", "coldboot"))
    assert math.isnan(figures.geometric_mean([]))


def test_means_by_kind():
    rows = [
        row("a", "integer", qemu=[4.0], coldboot=[2.0]),
        row("b", "float", qemu=[8.0], coldboot=[1.0]),
        row("c", "system", qemu=[64.0], coldboot=[1.0]),
    ]

    found = figures.means(rows, "QEMU 7.2.22", "coldboot")

    assert found == pytest.approx(
        {"integer": 2.0, "floating point": 8.0, "CPU-bound": 4.0, "all": (2 * 8 * 64) ** (1 / 3)}
    )


def test_json_there_and_back():
    rows = [row(qemu=[4.0, None], coldboot=[2.0, 3.0])]
    rows[0].problems["unicorn"] = "wrong result in chunk 3"
    text = json.dumps(figures.as_json(rows, {"coldboot": "this tree"}))

    assert (rows, {"coldboot": "this tree"}) == figures.from_json(json.loads(text))


def test_the_tables_say_what_is_missing():
    rows = [row(coldboot=[2.0, 3.0], qemu=[4.0, 6.0], native=[0.5, 0.5], unicorn=[None, None])]
    rows[0].problems["unicorn"] = "wrong result in chunk 3"

    text = "\n".join(report.least_table(rows))

    assert "2.00x" in text
    assert "unicorn: wrong result in chunk 3" in text
    assert 4 == report.steady_table(rows).row_count
    assert any("coldboot is slower than native" in line for line in report.mean_lines(rows))


def test_a_document_s_table_is_put_between_its_marks(tmp_path: Path):
    rows = [row(coldboot=[2.0, 3.0], qemu=[4.0, 6.0], native=[0.5, 0.5])]
    saved, document = tmp_path / "seen.json", tmp_path / "document.md"
    saved.write_text(json.dumps(figures.as_json(rows, {})))
    document.write_text(f"before {suite.MARK} of yesterday {suite.MARK_END} after")
    words = ["--seen", str(saved), "--markdown", str(document)]

    assert 0 == suite.main(words) == suite.main(words)

    text = document.read_text()
    assert text.startswith(f"before {suite.MARK}\n\n| program |")
    assert text.endswith(f"{suite.MARK_END} after")
    assert 1 == text.count("| sieve | 2.500 | 5.000 | 0.500 | 2.00 | 4.80 |")
    assert "yesterday" not in text
    document.write_text("no marks")
    assert 2 == suite.main(words)


def whole_row(qemu: list[float], cold: list[float | None]) -> whole.WholeRow:
    """A row whose rounds took so long on the clock, and cost half of it."""
    made: dict[str, list[whole.Whole | None]] = {
        whole.QEMU: [whole.Whole(wall, wall / 2, 0.0, 40 << 20, 0) for wall in qemu],
        whole.COLD: [
            None if wall is None else whole.Whole(wall, wall / 2, 0.1, 30 << 20, 90 << 20)
            for wall in cold
        ],
    }
    return whole.WholeRow("sieve", "integer", 10, made)


def test_a_whole_run_s_ratio_is_of_rounds_that_both_have():
    row = whole_row([5.0, 100.0, 6.0], [2.0, None, 2.0])

    assert 2.75 == row.ratio(whole.COLD, "wall") == row.ratio(whole.COLD, "cpu")
    assert math.isnan(row.ratio(whole.WARM, "wall"))


def test_the_table_of_whole_runs_names_what_is_slower_and_what_is_short():
    found = {"versions": {whole.QEMU: "7.2"}, "rows": [whole_row([5.0], [10.0])]}
    text = whole.markdown(found)

    assert "| 0.50 | 0.50 | - | - | 30 + 90 | 40 |" in text
    assert "0.50 on the clock (below 1.0: sieve)" in text
    assert "QEMU runs less than" not in text
    assert "QEMU runs less than 2 s: sieve" in whole.markdown(
        {**found, "rows": [whole_row([2.0], [10.0])]}
    )


def test_a_whole_run_with_a_wrong_end_gives_no_figure():
    row = whole.WholeRow("sieve", "integer", 2)
    right = Trace(whole=Sample(2.0, 1.0, 0.5, 2), checksums=["a", "b"], status=0, memory=(7, 8))

    assert whole.Whole(2.0, 1.5, 0.5, 7, 8) == whole.figure(row, whole.COLD, right, ["a", "b"])
    assert {} == row.problems
    for expected in (["a", "x"], ["a"], ["a", "b", "c"], None):
        assert whole.figure(row, whole.COLD, right, expected) is None
    right.status = 1
    assert whole.figure(row, whole.WARM, right, ["a", "b"]) is None
    assert {whole.COLD, whole.WARM} == row.problems.keys()
