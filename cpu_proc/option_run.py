"""The options that say how a machine is run and watched: time, translator, logs, control.

Read next: `option_table.py` (what a row is), `option_values.py` (how one value is read).
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from cpu_proc import option_values as values
from cpu_proc.option_table import Draft, option_row

ICOUNT_SHIFT = 3
"""2**3 ns of guest time an instruction when `-icount` names no shift: a 125 MIPS machine, near what
tier 0 does.
"""

LOG_ITEMS = {
    "in_asm": "guest code, disassembled when a region of it is published",
    "int": "traps and interrupts taken",
    "retire": "translated code retired, and why",
    "guest_errors": "accesses and values no device understands",
}


@option_row("no-reboot", "", "a guest's reset ends the run")
def _no_reboot(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, reboot=False)


@option_row(
    "action",
    "fatal=none|report|reset|halt",
    "what to do when a hart's trap handler traps at its first instruction (default none)",
)
def _action(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text)
    values.only(option, text, found, ("fatal",))
    fatal = found.get("fatal", "")
    if fatal not in ("none", "report", "reset", "halt"):
        raise values.complain(option, text, f"none, report, reset or halt expected, not {fatal!r}")
    draft.options = replace(draft.options, fatal=fatal)


@option_row("icount", "[shift=]N|auto", "deterministic time: 2^N ns an instruction")
def _icount(draft: Draft, option: str, text: str) -> None:
    found = values.keys(option, text, "shift")
    values.only(option, text, found, ("shift",))
    shift = ICOUNT_SHIFT
    if found["shift"] != "auto":
        shift = values.integer(option, text, found["shift"], 0, 10, "shift")
    draft.options = replace(draft.options, icount=shift)


@option_row("max-instructions", "N", "stop after N instructions")
def _max_instructions(draft: Draft, option: str, text: str) -> None:
    count = values.integer(option, text, text, 1, (1 << 63) - 1, "number of instructions")
    draft.options = replace(draft.options, max_instructions=count)


@option_row("d", "ITEM[,ITEM...]", "log " + ", ".join(LOG_ITEMS))
def _log_items(draft: Draft, option: str, text: str) -> None:
    items = frozenset(text.split(","))
    unknown = sorted(items - LOG_ITEMS.keys())
    if unknown:
        known = ", ".join(LOG_ITEMS)
        raise values.complain(option, text, f"unknown log item {unknown[0]!r} (known: {known})")
    draft.options = replace(draft.options, log_items=draft.options.log_items | items)


@option_row("D", "FILE", "write the log there (default stderr)")
def _log_file(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, log_file=values.writable(option, text))


@option_row("log-json", "", "log one JSON object a line")
def _log_json(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, log_json=True)


@option_row(
    "translator", "embedded|none|ENDPOINT", "who translates (default embedded, a child process)"
)
def _translator(draft: Draft, option: str, text: str) -> None:
    if text not in ("embedded", "none") and not re.fullmatch(r"(ipc|tcp)://.+", text):
        problem = "embedded, none, or an endpoint such as ipc:///run/coldboot/translator.sock"
        raise values.complain(option, text, f"{problem} is expected")
    draft.options = replace(draft.options, translator=text)


@option_row("backend", "NAME[,OPTION=VALUE...]", "what translates: see coldboot backends")
def _backend(draft: Draft, option: str, text: str) -> None:
    from protocol.backends import parse

    try:
        parse(text)
    except ValueError as error:
        raise values.complain(option, text, str(error)) from error
    draft.options = replace(draft.options, backend=text)


@option_row(
    "threshold",
    "N",
    "executions after which code is translated, 1: at once (default: 1024 and 30 milliseconds)",
)
def _threshold(draft: Draft, option: str, text: str) -> None:
    count = values.integer(option, text, text, 1, (1 << 31) - 1, "number of executions")
    draft.options = replace(draft.options, threshold=count)


@option_row("cold", "", "do not use translations kept from earlier")
def _cold(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, cold=True)


@option_row("loadvm", "FILE", "go on from a snapshot (monitor: snapshot save FILE)")
def _loadvm(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, load_snapshot=values.readable(option, text))


@option_row(
    "qmp",
    "unix:PATH,server=on,wait=off|none",
    "speak QMP there (default: a socket of the user's own, for coldboot ctl)",
)
def _qmp(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, qmp=values.server_socket(option, text))


@option_row("stats", "", "tell at the end what was executed, translated and retired")
def _stats(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, stats=True)


def _a_file(option: str, text: str) -> str:
    if text == "-":
        raise values.complain(option, text, "a file is expected: the terminal is the guest's")
    return values.writable(option, text)


@option_row(
    "explain", "FILE", "write every retirement there: when, who, what (coldboot explain FILE)"
)
def _explain(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, explain=_a_file(option, text))


@option_row(
    "trace", "FILE", "write a time line there, for ui.perfetto.dev (its own format: FILE.pftrace)"
)
def _trace(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, trace=_a_file(option, text))


@option_row("profile", "NAME", "write the guest's hot functions: NAME.txt, .folded, .svg")
def _profile(draft: Draft, option: str, text: str) -> None:
    for suffix in (".txt", ".folded", ".svg"):
        values.writable(option, text + suffix)
    draft.options = replace(draft.options, profile=text)


@option_row("jitdump", "FOLDER", "write jit-PID.dump there, for perf inject --jit")
def _jitdump(draft: Draft, option: str, text: str) -> None:
    values.writable(option, os.path.join(text, "jit-0.dump"))
    draft.options = replace(draft.options, jitdump=text)


@option_row("symbols", "FILE", "name addresses by this ELF, System.map or kallsyms too")
def _symbols(draft: Draft, option: str, text: str) -> None:
    path = values.readable(option, text)
    draft.options = replace(draft.options, symbols=(*draft.options.symbols, path))


@option_row("signature", "FILE", "write the test signature there at the end")
def _signature(draft: Draft, option: str, text: str) -> None:
    draft.options = replace(draft.options, signature=values.writable(option, text))


@option_row("signature-granularity", "N", "bytes to a line of the signature (default 4)")
def _signature_granularity(draft: Draft, option: str, text: str) -> None:
    if text not in ("1", "2", "4", "8", "16", "32"):
        raise values.complain(option, text, "1, 2, 4, 8, 16 or 32 is expected")
    draft.options = replace(draft.options, signature_granularity=int(text))
