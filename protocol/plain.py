"""Frozen dataclasses with slots that are made quickly.

The problem: Python's own `dataclass` writes and compiles six methods of each class one by one.
Eighty kinds of messages and actions took half of the time that a machine or a translator needs to
start. Here one method of a class is compiled, `__init__`, and the others are shared.

Invariants: what it makes is a dataclass to everybody who asks (`fields`, `replace`, `asdict`,
`match`), behaves as one made with `frozen=True, slots=True`, and to a type checker it is that. A
field may have a default, but no default_factory, and there is no `__post_init__`.

Read next: `protocol.messages`, `protocol.session`.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """As of `dataclasses`, for frozen classes with slots."""
        if not (frozen and slots):
            raise TypeError("classes made here are frozen and have slots")
        return _made


_PLAIN = dataclasses._DataclassParams(  # type: ignore[attr-defined]
    init=True, repr=True, eq=True, order=False, unsafe_hash=False, frozen=True
)


def _made(cls: type) -> type:
    """The class as a dataclass. Raises TypeError for what only Python's own can do."""
    found: dict[str, Any] = {}
    for base in cls.__mro__[-1:0:-1]:
        found.update(getattr(base, "__dataclass_fields__", {}))
    inherited = set(found)
    own = inspect.get_annotations(cls)
    for name, annotation in own.items():
        default = cls.__dict__.get(name, dataclasses.MISSING)
        if isinstance(default, dataclasses.Field):
            factory, default = default.default_factory, default.default
            if factory is not dataclasses.MISSING:
                raise TypeError(f"{cls.__name__}.{name} has a default_factory")
        if "ClassVar" in str(annotation):
            raise TypeError(f"{cls.__name__}.{name} is no field")
        one: Any = dataclasses.field(default=default)
        one.name, one.type, one.kw_only = name, annotation, False
        one._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
        found[name] = one
    if hasattr(cls, "__post_init__"):
        raise TypeError(f"{cls.__name__} has __post_init__")
    names = tuple(found)
    members = {name: value for name, value in cls.__dict__.items() if name not in own}
    members.pop("__dict__", None)
    members.pop("__weakref__", None)
    members |= {
        "__slots__": tuple(name for name in own if name not in inherited),
        "__dataclass_fields__": found,
        "__dataclass_params__": _PLAIN,
        "__match_args__": names,
        "__init__": _init(cls, found),
    }
    for method in (_repr, _eq, _hash, _setattr, _delattr, _getstate, _setstate):
        members.setdefault(f"__{method.__name__[1:]}__", method)
    members["__qualname__"] = cls.__qualname__
    members["__values__"] = attrgetter(*names) if names else staticmethod(lambda one: ())
    return type(cls)(cls.__name__, cls.__bases__, members)


def _init(cls: type, found: dict[str, Any]) -> Any:
    words, lines, scope = ["self"], [], {"_set": object.__setattr__}
    for name, one in found.items():
        if one.default is dataclasses.MISSING:
            words.append(name)
        else:
            scope[f"_default_{name}"] = one.default
            words.append(f"{name}=_default_{name}")
        lines.append(f" _set(self, {name!r}, {name})")
    exec(f"def __init__({', '.join(words)}):\n" + "\n".join(lines or [" pass"]), scope)
    init: Any = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__module__ = cls.__module__
    init.__annotations__ = {name: one.type for name, one in found.items()} | {"return": None}
    return init


def _repr(self: Any) -> str:
    names = self.__match_args__
    text = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
    return f"{type(self).__qualname__}({text})"


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__values__
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__values__(self))


def _setattr(self: Any, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__match_args__]


def _setstate(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__match_args__, state, strict=True):
        object.__setattr__(self, name, value)
