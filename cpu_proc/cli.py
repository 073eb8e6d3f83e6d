"""The command `coldboot`: finds the subcommand, turns errors into one line and an exit status.

Problem: a machine's first instruction should run a quarter of a second after the command was
typed, so a subcommand imports only what it needs, when it needs it; and whatever goes wrong on the
user's side ends as one line, not as a traceback.

Invariants:
- Nothing outside the standard library is imported before the subcommand is known.
- Exit status: a guest's own for `run` (0 after a clean power-off), 2 for a mistake of the user's,
  130 after Ctrl-C, 128 + the number of a signal that ended the run.
- SIGTERM and SIGHUP end a run by unwinding, so that the terminal and the translator are looked
  after (`finally`, atexit), as after Ctrl-C.

Read next: `options` (what `run` takes), `machine` (what it does).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from protocol.errors import USER_ERROR_EXIT, UserError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

HELP_WORDS = ("-h", "-help", "--help", "help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. `arguments`: without the program's name."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _command(words)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"coldboot: {error.text}", file=sys.stderr)
        return USER_ERROR_EXIT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader left (`| head`). Python flushes stdout once more at exit: give it nowhere to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def exit_status(code: int) -> int:
    """A guest's exit code as a process's: the low 8 bits, but never 0 for a failure."""
    return code & 0xFF or int(code != 0)


def _command(words: list[str]) -> int:
    if not words:
        print(_usage(), end="", file=sys.stderr)
        return USER_ERROR_EXIT
    name, *rest = words
    if name in HELP_WORDS:
        print(_usage(), end="")
        return 0
    if name in ("-V", "-version", "--version"):
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"coldboot {version('coldboot')}")
        except PackageNotFoundError:
            print("coldboot (not installed)")
        return 0
    if name not in _COMMANDS:
        hint = "run comes first: coldboot run" if name.startswith("-") else "see: coldboot help"
        raise UserError(f"{name}: unknown command; {hint}")
    if rest == ["-help"]:  # QEMU's word, which `run` has; argparse knows --help
        rest = ["--help"]
    return _COMMANDS[name][1](rest)


def _usage() -> str:
    lines = ["usage: coldboot COMMAND [arguments]", ""]
    lines += [f"  {name:<12}{text}" for name, (text, _) in _COMMANDS.items()]
    return "\n".join([*lines, "", "coldboot COMMAND -help tells more.", ""])


def _run(words: list[str]) -> int:
    if words and words[0] in HELP_WORDS:
        from cpu_proc.options import usage

        print(usage(), end="")
        return 0
    _unwind_on_signals()
    if not words:
        from cpu_proc import demo

        return exit_status(demo.run())
    from cpu_proc import options as options_module

    options = options_module.parse(words)
    if options.log_json or options.log_file or options.log_items:
        from protocol import logs

        wanted = options.log_items or options.log_json or options.log_file
        level = "info" if wanted else logs.DEFAULT_LEVEL
        logs.configure(json=options.log_json, level=level, file=options.log_file)
    from cpu_proc import early

    begun = early.begin(options)
    try:
        from cpu_proc import machine, native

        native.refuse_writable_code()
        return exit_status(machine.run(options, begun))
    finally:
        if begun.child is not None:
            begun.child.close(0)


def _unwind_on_signals() -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: unwinding must not be interrupted
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, leave)


def _translator(words: list[str]) -> int:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jit_proc", *words])


def _backends(words: list[str]) -> int:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jit_proc.backend_tool", *words])


def _keys(words: list[str]) -> int:
    from protocol import keys

    return _with_argparse("keys", keys.add_arguments, keys.run, words)


def _store(words: list[str]) -> int:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jit_proc.store_tool", *words])


def _metrics(words: list[str]) -> int:
    from cpu_proc import metrics

    return _with_argparse("metrics", metrics.add_arguments, metrics.run, words)


def _top(words: list[str]) -> int:
    from cpu_proc import top

    return _with_argparse("top", top.add_arguments, top.run, words)


def _guests(words: list[str]) -> int:
    from cpu_proc import guests

    return _with_argparse("guests", guests.add_arguments, guests.run, words)


def _ctl(words: list[str]) -> int:
    from cpu_proc import ctl

    return _with_argparse("ctl", ctl.add_arguments, ctl.run, words)


def _doctor(words: list[str]) -> int:
    from cpu_proc import doctor

    return _with_argparse("doctor", doctor.add_arguments, doctor.run, words)


def _explain(words: list[str]) -> int:
    from cpu_proc import explain_view

    return _with_argparse("explain", explain_view.add_arguments, explain_view.run, words)


def _simulate(words: list[str]) -> int:
    from protocol.simulate import cli

    return _with_argparse("simulate", cli.add_arguments, cli.run, words)


def _stress(words: list[str]) -> int:
    from cpu_proc.stress import cli

    _unwind_on_signals()
    return _with_argparse("stress", cli.add_arguments, cli.run, words)


def _conformance(words: list[str]) -> int:
    from cpu_proc.conformance import cli

    _unwind_on_signals()
    return _with_argparse("conformance", cli.add_arguments, cli.run, words)


def _compare(words: list[str]) -> int:
    from cpu_proc.compare import cli

    _unwind_on_signals()
    return _with_argparse("compare", cli.add_arguments, cli.run, words)


def _with_argparse(
    name: str,
    add_arguments: Callable[[ArgumentParser], None],
    run: Callable[[Namespace], int],
    words: list[str],
) -> int:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise UserError(f"{self.prog.removeprefix('coldboot ')}: {message}")

    parser = Parser(prog=f"coldboot {name}", description=_COMMANDS[name][0])
    add_arguments(parser)
    return run(parser.parse_args(words))


_COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "run": ("run a guest; without arguments, a demonstration", _run),
    "guests": ("fetch kernels and firmware to run", _guests),
    "translator": ("run a translator as a service for many machines", _translator),
    "store": ("look after translations kept on disk: info, verify, clear", _store),
    "backends": ("list what translates guests' code, with options; compare two", _backends),
    "keys": ("make keys for translators on other hosts, and enter theirs", _keys),
    "metrics": ("tell Prometheus what translators and machines count", _metrics),
    "ctl": ("tell running machines what to do: swap backends, stop, reset, look", _ctl),
    "top": ("show all machines and translators of this host, live", _top),
    "doctor": ("tell whether this computer has what a machine needs", _doctor),
    "explain": ("show what a run retired, when, why and by whom", _explain),
    "simulate": ("search the protocol between machine and translator for mistakes", _simulate),
    "stress": ("let guests look for stale code, for as long as you like", _stress),
    "conformance": ("try a translator of your own: does it keep to the protocol", _conformance),
    "compare": ("run the same guests on other emulators; a table of what they saw", _compare),
}
