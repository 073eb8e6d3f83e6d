"""The word that names a backend with its options."""

from __future__ import annotations

import pytest

from protocol.backends import is_pair, name_of, parse, spell


def test_a_word_is_a_name_and_options():
    assert parse("llvm") == ("llvm", {})
    assert parse("llvm,level=1,passes=sroa+licm") == (
        "llvm",
        {"level": "1", "passes": "sroa+licm"},
    )
    assert name_of("llvm,level=1") == name_of("llvm") == "llvm"


def test_the_canonical_spelling_has_its_options_in_order():
    assert spell(*parse("llvm,passes=sroa,level=1")) == "llvm,level=1,passes=sroa"
    assert spell("none", {}) == "none"


def test_a_backend_made_of_two_names_them_behind_a_colon():
    word = "shadow:llvm/passes=sroa/level=2,reference,states=9,sample=1"
    name, options = parse(word)
    assert name == name_of(word) == "shadow"
    assert options == {
        "of": "llvm,level=2,passes=sroa",
        "against": "reference",
        "states": "9",
        "sample": "1",
    }
    assert spell(name, options) == ("shadow:llvm/level=2/passes=sroa,reference,sample=1,states=9")


def test_a_colon_in_a_value_makes_no_pair():
    assert is_pair("shadow:llvm,reference,sample=1")
    assert not is_pair("remote,host=fd00::7,keys=/home/a:b,port=7700")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("", "NAME"),
        ("Not a name", "NAME"),
        ("llvm,", "OPTION=VALUE"),
        ("llvm,level", "OPTION=VALUE"),
        ("llvm,level=", "OPTION=VALUE"),
        ("llvm,level=a b", "OPTION=VALUE"),
        ("llvm,level=1,level=2", "twice"),
        ("llvm,x=" + "a" * 200, "NAME"),
        ("shadow:llvm", "BACKEND,BACKEND"),
        ("shadow:,llvm", "NAME"),
        ("shadow:llvm,sample=1", "NAME"),
        ("shadow:llvm/level,reference", "OPTION=VALUE"),
        ("shadow:llvm,reference,of=none", "twice"),
        ("shadow,of=llvm", "shadow:BACKEND,BACKEND"),
        ("shadow:llvm,shadow:llvm/reference", "possible"),
    ],
)
def test_a_word_that_is_none_is_refused_with_a_line(word: str, says: str):
    with pytest.raises(ValueError, match=says):
        parse(word)
