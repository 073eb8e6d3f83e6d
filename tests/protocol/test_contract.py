"""The contract's tables name all that there is in the code, and nothing that is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from cpu_proc.stress import scenario
from cpu_proc.stress.witnesses import WITNESSES
from protocol import layout
from protocol.contract import GENERATIONS, STRUCTURES
from protocol.contract_events import EVENTS, PLAIN, RULES, cell
from protocol.fields import RetireCause
from protocol.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "cpu_proc").rglob("*.py"))
CLASSES = {f"M{number}" for number in range(1, 49)}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a method or function, by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute):
                yield function.attr, node
            elif isinstance(function, ast.Name):
                yield function.id, node


def causes_in_code() -> set[str]:
    """Causes given to the machine's book, as literals, and those of RETIRE."""
    found = set(get_args(RetireCause))
    for path in SOURCES:
        for name, call in calls(path):
            if name in ("note", "everything", "_post_retirement") and call.args:
                first = call.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found.add(first.value)
    return found


def test_every_cause_belongs_to_an_event_and_no_other_is_named():
    assert causes_in_code() == {cause for event in EVENTS for cause in event.causes.split()}


def test_every_module_that_changes_the_map_belongs_to_an_event():
    changing = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        # A lone hart is no machine: it has its memory before it runs, and no translator.
        if path.name not in ("memory_map.py", "lone_hart.py")
        and path.parent.name == "cpu_proc"
        and any(n in ("change", "add_ram", "add_rom", "add_device") for n, _ in calls(path))
    }
    assert changing == {module for event in EVENTS for module in event.code.split()}


def test_every_scenario_stands_in_a_row_and_every_test_exists():
    named = {test for row in (*EVENTS, *RULES) for test in row.tests.split()}
    scenarios = {name for name in named if "/" not in name}
    assert set(scenario.load_all()) == scenarios
    for name in named - scenarios:
        assert (ROOT / name).is_file(), name
    assert all(row.tests for row in (*EVENTS, *RULES))


def test_every_class_has_a_row_a_scenario_in_one_a_switch_and_a_witness():
    rows = (*EVENTS, *RULES)
    scenarios = scenario.load_all()
    assert CLASSES == {name for row in rows for name in row.classes.split()}
    tested = {
        scenarios[test].mutant for row in rows for test in row.tests.split() if "/" not in test
    }
    assert CLASSES == tested == set(MUTANTS) == set(WITNESSES)
    for row in rows:  # a row's classes are tested somewhere, and its scenarios are of some class
        assert set(row.classes.split()) <= tested


def test_every_word_of_the_layout_is_of_a_structure_or_plain():
    names = {"Control": layout.CONTROL, "Page": layout.PAGE, "Hart": layout.HART}
    words = {f"{short}.{field}" for short, struct in names.items() for field in struct.fields}
    words -= {f"Hart.{csr}" for csr in layout.CSRS}
    held = [field for structure in STRUCTURES for field in structure.fields.split()]
    assert len(held) == len(set(held))
    assert not set(held) & PLAIN
    assert words == set(held) | PLAIN


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: one.name)
def test_a_structure_is_where_the_table_says(structure):
    path, name = structure.code.split()
    text = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^\s*(?:class|def) {name}\b", text, re.MULTILINE)


def test_each_event_says_what_it_does_to_each_structure():
    counters = {generation.name for generation in GENERATIONS} | {"lookups", "none"}
    text = (ROOT / "protocol" / "SPEC.md").read_text(encoding="utf-8")
    for event in EVENTS:
        assert set(event.counters.split(", ")) <= counters, event.name
        for structure in STRUCTURES:
            assert cell(event, structure)
            assert cell(event, structure) in text
    groups = {structure.group for structure in STRUCTURES}
    assert len(groups) * len(EVENTS) == sum(
        text.count(f"\n| {event.name} | ") - 1 for event in EVENTS
    )


def test_cells():
    def at(event: str, structure: str) -> str:
        [one] = [e for e in EVENTS if e.name == event]
        [other] = [s for s in STRUCTURES if s.name == structure]
        return cell(one, other)

    assert "`page generation`: back to `decode`, in the lines written" == at("DMA", "record")
    assert "`epoch`: dropped, harts stopped" == at("system reset", "record")
    assert "kept" == at("sfence.vma", "record")
    assert "this hart: cleared with the instruction, no counter" == at("sfence.vma", "fetch TLB")
