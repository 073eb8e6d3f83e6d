"""Shared structures: one declaration, and its views agree on every byte."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from protocol import layout
from protocol.layout import CALLS, HART, LAYOUT_HASH, STRUCTS, Struct

SOURCE = Path(layout.__file__)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.name)
def test_offsets_are_those_of_the_ctypes_view(struct):
    view = struct.ctype
    assert ctypes.sizeof(view) == struct.size
    assert [name for name, *_ in view._fields_] == list(struct.fields)
    for field in struct.fields.values():
        member = getattr(view, field.name)
        assert (member.offset, member.size) == (field.offset, 8 * field.count)
        assert field.offset % 8 == 0
        assert struct.offset(field.name, field.count - 1) == field.offset + 8 * field.count - 8


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.name)
def test_a_word_written_by_its_offset_is_read_by_its_name(struct):
    memory = bytearray(struct.size)
    view = struct.ctype.from_buffer(memory)
    for number, field in enumerate(struct.fields.values(), 1):
        last = struct.offset(field.name, field.count - 1)
        memory[last : last + 8] = number.to_bytes(8, "little")
        value = getattr(view, field.name)
        assert (value if field.count == 1 else value[field.count - 1]) == number
        assert (field.count == 1) == isinstance(value, int)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda s: s.name)
def test_the_table_of_the_specification_has_a_row_a_field(struct):
    lines = struct.markdown().splitlines()
    assert lines[0] == f"### {struct.name} ({struct.size} bytes)"
    rows = [line for line in lines if line.startswith("| ") and "`" in line]
    assert len(rows) >= len(struct.fields)
    for field in struct.fields.values():
        assert f"| {field.offset} | {field.count} | `{field.name}` | {field.text} |" in lines


def test_entries_and_descriptors_have_the_sizes_that_code_shifts_by():
    assert layout.RECORD.size == layout.RECORD_SIZE == 16
    assert layout.PAGE.size == 64  # a cache line
    assert layout.TLB_ENTRY.size == layout.FETCH_ENTRY.size == layout.TLB_ENTRY_SIZE == 32
    assert layout.RECORD_ARRAY_USED <= layout.RECORD_ARRAY_STRIDE
    assert layout.CONTROL.size <= layout.PAGE_SIZE
    assert HART.offset("x") == 0


def test_the_tlbs_and_the_map_fit_what_they_are_declared_for():
    words = layout.TLB_ENTRY_SIZE // 8
    assert HART.fields["data_tlbs"].count == words * layout.DATA_SET_ENTRIES * layout.DATA_SETS
    assert HART.fields["fetch_tlbs"].count == words * layout.FETCH_TLB_ENTRIES * layout.FETCH_SETS
    assert HART.fields["slots"].count == layout.MAX_SLOTS * layout.SLOT.size // 8
    assert HART.fields["hot"].count == layout.HOT_RING * 2


def _hash(source: str) -> str:
    scope: dict[str, object] = {"__name__": "changed"}
    sys.modules["changed"] = type(sys)("changed")  # dataclasses look their module up
    try:
        exec(compile(source, "layout.py", "exec"), scope)
    finally:
        del sys.modules["changed"]
    return str(scope["LAYOUT_HASH"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('("mtimecmp", ', '("mtimecmp2", '),  # a name
        ('    ("stat_traps", "exceptions and interrupts taken"),\n', ""),  # one less
        ('("clock", "scratch of the clock: seconds, nanoseconds", 2)', '("clock", "x", 3)'),
        ('    "mscratch",\n    "mepc",', '    "mepc",\n    "mscratch",'),  # the order
        ("HOT_RING = 64", "HOT_RING = 65"),  # a size
        ("i64 %count, ptr %tlb", "ptr %tlb, i64 %count"),  # how code calls code
        ('"Control",', '"Controls",'),  # a structure's name
        ("STRUCTS = (CONTROL, RECORD,", "STRUCTS = (RECORD, CONTROL,"),
    ],
)
def test_the_hash_changes_with_any_field(old, new):
    source = SOURCE.read_text()
    assert source.count(old) == 1
    assert _hash(source) == LAYOUT_HASH
    assert _hash(source.replace(old, new)) != LAYOUT_HASH


def test_the_hash_does_not_change_with_words_about_a_field():
    source = SOURCE.read_text()
    assert _hash(source.replace("bits of the instruction", "the bits of the")) == LAYOUT_HASH


def test_every_field_of_every_structure_counts():
    def digest(structs: list[Struct]) -> str:
        rows = [(s.name, [(f.name, f.offset, f.count) for f in s.fields.values()]) for s in structs]
        return hashlib.sha256(repr((rows, layout.CALLS)).encode()).hexdigest()[:16]

    assert digest(list(STRUCTS)) == LAYOUT_HASH
    for struct in STRUCTS:
        for name in struct.fields:
            fields = [(f.name, f.text, f.count) for f in struct.fields.values() if f.name != name]
            changed = Struct(struct.name, struct.text, *fields)
            assert digest([changed if s is struct else s for s in STRUCTS]) != LAYOUT_HASH


def test_the_hash_is_the_same_in_every_process():
    code = "from protocol.layout import LAYOUT_HASH; print(LAYOUT_HASH)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=SOURCE.parents[1],
    )
    assert done.stdout.strip() == LAYOUT_HASH


def test_regions_are_called_as_the_installed_compiler_does_it():
    """LLVM promises nothing about `preserve_nonecc` from version to version."""
    version = importlib.metadata.version("llvmlite").split(".")
    assert f"llvmlite {version[0]}.{version[1]}" in CALLS
