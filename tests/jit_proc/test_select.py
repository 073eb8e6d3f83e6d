"""What a region consists of: limits, what is known elsewhere, what no one executed, and entries."""

from __future__ import annotations

import pytest

from jit_proc import select as selection
from jit_proc.select import Selection, select
from protocol.layout import PAGE_SIZE, SLOTS_PER_PAGE
from protocol.riscv import isa
from protocol.riscv.assembler import assemble

CODE = """
head:   addi a0, a0, 1
        beqz a1, rare
back:   jal  ra, leaf
        addi a2, a2, 1
        bnez a0, head
        ecall
rare:   addi a3, a3, 1
        j    back
leaf:   addi a4, a4, 1
        ret
"""
PROGRAM = assemble(CODE, 0)
AT = PROGRAM.symbols
PAGE = PROGRAM.data.ljust(PAGE_SIZE, b"\0")


@pytest.fixture(autouse=True)
def loaded() -> None:
    isa.load_all()


def chosen(*entries: str, known: tuple[str, ...] = (), cold: tuple[str, ...] = ()) -> Selection:
    seen = bytearray(b"\xff" * (SLOTS_PER_PAGE // 8))
    for name in cold:
        seen[AT[name] // 16] &= ~(1 << AT[name] // 2 % 8)
    slots = tuple(sorted(AT[name] // 2 for name in entries))
    elsewhere = tuple(sorted(AT[name] // 2 for name in known))
    return select(PAGE, slots, 0, elsewhere, bytes(seen))


def test_all_that_control_comes_to_is_chosen():
    assert sorted(chosen("head").sites) == [4 * i for i in range(10)]
    assert chosen("head").sites == select(PAGE, (AT["head"] // 2,)).sites


def test_a_way_that_no_one_took_is_left_out():
    found = chosen("head", cold=("rare",))
    assert AT["rare"] not in found.sites
    assert AT["leaf"] in found.sites
    assert AT["rare"] in chosen("rare", cold=("rare",)).sites, "it was asked for"


def test_what_stands_in_another_region_is_not_chosen_again():
    found = chosen("rare", known=("head", "leaf"))
    assert AT["head"] not in found.sites
    assert AT["leaf"] not in found.sites
    assert AT["back"] in found.sites
    assert AT["head"] in chosen("head", known=("head",)).sites, "it was asked for"


def test_behind_a_call_is_an_entry_only_if_the_call_leaves_the_region():
    behind = AT["back"] + 4
    assert behind not in chosen("head").entries
    assert behind in chosen("head").behind_calls
    assert behind in chosen("head", known=("leaf",)).entries


def test_a_block_that_is_left_out_in_one_place_and_run_into_in_another_begins_a_block():
    found = chosen("head", "back", cold=("back",))
    assert AT["back"] in found.leaders


def test_a_region_is_as_large_as_its_level_allows(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(selection, "MAX_INSTRUCTIONS", 3)
    monkeypatch.setattr(selection, "MOST_INSTRUCTIONS", 5)
    assert len(select(PAGE, (0,), 0).sites) == 3
    assert len(select(PAGE, (0,), 1).sites) == 5
