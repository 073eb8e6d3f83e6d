"""The monitor's commands: a line in, text out, whoever typed it.

Problem: the same commands are wanted at the terminal (Ctrl-A c), and by programs through QMP's
`human-monitor-command`. So they are one table here; line editing is the console's affair.

Invariants:
- `Commands.execute` never raises for what a user typed: the answer says what is wrong.
- What it shows of a hart was read at a safe point, so it is of one moment, between two
  instructions.

Read next: `monitor_info.py` (what `info` shows), `console.py`, `qmp.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cpu_proc import explain, monitor_info
from protocol.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cpu_proc.machine import Machine

SWAP_PATIENCE = 10.0  # seconds to wait for a swap
ALIASES = {"?": "help", "q": "quit", "info": "info status", "exit": "quit", "c": "cont"}

NO_BUTTON = (
    "told to who listens by QMP; the guest is not: this board has no power button, "
    "as QEMU's virt for RISC-V has none. Power off within it, or quit"
)


class Command(NamedTuple):
    """A row of the table. `notation`: its argument's; in brackets if it may be left out."""

    notation: str
    help: str
    function: Callable[[str], str]


class Commands:
    """The commands of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._table = {
            "help": Command("", "this list", self._help),
            **{
                f"info {name}": Command("", text, self._shower(function))
                for name, (text, function) in monitor_info.TABLE.items()
            },
            "explain": Command("[N]", "the last N retirements: who, where, what", self._explain),
            "xp": Command("/N ADDRESS", "N bytes of physical memory", self._dump_physical),
            "x": Command("/N ADDRESS", "the same, as hart 0 sees them", self._dump_virtual),
            "stop": Command("", "let all harts stand", self._stop),
            "cont": Command("", "let them go on", self._cont),
            "swap": Command("NAME[,OPTION=VALUE]", "translate with another backend", self._swap),
            "retire": Command("", "retire everything that was translated", self._retire),
            "snapshot": Command(
                "save|restore FILE", "the machine to a file, or from one", self._snapshot
            ),
            "system_reset": Command("", "reset the machine", self._reset),
            "system_powerdown": Command("", "press a power button", self._powerdown),
            "quit": Command("", "leave the emulator", self._quit),
        }

    def execute(self, line: str) -> str:
        """What to tell the user; empty, or lines with their ends."""
        words = " ".join(line.split())
        if not words:
            return ""
        words = ALIASES.get(words, words)
        if words.startswith(("x/", "xp/")):
            words = words.replace("/", " /", 1)
        name = next((n for n in self._table if f"{words} ".startswith(f"{n} ")), "")
        argument = words[len(name) + 1 :]
        if not name or (argument and not self._table[name].notation):
            return f"unknown command {words!r}: help lists them\n"
        command = self._table[name]
        if not argument and command.notation and not command.notation.startswith("["):
            return f"{name}: {command.notation} is expected\n"
        try:
            answer = command.function(argument)
        except (UserError, TimeoutError) as error:
            answer = str(error)
        return answer + "\n" if answer and not answer.endswith("\n") else answer

    # --- the commands --------------------------------------------------------------------------

    def _help(self, _: str) -> str:
        rows = [(f"{name} {row.notation}".strip(), row.help) for name, row in self._table.items()]
        return "".join(f"{name:<26}{text}\n" for name, text in rows)

    def _shower(self, function: Callable[[Machine], str]) -> Callable[[str], str]:
        return lambda _: function(self._machine)

    def _explain(self, argument: str) -> str:
        return explain.events(self._machine, argument)

    def _dump_physical(self, argument: str) -> str:
        return monitor_info.dump(self._machine, argument, virtual=False)

    def _dump_virtual(self, argument: str) -> str:
        return monitor_info.dump(self._machine, argument, virtual=True)

    def _stop(self, _: str) -> str:
        self._machine.host.stop()
        return ""

    def _cont(self, _: str) -> str:
        self._machine.host.cont()
        return ""

    def _swap(self, backend: str) -> str:
        try:
            swap = self._machine.request_swap(backend)
        except UserError as error:
            return error.text
        if not swap.done.wait(SWAP_PATIENCE):
            return f"swap {backend}: still under way; info status tells the backend in force"
        return swap.problem and f"swap {backend}: {swap.problem}"

    def _retire(self, _: str) -> str:
        self._machine.host.retire()
        return f"epoch {self._machine.retirement.epoch}"

    def _snapshot(self, argument: str) -> str:
        verb, _, path = argument.partition(" ")
        if verb == "save" and path:
            size = self._machine.host.save(path)
            return f"saved to {path}, {size / 1e6:.1f} MB"
        if verb == "restore" and path:
            self._machine.host.restore(path)
            return f"restored from {path}"
        return "snapshot: save FILE or restore FILE is expected"

    def _reset(self, _: str) -> str:
        self._machine.request_reset(guest=False)
        return ""

    def _powerdown(self, _: str) -> str:
        self._machine.request_powerdown()
        return NO_BUTTON

    def _quit(self, _: str) -> str:
        self._machine.request_quit()
        return ""
