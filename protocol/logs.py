"""Logging: events with fields, written by structlog, which is imported at the first event that is
    really written.

Problem: every module wants a logger, but importing structlog costs a guest's first instruction
several tens of milliseconds, and most runs log nothing. So `get_logger` gives a small object that
compares a level and returns.

Invariants:
- An event is a past participle (``block_translated``); what it is about stands in fields, never in
  the event's text.
- Nothing is formatted, and structlog is not imported, for an event below the level.
- A log that cannot be written (closed terminal, full disk) never disturbs the program.
- Output goes to stderr unless a file is given: stdout belongs to the guest's console.

Use::

    log = get_logger("plic")
    log.warning("interrupt_dropped", source=10)
    log = log.bind(hart=0)          # fields that every later event of this logger carries

Read next: `protocol.errors` for what is told to a user instead of being logged.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from protocol.errors import UserError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "off": 100}
"""Names of levels and their order. "off" is a threshold only: no event has it."""

DEFAULT_LEVEL = "warning"

_HEX_FIELDS = frozenset({"pc", "address", "base", "state_word", "session", "incarnation", "tval"})

_Emit = Callable[[str, str, str, dict[str, Any]], None]


class _Config:
    """What `configure` was told. One per process; loggers made earlier see a change."""

    threshold: int = LEVELS[DEFAULT_LEVEL]
    json: bool = False
    file: Path | TextIO | None = None
    emit: _Emit | None = None


class Logger:
    """A name, bound fields, and four levels. Cheap to make, safe to share between threads."""

    __slots__ = ("_fields", "_name")

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self._name = name
        self._fields = fields

    def bind(self, **fields: Any) -> Logger:
        """A logger whose events carry these fields too."""
        return Logger(self._name, {**self._fields, **fields})

    def enabled(self, level: str) -> bool:
        """Whether an event of this level would be written: ask before computing costly fields."""
        return LEVELS[level] >= _Config.threshold

    def debug(self, event: str, **fields: Any) -> None:
        """For someone who looks for a bug in this program."""
        if _Config.threshold <= 10:
            self._write("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """What happened, for someone who runs a service."""
        if _Config.threshold <= 20:
            self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Something was lost or refused; the program goes on."""
        if _Config.threshold <= 30:
            self._write("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something that should not happen; somebody should look."""
        if _Config.threshold <= 40:
            self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        emit = _Config.emit
        if emit is None:
            emit = _Config.emit = _make_emit(_Config.json, _Config.file)
        with contextlib.suppress(
            OSError, ValueError
        ):  # a closed or full log must not stop a machine
            emit(level, self._name, event, {**self._fields, **fields})


class Complaints:
    """What is tried over and over, and fails for the same reason, is complained of once."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._said: set[tuple[str, ...]] = set()

    def warn(self, event: str, text: str, **fields: Any) -> None:
        """Warn, if this was not said since the last `reset`; numbers make no difference."""
        said = (event, text, *(one for one in fields.values() if isinstance(one, str)))
        tell = self._log.debug if said in self._said else self._log.warning
        tell(event, **fields, text=text)
        self._said.add(said)

    def reset(self) -> None:
        """It went well: what is said next is news."""
        self._said.clear()


def get_logger(name: str, **fields: Any) -> Logger:
    """A logger for the part of the program called `name`, with fields that each of its events
    carries.
    """
    return Logger(name, fields)


def configure(
    *, json: bool = False, level: str = DEFAULT_LEVEL, file: str | Path | TextIO | None = None
) -> None:
    """Choose how events are written, for the whole process; may be called again.

    `json`: one JSON object a line, else one compact line for people. `level`: the least level
    written, a key of `LEVELS`. `file`: path to append to, or an open text stream; stderr if None.
    Raises `UserError` for an unknown level or a file that cannot be opened.
    """
    if level not in LEVELS:
        raise UserError(f"log level {level!r} is unknown: use one of {', '.join(LEVELS)}")
    target: Path | TextIO | None = Path(file) if isinstance(file, str) else file
    if isinstance(target, Path):
        try:
            target = target.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(f"log file {file} cannot be opened: {error.strerror}") from error
    _Config.threshold = LEVELS[level]
    _Config.json = json
    _Config.file = target
    _Config.emit = None


def _make_emit(json: bool, file: Path | TextIO | None) -> _Emit:
    """Import structlog and make the function that writes one event."""
    import structlog

    stream = file if file is not None and not isinstance(file, Path) else sys.stderr
    stamp = structlog.processors.TimeStamper(fmt="iso" if json else "%H:%M:%S.%f", utc=json)
    processors: list[Any] = [stamp]
    if json:
        processors += [_json_safe, structlog.processors.JSONRenderer()]
    else:
        processors.append(_render_for_people)
    logger = structlog.wrap_logger(structlog.PrintLogger(stream), processors=processors)

    def emit(level: str, name: str, event: str, fields: dict[str, Any]) -> None:
        getattr(logger, level)(event, **{**fields, "level": level, "logger": name})

    return emit


def _json_safe(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Bytes (hashes, peers' names) as hexadecimal digits; the rest is left to the renderer."""
    return {key: value.hex() if isinstance(value, bytes) else value for key, value in event.items()}


def _render_for_people(_logger: Any, _method: str, event: dict[str, Any]) -> str:
    """``12:34:56.789 warning plic: interrupt_dropped source=10`` on one line, whatever the fields
    hold.
    """
    time = str(event.pop("timestamp"))[:12]
    head = f"{time} {event.pop('level')} {event.pop('logger')}: {event.pop('event')}"
    return " ".join([head, *(f"{key}={_show(key, value)}" for key, value in event.items())])


def _show(key: str, value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if key in _HEX_FIELDS and type(value) is int:
        return hex(value)
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)
