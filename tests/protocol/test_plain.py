"""What `protocol.plain` makes is a frozen dataclass with slots, as Python's own would be."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, ClassVar

import pytest

from protocol import plain


@plain.dataclass(frozen=True, slots=True)
class First:
    """A field, and one with a default."""

    one: int
    two: str = "b"

    def doubled(self) -> int:
        return 2 * self.one


@plain.dataclass(frozen=True, slots=True)
class Second(First):
    """One more, and another default of one that there is."""

    three: tuple[int, ...] = dataclasses.field(default=())
    two: str = "c"


@plain.dataclass(frozen=True, slots=True)
class Nothing:
    """No field."""


def test_it_is_a_dataclass_to_who_asks():
    own = dataclasses.make_dataclass("Own", [("one", int), ("two", str, "b")], frozen=True)

    assert dataclasses.is_dataclass(First)
    assert [f.name for f in dataclasses.fields(First)] == [f.name for f in dataclasses.fields(own)]
    assert [f.default for f in dataclasses.fields(Second)] == [dataclasses.MISSING, "c", ()]
    assert dataclasses.asdict(Second(1, three=(2,))) == {"one": 1, "two": "c", "three": (2,)}
    assert dataclasses.replace(Second(1), two="d") == Second(1, "d")
    assert Second.__match_args__ == ("one", "two", "three")
    assert Second(4).doubled() == 8
    match First(7):
        case First(one, two="b"):
            assert one == 7
        case _:
            pytest.fail("no match")


def test_equal_is_what_is_of_one_class_and_has_equal_fields():
    assert First(1) == First(1, "b") != First(2)
    assert First(1, "c") != Second(1, "c"), "another class"
    assert Nothing() == Nothing()
    assert len({First(1), First(1, "b"), First(2), Nothing(), Nothing()}) == 3
    assert repr(Second(1, three=(2,))) == "Second(one=1, two='c', three=(2,))"


@pytest.mark.parametrize("one", [First(1), Second(1, "x", (3,)), Nothing()])
def test_it_cannot_be_changed_but_be_copied(one: Any):
    for name in ("one", "unknown"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, name, 5)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(one, name)
    assert not hasattr(one, "__dict__")
    assert pickle.loads(pickle.dumps(one)) == one == copy.copy(one)


@pytest.mark.parametrize("words", [(), (1, "b", 3), (1, "b", "two")])
def test_wrong_arguments(words: tuple[Any, ...]):
    with pytest.raises(TypeError):
        First(*words)
    with pytest.raises(TypeError):
        First(1, three=3)  # type: ignore[call-arg]


def test_what_it_cannot_do_is_refused():
    with pytest.raises(TypeError, match="default_factory"):

        @plain.dataclass(frozen=True, slots=True)
        class _Made:
            one: list[int] = dataclasses.field(default_factory=list)

    with pytest.raises(TypeError, match="is no field"):

        @plain.dataclass(frozen=True, slots=True)
        class _Shared:
            one: ClassVar[int] = 1

    with pytest.raises(TypeError, match="__post_init__"):

        @plain.dataclass(frozen=True, slots=True)
        class _Late:
            one: int

            def __post_init__(self) -> None: ...
