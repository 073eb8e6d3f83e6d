"""`coldboot ctl`: a running machine, or all machines of a translator, told what to do.

Problem: who works on a translator wants to swap it under a guest that runs, and to see which of two
is faster on it; who runs machines wants to stop, reset and look at them, without writing QMP.

Whom: a QMP socket (a path), or a translator's endpoint (`ipc://...`), which means each machine of
this user that it serves. Without either: the only machine that runs.

Invariant: a machine reached through a translator's endpoint is told by itself, and retires in an
epoch of its own; one that refuses does not keep the others from it.

Read next: `ab.py` (two backends side by side), `qmp_commands.py`, `docs/control.md`.
"""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cpu_proc import control_socket
from cpu_proc.qmp_client import QmpClient, Refused
from protocol.errors import UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

SCHEMES = ("ipc://", "tcp://")


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot ctl`."""
    commands = ", ".join(f"{name} {notation}".strip() for name, (notation, _) in COMMANDS.items())
    parser.usage = "coldboot ctl [SOCKET|ENDPOINT] COMMAND [ARGUMENT...]"
    parser.epilog = f"Commands: list, {commands}."
    parser.add_argument("words", nargs="+", metavar="WORD", help="as above")
    parser.add_argument("--slice", type=float, default=0.5, metavar="S", help="ab: of each turn")
    parser.add_argument(
        "--for", type=float, default=20.0, dest="seconds", metavar="S", help="ab: altogether"
    )
    parser.add_argument("--json", metavar="FILE", help="ab: write every turn there")


def run(arguments: Namespace) -> int:
    """Do it; 0, or 1 if a machine refused. Raises UserError."""
    words = list(arguments.words)
    named = words.pop(0) if _names_somebody(words[0]) else ""
    if not words:
        raise UserError(f"ctl {named}: a command is expected: {', '.join(COMMANDS)}")
    name, *rest = words
    if name == "list":
        return _list()
    if name not in COMMANDS:
        raise UserError(f"ctl {name}: unknown command; there are list, {', '.join(COMMANDS)}")
    notation, function = COMMANDS[name]
    least = len([word for word in notation.split() if not word.startswith("[")])
    if len(rest) < least or (len(rest) > len(notation.split()) and "..." not in notation):
        raise UserError(f"ctl {name}: {name} {notation} is expected".rstrip())
    refused = 0
    with ExitStack() as stack:
        clients = [stack.enter_context(client) for client in find(named)]
        for client in clients:
            try:
                text = function(client, rest, arguments)
            except Refused as error:
                refused += 1
                text = error.text
            if text:
                print(f"{client.path}: {text}" if len(clients) > 1 else text)
    return int(refused > 0)


def _names_somebody(word: str) -> bool:
    return "/" in word or word.startswith("unix:")


def find(named: str) -> list[QmpClient]:
    """Connections to whom it concerns, one at least. Raises UserError."""
    if named and not named.startswith(SCHEMES):
        return [QmpClient(named.removeprefix("unix:"))]
    paths = [str(path) for path in control_socket.all_of_this_user()]
    if not named:
        if len(paths) != 1:
            shown = f"{len(paths)} machines run: name one of {', '.join(paths)}"
            raise UserError(f"ctl: {shown if paths else 'no machine runs'}")
        return [QmpClient(paths[0])]
    found = []
    for path in paths:
        client = QmpClient(path)
        translator = client.ask("x-query-jit")["translator"]
        if translator is not None and translator["endpoint"] == named:
            found.append(client)
        else:
            client.close()
    if not found:
        raise UserError(f"ctl {named}: no machine of this user has that translator")
    return found


def _list() -> int:
    for path in control_socket.all_of_this_user():
        with QmpClient(str(path)) as client:
            print(f"{path}: {_status(client)}")
    return 0


# --- the commands ------------------------------------------------------------------------------


def _status(client: QmpClient, *_: Any) -> str:
    return str(client.ask("human-monitor-command", command_line="info status")).strip()


def _plain(command: str) -> Callable[..., str]:
    def ask(client: QmpClient, *_: Any) -> str:
        client.ask(command)
        return ""

    return ask


def _swap(client: QmpClient, words: list[str], *_: Any) -> str:
    done = client.ask("x-swap-backend", backend=words[0])
    return (
        f"{done['former']} to {done['backend']} in {done['ms']:.0f} ms, now epoch {done['epoch']}"
    )


def _retire(client: QmpClient, *_: Any) -> str:
    done = client.ask("x-retire")
    return f"all retired in {done['ms']:.1f} ms, now epoch {done['epoch']}"


def _retirements(client: QmpClient, words: list[str], *_: Any) -> str:
    count = words[0] if words else "10"
    if not re.fullmatch(r"\d{1,6}", count):
        raise UserError(f"ctl retirements {count}: how many is expected")
    book = client.ask("x-retirements", count=int(count))
    counts = ", ".join(f"{cause} {n}" for cause, n in sorted(book["counts"].items()))
    events = [event["text"] for event in book["events"]]
    return "\n".join([*events, f"{book['total']} in all: {counts or 'none'}"])


def _monitor(client: QmpClient, words: list[str], *_: Any) -> str:
    said = client.ask("human-monitor-command", command_line=" ".join(words))
    return str(said).replace("\r\n", "\n").rstrip()


def _ab(client: QmpClient, words: list[str], arguments: argparse.Namespace) -> str:
    from cpu_proc import ab

    return ab.run(client, (words[0], words[1]), arguments)


COMMANDS: dict[str, tuple[str, Callable[..., str]]] = {
    "status": ("", _status),
    "stop": ("", _plain("stop")),
    "cont": ("", _plain("cont")),
    "reset": ("", _plain("system_reset")),
    "quit": ("", _plain("quit")),
    "swap": ("BACKEND", _swap),
    "retire": ("", _retire),
    "retirements": ("[N]", _retirements),
    "monitor": ("LINE...", _monitor),
    "ab": ("A B", _ab),
}
"""Command: its arguments, and what does it."""
