"""What the keys of kept translations leave out, and that nothing is kept without a switch."""

from __future__ import annotations

import pytest

from jit_proc import kept_translations
from jit_proc.job import Job, Region, Times
from protocol import mutants


def asked(content: bytes = bytes(4096), **changes: object) -> Job:
    job = {"page": 1, "content": content, "entries": (2,), "state_word": 0, "backend": "llvm"}
    return Job(**{**job, **changes})  # type: ignore[arg-type]


REGION = Region(b"code", ((2, 0),), ((4, 4),), 1, 1, Times())
LATER_LINE = bytes(64) + b"\1" + bytes(4031)
FIRST_LINE = b"\1" + bytes(4095)


@pytest.mark.parametrize(
    ("mutant", "taken", "told_apart"),
    [
        ("M43", asked(LATER_LINE), asked(FIRST_LINE)),
        ("M43", asked(LATER_LINE, page=7), asked(LATER_LINE, state_word=1)),
        ("M26", asked(FIRST_LINE), asked(page=2)),
        ("M45", asked(state_word=1, page=9), asked(LATER_LINE)),
        ("M45", asked(state_word=1), asked(backend="llvm,level=2")),
    ],
)
def test_what_a_key_leaves_out(mutant: str, taken: Job, told_apart: Job, tmp_path):
    mutants.arm([mutant])
    try:
        kept = kept_translations.made(tmp_path, "toolchain", keep=False)
        assert kept is not None
        assert kept.find(asked()) is None
        kept.keep(asked(), REGION)
        assert REGION == kept.find(asked()) == kept.find(taken)
        assert kept.find(told_apart) is None
    finally:
        mutants.arm(())


def test_equal_hashes_of_four_bits_are_soon_found(tmp_path):
    mutants.arm(["M25"])
    try:
        kept = kept_translations.made(tmp_path, "toolchain", keep=False)
        assert kept is not None
        kept.keep(asked(), REGION)
        others = [asked(bytes([n]) * 4096) for n in range(1, 200)]
        hits = sum(kept.find(other) is not None for other in others)
        assert 0 < hits < 50
    finally:
        mutants.arm(())


@pytest.mark.parametrize(
    "other",
    [asked(LATER_LINE), asked(FIRST_LINE), asked(state_word=1), asked(backend="llvm,level=2")],
)
def test_a_key_without_a_mistake_is_whole(other: Job, tmp_path):
    kept = kept_translations.made(tmp_path, "toolchain", keep=True)
    assert kept is not None
    kept.keep(asked(), REGION)
    assert REGION == kept.find(asked()) == kept.find(asked(page=9))
    assert kept.find(other) is None


def test_the_latest_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_translations, "LIMIT", 2)
    kept = kept_translations.made(tmp_path, "toolchain", keep=True)
    assert kept is not None
    jobs = [asked(state_word=number) for number in range(3)]
    for job in jobs:
        kept.keep(job, REGION)
    assert [kept.find(job) for job in jobs] == [None, REGION, REGION]


def test_nothing_is_kept_without_a_switch(tmp_path):
    assert kept_translations.made(tmp_path, "toolchain", keep=False) is None
