"""The specification, the code and the golden bytes say the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product

import pytest

from protocol import contract, layout, spec
from protocol.errors import UserError
from protocol.messages import MESSAGES, PROTOCOL_VERSION, Message
from tests.protocol.examples import GOLDEN

TEXT = spec.SPEC.read_text(encoding="utf-8")

SCHEMAS = {3: "8a55e61344f3e7bc", 4: "e0042ca0a9eaaffa"}
"""Schema hash of each released version. A changed hash needs a new version, and a line here."""


def test_the_document_agrees_with_the_code():
    assert spec.problems(TEXT) == []
    assert layout.LAYOUT_HASH in TEXT


def test_a_version_has_one_schema_and_golden_bytes_of_its_own():
    assert SCHEMAS[PROTOCOL_VERSION] == spec.schema_hash(), "messages changed: raise the version"
    assert GOLDEN.name == f"messages-v{PROTOCOL_VERSION}.txt"
    tags = [line.split()[0] for line in GOLDEN.read_text().splitlines()]
    assert tags == re.findall(r"^### ([A-Z_]+)$", TEXT, re.MULTILINE) == list(MESSAGES)


@pytest.mark.parametrize("name", spec.BLOCKS)
def test_a_spoiled_block_is_found_and_mended(name: str):
    block = f"<!-- generated: {name} -->\n"
    spoiled = TEXT.replace(block, block + "| wrong |\n")
    assert spec.problems(spoiled) == [
        f"block {name} differs from the code: run python -m protocol.spec --write"
    ]
    assert spec.render(spoiled) == TEXT


def test_a_block_that_lacks_or_comes_twice_is_an_error():
    with pytest.raises(UserError, match="once each"):
        spec.render(TEXT.replace("generated: layout", "generated: lay_out"))
    with pytest.raises(UserError, match="once each"):
        spec.render(TEXT + "<!-- generated: limits -->\n<!-- end -->\n")


def test_the_versions_of_document_changes_and_code_agree():
    assert spec.problems(TEXT.replace("\nVersion 4.0\n", "\nVersion 9.0\n"))
    assert spec.problems(TEXT.replace("\n- 4.0: ", "\n- 0.9: "))


def test_the_command_checks_and_writes(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "SPEC.md"
    copy.write_text(TEXT.replace("| protocol version |", "| protocol versions |"))
    monkeypatch.setattr(spec, "SPEC", copy)
    assert spec.main(["--check"]) == 1
    assert "block limits differs" in capsys.readouterr().err
    assert spec.main(["--write"]) == 0
    assert copy.read_text() == TEXT
    assert spec.main(["--check"]) == 0
    copy.write_text("nothing\n")
    assert spec.main(["--check"]) == 2


def test_a_message_must_describe_its_fields_and_no_others():
    for cls in MESSAGES.values():
        purpose, notes = spec.described(cls)
        assert purpose.endswith(".")
        assert all(note.endswith(".") for note in notes.values()), cls

    @dataclass(frozen=True)
    class Silent(Message):
        """Say nothing.

        volume: how loud.
        """

        loudness: int

    with pytest.raises(ValueError, match="loudness"):
        spec.described(Silent)


def test_no_cell_of_the_contract_is_empty():
    for structure, column in product(contract.STRUCTURES, contract.Structure._fields[:8]):
        assert getattr(structure, column), (structure.name, column)
