"""QMP, the machine protocol of QEMU's monitor: bytes in, bytes out.

Problem: tools that drive QEMU speak QMP - JSON objects over a unix socket - and should find the
same manners here: a greeting, `qmp_capabilities` first, an answer with the request's `id` to each
command, errors by class and description, events with a time in between.

Invariants:
- No socket, no thread, no clock of its own here: `qmp_server.py` has them. `Parser` cuts what came
  into objects whichever way it was cut before; `Session` says what to answer.
- Nothing a client sends raises: it is answered by an error. What is not JSON, or more than
  `LONGEST` bytes, is an error too, and the byte 0xff starts afresh, as QEMU's does.
- Events reach a client that has negotiated, and none before.

Read next: `qmp_commands.py` (the commands), `qmp_server.py`, `docs/control.md`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

LONGEST = 1 << 20  # bytes of one object
DEEPEST = 100  # objects and lists in one another
FOLLOWED = (7, 2, 0)  # the version of QEMU whose manners these are

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
}


class QmpError(Exception):
    """A command that cannot be carried out. `kind`: the error's class in QMP."""

    def __init__(self, text: str, kind: str = "GenericError") -> None:
        super().__init__(text)
        self.kind = kind


class Command(NamedTuple):
    """`arguments`: name -> type in QMP's words; "?" behind it if it may be left out."""

    arguments: Mapping[str, str]
    function: Callable[..., Any]


def dump(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message, separators=(", ", ": ")).encode() + b"\r\n"


def failure(text: str, kind: str = "GenericError") -> dict[str, Any]:
    """The answer that says what was wrong."""
    return {"error": {"class": kind, "desc": text}}


class Garbage(NamedTuple):
    """What came and is no JSON."""

    text: str


class Parser:
    """Cuts a stream into JSON values; what is none comes out as `Garbage`."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._held = bytearray()
        self._depth = 0
        self._quoted = self._escaped = False

    def feed(self, data: bytes) -> list[Any]:
        """What was completed."""
        found: list[Any] = []
        for byte in data:
            char = chr(byte)
            if byte == 0xFF:
                if self._held:
                    found.append(Garbage("JSON parse error, stray input"))
                self._start()
                continue
            if not self._depth and not self._quoted and char.isspace():
                if self._held:
                    found.append(self._finish())
                continue
            self._held.append(byte)
            if len(self._held) > LONGEST or self._depth > DEEPEST:
                found.append(Garbage("JSON token size limit exceeded"))
                self._start()
            elif self._step(char):
                found.append(self._finish())
        return found

    def _step(self, char: str) -> bool:
        """Whether this was the last character of an object or list."""
        if self._quoted:
            self._quoted = self._escaped or char != '"'
            self._escaped = char == "\\" and not self._escaped
        elif char == '"':
            self._quoted = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            return self._depth <= 0
        return False

    def _finish(self) -> Any:
        text = bytes(self._held)
        self._start()
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return Garbage("JSON parse error, invalid input")


class Session:
    """One client: what it may do yet, and what it is answered."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        self._commands = commands
        self.negotiated = False

    def greeting(self) -> dict[str, Any]:
        """What a client hears first."""
        return {"QMP": {"version": version_facts(), "capabilities": []}}

    def answer(self, request: Any) -> dict[str, Any]:
        """Carry out one request."""
        reply = self._answer(request)
        if isinstance(request, dict) and "id" in request:
            reply["id"] = request["id"]
        return reply

    def _answer(self, request: Any) -> dict[str, Any]:
        if isinstance(request, Garbage):
            return failure(request.text)
        try:
            name, arguments = _read(request)
            command = self._find(name)
            _check(command.arguments, arguments)
            given = {key.replace("-", "_"): value for key, value in arguments.items()}
            return {"return": command.function(**given)}
        except QmpError as error:
            return failure(str(error), error.kind)

    def _find(self, name: str) -> Command:
        if not self.negotiated:
            if name != "qmp_capabilities":
                text = "Expecting capabilities negotiation with 'qmp_capabilities'"
                raise QmpError(text, "CommandNotFound")
            return Command({"enable": "array?"}, self._negotiate)
        if name == "qmp_capabilities":
            text = "Capabilities negotiation is already complete, command ignored"
            raise QmpError(text, "CommandNotFound")
        if name not in self._commands:
            raise QmpError(f"The command {name} has not been found", "CommandNotFound")
        return self._commands[name]

    def _negotiate(self, enable: Sequence[object] = ()) -> dict[str, Any]:
        if enable:
            raise QmpError(f"Parameter 'enable' does not accept value '{enable[0]}'")
        self.negotiated = True
        return {}


def version_facts() -> dict[str, Any]:
    """`query-version`'s answer: whose manners these are, and what program has them."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        package = f"coldboot {version('coldboot')}"
    except PackageNotFoundError:
        package = "coldboot (not installed)"
    major, minor, micro = FOLLOWED
    return {
        "qemu": {"major": major, "minor": minor, "micro": micro},
        "package": package,
    }


def _read(request: Any) -> tuple[str, dict[str, Any]]:
    """Name and arguments of a request. Raises QmpError."""
    if not isinstance(request, dict):
        raise QmpError("QMP input must be a JSON object")
    for key in request:
        if key not in ("execute", "arguments", "id"):
            raise QmpError(f"QMP input member '{key}' is unexpected")
    if "execute" not in request:
        raise QmpError("QMP input lacks member 'execute'")
    name, arguments = request["execute"], request.get("arguments", {})
    if not isinstance(name, str):
        raise QmpError("QMP input member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise QmpError("QMP input member 'arguments' must be an object")
    return name, arguments


def _check(wanted: Mapping[str, str], given: Mapping[str, Any]) -> None:
    """Raises QmpError for an argument too many, too few, or of another type."""
    for name in given:
        if name not in wanted:
            raise QmpError(f"Parameter '{name}' is unexpected")
    for name, notation in wanted.items():
        kind = notation.rstrip("?")
        if name not in given:
            if not notation.endswith("?"):
                raise QmpError(f"Parameter '{name}' is missing")
            continue
        value, types = given[name], _TYPES[kind]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise QmpError(f"Invalid parameter type for '{name}', expected: {kind}")
